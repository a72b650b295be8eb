"""Telemetry: the table of metrics, the meter, and the log events of the source documents.

A condition is logged once and on change, never once a call.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from ray._common.formatters import JSONFormatter

from deployments.layers.telemetry import LayerTelemetry
from deployments.observability.log import LONGEST_TEXT, SUMMARY_EVERY_S, log_event
from deployments.observability.metrics import METRICS, RULES, Instrument, set_state
from deployments.observability.ray_meter import RayMeter
from ensemble.events import Kind
from ensemble.runtime.model_state import SlotEvent
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter
from tests.support.timing import Clock

S0_FIELDS = {"layer", "kind", "event"}  # what every record has, beside the fields of its event


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def report(meter: RecordingMeter, clock: Clock) -> Callable[..., None]:
    """`report("behavior", "load_failed", code=...)` reports what a slot would report."""
    ids = iter(f"incident-{number}" for number in range(100))
    made: dict[str, LayerTelemetry] = {}

    def one(layer: str, what: str, kind: Kind | None = Kind.FLOW, **fields: Any) -> None:
        if layer not in made:
            made[layer] = LayerTelemetry(layer, meter, clock=clock, new_id=lambda: next(ids))
        made[layer].on_slot_event(SlotEvent(what, layer, kind, fields))

    return one


def fails(
    report: Callable[..., None],
    layer: str,
    *,
    code: str = "ARTIFACT_CORRUPT",
    error: str = "model.safetensors: torn",
) -> None:
    report(layer, "attempting_load")
    report(
        layer, "load_failed", code=code, cause="files", error=error, error_type="ArtifactCorrupt"
    )
    report(layer, "fallback_active", code=code)


# -- the table


def test_metric_names_follow_the_rules_of_prometheus() -> None:
    """C-10, C-29: a counter ends in `_total`, and no name or label repeats Ray's own.

    Metrics that the documents of the predict interface name have that name.
    """
    for name, metric in METRICS.items():
        assert name == metric.name
        assert name.startswith("axon_") or name == metric.runbook_name.partition("{")[0]
        assert name.endswith("_total") is (metric.instrument is Instrument.COUNTER)
        assert not {"deployment", "replica", "application", "route"} & set(metric.labels)
        assert metric.meaning.endswith(".")
        assert metric.unit


def test_the_label_of_a_layer_is_layer_or_provider_as_in_the_source() -> None:
    """S1-02."""
    named = {metric.name for metric in METRICS.values() if "provider" in metric.labels}

    assert named == {
        "axon_provider_initialization_failed_total",
        "axon_provider_health_score",
        "axon_model_size_bytes",
        "axon_model_files_present",
        "axon_model_loads_total",
    }
    assert all(
        name in rule for rule, name in zip(RULES.values(), ["axon_model_loads_total"], strict=True)
    )


def test_a_state_set_has_a_gauge_for_every_state(meter: RecordingMeter) -> None:
    """C-10: `axon_ml_status == "FALLBACK_MODE"` is not PromQL.

    `axon_ml_status{status="FALLBACK_MODE"} == 1` is.
    """
    set_state(meter, "axon_breaker_state", "open", ("closed", "half_open", "open"), layer="anomaly")
    assert meter.state("axon_breaker_state", layer="anomaly") == "open"

    set_state(
        meter, "axon_breaker_state", "closed", ("closed", "half_open", "open"), layer="anomaly"
    )
    assert meter.state("axon_breaker_state", layer="anomaly") == "closed"


# -- the meter


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_can_be_recorded_without_a_cluster(name: str) -> None:
    """`axon score --local` and the tests have none.

    Serve and Ray must accept every name and label of the table.
    """
    metric, meter = METRICS[name], RayMeter()
    labels = dict.fromkeys(metric.labels, "x")

    match metric.instrument:
        case Instrument.COUNTER:
            meter.count(name, 2, **labels)
            meter.count(name, 0, **labels)
        case Instrument.HISTOGRAM:
            meter.observe(name, 0.1, **labels)
        case _:
            meter.level(name, 1.0, **labels)

    assert meter._instrument(name).info["tag_keys"] == metric.labels


def test_refresh_sets_every_gauge_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray drops a gauge that is not set again within 20 s, as if the layer did not exist."""
    meter, calls = RayMeter(), []
    meter.level("axon_coverage", 0.4, kind="flow")
    meter.level("axon_coverage", 0.6, kind="flow")
    meter.level("axon_coverage", 1.0, kind="process")
    meter.count("axon_layer_retries_total", 1, layer="anomaly")
    monkeypatch.setattr(
        meter._instrument("axon_coverage"),
        "set",
        lambda value, labels: calls.append((value, labels)),
    )

    meter.refresh()

    assert calls == [(0.6, {"kind": "flow"}), (1.0, {"kind": "process"})]


