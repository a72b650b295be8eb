"""A polling thread, which goes on without a poll that hangs.

A thread that reads from a hanging disk cannot be stopped. It is left to itself, the look counts as
failed, and a few of them at most may
hang at a time: when the disk comes back they end by themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["PollingThread"]

LEAST_PAUSE_S = 0.2  # between two looks, however often somebody wakes the keeper
MOST_HANGING = 3


class PollingThread:
    """Keeps something looked after.

    Args:
        name: of the threads.
        look: what is called; may block, must not raise.
        give_up: is called when a look took longer than `limit_s`; must not block.
        every_s: seconds between two looks when nobody wakes the keeper.
        limit_s: seconds that a look may take.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], None],
        give_up: Callable[[], None],
        *,
        every_s: float,
        limit_s: float,
    ) -> None:
        self._name, self._look, self._give_up = name, look, give_up
        self._every_s, self._limit_s = every_s, limit_s
        self._woken, self._stopped = threading.Event(), threading.Event()

    def start(self) -> None:
        """Begin; returns at once."""
        threading.Thread(target=self._keep, name=f"keep-{self._name}", daemon=True).start()

    def wake(self) -> None:
        """Look soon, not only when it is time."""
        self._woken.set()

    def stop(self) -> None:
        """Look no more; a look that runs ends by itself."""
        self._stopped.set()
        self._woken.set()

    def _keep(self) -> None:
        hanging: list[threading.Thread] = []
        while not self._stopped.is_set():
            self._woken.clear()
            hanging = [thread for thread in hanging if thread.is_alive()]
            if len(hanging) < MOST_HANGING:
                thread = threading.Thread(target=self._look, name=f"look-{self._name}", daemon=True)
                thread.start()
                thread.join(self._limit_s)
                if thread.is_alive():
                    hanging.append(thread)
                    self._give_up()
            self._stopped.wait(LEAST_PAUSE_S)
            self._woken.wait(max(0.0, self._every_s - LEAST_PAUSE_S))
