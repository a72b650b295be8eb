"""A folder for customers' events that only its user can read; symbolic links are never followed.

All access goes through the folder's descriptor. Sources: openat(2), flock(2).
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

__all__ = ["alone", "append_atomic", "open_folder", "open_subfolder", "open_to_read"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# non-blocking: opening a pipe must not hang
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOR_OWNER = 0o700


def open_folder(place: Path) -> int:
    """Open the folder `place`, made if it is missing and private to this user; return a descriptor.

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
    """Open the folder `name` in `folder` and return its descriptor.

    Raises:
        OSError: it is missing, or a link.
    """
    return os.open(name, _FOLDER, dir_fd=folder)


def open_to_read(name: str, folder: int) -> BinaryIO:
    """Open the regular file `name` in `folder` for reading.

    Raises:
        OSError: it is missing, a link, or not a regular file.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(fd, "rb")


@contextmanager
def alone(folder: int) -> Iterator[None]:
    """Lock `folder` against other processes; the system releases the lock of a dead process."""
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def append_atomic(name: str, data: bytes, folder: int, *, at: int, sync: bool) -> None:
    """Append all of `data` to a file of `at` bytes, or nothing.

    Args:
        name: file in `folder`; made if it is missing.
        data: bytes to append.
        folder: descriptor of the folder.
        at: size of the complete part, bytes; the rest of an earlier failed write is cut off.
        sync: also wait until the data is on the disk.

    Raises:
        OSError: the disk is full or failing; the file is restored as far as the disk allows.
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
