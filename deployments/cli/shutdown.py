"""The end of `axon serve`: in order while Ray lives, and at once when Ray's processes died first.

A service manager often sends a signal to every process of a service together. Ray's calls then wait
a minute for processes that have ended.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from deployments.cli import console
from deployments.host import drain_proxy, is_alive, kill_processes

__all__ = ["Watchdog"]

STOP_WITHIN_S = 45.0
# for calls in flight; Serve starts a new front proxy after three failed checks, 2 s apart
FINISH_WITHIN_S = 4.0
# in an orderly end the other processes of Ray follow its head within a second or two
AFTER_HEAD_S = 3.0
POLL_EVERY_S = 0.25


class Watchdog:
    """Ends the run when Ray's head has died, or when the orderly end takes too long.

    A thread, because calls of Ray and Serve may wait for ever for processes that have died.

    Attributes:
        folder: of the run.
        head: processes of Ray's head, without which the service cannot go on.
        signals: signals that this process has received; the handler adds them.
    """

    def __init__(
        self, folder: Path, head: Sequence[psutil.Process], signals: Sequence[int]
    ) -> None:
        self.folder, self.head, self.signals = folder, head, signals
        self._is_done, self._end_by = threading.Event(), math.inf
        threading.Thread(target=self._watch, daemon=True).start()

    def shut_down(self) -> None:
        """Stop Serve and Ray; no process of the run stays."""
        from ray import serve, shutdown

        self._end_by = time.monotonic() + STOP_WITHIN_S
        drain_proxy(FINISH_WITHIN_S)
        if not self._has_head():
            self._end()
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types for it
        shutdown()
        self._is_done.set()
        kill_processes(self.folder)

    def _has_head(self) -> bool:
        return all(map(is_alive, self.head))

    def _watch(self) -> None:
        while not self._is_done.wait(POLL_EVERY_S) and time.monotonic() < self._end_by:
            if not self._has_head():
                self._is_done.wait(AFTER_HEAD_S)
                break
        if not self._is_done.is_set():
            self._end()

    def _end(self) -> None:
        """End every process of the run, this one last; Ray's hooks would wait for the others."""
        if not self.signals:
            console.err.print("axon: a process of Ray's head has died, so the service ends")
        kill_processes(self.folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0 if self.signals else 1)
