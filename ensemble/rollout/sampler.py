"""Deterministic sampler of a share of the events, batch by batch.

The same sequence of batches is always sampled alike, and large batches do not starve small ones.
"""

from __future__ import annotations

__all__ = ["TrafficSampler"]


class TrafficSampler:
    """Samples a set share of the events.

    Args:
        share: of the events, in [0, 1].
    """

    def __init__(self, share: float) -> None:
        self._share, self._credit = share, 0.0

    def should_take(self, events: int) -> bool:
        """Whether to sample the next batch, of `events`; the caller then calls `record`."""
        self._credit = min(self._credit + self._share * events, float(events))
        return self._credit > 0.0

    def record(self, events: int) -> None:
        """Record that a batch of `events` was sampled."""
        self._credit -= events
