"""The retry budget of a layer: retries are bounded to a share of first calls.

Source: Beyer et al., "Site Reliability Engineering", O'Reilly 2016, chapter 21.
"""

from __future__ import annotations

__all__ = ["RetryBudget"]


class RetryBudget:
    """Retry budget: bound retries to a share of first calls, so that a dying layer is not flooded.

    At any time: retries <= share * requests. Nothing is lent: a layer whose first call dies is not
    asked again.

    Args:
        share: of a retry that each request earns; 0.1 makes it one retry in ten requests.
        saved: the most retries that quiet times can save up.
    """

    def __init__(self, share: float, saved: int) -> None:
        self._share, self._most, self._earned = share, float(saved), 0.0

    def request(self) -> None:
        """A first call was made."""
        self._earned = min(self._earned + self._share, self._most)

    def spend(self) -> bool:
        """Whether one retry may be made; it is taken off the budget."""
        if self._earned < 1.0:
            return False
        self._earned -= 1.0
        return True
