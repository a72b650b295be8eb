"""The meter that records through Ray, from any of its processes.

Measured in Ray 2.60: one record costs 3 to 6 microseconds, so the hot path records once a batch and
never once an event. A gauge that is not set again vanishes from the exporter after 20 s; `refresh`
prevents that.
"""

from __future__ import annotations

import threading
from typing import Any

from deployments.observability.metrics import LATENCY_BOUNDARIES_S, METRICS, Instrument, Metric

__all__ = ["RayMeter"]


class RayMeter:
    """Records through Ray; outside of a cluster the records go nowhere."""

    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}
        self._levels: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = threading.Lock()  # the thread that loads models sets gauges too

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Raise a counter."""
        if by > 0:  # Ray refuses 0
            self._instrument(name).inc(by, labels)

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or one value of a state set."""
        with self._lock:
            self._levels[name, tuple(labels.items())] = value
        self._instrument(name).set(value, labels)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value to a histogram."""
        self._instrument(name).observe(value, labels)

    def refresh(self) -> None:
        """Set every gauge to its value again."""
        with self._lock:
            levels = list(self._levels.items())
        for (name, labels), value in levels:
            self._instrument(name).set(value, dict(labels))

    def _instrument(self, name: str) -> Any:  # noqa: ANN401  # Ray's three kinds share no type
        found = self._instruments.get(name)
        if found is None:
            found = self._instruments[name] = _create(METRICS[name])
        return found


def _create(metric: Metric) -> Any:  # noqa: ANN401  # Ray's three kinds share no type
    # Imported here so that the face of this package, which the terminal imports too, loads no Ray.
    from ray.serve import metrics  # noqa: PLC0415  # as the comment above says

    keys: Any = metric.labels  # Serve declares a tuple of one and accepts any
    match metric.instrument:
        case Instrument.COUNTER:
            return metrics.Counter(metric.name, description=metric.meaning, tag_keys=keys)
        case Instrument.HISTOGRAM:
            boundaries = list(LATENCY_BOUNDARIES_S)
            return metrics.Histogram(
                metric.name, description=metric.meaning, boundaries=boundaries, tag_keys=keys
            )
    return metrics.Gauge(metric.name, description=metric.meaning, tag_keys=keys)
