"""The metrics of Axon in one table, and the protocol of the meters that record them.

Ray exports each metric under the prefix `ray_`, with its own labels `deployment`, `replica` and
`application` beside ours (C-29: Ray's exporter is the canonical one). A counter keeps its `_total`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["LATENCY_BOUNDARIES_S", "METRICS", "RULES", "Instrument", "Meter", "Metric", "set_state"]

# The deadline of 250 ms is one of them.
LATENCY_BOUNDARIES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Instrument(StrEnum):
    """Kind of a metric."""

    COUNTER = "counter"  # only rises
    GAUGE = "gauge"  # holds a value
    # one gauge for each value of the last label: 1 for the current one, 0 for the others (C-10)
    STATE_SET = "state set"
    HISTOGRAM = "histogram"  # seconds, in buckets


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: without Ray's prefix.
        instrument: kind of the metric.
        labels: ours, in order; Ray adds its own.
        unit: of a value.
        meaning: one sentence, for the runbook and for Prometheus.
        runbook_name: its name in S0 or S1, "" if they have none.
    """

    name: str
    instrument: Instrument
    labels: tuple[str, ...]
    unit: str
    meaning: str
    runbook_name: str = ""


_C, _G, _S, _H = Instrument.COUNTER, Instrument.GAUGE, Instrument.STATE_SET, Instrument.HISTOGRAM

