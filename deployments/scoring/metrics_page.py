"""GET /metrics: the metrics of one ingress replica, as Prometheus text.

For installations without a Prometheus that reads Ray's exporter. Behind a load balancer each
request may reach another replica (C-29). So every line names its replica, and the first lines name
the complete source: Ray's exporter, which also has the metrics of the layers. The names are those
of `METRICS`, without Ray's prefix. Measured: recording here costs about a microsecond, in addition
to Ray's three to six.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from deployments.observability import LATENCY_BOUNDARIES_S, METRICS, Instrument, Meter
from deployments.web import Answer, Scope, ScopedRoute

__all__ = ["CONTENT_TYPE", "TextMeter", "metrics_routes"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HEADER = (
    "# One ingress replica of Axon, counted since it started; "
    "the next request may reach another one.\n"
    "# Canonical is Ray's metrics exporter: its names begin with ray_, "
    "and it includes the layers' own metrics.\n"
)
Key = tuple[str, tuple[tuple[str, str], ...]]


class TextMeter:
    """A meter with a registry of its own, which passes everything on to Ray's meter.

    Args:
        replica: name of this replica, the label `replica` of every line.
        beside: Ray's meter.
    """

    def __init__(self, replica: str, beside: Meter) -> None:
        self._beside = beside
        self._registry = CollectorRegistry(auto_describe=False)
        self._replica = replica
        self._families: dict[str, Any] = {}
        # finding a child by its labels costs more than recording into it
        self._children: dict[Key, Any] = {}
        self._lock = threading.Lock()

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Raise a counter."""
        if by > 0:
            self._child(name, labels).inc(by)
        self._beside.count(name, by, **labels)

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        self._child(name, labels).set(value)
        self._beside.level(name, value, **labels)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value to a histogram."""
        self._child(name, labels).observe(value)
        self._beside.observe(name, value, **labels)

    def refresh(self) -> None:
        """Set every gauge of Ray's meter again; the gauges here stay as they were set."""
        self._beside.refresh()

    def text(self) -> bytes:
        """Write all metrics in the text format of Prometheus 0.0.4."""
        return HEADER.encode() + generate_latest(_OfReplica(self._registry, self._replica))

    # a counter, gauge or histogram: they share no type
    def _child(self, name: str, labels: dict[str, str]) -> Any:  # noqa: ANN401
        key = name, tuple(labels.items())
        child = self._children.get(key)
        if child is None:
            with self._lock:
                family = self._families.get(name) or self._families.setdefault(
                    name, self._family(name)
                )
            child = self._children[key] = family.labels(**labels) if labels else family
        return child

    def _family(self, name: str) -> Any:  # noqa: ANN401  # as above
        metric = METRICS[name]
        match metric.instrument:
            case Instrument.COUNTER:
                return Counter(name, metric.meaning, metric.labels, registry=self._registry)
            case Instrument.HISTOGRAM:
                return Histogram(
                    name,
                    metric.meaning,
                    metric.labels,
                    registry=self._registry,
                    buckets=LATENCY_BOUNDARIES_S,
                )
        return Gauge(name, metric.meaning, metric.labels, registry=self._registry)


class _OfReplica(Collector):
    """A registry with the label `replica`, and without creation times, half of all lines."""

    def __init__(self, registry: CollectorRegistry, replica: str) -> None:
        self._registry, self._replica = registry, replica

    def collect(self) -> Iterable[Family]:
        for family in self._registry.collect():
            found = Family(family.name, family.documentation, family.type)
            for name, labels, value, *_ in family.samples:
                if not name.endswith("_created"):
                    found.add_sample(name, {**labels, "replica": self._replica}, value)
            yield found


def metrics_routes(meter: TextMeter) -> list[ScopedRoute]:
    """Return the route of the page."""

    async def metrics(_: Request) -> Response:
        return Response(meter.text(), headers={"Content-Type": CONTENT_TYPE})

    return [
        ScopedRoute(
            "/metrics",
            metrics,
            needs=Scope.READ,
            tag="state",
            summary="Get the metrics of this replica, as Prometheus text",
            about="Every line names the replica. For the metrics of all replicas, scrape the "
            "exporter of Ray.",
            answers={
                200: Answer(
                    {"type": "string"},
                    "The metrics, in version 0.0.4 of the text format",
                    media="text/plain",
                )
            },
        )
    ]
