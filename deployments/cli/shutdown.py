"""The end of `axon serve`: in order while Ray lives, and at once when Ray's processes died first.

A service manager often sends a signal to every process of a service together. Ray's calls then wait
a minute for processes that have ended.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from deployments.host import drain_proxy, is_alive, kill_processes

__all__ = ["has_ended", "shut_down"]

STOP_WITHIN_S = 45.0
# for calls in flight; Serve starts a new front proxy after three failed checks, 2 s apart
FINISH_WITHIN_S = 4.0
# in an orderly end the other processes of Ray follow its head within a second or two
AFTER_HEAD_S = 3.0
POLL_EVERY_S = 0.25


def has_ended(head: Sequence[psutil.Process]) -> bool:
    """Whether a process of Ray's head has ended, so that the service cannot go on."""
    return not all(map(is_alive, head))


def shut_down(folder: Path, head: Sequence[psutil.Process], *, code: int) -> None:
    """Stop Serve and Ray; no process of the run stays.

    Args:
        folder: of the run.
        head: processes of Ray's head.
        code: exit code of this process, if Ray cannot be stopped in order.
    """
    from ray import serve, shutdown

    is_done = threading.Event()
    threading.Thread(target=_end_late, args=(folder, head, code, is_done), daemon=True).start()
    drain_proxy(FINISH_WITHIN_S)
    if has_ended(head):
        _end(folder, code)
    serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types for it
    shutdown()
    is_done.set()
    kill_processes(folder)


def _end_late(
    folder: Path, head: Sequence[psutil.Process], code: int, is_done: threading.Event
) -> None:
    """End the run if it has not stopped in order by its time, or soon after the end of the head."""
    by = time.monotonic() + STOP_WITHIN_S
    while not is_done.wait(POLL_EVERY_S):
        now = time.monotonic()
        if now >= by:
            _end(folder, code)
        if has_ended(head):
            by = min(by, now + AFTER_HEAD_S)


def _end(folder: Path, code: int) -> None:
    """End every process of the run, this one last: Ray's hooks at an exit would wait for others."""
    kill_processes(folder)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