_INGRESS_STATE = (
    Metric(
        "axon_ml_status",
        _S,
        ("status",),
        "0 or 1",
        "Status of the whole ensemble.",
        "axon_ml_status",
    ),
    Metric(
        "axon_ml_status_level",
        _G,
        (),
        "0, 1, 2",
        "Status of the ensemble as a number: 2 fully operational, 1 partially, 0 fallback mode.",
        "axon_ml_status",
    ),
    Metric(
        "axon_layer_status",
        _S,
        ("layer", "kind", "status"),
        "0 or 1",
        "Status of a layer for a kind of event.",
    ),
    Metric(
        "axon_coverage",
        _G,
        ("kind",),
        "share",
        "Share of the ensemble's weight for a kind of event that has an opinion.",
    ),
    Metric(
        "axon_provider_health_score",
        _G,
        ("provider",),
        "share",
        "Share of a layer's kinds of event that it can score; 0 if it could not be initialised.",
        "Provider Health Score",
    ),
    Metric(
        "axon_breaker_state",
        _S,
        ("layer", "state"),
        "0 or 1",
        "State of a layer's circuit breaker: closed, half open or open.",
    ),
    Metric(
        "axon_rollout_share",
        _G,
        (),
        "share",
        "Share of the traffic that the latest canary release gets; 0 after a rollback.",
    ),
    Metric(
        "axon_controls_readable",
        _G,
        (),
        "0 or 1",
        "0 while controls.json cannot be read; the switches read before stay in force.",
    ),
)
_INGRESS_COUNTS = (
    Metric(
        "axon_events_scored_total", _C, ("kind", "verdict"), "events", "Events that got a verdict."
    ),
    Metric(
        "axon_fallback_scores_total",
        _C,
        ("layer", "kind", "status"),
        "events",
        "Events on which a layer abstained and showed a score of weight 0. Exact; the log is not.",
        "warning on every call",
    ),
    Metric(
        "axon_uninformed_scores_total",
        _C,
        ("layer", "kind"),
        "events",
        "Events of which a layer that works knows nothing, so that it has no opinion.",
    ),
    Metric(
        "axon_layer_latency_seconds",
        _H,
        ("layer",),
        "seconds",
        "Time from calling a layer to its response, for a batch.",
    ),
    Metric(
        "predictions_total",
        _C,
        ("model",),
        "flows",
        "Flows that one model of the classifier classified.",
        "predictions_total{model}",
    ),
    Metric(
        "inference_latency_seconds",
        _H,
        ("model",),
        "seconds",
        "Time from calling that model to its response, for a batch.",
        "inference_latency_seconds",
    ),
    Metric(
        "axon_layer_retries_total",
        _C,
        ("layer",),
        "calls",
        "Calls repeated because a replica died.",
    ),
    Metric(
        "axon_layer_failed_calls_total",
        _C,
        ("layer", "code"),
        "calls",
        "Calls that failed or missed the deadline, half-open trials included. Exact.",
    ),
    Metric(
        "axon_breaker_changes_total",
        _C,
        ("layer", "state"),
        "changes",
        "Times that a circuit breaker entered a state.",
    ),
    Metric(
        "axon_rollout_changes_total",
        _C,
        ("state",),
        "changes",
        "Times that a canary rollout entered a state.",
    ),
    Metric(
        "axon_requests_refused_total",
        _C,
        ("code",),
        "requests",
        "Requests refused by authentication, limits, load or for their page, by code.",
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
        "Events on which the challenger's verdict differs from the champion's.",
    ),
    Metric(
        "axon_retro_events_total",
        _C,
        ("outcome",),
        "events",
        "Events scored while degraded: spooled, adopted from a dead replica, rescored, or hostile "
        "when rescored.",
    ),
    Metric(
        "axon_retro_dropped_total",
        _C,
        ("reason",),
        "events",
        "Events scored while degraded that will not be rescored.",
    ),
    Metric("axon_retro_waiting_events", _G, (), "events", "Events waiting to be rescored."),
    Metric("axon_retro_waiting_bytes", _G, (), "bytes", "Size on disk of the waiting events."),
    Metric("axon_retro_oldest_age_seconds", _G, (), "seconds", "Age of the oldest waiting event."),
)
_LAYER_COUNTS = (
    Metric(
        "axon_errors_total",
        _C,
        ("code", "layer"),
        "errors",
        "Errors by code; MODEL_LOAD_ERROR counts every failed load.",
        "ocr_errors_total{code}",
    ),
    Metric(
        "axon_load_failures_total",
        _C,
        ("layer", "code", "cause"),
        "loads",
        "Failed loads by Axon's error code and by likely cause (S1-26).",
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
        "Failed loads, including those after which the previous model still serves.",
        "ocr_provider_initialization_failed_total",
    ),
    Metric(
        "axon_model_size_bytes",
        _G,
        ("provider", "state"),
        "bytes",
        "Size of the loaded models.",
        "ocr_model_size_bytes{state}",
    ),
    Metric(
        "axon_model_files_present",
        _G,
        ("provider",),
        "0 or 1",
        "1 if every file of the release existed at the last poll.",
        "ocr_model_files_present",
    ),
)
METRICS: Mapping[str, Metric] = {
    metric.name: metric for metric in (*_INGRESS_STATE, *_INGRESS_COUNTS, *_LAYER_COUNTS)
}
RULES: Mapping[str, str] = {  # recording rules of S1-02, over what Ray exports
    "axon_model_load_failure_rate": (
        'sum by (provider) (rate(ray_axon_model_loads_total{outcome="failed"}[5m]))'
        " / sum by (provider) (rate(ray_axon_model_loads_total[5m]))"
    ),
}


class Meter(Protocol):
    """A recorder of metrics; names and labels are those of `METRICS`."""

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        """Raise a counter; by 0 does nothing."""

    def level(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge, or one value of a state set."""

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Add a value to a histogram."""

    def refresh(self) -> None:
        """Set every gauge to its value again; to be called at least every 10 s."""


def set_state(meter: Meter, name: str, word: str, words: Iterable[str], /, **labels: str) -> None:
    """Set `word` of a state set to 1 and the other `words` to 0.

    Args:
        meter: records it.
        name: of the state set.
        word: the current state.
        words: all possible states.
        labels: the labels before the last one, which takes the state.
    """
    key = METRICS[name].labels[-1]
    for one in words:
        meter.level(name, 1.0 if one == word else 0.0, **labels, **{key: str(one)})
