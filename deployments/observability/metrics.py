"""Every metric of Axon, in one table; and the meter that records them.

Ray exports each under the prefix `ray_` with the labels `deployment`, `replica` and `application`
beside ours (C-29: its exporter is the canonical one). A counter keeps its `_total`. Measured in Ray
2.60: one record costs 3 to 6 microseconds, so the hot path records by batch and never by event; and
a gauge that is not set again vanishes after 20 s, which is what `refresh` is for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ray.serve import metrics as ray_metrics

__all__ = ["METRICS", "RULES", "SILENCE", "Instrument", "Meter", "Metric", "RayMeter", "set_state"]

LATENCY_BOUNDARIES_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
)  # the deadline of 250 ms is one of them


class Instrument(StrEnum):
    """Kind of a metric."""

    COUNTER = "counter"  # only rises
    GAUGE = "gauge"  # stands at a value
    # a gauge for every word of its last label: 1 for the word that holds, 0 for the others (C-10)
    STATE_SET = "state set"
    HISTOGRAM = "histogram"  # seconds, in buckets


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without Ray's prefix.
        instrument: how it behaves.
        labels: ours, in order; Ray adds its own.
        unit: of a value.
        meaning: one sentence for the runbook.
        runbook_name: what S0 or S1 calls it, "" where they have no such thing.
    """

    name: str
    instrument: Instrument
    labels: tuple[str, ...]
    unit: str
    meaning: str
    runbook_name: str = ""


_C, _G, _S, _H = Instrument.COUNTER, Instrument.GAUGE, Instrument.STATE_SET, Instrument.HISTOGRAM
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        # how it stands, told by the ingress
        Metric(
            "axon_ml_status",
            _S,
            ("status",),
            "0 or 1",
            "The status word of the whole ensemble.",
            "axon_ml_status",
        ),
        Metric(
            "axon_ml_status_level",
            _G,
            (),
            "0, 1, 2",
            "The same as a number: 2 fully, 1 partially, 0 fallback.",
            "axon_ml_status",
        ),
        Metric(
            "axon_layer_status",
            _S,
            ("layer", "kind", "status"),
            "0 or 1",
            "How a layer stands with a kind of event.",
        ),
        Metric(
            "axon_coverage",
            _G,
            ("kind",),
            "share",
            "Share of the validated evidence on a kind of event that speaks.",
        ),
        Metric(
            "axon_provider_health_score",
            _G,
            ("provider",),
            "share",
            "Share of a layer's kinds of event that speak; 0 is an initialisation that failed.",
            "Provider Health Score",
        ),
        Metric(
            "axon_breaker_state",
            _S,
            ("layer", "state"),
            "0 or 1",
            "Whether a layer is asked: closed, half open or open.",
        ),
        Metric(
            "axon_rollout_share",
            _G,
            (),
            "share",
            "Share of traffic of the release that was brought in step by step last: 1 once "
            "it is in, 0 once it was left.",
        ),
        Metric(
            "axon_controls_readable",
            _G,
            (),
            "0 or 1",
            "0 while controls.json is broken: the switches of before go on.",
        ),
        # what it did, told by the ingress
        Metric(
            "axon_events_scored_total",
            _C,
            ("kind", "verdict"),
            "events",
            "Events that got a verdict.",
        ),
        Metric(
            "axon_fallback_scores_total",
            _C,
            ("layer", "kind", "status"),
            "events",
            "Events for which a layer that should have spoken abstained; its score was for "
            "show. Exact, where the log is not.",
            "warning on every call",
        ),
        Metric(
            "axon_layer_latency_seconds",
            _H,
            ("layer",),
            "seconds",
            "From asking a layer to its answer, for a batch.",
        ),
        Metric(
            "predictions_total",
            _C,
            ("model",),
            "flows",
            "Flows that one model of the classifier was asked about, and answered.",
            "predictions_total{model}",
        ),
        Metric(
            "inference_latency_seconds",
            _H,
            ("model",),
            "seconds",
            "From asking that model to its answer, for a batch.",
            "inference_latency_seconds",
        ),
        Metric(
            "axon_layer_retries_total",
            _C,
            ("layer",),
            "calls",
            "Calls made again because a replica died.",
        ),
        Metric(
            "axon_layer_failed_calls_total",
            _C,
            ("layer", "code"),
            "calls",
            "Calls that failed or came too late, trials too. Exact.",
        ),
        Metric(
            "axon_breaker_changes_total",
            _C,
            ("layer", "state"),
            "changes",
            "Times a breaker went to a state.",
        ),
        Metric(
            "axon_rollout_changes_total",
            _C,
            ("state",),
            "changes",
            "Times the bringing-in of a release went to a state.",
        ),
        Metric(
            "axon_requests_refused_total",
            _C,
            ("code",),
            "requests",
            "Requests that the gate did not let in, by code.",
        ),
        Metric(
            "axon_challenger_events_total",
            _C,
            (),
            "events",
            "Events that a challenger scored in shadow.",
        ),
        Metric(
            "axon_challenger_flips_total",
            _C,
            ("champion", "challenger"),
            "events",
            "Events of which a challenger in shadow would have said another word than the "
            "champion did.",
        ),
        Metric(
            "axon_retro_events_total",
            _C,
            ("outcome",),
            "events",
            "Events of degraded times: spooled, adopted from a dead replica, rescored, or "
            "hostile when rescored.",
        ),
        Metric(
            "axon_retro_dropped_total",
            _C,
            ("reason",),
            "events",
            "Events of degraded times that nobody will score again.",
        ),
        Metric("axon_retro_waiting_events", _G, (), "events", "What waits to be scored again."),
        Metric("axon_retro_waiting_bytes", _G, (), "bytes", "The same in bytes on the disk."),
        Metric(
            "axon_retro_oldest_age_seconds",
            _G,
            (),
            "seconds",
            "Age of the oldest event that waits.",
        ),
        # models, told by the layers
        Metric(
            "axon_errors_total",
            _C,
            ("code", "layer"),
            "errors",
            "Errors by code; MODEL_LOAD_ERROR counts every load that failed.",
            "ocr_errors_total{code}",
        ),
        Metric(
            "axon_load_failures_total",
            _C,
            ("layer", "code", "cause"),
            "loads",
            "Loads that failed, by our own code and by where to look first (S1-26).",
        ),
        Metric(
            "axon_model_loads_total",
            _C,
            ("provider", "outcome"),
            "loads",
            "Loads by outcome: loaded or failed.",
        ),
        Metric(
            "axon_provider_initialization_failed_total",
            _C,
            ("provider",),
            "loads",
            "Loads that failed, also where the model of before serves on.",
            "ocr_provider_initialization_failed_total",
        ),
        Metric(
            "axon_model_size_bytes",
            _G,
            ("provider", "state"),
            "bytes",
            "Size of the models that are loaded.",
            "ocr_model_size_bytes{state}",
        ),
        Metric(
            "axon_model_files_present",
            _G,
            ("provider",),
            "0 or 1",
            "Whether every file that the release names was there at the last look.",
            "ocr_model_files_present",
        ),
    )
}
RULES: Mapping[str, str] = {  # recording rules of S1-02, over what Ray exports
    "axon_model_load_failure_rate": (
        'sum by (provider) (rate(ray_axon_model_loads_total{outcome="failed"}[5m]))'
        " / sum by (provider) (rate(ray_axon_model_loads_total[5m]))"
    ),
}


