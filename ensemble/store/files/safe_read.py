"""Safe reads of untrusted files: once, bounded, and only regular files of the directory.

Every file is opened by its bare name under an open directory, so no link or ".." leads elsewhere.
Its size is checked before a byte is read. The caller checks and decodes the same bytes, and does
not read the file again (C-30). A failed read is repeated once; further attempts are left to the
model slot, which knows the time.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing, ArtifactUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = [
    "list_names",
    "modified_at",
    "open_directory",
    "read_bounded",
    "read_proven",
    "sha256_of",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSING = frozenset({errno.EIO, errno.ESTALE})
# non-blocking: opening a pipe without a writer would block forever
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_T = TypeVar("_T")


@contextmanager
def open_directory(root: Path, *parts: str, what: str) -> Iterator[int]:
    """Open the directory `parts` below `root`, without following a link below `root`.

    Raises:
        ArtifactMissing: it does not exist.
        ArtifactCorrupt: a part is a link or a file.
        ArtifactUnreadable: permission to read a part is denied.
    """
    # the operator may make the root itself a link
    fd = _open(str(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, None, what)
    try:
        for part in parts:
            _refuse_climbing(part, what)
            inner = _open(part, _DIRECTORY, fd, what)
            os.close(fd)
            fd = inner
        yield fd
    finally:
        os.close(fd)


def list_names(directory: int, *, what: str) -> list[str]:
    """List the names in an open directory, unordered."""
    try:
        return _twice(lambda: os.listdir(directory))
    except OSError as error:
        raise _explained(error, what) from None


def read_bounded(directory: int, name: str, *, limit: int, what: str) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        ArtifactMissing: it does not exist.
        ArtifactCorrupt: it is longer, not a regular file, or has a second hard link.
        ArtifactUnreadable: permission is denied, or the disk fails twice.
    """
    return _read(directory, name, at_least=0, at_most=limit, what=what)


def read_proven(directory: int, name: str, *, size_bytes: int, sha256: str, what: str) -> bytes:
    """Read a file of known size and digest; the size is compared before a byte is read.

    Raises:
        ArtifactMissing: it does not exist.
        ArtifactCorrupt: its size or digest differs, it is not a regular file, or it has a second
            hard link.
        ArtifactUnreadable: permission is denied, or the disk fails twice.
    """
    data = _read(directory, name, at_least=size_bytes, at_most=size_bytes, what=what)
    found = sha256_of(data)
    if found != sha256:
        raise ArtifactCorrupt(what, f"sha256 is {found[:12]}, published was {sha256[:12]}")
    return data


def modified_at(directory: int, name: str) -> float:
    """Return the modification time of a file, seconds since 1970; for display, never for ordering.

    Raises:
        ArtifactMissing: it does not exist any more.
    """
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except OSError as error:
        raise _explained(error, name) from None


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read(directory: int, name: str, *, at_least: int, at_most: int, what: str) -> bytes:
    try:
        return _twice(lambda: _read_once(directory, name, at_least, at_most, what))
    except OSError as error:
        raise _explained(error, what) from None


def _refuse_climbing(name: str, what: str) -> None:
    """Refuse a name that leads elsewhere; a second check, after that of `names` (N-14)."""
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ArtifactCorrupt(what, "has a name that is not valid")


def _read_once(directory: int, name: str, at_least: int, at_most: int, what: str) -> bytes:
    _refuse_climbing(name, what)
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        _refuse_unless_plain(os.fstat(fd), at_least, at_most, what)
        # one byte more than allowed, so that a file that grows meanwhile is noticed
        chunks, room = [], at_most + 1
        while room and (chunk := os.read(fd, room)):
            chunks.append(chunk)
            room -= len(chunk)
    finally:
        os.close(fd)
    data = b"".join(chunks)
    if not at_least <= len(data) <= at_most:
        raise ArtifactCorrupt(what, "changed its size while it was read")
    return data


def _refuse_unless_plain(found: os.stat_result, at_least: int, at_most: int, what: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactCorrupt(what, "is not a regular file")
    if found.st_nlink > 1:  # 0 is normal: the file was replaced after it was opened
        raise ArtifactCorrupt(what, "has a second hard link")
    if found.st_size < at_least:
        raise ArtifactCorrupt(what, f"is {found.st_size:,} bytes, published were {at_least:,}")
    if found.st_size > at_most:
        raise ArtifactCorrupt(what, f"is {found.st_size:,} bytes, allowed are {at_most:,}")


def _open(name: str, flags: int, directory: int | None, what: str) -> int:
    try:
        return _twice(lambda: os.open(name, flags, dir_fd=directory))
    except OSError as error:
        raise _explained(error, what) from None


def _twice(act: Callable[[], _T]) -> _T:
    """Call `act`, and once more after a transient error of the disk or file server (F14)."""
    try:
        return act()
    except OSError as error:
        if error.errno not in _PASSING:
            raise
    return act()


def _explained(error: OSError, what: str) -> ArtifactError:
    """Translate an error of the system, whose own message contains a path."""
    match error.errno:
        case errno.ENOENT:
            return ArtifactMissing(what)
        case errno.EACCES | errno.EPERM:
            return ArtifactUnreadable(what, "is there, but permission to read it is denied")
        case errno.ELOOP | errno.ENOTDIR | errno.ENXIO:
            return ArtifactCorrupt(
                what, "is a link or another kind of file, not the one that was published"
            )
    return ArtifactUnreadable(
        what,
        f"is there, but cannot be read ([Errno {error.errno}] "
        f"{errno.errorcode.get(error.errno or 0, '?')})",
    )