# -- loading, in the terms of the source documents

LOADED = [
    pytest.param(
        "anomaly", "layer1_loaded", "anomaly_detection", {"processes_tracked": 62}, id="S0-15"
    ),
    pytest.param(
        "behavior", "layer2_loaded", "deep_neural_network", {"device": "cuda:0"}, id="S0-19"
    ),
    pytest.param(
        "resilience", "layer_loaded", "resilience", {}, id="a layer that the source does not know"
    ),
]


@pytest.mark.parametrize(("layer", "event", "model", "fields"), LOADED)
def test_a_loaded_layer_is_logged(
    report: Callable[..., None],
    recorded_log: RecordedLog,
    meter: RecordingMeter,
    layer: str,
    event: str,
    model: str,
    fields: dict[str, Any],
) -> None:
    """S0-14, S0-15, S0-19."""
    report(layer, "attempting_load")
    report(layer, "loaded", version="3", release="default/1", size_bytes=2_300_000, **fields)

    assert recorded_log.events == ["attempting_load", event]
    attempt, loaded = recorded_log()
    assert (attempt["model"], attempt["levelname"]) == (model, "INFO")
    assert (
        loaded.items()
        >= (
            {"model": model, "version": "3", "release": "default/1", "levelname": "INFO"} | fields
        ).items()
    )
    assert meter.total("axon_model_loads_total", provider=layer, outcome="loaded") == 1


FAILED = [
    pytest.param(
        "anomaly", "layer1", "layer1_dummy_active", "anomaly_detection_disabled", id="layer 1"
    ),
    pytest.param(
        "behavior", "layer2", "layer2_dummy_active", "behavior_analysis_disabled", id="layer 2"
    ),
    pytest.param(
        "resilience", "layer", "layer_fallback_active", "resilience_disabled", id="another"
    ),
]


@pytest.mark.parametrize(("layer", "prefix", "active", "impact"), FAILED)
def test_a_failed_load_is_logged_with_cause_and_action(
    report: Callable[..., None],
    recorded_log: RecordedLog,
    meter: RecordingMeter,
    layer: str,
    prefix: str,
    active: str,
    impact: str,
) -> None:
    """S0-17, S0-18, S0-21, S0-22, S1-01: with codes, cause, and phrases to search for."""
    fails(report, layer)

    assert recorded_log.events == ["attempting_load", f"{prefix}_load_failed", active]
    _, failed, fallback = recorded_log()
    assert failed["levelname"] == "ERROR"
    assert (
        failed.items()
        >= {
            "error": "model.safetensors: torn",
            "error_type": "ArtifactCorrupt",
            "action": "initializing_dummy_model",
            "error_code": "MODEL_LOAD_ERROR",
            "code": "ARTIFACT_CORRUPT",
            "cause": "files",
            "severity": "Critical",
        }.items()
    )
    assert "Failed to load model" in failed["message"]
    assert (
        fallback.items()
        >= {
            "impact": impact,
            "recommendation": "retrain_or_restore_models",
            "levelname": "WARNING",
        }.items()
    )
    assert "Model initialization failed" in fallback["message"]
    assert fallback["incident"] == failed["incident"]
    assert meter.total("axon_errors_total", code="MODEL_LOAD_ERROR", layer=layer) == 1
    assert (
        meter.total("axon_load_failures_total", layer=layer, code="ARTIFACT_CORRUPT", cause="files")
        == 1
    )
    assert meter.total("axon_provider_initialization_failed_total", provider=layer) == 1
    assert meter.total("axon_model_loads_total", provider=layer, outcome="failed") == 1


