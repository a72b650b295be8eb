"""A process's own folder below a shared one, and how what a dead process left comes to a living one, exactly one.

An owner holds a lock on its folder for as long as it lives. Whoever finds a lock free takes it,
moves the segments into its own
folder, one rename each, and removes what is empty then; one that dies meanwhile leaves every
segment in one folder or the other.
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
    """A locked folder; it is made when it is first needed.

    Args:
        root: folder of all owners.
    """

    def __init__(self, root: Path) -> None:
        self._place = root
        self._name = ""
        self._fds: tuple[int, int] | None = None  # of the root and of our own folder

    @property
    def fd(self) -> int:
        """Descriptor of this owner's folder.

        Raises:
            OSError: it cannot be made.
        """
        return self._opened()[1]

    @property
    def is_removed(self) -> bool:
        """Whether somebody removed the folder under us."""
        return self._fds is not None and os.fstat(self._fds[1]).st_nlink == 0

    def adopt(self) -> list[Segment]:
        """The segments of dead owners, which are this owner's from now on.

        Raises:
            OSError: the root cannot be read.
        """
        if self._fds is None and not self._place.is_dir():
            return []
        root, own = self._opened()
        adopted: list[Segment] = []
        with alone(root):
            # by descriptor, which pathlib has no word for
            for name in sorted(os.listdir(root)):  # noqa: PTH208
                if name == self._name or not _OWNER.fullmatch(name):
                    continue
                with suppress(OSError):  # it lives, or is no folder
                    adopted += _taken(name, root, own)
        return adopted

    def close(self) -> None:
        """Let go of the folder; it goes too where nothing is in it."""
        if self._fds is None:
            return
        root, own = self._fds
        with suppress(OSError):  # what waits in it is for whoever comes next
            os.rmdir(self._name, dir_fd=root)
        os.close(own)
        os.close(root)
        self._fds = None

    def _opened(self) -> tuple[int, int]:
        if self._fds is None:
            root = open_folder(self._place)
            try:
                self._name = uuid.uuid4().hex
                with alone(root):  # nobody adopts a folder between its making and its locking
                    os.mkdir(self._name, 0o700, dir_fd=root)
                    own = open_subfolder(self._name, root)
                    fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(root)
                raise
            self._fds = (root, own)
        return self._fds


def _taken(name: str, root: int, own: int) -> list[Segment]:
    """The segments of the owner `name`, moved into the folder `own`.

    Raises:
        OSError: it lives.
    """
    taken: list[Segment] = []
    theirs = open_subfolder(name, root)
    try:
        fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in sorted(os.listdir(theirs)):  # noqa: PTH208  # likewise
            with suppress(OSError):  # one file that cannot be read keeps no other back
                segment = Segment.found(file, theirs)
                if segment is not None:
                    os.rename(file, file, src_dir_fd=theirs, dst_dir_fd=own)
                    taken.append(segment)
        with suppress(OSError):  # something that is not ours lies in it
            os.rmdir(name, dir_fd=root)
    finally:
        os.close(theirs)
    return taken
