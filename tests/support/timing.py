"""Time in tests: a clock that only the test moves, and waiting for a condition in real time."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "wait_until"]

POLL_EVERY_S = 0.05


class Clock:
    """A clock that only the test moves.

    Attributes:
        now: seconds; the test sets it.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def wait_until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Poll `is_so` every 50 ms, and return whether it became true in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(POLL_EVERY_S)
    return is_so()
