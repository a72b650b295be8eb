"""Time in tests: a clock that moves when it is told to, and waiting for what really takes time."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock", "wait_until"]

LOOK_EVERY_S = 0.05


class Clock:
    """Time that moves only when it is told to.

    Attributes:
        now: seconds; to be set.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def wait_until(is_so: Callable[[], bool], within_s: float) -> bool:
    """Whether `is_so` became true in time; asked every 50 ms."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if is_so():
            return True
        time.sleep(LOOK_EVERY_S)
    return is_so()
