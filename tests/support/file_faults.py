"""Faults of one file on disk, whatever is in it (RELIABILITY F1 to F5, F13 and F15)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing, ArtifactUntrusted

__all__ = ["FILE_FAULTS", "FileFault", "put"]

FileFault = tuple[Callable[[Path], object], tuple[type[ArtifactError], ...]]


def put(path: Path, data: bytes) -> None:
    """Write `data` over a file that publication has made read-only."""
    path.chmod(0o644)
    path.write_bytes(data)


def _swap_for(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put another kind of file in the place of a file, which is moved away."""

    def swapped(path: Path) -> None:
        path.rename(path.parent.parent / "moved")
        make(path)

    return swapped


def _bind(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


FILE_FAULTS: dict[str, FileFault] = {
    "F1 F2 missing": (Path.unlink, (ArtifactMissing,)),
    "F3 cut to nothing": (lambda path: put(path, b""), (ArtifactCorrupt,)),
    "F3 cut to one byte": (lambda path: put(path, path.read_bytes()[:1]), (ArtifactCorrupt,)),
    "F3 cut in half": (
        lambda path: put(path, path.read_bytes()[: path.stat().st_size // 2]),
        (ArtifactCorrupt, ArtifactUntrusted),
    ),
    "F3 cut by one byte": (lambda path: put(path, path.read_bytes()[:-1]), (ArtifactCorrupt,)),
    "F3 longer by one byte": (
        lambda path: put(path, path.read_bytes() + b"\n"),
        (ArtifactCorrupt, ArtifactUntrusted),
    ),
    "F4 all zeros": (lambda path: put(path, bytes(path.stat().st_size)), (ArtifactCorrupt,)),
    "F5 one bit": (
        lambda path: put(path, bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        (ArtifactCorrupt, ArtifactUntrusted),
    ),
    "F13 a pipe": (_swap_for(os.mkfifo), (ArtifactCorrupt,)),
    "F15 a socket": (_swap_for(_bind), (ArtifactCorrupt,)),
    "F15 a directory": (_swap_for(Path.mkdir), (ArtifactCorrupt,)),
    "F15 a link": (
        _swap_for(lambda path: path.symlink_to(path.parent.parent / "moved")),
        (ArtifactCorrupt,),
    ),
    "F15 a link to nowhere": (
        _swap_for(lambda path: path.symlink_to("/nowhere")),
        (ArtifactCorrupt,),
    ),
    "F15 a device": (_swap_for(lambda path: path.symlink_to("/dev/zero")), (ArtifactCorrupt,)),
    "F15 a hard link": (
        lambda path: os.link(path, path.parent.parent / "second"),
        (ArtifactCorrupt,),
    ),
}
"""Name -> a function that spoils the file at a path, and the errors that a reader may raise."""