class Meter(Protocol):
    """Where metrics are recorded. A name and its labels are those of METRICS."""

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Raise a counter; by 0 does nothing."""

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or one word of a state set."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value to a histogram."""

    def refresh(self) -> None:
        """Say every gauge again; to be called at least every 10 s."""


class RayMeter:
    """Records through Ray, from any of its processes.

    Outside of a cluster it records into nothing.
    """

    def __init__(self) -> None:
        self._instruments: dict[str, Any] = {}
        self._levels: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._lock = (
            threading.Lock()
        )  # a slot loads in a thread of its own and tells of it from there

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Raise a counter."""
        if by > 0:  # Ray refuses 0
            self._instrument(name).inc(by, labels)

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._levels[name, tuple(labels.items())] = value
        self._instrument(name).set(value, labels)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value to a histogram."""
        self._instrument(name).observe(value, labels)

    def refresh(self) -> None:
        """Say every gauge again."""
        with self._lock:
            levels = list(self._levels.items())
        for (name, labels), value in levels:
            self._instrument(name).set(value, dict(labels))

    # one of Ray's three, which share no type
    def _instrument(self, name: str) -> Any:  # noqa: ANN401
        found = self._instruments.get(name)
        if found is None:
            found = self._instruments[name] = _made(METRICS[name])
        return found


class _Silence:
    """Records nothing: for the terminal, where nobody scrapes."""

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Nothing."""

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Nothing."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Nothing."""

    def refresh(self) -> None:
        """Nothing."""


SILENCE: Meter = _Silence()


def set_state(meter: Meter, name: str, word: str, words: Iterable[str], /, **labels: str) -> None:
    """Make `word` the one of `words` that holds.

    Args:
        meter: that records it.
        name: of a state set.
        word: that holds now.
        words: all that could hold.
        labels: the labels before its last one, which takes the word.
    """
    key = METRICS[name].labels[-1]
    for one in words:
        meter.level(name, 1.0 if one == word else 0.0, **labels, **{key: str(one)})


def _made(metric: Metric) -> Any:  # noqa: ANN401  # likewise
    keys: Any = metric.labels  # Serve declares a tuple of one and takes any
    match metric.instrument:
        case Instrument.COUNTER:
            return ray_metrics.Counter(metric.name, description=metric.meaning, tag_keys=keys)
        case Instrument.HISTOGRAM:
            boundaries = list(LATENCY_BOUNDARIES_S)
            return ray_metrics.Histogram(
                metric.name, description=metric.meaning, boundaries=boundaries, tag_keys=keys
            )
    return ray_metrics.Gauge(metric.name, description=metric.meaning, tag_keys=keys)
