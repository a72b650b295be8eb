"""Atomic writes: a file is complete on disk before it gets its name.

All changes of the store go through here. Readers, and the disk after a crash, have the old state or
the new one. The order is: bytes, fsync, name, fsync of the directory. This holds for a local disk,
not for NFS or object stores.

Sources: Pillai and others, "All File Systems Are Not Created Equal", OSDI 2014; rename(2),
fsync(2), flock(2).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from ensemble.errors import VersionExists
from ensemble.store.names import beneath

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "IN_USE",
    "append",
    "exclusive",
    "make_directory",
    "place_new",
    "remove",
    "replace_atomic",
    "seal",
    "shared",
    "staging",
    "sweep_staging",
    "take_out",
    "write_atomic",
    "write_new",
]

_STAGING = ".staging"  # outside all tenants' folders, so that one sweep finds every leftover
IN_USE = ".in-use.lock"  # shared while a pointer or alias moves, exclusive during a deletion
_CHUNK_BYTES = 1 << 20  # one mebibyte at a time, so that the file is not copied in memory
STALE_STAGING_S = 3600.0  # RELIABILITY F21: no publication lasts an hour


def make_directory(root: Path, *parts: str) -> Path:
    """Make the directory `parts` below `root` if it is missing, and return its path.

    Every level is fsynced even if it exists: the process that made it may have died before that.

    Raises:
        ArtifactUntrusted: the path is outside `root`.
    """
    if not root.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        _sync(root.parent)
    place = beneath(root, *parts)
    level = beneath(root)
    for part in parts:
        parent, level = level, level / part
        with suppress(FileExistsError):  # made before, or just now by another publisher
            level.mkdir(0o755)
        _sync(parent)
    return place


def write_new(directory: Path, name: str, data: bytes, *, mode: int = 0o444) -> str:
    """Write a new read-only file durably.

    Returns:
        SHA-256 of the bytes passed to the kernel, in hexadecimal.

    Raises:
        FileExistsError: `name` exists, even as a broken link.
        OSError: the disk is full or failing.
    """
    digest = hashlib.sha256()
    fd = os.open(
        directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
    )
    try:
        rest = memoryview(data)
        while rest:
            written = os.write(fd, rest[:_CHUNK_BYTES])
            digest.update(rest[:written])
            rest = rest[written:]
        os.fchmod(fd, mode)
        os.fsync(fd)
    finally:
        os.close(fd)
    return digest.hexdigest()


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Make a private staging directory; files that stay in it are removed at the end.

    Leftovers of dead publishers are swept first. Their age is measured by the clock of the disk,
    because the clock of this process may differ and make a live publisher look dead.
    """
    staged = make_directory(root, _STAGING) / uuid.uuid4().hex
    staged.mkdir(0o700)
    try:
        sweep_staging(root, now_s=staged.stat().st_mtime)
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # best effort: leftovers are swept after an hour


def seal(directory: Path, mode: int = 0o755) -> None:
    """Make a directory readable, and its names durable."""
    # Readers may be another user. Not 0555: moving a directory rewrites its "..", which needs
    # permission to write.
    directory.chmod(mode)
    _sync(directory)


def place_new(staged: Path, final: Path, *, what: str) -> None:
    """Give `staged` its final, new name. Call it under `exclusive`.

    Raises:
        VersionExists: the name, described by `what`, exists.
    """
    if os.path.lexists(final):  # rename would silently replace an empty directory or a file
        raise VersionExists(what)
    try:
        staged.rename(final)
    except OSError:
        if os.path.lexists(final):  # a publisher outside the lock was first
            raise VersionExists(what) from None
        raise
    _sync(final.parent)


def replace_atomic(staged: Path, final: Path) -> None:
    """Replace `final` by `staged` in one step."""
    staged.replace(final)
    _sync(final.parent)


def write_atomic(root: Path, place: Path, data: bytes, *, mode: int) -> None:
    """Write a file in one step: readers get the old bytes or the new ones.

    Args:
        root: gets the staging directory; on the same disk as `place`.
        place: path of the file; its directory exists.
        data: content.
        mode: permission bits.

    Raises:
        OSError: the disk is full or failing; the old bytes stay, unless only the last fsync failed.
    """
    with staging(root) as staged:
        write_new(staged, place.name, data, mode=mode)
        replace_atomic(staged / place.name, place)


def take_out(place: Path, into: Path) -> None:
    """Move a file or directory out of the readers' view in one step. Call it under `exclusive`.

    Args:
        place: its present path.
        into: new path on the same disk that readers do not use, e.g. in staging, which is swept
            after a crash.
    """
    place.rename(into)
    _sync(into.parent)  # first: a power cut may leave it in both places, never in neither
    _sync(place.parent)


def remove(place: Path) -> None:
    """Remove a file durably; a missing one is no error."""
    place.unlink(missing_ok=True)
    _sync(place.parent)


def append(directory: Path, name: str, data: bytes, *, mode: int) -> None:
    """Append `data` to a file durably, or make the file. The caller holds `exclusive`.

    Raises:
        OSError: the disk is full or failing; a part of `data` may have been appended.
    """
    fd = os.open(
        directory / name,
        os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC,
        mode,
    )
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync(
        directory
    )  # always: the process that made the file may have died before its name was on disk


@contextmanager
def exclusive(directory: Path, name: str = ".lock") -> Iterator[None]:
    """Hold the exclusive lock of a directory, across threads and processes.

    The lock of a process that dies is released. To avoid a deadlock, locks are acquired in this
    order: `IN_USE` of the root, `.lock` of a tenant, the lock of the audit log.
    """
    with _locked(directory / name, fcntl.LOCK_EX):
        yield


@contextmanager
def shared(directory: Path, name: str) -> Iterator[None]:
    """Hold a shared lock; it excludes an `exclusive` lock of the same name."""
    with _locked(directory / name, fcntl.LOCK_SH):
        yield


def sweep_staging(root: Path, *, now_s: float) -> int:
    """Remove leftovers of dead publishers from staging after an hour.

    Args:
        root: of the store; may be missing.
        now_s: seconds since 1970.

    Returns:
        Number of leftovers removed.
    """
    place = beneath(root, _STAGING)
    removed = 0
    for leftover in list(place.iterdir()) if place.is_dir() else ():
        try:
            found = leftover.lstat()
        except FileNotFoundError:
            continue  # its publisher has just finished
        # the absolute difference, so that a file dated in the future is removed too
        if abs(now_s - found.st_mtime) <= STALE_STAGING_S:
            continue
        if stat.S_ISDIR(found.st_mode):
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
        removed += 1
    return removed


@contextmanager
def _locked(file: Path, how: int) -> Iterator[None]:
    fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)  # closing releases the lock


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
