"""Deadline: a time budget that starts when an event arrives.

Plain arithmetic; the caller reads the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadline"]

LEAST_SHARE = 0.1  # of the budget; promise P18 allows the deadline + 10 %


@dataclass(frozen=True, slots=True)
class Deadline:
    """Time budget of an event, from its arrival on; it is never renewed.

    Attributes:
        since: time of arrival, seconds of a monotonic clock.
        budget_s: seconds from then on.
    """

    since: float
    budget_s: float

    @property
    def ends(self) -> float:
        """When the budget is spent, seconds of the same clock."""
        return self.since + self.budget_s

    def left_s(self, now: float) -> float:
        """Seconds left at `now`.

        At least a tenth of the budget, so that a batch that waited for all of it is still sent to
        the layers.
        """
        return max(self.ends - now, LEAST_SHARE * self.budget_s)
