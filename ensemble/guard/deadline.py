"""Deadline: a time budget that starts when an event arrives.

Plain arithmetic; the caller reads the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """Time budget of an event, from its arrival on; it is never renewed.

    Attributes:
        since: time of arrival, seconds of a monotonic clock.
        budget_s: seconds from then on.
        least_s: lower bound of the time left, so that a batch that waited for its entire budget is
            still sent to the layers.
    """

    since: float
    budget_s: float
    least_s: float

    def left_s(self, now: float) -> float:
        """Seconds left at `now`, at least `least_s`."""
        return max(self.since + self.budget_s - now, self.least_s)
