"""Background polling in threads, which continues when a poll hangs.

A thread that reads from a hanging disk cannot be stopped. It is abandoned and its poll counts as
failed. At most `MOST_HANGING` threads hang at a time; they end when the disk responds again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["PollingThread"]

LEAST_PAUSE_S = 0.2  # between two polls, however often the thread is woken
MOST_HANGING = 3


class PollingThread:
    """Calls `poll` periodically.

    Args:
        name: of the threads.
        poll: may block, must not raise.
        on_timeout: called when a poll exceeds `limit_s`; must not block.
        every_s: seconds between two polls unless woken.
        limit_s: seconds that a poll may take.
    """

    def __init__(
        self,
        name: str,
        poll: Callable[[], None],
        on_timeout: Callable[[], None],
        *,
        every_s: float,
        limit_s: float,
    ) -> None:
        self._name, self._poll, self._on_timeout = name, poll, on_timeout
        self._every_s, self._limit_s = every_s, limit_s
        self._woken, self._stopped = threading.Event(), threading.Event()

    def start(self) -> None:
        """Start polling; return at once."""
        threading.Thread(target=self._run, name=f"poller-{self._name}", daemon=True).start()

    def wake(self) -> None:
        """Poll soon."""
        self._woken.set()

    def stop(self) -> None:
        """Poll no more; a running poll ends by itself."""
        self._stopped.set()
        self._woken.set()

    def _run(self) -> None:
        hanging: list[threading.Thread] = []
        while not self._stopped.is_set():
            self._woken.clear()
            hanging = [thread for thread in hanging if thread.is_alive()]
            if len(hanging) < MOST_HANGING:
                thread = threading.Thread(target=self._poll, name=f"poll-{self._name}", daemon=True)
                thread.start()
                thread.join(self._limit_s)
                if thread.is_alive():
                    hanging.append(thread)
                    self._on_timeout()
            self._stopped.wait(LEAST_PAUSE_S)
            self._woken.wait(max(0.0, self._every_s - LEAST_PAUSE_S))