@pytest.mark.parametrize(("layer", "prefix"), [("anomaly", "layer1"), ("behavior", "layer2")])
def test_a_missing_file_is_one_incident_of_two_log_events(
    report: Callable[..., None], recorded_log: RecordedLog, layer: str, prefix: str
) -> None:
    """S0-16, S0-20, C-31: both are logged, with one id."""
    report(layer, "files_missing", files=["model.safetensors"])
    report(
        layer,
        "load_failed",
        code="ARTIFACT_MISSING",
        cause="files",
        error="it is not in the store",
        error_type="ArtifactMissing",
    )

    assert recorded_log.events == [f"{prefix}_files_missing", f"{prefix}_load_failed"]
    missing, failed = recorded_log()
    assert (missing["files"], missing["action"]) == (["model.safetensors"], "using_dummy_model")
    assert missing["incident"] == failed["incident"] == "incident-0"


def test_a_repeated_failure_of_a_load_is_logged_once_and_counted_every_time(
    report: Callable[..., None], recorded_log: RecordedLog, meter: RecordingMeter, clock: Clock
) -> None:
    """C-13: the slot retries every few seconds, which must not fill the log."""
    for _ in range(100):
        fails(report, "anomaly")
        clock.now += 2.0

    assert recorded_log.events == ["attempting_load", "layer1_load_failed", "layer1_dummy_active"]
    assert meter.total("axon_load_failures_total", layer="anomaly") == 100

    clock.now += SUMMARY_EVERY_S
    fails(report, "anomaly")

    (summary,) = recorded_log("layer1_load_still_failing")
    assert summary["suppressed"] == 100
    assert summary["incident"] == recorded_log("layer1_load_failed")[0]["incident"]


def test_another_reason_for_the_same_failure_is_logged(
    report: Callable[..., None], recorded_log: RecordedLog
) -> None:
    fails(report, "anomaly", code="ARTIFACT_MISSING", error="it is not in the store")
    fails(report, "anomaly", code="ARTIFACT_CORRUPT", error="it is torn")

    assert [record["code"] for record in recorded_log("layer1_load_failed")] == [
        "ARTIFACT_MISSING",
        "ARTIFACT_CORRUPT",
    ]
    assert len({record["incident"] for record in recorded_log("layer1_load_failed")}) == 1


def test_a_recovery_names_its_incident(
    report: Callable[..., None], recorded_log: RecordedLog
) -> None:
    """P7: a recovery is logged, and the next problem is another incident."""
    fails(report, "behavior")
    fails(report, "behavior")
    report("behavior", "loaded", version="1", release="default/1")
    fails(report, "behavior")

    (loaded,) = recorded_log("layer2_loaded")
    first, second = recorded_log("layer2_load_failed")
    assert (loaded["resolves_incident"], loaded["suppressed"]) == (first["incident"], 1)
    assert second["incident"] != first["incident"]
    assert len(recorded_log("layer2_dummy_active")) == 2


def test_the_same_model_loaded_again_is_not_logged(
    report: Callable[..., None], recorded_log: RecordedLog
) -> None:
    for release in ("default/1", "default/1", "default/2"):
        report("anomaly", "loaded", version="1", release=release)

    assert [record["release"] for record in recorded_log("layer1_loaded")] == [
        "default/1",
        "default/2",
    ]


