"""Retry budget: retries of a layer are limited to a share of first calls.

Source: Beyer et al., "Site Reliability Engineering", O'Reilly 2016, chapter 21.
"""

from __future__ import annotations

__all__ = ["RetryBudget"]


class RetryBudget:
    """Limit on the retries of a layer, so that a failing one is not flooded.

    At any time: retries <= share * requests. The budget starts empty: if the first call to a layer
    fails, it is not retried.

    Args:
        share: share of a retry that each request earns; 0.1 allows one retry in ten requests.
        saved: the most retries that can be saved up.
    """

    def __init__(self, share: float, saved: int) -> None:
        self._share, self._most, self._earned = share, float(saved), 0.0

    def request(self) -> None:
        """Record a first call."""
        self._earned = min(self._earned + self._share, self._most)

    def spend(self) -> bool:
        """Spend one retry; False if the budget does not allow it."""
        if self._earned < 1.0:
            return False
        self._earned -= 1.0
        return True
