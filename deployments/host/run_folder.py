"""The private folder of one run of the service: sockets, settings and logs of HAProxy and Ray.

Ray and Serve by default use one folder of the machine for all services and users, and Ray makes its
own writable for every user. Here each run has a folder that only its user may enter. It stays after
the end of the service, for its logs, and the next start on the same state folder removes it. The
link `run` in the state folder names it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deployments.host.run_processes import kill_processes, processes_of

__all__ = ["RAY", "end_last_run", "logs_of", "make_run_folder", "sweep_old_runs"]

PREFIX = "axon-run-"
LINK, LOCK = "run", "run.lock"
RAY = "ray"  # Ray's folder in that of the run: Ray opens its own for every user
RETAINED_S = 24 * 3600.0  # how long the logs of a run stay that no later start has removed
# Unix sockets have paths of at most 103 bytes on macOS, where the user's own folder is long
_PARENT = "/tmp" if sys.platform == "darwin" else None  # noqa: S108  # the folder itself is 0700


def make_run_folder(state: Path) -> Path:
    """Make the folder of a new run, and hold its lock while this process lives.

    Args:
        state: gets a link to the folder, if it can be written.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_PARENT))  # 0700
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # until this process ends
    new = state / f"{LINK}.{os.getpid()}"
    with suppress(OSError):
        new.symlink_to(folder)
        new.replace(state / LINK)
    return folder


def logs_of(folder: Path) -> Path:
    """Folder of Serve's logs in that of a run, or in the link to it."""
    return folder / RAY / "session_latest" / "logs" / "serve"


def end_last_run(state: Path) -> list[str]:
    """End what the last run on `state` has left, and remove its folder.

    The caller holds the lock of the state folder, so that run has ended.

    Returns:
        Names and ids of the processes that were ended.
    """
    try:
        folder = (state / LINK).readlink()
    except OSError:  # there was no run
        return []
    with _taken(folder) as is_taken:
        if not is_taken:  # a copy of the state of a service that runs
            return []
        ended = kill_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return ended


def sweep_old_runs() -> None:
    """Remove the folders of this user's runs that have ended and started a day ago or more."""
    for folder in Path(_PARENT or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with _taken(folder) as is_taken, suppress(OSError):
            age_s = time.time() - (folder / LOCK).stat().st_mtime
            if is_taken and age_s > RETAINED_S and not processes_of(folder):
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _taken(folder: Path) -> Iterator[bool]:
    """Take the lock of the folder of a run; False if its run lives, or if it is no such folder."""
    lock = None
    try:
        found = folder.lstat()
        if (
            folder.name.startswith(PREFIX)
            and stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
        ):
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_taken = True
        else:
            is_taken = False
    except OSError:
        is_taken = False
    try:
        yield is_taken
    finally:
        if lock is not None:
            os.close(lock)
