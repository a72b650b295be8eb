"""How a bundle's files lie on the disk, without reading them: a change of any of them is worth another look.

The time of the last change of the inode is part of it, so that a file put back with its old date is noticed too.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from pathlib import Path

from ensemble.store.layout import Store, bundle_parts
from ensemble.store.names import BundleRef

__all__ = ["files_as_they_lie"]


def files_as_they_lie(store: Store, ref: BundleRef) -> Hashable:
    """Names, sizes, inodes and times of the files of `ref` in each root; what cannot be looked at is told by its error number."""
    return tuple(_of(root.joinpath(*bundle_parts(ref.tenant, ref.model), str(ref.version))) for root in store.roots)


def _of(directory: Path) -> Hashable:
    try:
        with os.scandir(directory) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        return error.errno
    return tuple(sorted((name, s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_mode) for name, s in found))