def test_failures_of_two_kinds_of_event_are_two_incidents(
    report: Callable[..., None], recorded_log: RecordedLog
) -> None:
    for kind in (Kind.FLOW, Kind.PROCESS):
        report(
            "anomaly",
            "load_failed",
            kind,
            code="ARTIFACT_CORRUPT",
            cause="files",
            error="torn",
            error_type="ArtifactCorrupt",
        )

    assert [record["kind"] for record in recorded_log("layer1_load_failed")] == ["flow", "process"]


# -- fallback scores and failures of scoring

DUMMIES = [
    pytest.param("anomaly", ["dummy_anomaly_model_active"], id="S0-24"),
    pytest.param(
        "behavior", ["dummy_behavior_model_active", "dummy_scaler_active"], id="S0-25, S0-26"
    ),
    pytest.param("resilience", ["fallback_score_active"], id="another"),
]


@pytest.mark.parametrize(("layer", "events"), DUMMIES)
def test_a_fallback_score_warns_on_the_first_call_and_then_in_a_summary(
    report: Callable[..., None],
    recorded_log: RecordedLog,
    clock: Clock,
    layer: str,
    events: list[str],
) -> None:
    """C-13: S0 warned on every call; here the counters are exact."""
    for _ in range(50):
        report(layer, "fallback_used", events=7)
    assert recorded_log.events == events
    assert all(record["reason"] == "using_fallback" for record in recorded_log())

    clock.now += SUMMARY_EVERY_S
    report(layer, "fallback_used", events=7)

    assert recorded_log.events == events * 2
    assert [record["suppressed"] for record in recorded_log()] == [0] * len(events) + [49] * len(
        events
    )


def test_a_layer_that_raises_is_logged_once_and_counted_every_time(
    report: Callable[..., None], recorded_log: RecordedLog, meter: RecordingMeter
) -> None:
    """Fault R6."""
    for _ in range(10):
        report(
            "anomaly",
            "scoring_failed",
            events=3,
            error_type="IndexError",
            error="list index out of range",
        )
    report("anomaly", "scoring_failed", events=3, error_type="MemoryError", error="")

    assert [record["error_type"] for record in recorded_log("layer_scoring_failed")] == [
        "IndexError",
        "MemoryError",
    ]
    assert meter.total("axon_errors_total", code="LAYER_CRASHED", layer="anomaly") == 11


def test_an_unknown_slot_event_is_logged_too(
    report: Callable[..., None], recorded_log: RecordedLog
) -> None:
    report("anomaly", "something_new", detail=1)

    assert recorded_log("something_new")[0]["detail"] == 1


# -- the record itself

AWKWARD = {
    "name": "n",
    "message": "m",
    "process": "p",
    "event": "e",
    "text": 'a "quoted"\nnew line\x1b[31m',
    "long": "x" * 5000,
    "list": ["a\nb"],
    "number": 3,
    "none": None,
}


def test_a_record_is_one_line_of_json_whatever_its_fields_hold(recorded_log: RecordedLog) -> None:
    """P27, fault I6: no field can start a new line or replace another field.

    Serve's own formatter writes the record.
    """
    log_event(logging.INFO, "layer_tested", AWKWARD, "a phrase\nof two lines")

    (record,) = [record for record in recorded_log._caplog.records if hasattr(record, "event")]
    line = JSONFormatter().format(record)
    assert "\n" not in line
    written = json.loads(line)
    assert written["event"] == "layer_tested"
    assert written["message"].startswith("layer_tested: a phrase\\n")
    assert (written["name_"], written["message_"], written["process_"], written["event_"]) == (
        "n",
        "m",
        "p",
        "e",
    )
    assert written["text"].isprintable()
    assert (written["list"], written["number"], written["none"]) == (["a\\nb"], 3, None)
    assert len(written["long"]) == LONGEST_TEXT
    assert "\n" not in record.getMessage()  # plain lines too
