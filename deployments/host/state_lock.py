"""Lock of a state folder: one service at a time writes it.

Two services on one folder would each resume the training jobs of the other and rewrite its records.
The operating system frees the lock however the process ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["lock_state"]

LOCK = "serve.lock"


def lock_state(state: Path) -> int | None:
    """Lock a state folder for the life of this process; make the folder if there is none.

    A folder of this user is made private: it has the events, findings and keys of tenants.

    Returns:
        The descriptor that holds the lock; None where the folder cannot be written, because two
        services do not harm each other there.

    Raises:
        BlockingIOError: another service has the lock.
    """
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state.stat().st_uid == os.getuid():
            state.chmod(0o700)
        lock = os.open(state / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock
