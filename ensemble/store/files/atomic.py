"""Atomic writes, the only changes of the store: a file is complete on disk before it is named.

A reader, and a crash, see the old state or the new one. The order that makes it so: bytes, fsync,
name, fsync of the
directory that holds the name. It is promised for a local disk; NFS and object stores are not
promised.
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

# no tenant's tree: its name is no slug, and one sweep of one folder finds every leftover
_STAGING = ".staging"
IN_USE = ".in-use.lock"  # held shared by who points to something, alone by who removes something
_CHUNK_BYTES = 1 << 20  # hashed and written a mebibyte at a time: no copy of the whole file
STALE_STAGING_S = 3600.0  # RELIABILITY F21: no publish takes an hour


def make_directory(root: Path, *parts: str) -> Path:
    """The directory `parts` below `root`, made where it was not there.

    Every level is fsynced even if it was there: whoever made it may have died before that.

    Raises:
        ArtifactUntrusted: the place is not inside `root`.
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
    """Write a file that was not there, to the disk, read-only.

    Returns:
        SHA-256 of the bytes as they were handed to the kernel, in hexadecimal.

    Raises:
        FileExistsError: `name` is there, if only as a link.
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
    """A private staging directory; what is not moved out of it is removed at the end.

    What dead publishers left there is swept first. How old that is, is asked of the disk that dated
    it: our own clock may
    be another, and would take a living publisher for a dead one.
    """
    staged = make_directory(root, _STAGING) / uuid.uuid4().hex
    staged.mkdir(0o700)
    try:
        sweep_staging(root, now_s=staged.stat().st_mtime)
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # best effort: what stays is swept after an hour


def seal(directory: Path, mode: int = 0o755) -> None:
    """Let readers in, and put the names in `directory` on the disk."""
    # Readers may be another user; and not 0555: moving a directory rewrites its "..", which needs
    # leave to write.
    directory.chmod(mode)
    _sync(directory)


def place_new(staged: Path, final: Path, *, what: str) -> None:
    """Give `staged` its final name, which nothing has yet. Call it holding `exclusive`.

    Raises:
        VersionExists: the name is taken; `what` says of what.
    """
    if os.path.lexists(final):  # rename would quietly replace an empty directory, and any file
        raise VersionExists(what)
    try:
        staged.rename(final)
    except OSError:
        if os.path.lexists(final):  # a publisher that our lock does not reach was first
            raise VersionExists(what) from None
        raise
    _sync(final.parent)


def replace_atomic(staged: Path, final: Path) -> None:
    """Put `staged` in the place of `final`, in one step."""
    staged.replace(final)
    _sync(final.parent)


def write_atomic(root: Path, place: Path, data: bytes, *, mode: int) -> None:
    """Write a file in one step: a reader sees the old bytes or the new ones.

    Args:
        root: gets the staging directory; on the disk of `place`.
        place: of the file; its directory is there.
        data: all of it.
        mode: permission bits.

    Raises:
        OSError: the disk is full or failing; the old bytes stay, unless only the last fsync failed.
    """
    with staging(root) as staged:
        write_new(staged, place.name, data, mode=mode)
        replace_atomic(staged / place.name, place)


def take_out(place: Path, into: Path) -> None:
    """Take a file or directory out of sight in one step. Call it holding `exclusive`.

    Args:
        place: where readers see it.
        into: a new name on the same disk, where nobody looks: in staging, whatever becomes of
            us is swept.
    """
    place.rename(into)
    _sync(
        into.parent
    )  # first: a power cut in between may leave it in both places, never in neither
    _sync(place.parent)


def remove(place: Path) -> None:
    """Remove a file, for good."""
    place.unlink(missing_ok=True)
    _sync(place.parent)


def append(directory: Path, name: str, data: bytes, *, mode: int) -> None:
    """Append `data` to a file, durably; a missing file is made. The caller holds `exclusive`.

    Raises:
        OSError: the disk is full or failing; a part of `data` may have been added.
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
    _sync(directory)  # always: whoever made the file may have died before its name was on the disk


@contextmanager
def exclusive(directory: Path, name: str = ".lock") -> Iterator[None]:
    """One writer in `directory` at a time, over threads and processes; a writer that dies lets go.

    Locks are taken in one order: `IN_USE` of a root, `.lock` of a tenant, the audit log's.
    """
    with _locked(directory / name, fcntl.LOCK_EX):
        yield


@contextmanager
def shared(directory: Path, name: str) -> Iterator[None]:
    """Any number of these at a time, and none of them beside an `exclusive` of the same name."""
    with _locked(directory / name, fcntl.LOCK_SH):
        yield


def sweep_staging(root: Path, *, now_s: float) -> int:
    """Remove what dead publishers left in staging more than an hour ago.

    Args:
        root: of the store; one that does not exist is clean.
        now_s: seconds since 1970.

    Returns:
        How many leftovers were removed.
    """
    place = beneath(root, _STAGING)
    removed = 0
    for leftover in list(place.iterdir()) if place.is_dir() else ():
        try:
            found = leftover.lstat()
        except FileNotFoundError:
            continue  # its publisher finished just now
        if (
            abs(now_s - found.st_mtime) <= STALE_STAGING_S
        ):  # by distance: a clock that ran ahead must not keep it for ever
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
        os.close(fd)  # closing lets go of the lock


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
