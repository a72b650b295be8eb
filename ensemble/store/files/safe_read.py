"""Safe reads of untrusted files: once, bounded, and only plain files of the directory.

Every file is opened by its bare name under an open directory, so no link and no ".." leads
elsewhere. Its size is known before a byte is read, and what is read is kept: whoever checks the
bytes decodes these bytes, not the file again (C-30). A disk that fails once is asked once more;
then it is for the slot, which knows the time, to try again.
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
_FILE = (
    os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
)  # a pipe without a writer would block the open for ever

_T = TypeVar("_T")


@contextmanager
def open_directory(root: Path, *parts: str, what: str) -> Iterator[int]:
    """Open the directory `parts` below `root`, without following a link below `root`.

    Raises:
        ArtifactMissing: it is not there.
        ArtifactCorrupt: a part is a link or a file.
        ArtifactUnreadable: a part may not be read.
    """
    fd = _open(
        str(root), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, None, what
    )  # the root itself may be a link: the operator's
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
    """The names in an open directory, in no order."""
    try:
        return _twice(lambda: os.listdir(directory))
    except OSError as error:
        raise _explained(error, what) from None


def read_bounded(directory: int, name: str, *, limit: int, what: str) -> bytes:
    """All bytes of a file of at most `limit` bytes.

    Raises:
        ArtifactMissing: it is not there.
        ArtifactCorrupt: longer than `limit`, no regular file, or linked from elsewhere.
        ArtifactUnreadable: permission is denied, or the disk fails twice.
    """
    return _read(directory, name, at_least=0, at_most=limit, what=what)


def read_proven(directory: int, name: str, *, size_bytes: int, sha256: str, what: str) -> bytes:
    """Read a file of known size and digest; the size is compared before a byte is read.

    Raises:
        ArtifactMissing: it is not there.
        ArtifactCorrupt: other size, other digest, no regular file, or linked from elsewhere.
        ArtifactUnreadable: permission is denied, or the disk fails twice.
    """
    data = _read(directory, name, at_least=size_bytes, at_most=size_bytes, what=what)
    found = sha256_of(data)
    if found != sha256:
        raise ArtifactCorrupt(what, f"sha256 is {found[:12]}, published was {sha256[:12]}")
    return data


def modified_at(directory: int, name: str) -> float:
    """When a file of an open directory last changed, seconds since 1970; never for ordering.

    Raises:
        ArtifactMissing: it is not there any more.
    """
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
    except OSError as error:
        raise _explained(error, name) from None


def sha256_of(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read(directory: int, name: str, *, at_least: int, at_most: int, what: str) -> bytes:
    try:
        return _twice(lambda: _read_once(directory, name, at_least, at_most, what))
    except OSError as error:
        raise _explained(error, what) from None


def _refuse_climbing(name: str, what: str) -> None:
    """Names are checked where they are made.

    Here is the last place where one that climbs can be stopped (N-14).
    """
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise ArtifactCorrupt(what, "is asked for by what is no name")


def _read_once(directory: int, name: str, at_least: int, at_most: int, what: str) -> bytes:
    _refuse_climbing(name, what)
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        _refuse_unless_plain(os.fstat(fd), at_least, at_most, what)
        chunks, room = (
            [],
            at_most + 1,
        )  # one byte more than allowed: a file that grows meanwhile is noticed, not followed
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
    if found.st_nlink > 1:  # 0 is honest: a pointer that was replaced between our open and now
        raise ArtifactCorrupt(what, "has a second name somewhere (a hard link)")
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
    """What `act` gives; once more where the disk or the file server stumbled (RELIABILITY F14)."""
    try:
        return act()
    except OSError as error:
        if error.errno not in _PASSING:
            raise
    return act()


def _explained(error: OSError, what: str) -> ArtifactError:
    """Our word for what the system said; its own message holds a path."""
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
