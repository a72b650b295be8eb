"""A folder that only this user reads, for the events of customers, reached through its descriptor: no link is ever followed.

Sources: openat(2), flock(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["alone", "append_whole", "open_folder", "open_subfolder", "open_to_read"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = (
    os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # non-blocking: a pipe must not hang us
_FOR_OWNER = 0o700


def open_folder(place: Path) -> int:
    """A descriptor of `place`, made where it was not there, closed to everybody else.

    Raises:
        OSError: it is a link, belongs to another user, or the disk is failing.
    """
    place.mkdir(_FOR_OWNER, parents=True, exist_ok=True)
    fd = os.open(place, _FOLDER)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != _FOR_OWNER:
            os.fchmod(fd, _FOR_OWNER)
    except OSError:
        os.close(fd)
        raise
    return fd


def open_subfolder(name: str, folder: int) -> int:
    """A descriptor of the folder `name` in `folder`.

    Raises:
        OSError: it is not there, or a link.
    """
    return os.open(name, _FOLDER, dir_fd=folder)


def open_to_read(name: str, folder: int) -> BinaryIO:
    """The regular file `name` in `folder`.

    Raises:
        OSError: it is not there, a link, or anything but a file.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file")
    return os.fdopen(fd, "rb")


@contextmanager
def alone(folder: int) -> Iterator[None]:
    """One process in `folder` at a time; one that dies lets go."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def append_whole(name: str, data: bytes, folder: int, *, at: int, sync: bool) -> None:
    """Put `data` at the end of a file of `at` bytes, all of it or nothing.

    Args:
        name: of the file in `folder`; made where it was not there.
        data: what is written.
        folder: descriptor.
        at: bytes of the file that are whole; what an earlier failure left behind them is cut off.
        sync: also wait until it is on the disk.

    Raises:
        OSError: the disk is full or failing; the file is as before, as far as the disk lets us.
    """
    fd = os.open(name, _APPEND, 0o600, dir_fd=folder)
    try:
        if os.fstat(fd).st_size > at:
            os.ftruncate(fd, at)
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if sync:
            os.fsync(fd)
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, at)
        raise
    finally:
        os.close(fd)
