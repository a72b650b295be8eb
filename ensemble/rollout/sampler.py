"""A share of the events, batch by batch and without chance.

The same batches are taken every time, and big ones starve no small ones.
"""

from __future__ import annotations

__all__ = ["TrafficSampler"]


class TrafficSampler:
    """Takes a stated share of what comes by.

    Args:
        share: of the events, in [0, 1].
    """

    def __init__(self, share: float) -> None:
        self._share, self._credit = share, 0.0

    def takes(self, events: int) -> bool:
        """Whether the next batch, of `events`, is taken."""
        self._credit = min(self._credit + self._share * events, float(events))
        return self._credit > 0.0

    def took(self, events: int) -> None:
        """A batch that `takes` said yes to was taken indeed."""
        self._credit -= events
