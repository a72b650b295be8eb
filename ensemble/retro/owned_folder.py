"""A folder of one process in a shared folder, and the adoption of folders of dead processes.

A process holds a lock on its folder until it ends. Another process that finds the folder unlocked
locks it, moves its segments one by one into its own folder, and removes the empty folder. If that
process dies meanwhile, every segment is in one folder or the other.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

from ensemble.retro.private_folder import alone, open_folder, open_subfolder
from ensemble.retro.segment import Segment

__all__ = ["OwnedFolder"]

_OWNER = re.compile(r"[0-9a-f]{32}")


class OwnedFolder:
    """A locked folder of this process, made when it is first needed.

    Args:
        root: folder with the folders of all owners.
    """

    def __init__(self, root: Path) -> None:
        self._place = root
        self._name = ""
        self._fds: tuple[int, int] | None = None  # of the root and of the owned folder

    @property
    def fd(self) -> int:
        """Descriptor of the folder.

        Raises:
            OSError: the folder cannot be made.
        """
        return self._opened()[1]

    @property
    def is_removed(self) -> bool:
        """Whether another process removed the folder while it was in use."""
        return self._fds is not None and os.fstat(self._fds[1]).st_nlink == 0

    def adopt(self) -> list[Segment]:
        """Move the segments of dead owners into this folder and return them.

        Raises:
            OSError: the root cannot be read.
        """
        if self._fds is None and not self._place.is_dir():
            return []
        root, own = self._opened()
        adopted: list[Segment] = []
        with alone(root):
            for name in sorted(os.listdir(root)):  # noqa: PTH208  # pathlib lists no descriptor
                if name == self._name or not _OWNER.fullmatch(name):
                    continue
                with suppress(OSError):  # the owner is alive, or it is not a folder
                    adopted += _adopt_segments(name, root, own)
        return adopted

    def close(self) -> None:
        """Release the folder, and remove it if it is empty."""
        if self._fds is None:
            return
        root, own = self._fds
        with suppress(OSError):  # not empty: another process will adopt its segments
            os.rmdir(self._name, dir_fd=root)
        os.close(own)
        os.close(root)
        self._fds = None

    def _opened(self) -> tuple[int, int]:
        if self._fds is None:
            root = open_folder(self._place)
            try:
                self._name = uuid.uuid4().hex
                with alone(root):  # no adoption between making and locking
                    os.mkdir(self._name, 0o700, dir_fd=root)
                    own = open_subfolder(self._name, root)
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(root)
                raise
            self._fds = (root, own)
        return self._fds


def _adopt_segments(name: str, root: int, own: int) -> list[Segment]:
    """Move the segments of the owner `name` into the folder `own`.

    Raises:
        OSError: that owner is alive.
    """
    moved: list[Segment] = []
    theirs = open_subfolder(name, root)
    try:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in sorted(os.listdir(theirs)):  # noqa: PTH208  # as above
            with suppress(OSError):  # an unreadable file must not block the others
                segment = Segment.found(file, theirs)
                if segment is not None:
                    os.rename(file, file, src_dir_fd=theirs, dst_dir_fd=own)
                    moved.append(segment)
        with suppress(OSError):  # a foreign file is in it
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(theirs)
    return moved
