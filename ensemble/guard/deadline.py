"""A deadline: a budget that starts when an event arrives.

Plain arithmetic on a clock that the caller reads.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """A budget that is spent from the moment an event came in, and never renewed.

    Attributes:
        since: when the event came, seconds of a clock that only rises.
        budget_s: seconds it has from then on.
        least_s: what is left at the least, however long the event waited: a batch that waited
            its whole budget is still asked.
    """

    since: float
    budget_s: float
    least_s: float

    def left_s(self, now: float) -> float:
        """Seconds that may still be waited, at least `least_s`."""
        return max(self.since + self.budget_s - now, self.least_s)
