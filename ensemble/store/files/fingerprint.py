"""Fingerprints of files by `stat`, to notice a change without reading the content.

Take the fingerprint before reading. A change during the reading then shows at the next comparison.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path

__all__ = ["file_fingerprint", "folder_fingerprint"]


def file_fingerprint(path: Path) -> Hashable:
    """Fingerprint a file; the error number of the system where it cannot be examined.

    A symbolic link counts as the file that it points to: Kubernetes swaps such links to update a
    mounted file. Times alone are not enough: the modification time can be set back, which only the
    status change time shows, and within one tick of a coarse clock only inode and size change.
    """
    try:
        return _fingerprint(path.stat())
    except OSError as error:
        return error.errno


def folder_fingerprint(folder: Path) -> Hashable:
    """Fingerprint the entries of a folder; the error number where they cannot be listed.

    Links are not followed and subfolders not entered: a bundle has neither.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(one.name, *_fingerprint(one.stat(follow_symlinks=False))) for one in entries]
    except OSError as error:
        return error.errno
    return tuple(sorted(found))


def _fingerprint(found: os.stat_result) -> tuple[int, ...]:
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )
