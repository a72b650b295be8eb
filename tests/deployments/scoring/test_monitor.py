"""The monitor: metrics are exact and recorded by batch, log events are written on change alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.scoring.layer_client import BreakerView
from deployments.scoring.layer_switches import ChangeNotBegun, LayerSwitches
from deployments.scoring.monitor import Monitor
from deployments.scoring.retro_spool import RetroCounts
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.status import EnsembleStatus, build_status
from ensemble.errors import LoadTimeout
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers import catalog
from ensemble.layers.catalog import LAYERS
from ensemble.rollout.canary import RolloutState, RolloutView
from ensemble.runtime.controls import Controls, change_controls
from ensemble.runtime.model_state import KindState
from ensemble.verdicts import (
    LayerScores,
    LayerStatus,
    Severity,
    SystemStatus,
    VerdictLabel,
    Verdicts,
)
from tests.support.pipelines import no_spool
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter
from tests.support.slot_states import DOWN, FUSIONS, LIVE, OWN_LAYER, slots


class FakeLayers:
    def __init__(self) -> None:
        self.disabled: frozenset[str] = frozenset()
        self.resets: list[str] = []

    def reset(self, layer: str) -> None:
        self.resets.append(layer)


class FakePipelines:
    """Pipelines that report a status, or first raise the given errors, one at each poll."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.reported = list(errors), asyncio.Event()
        self.layers, self.trials = self, 0

    def try_again(self) -> None:
        """Try the layers whose breaker is open."""
        self.trials += 1

    async def for_tenant(self) -> FakePipelines:
        return self

    async def status(self) -> EnsembleStatus:
        if self.errors:
            raise self.errors.pop(0)
        self.reported.set()
        return view_of()


def monitor_of(
    switches: LayerSwitches,
    pipelines: FakePipelines,
    metrics: ScoringMetrics | None = None,
    *,
    every_s: float = 1.0,
) -> Monitor:
    counts = metrics or ScoringMetrics(RecordingMeter())
    # all that it uses of the pipelines
    return Monitor(switches, pipelines, no_spool(), counts, every_s=every_s)  # type: ignore[arg-type]


NO_COUNTS = RetroCounts(0, 0, {}, 0, 0, 0, 0, 0.0)


@pytest.fixture
def metrics(meter: RecordingMeter) -> ScoringMetrics:
    return ScoringMetrics(meter)


@pytest.fixture
def monitor(metrics: ScoringMetrics, tmp_path: Path, meter: RecordingMeter) -> Monitor:
    return monitor_of(switches(tmp_path, meter, FakeLayers()), FakePipelines(), metrics)


def view_of(**states: KindState) -> EnsembleStatus:
    return build_status(list(LAYERS), slots(**states), FUSIONS)


# -- the status word

ABSENT = KindState(
    LayerStatus.NOT_APPLICABLE, reason="the release was published without this layer"
)

MODELS_STATUS = [
    pytest.param({}, "FULLY_OPERATIONAL", "INFO", {"layers_active": 3}, 2, id="all"),
    pytest.param(
        {"classifier": ABSENT},
        "FULLY_OPERATIONAL",
        "INFO",
        {"layers_active": 2},
        2,
        id="both of a release that has two",
    ),
    pytest.param(
        {"behavior": DOWN},
        "PARTIALLY_OPERATIONAL",
        "WARNING",
        {
            "anomaly_active": True,
            "behavior_active": False,
            "classifier_active": True,
            "recommendation": "restore_missing_models",
        },
        1,
        id="some",
    ),
    pytest.param(
        {"anomaly": DOWN, "behavior": DOWN, "classifier": DOWN},
        "FALLBACK_MODE",
        "ERROR",
        {
            "impact": "ML_DETECTION_DISABLED",
            "service_status": "RESILIENCE_SCORING_ONLY",
            "recommendation": "RETRAIN_ALL_MODELS",
        },
        0,
        id="none",
    ),
]


@pytest.mark.parametrize(("down", "word", "level", "fields", "number"), MODELS_STATUS)
def test_the_status_of_the_models_is_logged_with_its_fields_and_level(
    monitor: Monitor,
    meter: RecordingMeter,
    recorded_log: RecordedLog,
    down: dict[str, KindState],
    word: str,
    level: str,
    fields: dict[str, Any],
    number: int,
) -> None:
    """S0-12, S0-23, S0-31, C-10."""
    for _ in range(3):
        monitor.record(view_of(**down))

    (record,) = recorded_log("ml_models_status")
    assert record.items() >= ({"status": word, "levelname": level} | fields).items()
    assert meter.state("axon_ml_status") == word
    assert meter.value("axon_ml_status_level") == number


def test_an_own_layer_without_a_share_is_not_among_the_active_layers(
    monitor: Monitor, recorded_log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(catalog._layers, "extremes", OWN_LAYER)

    monitor.record(view_of())
    monitor.record(view_of(behavior=DOWN, extremes=DOWN))

    complete, partial = recorded_log("ml_models_status")
    assert complete["layers_active"] == 3
    assert "extremes_active" not in partial


def test_the_status_is_logged_on_every_change_alone(
    monitor: Monitor, recorded_log: RecordedLog
) -> None:
    """C-13."""
    none = {"anomaly": DOWN, "behavior": DOWN, "classifier": DOWN}

    for down in ({}, {}, {"behavior": DOWN}, {"behavior": DOWN}, none, {}):
        monitor.record(view_of(**down))

    words = [record["status"] for record in recorded_log("ml_models_status")]
    assert words == [
        "FULLY_OPERATIONAL",
        "PARTIALLY_OPERATIONAL",
        "FALLBACK_MODE",
        "FULLY_OPERATIONAL",
    ]


def test_the_serving_release_is_logged_at_the_first_poll_and_on_change(
    monitor: Monitor, recorded_log: RecordedLog
) -> None:
    """S0-23: the monitor logs it, because Serve writes no INFO while a replica starts."""
    for release in ("", "default/1", "default/1", "default/2", "default/1"):
        monitor.record(replace(view_of(), release=release))

    said = [(record["before"], record["release"]) for record in recorded_log("release_serves")]
    assert said == [("", "default/1"), ("default/1", "default/2"), ("default/2", "default/1")]


def test_the_status_of_each_layer_is_a_state_set_and_a_share(
    monitor: Monitor, meter: RecordingMeter
) -> None:
    """S1-02: a health score of 0 is an initialisation that failed."""
    monitor.record(
        view_of(
            behavior=DOWN, anomaly=replace(LIVE, status=LayerStatus.LAST_GOOD), classifier=ABSENT
        )
    )

    assert meter.state("axon_layer_status", layer="behavior", kind="flow") == "fallback"
    assert meter.state("axon_layer_status", layer="anomaly", kind="process") == "last_good"
    assert meter.value("axon_provider_health_score", provider="behavior") == 0.0
    assert meter.value("axon_provider_health_score", provider="anomaly") == 1.0
    assert meter.value("axon_provider_health_score", provider="classifier") == 1.0
    assert meter.value("axon_coverage", kind="flow") == pytest.approx(0.6)
    assert meter.value("axon_coverage", kind="process") == 1.0
    assert meter.state("axon_breaker_state", layer="anomaly") == "closed"


def test_a_changed_layer_is_logged_with_its_status_before(
    monitor: Monitor, recorded_log: RecordedLog
) -> None:
    monitor.record(view_of())
    monitor.record(view_of(behavior=DOWN))
    monitor.record(view_of(behavior=DOWN))
    monitor.record(view_of())

    changes = recorded_log("layer_status_changed")
    assert [(c["layer"], c["before"], c["status"], c["levelname"]) for c in changes] == [
        ("behavior", "live", "fallback", "WARNING"),
        ("behavior", "fallback", "live", "INFO"),
    ]
    assert changes[0]["reason"] == "ARTIFACT_CORRUPT"


# -- what the fan-out does


def verdicts(words: list[VerdictLabel], **statuses: LayerStatus) -> Verdicts:
    n = len(words)
    layers = tuple(
        LayerScores.silent(layer, status, n, "x")
        if status is not LayerStatus.LIVE
        else LayerScores(layer, status, "1", "default/1", np.zeros(n))
        for layer, status in statuses.items()
    )
    blank = np.zeros(n)
    return Verdicts(
        blank,
        blank,
        blank,
        tuple(words),
        (Severity.LOW,) * n,
        1.0,
        degraded=False,
        status=SystemStatus.FULLY_OPERATIONAL,
        layers=layers,
    )


def test_a_batch_is_counted_by_verdict_and_its_fallback_scores_by_layer(
    metrics: ScoringMetrics, meter: RecordingMeter
) -> None:
    """C-13: exact, where the log is not. A layer that is not applicable is not counted."""
    first = verdicts(
        [VerdictLabel.BENIGN] * 5 + [VerdictLabel.MALICIOUS] * 2,
        anomaly=LayerStatus.LIVE,
        behavior=LayerStatus.TIMEOUT,
        resilience=LayerStatus.NOT_APPLICABLE,
    )
    second = verdicts(
        [VerdictLabel.BENIGN],
        anomaly=LayerStatus.FALLBACK,
        behavior=LayerStatus.TIMEOUT,
        resilience=LayerStatus.LIVE,
    )

    metrics.scored(Kind.FLOW, (first, second), {"anomaly": 0.002})

    assert meter.total("axon_events_scored_total", kind="flow", verdict="benign") == 6
    assert meter.total("axon_events_scored_total", kind="flow", verdict="malicious") == 2
    assert meter.total("axon_events_scored_total") == 8
    assert (
        meter.total("axon_fallback_scores_total", layer="behavior", kind="flow", status="timeout")
        == 8
    )
    assert (
        meter.total("axon_fallback_scores_total", layer="anomaly", kind="flow", status="fallback")
        == 1
    )
    assert meter.total("axon_fallback_scores_total") == 9
    assert meter.observed == [("axon_layer_latency_seconds", 0.002, {"layer": "anomaly"})]


def test_a_breaker_that_changes_is_counted(metrics: ScoringMetrics, meter: RecordingMeter) -> None:
    """P19."""
    metrics.breaker_changed("behavior", BreakerState.OPEN)
    metrics.retried("anomaly")

    assert meter.state("axon_breaker_state", layer="behavior") == "open"
    assert meter.total("axon_breaker_changes_total", layer="behavior", state="open") == 1
    assert meter.total("axon_layer_retries_total", layer="anomaly") == 1


def test_an_open_breaker_is_recorded_at_every_poll(monitor: Monitor, meter: RecordingMeter) -> None:
    monitor.record(
        replace(view_of(), breakers={"anomaly": BreakerView(BreakerState.HALF_OPEN, 0.0)})
    )

    assert meter.state("axon_breaker_state", layer="anomaly") == "half_open"


def test_a_rollout_is_counted(metrics: ScoringMetrics, meter: RecordingMeter) -> None:
    """N-12."""
    metrics.rollout_changed(RolloutView("default/2", 1, 0.1, 0, 0, RolloutState.IN_PROGRESS))
    metrics.rollout_changed(
        RolloutView("default/2", 1, 0.0, 500, 40, RolloutState.ROLLED_BACK, "flips")
    )

    assert meter.value("axon_rollout_share") == 0.0
    assert meter.total("axon_rollout_changes_total", state="rolled_back") == 1


def test_the_retro_counters_grow_by_the_difference(
    metrics: ScoringMetrics, meter: RecordingMeter
) -> None:
    """N-02: the spool reports totals; a counter grows by the difference."""
    metrics.retro_counted(
        replace(
            NO_COUNTS,
            spooled=10,
            dropped={"size": 1},
            waiting_events=9,
            waiting_bytes=900,
            oldest_age_s=5.0,
        )
    )
    metrics.retro_counted(
        replace(NO_COUNTS, spooled=12, dropped={"size": 1, "age": 2}, rescored=12, findings=3)
    )

    assert {
        outcome: meter.total("axon_retro_events_total", outcome=outcome)
        for outcome in ("spooled", "adopted", "rescored", "hostile")
    } == {
        "spooled": 12,
        "adopted": 0,
        "rescored": 12,
        "hostile": 3,
    }
    assert meter.total("axon_retro_dropped_total") == 3
    assert meter.value("axon_retro_waiting_bytes") == 0


# -- the switches


def switches(state: Path, meter: RecordingMeter, layers: FakeLayers, *always: str) -> LayerSwitches:
    # all that it uses of the client
    return LayerSwitches(layers, state, frozenset(always), meter)  # type: ignore[arg-type]


async def test_the_switches_apply_before_the_first_event(
    tmp_path: Path, meter: RecordingMeter
) -> None:
    """A reset from before the process began does not apply to it."""
    change_controls(tmp_path, lambda now: now.with_disabled("anomaly").with_reset("behavior"))
    layers = FakeLayers()

    await switches(tmp_path, meter, layers, "behavior").reload()

    assert layers.disabled == {"anomaly", "behavior"}
    assert layers.resets == []


async def test_a_hanging_disk_delays_nothing_and_occupies_one_thread(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F13.

    The layers that the environment disables stay disabled. Once the disk responds, the controls
    that were read apply.
    """
    come_back, reads = threading.Event(), []

    def hanging(_: Path) -> Controls:
        reads.append(1)
        come_back.wait(10)
        return Controls(frozenset({"anomaly"}))

    monkeypatch.setattr("deployments.scoring.layer_switches.read_controls", hanging)
    monkeypatch.setattr("deployments.scoring.layer_switches.RELOAD_WITHIN_S", 0.01)
    layers = FakeLayers()

    looking = switches(tmp_path, meter, layers, "behavior")
    for _ in range(5):
        await looking.reload()
    assert (layers.disabled, len(reads)) == ({"behavior"}, 1)
    assert meter.value("axon_controls_readable") == 0.0
    come_back.set()
    monkeypatch.setattr("deployments.scoring.layer_switches.RELOAD_WITHIN_S", 10.0)
    await looking.reload()

    assert layers.disabled == {"anomaly", "behavior"}


async def test_what_was_read_before_a_change_is_not_applied_after_it(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow read must not undo what an operator has just changed."""
    come_back = threading.Event()

    def slow(_: Path) -> Controls:
        come_back.wait(10)
        return Controls()

    layers = FakeLayers()
    looking = switches(tmp_path, meter, layers)

    with monkeypatch.context() as patch:
        patch.setattr("deployments.scoring.layer_switches.read_controls", slow)
        patch.setattr("deployments.scoring.layer_switches.RELOAD_WITHIN_S", 0.01)
        await looking.reload()
    await looking.update(lambda now: now.with_disabled("anomaly"))
    come_back.set()
    await looking.reload()

    assert layers.disabled == {"anomaly"}


async def test_a_change_that_hangs_is_an_error_and_the_polls_go_on(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F14.

    One switch on a hanging disk must not stop the gauges; further switches get no thread.
    """
    come_back, writes = threading.Event(), []

    def hanging(state: Path, change: Callable[[Controls], Controls]) -> Controls:
        writes.append(1)
        come_back.wait(10)
        return change_controls(state, change)

    monkeypatch.setattr("deployments.scoring.layer_switches.change_controls", hanging)
    layers = FakeLayers()
    looking = switches(tmp_path, meter, layers)

    await looking.reload()
    changing = asyncio.create_task(looking.update(lambda now: now.with_disabled("anomaly")))
    while not writes:  # noqa: ASYNC110  # what is waited for is a thread
        await asyncio.sleep(0.001)
    await asyncio.wait_for(looking.reload(), 5.0)
    assert not changing.done()
    changing.cancel()
    await asyncio.wait([changing])

    monkeypatch.setattr("deployments.scoring.layer_switches.UPDATE_WITHIN_S", 0.01)
    with pytest.raises(ChangeNotBegun):
        await looking.update(lambda now: now.with_disabled("behavior"))
    await asyncio.wait_for(looking.reload(), 5.0)
    assert (layers.disabled, len(writes)) == (frozenset(), 1)

    come_back.set()
    assert looking._writing is not None
    await looking._writing
    await looking.reload()
    assert layers.disabled == {"anomaly"}, "what the disk kept at last holds"


async def test_a_slow_write_is_a_timeout(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_back = threading.Event()
    monkeypatch.setattr(
        "deployments.scoring.layer_switches.change_controls",
        lambda *_: come_back.wait(10) and Controls(),
    )
    monkeypatch.setattr("deployments.scoring.layer_switches.UPDATE_WITHIN_S", 0.01)

    try:
        with pytest.raises(LoadTimeout):
            await switches(tmp_path, meter, FakeLayers()).update(lambda now: now)
    finally:
        come_back.set()


async def test_each_switch_is_logged_once(
    tmp_path: Path, meter: RecordingMeter, recorded_log: RecordedLog
) -> None:
    looking = switches(tmp_path, meter, FakeLayers())

    await looking.reload()
    await looking.update(lambda now: now.with_disabled("anomaly").with_reset("behavior"))
    await looking.reload()
    await looking.update(lambda now: now.with_enabled("anomaly"))

    assert [
        len(recorded_log(event)) for event in ("layer_disabled", "layer_enabled", "layer_reset")
    ] == [
        1,
        1,
        1,
    ]


# -- the watch itself


async def test_a_poll_that_fails_does_not_end_the_monitor(
    tmp_path: Path, meter: RecordingMeter, recorded_log: RecordedLog
) -> None:
    pipelines = FakePipelines(RuntimeError("a mistake of ours"))

    monitor = monitor_of(switches(tmp_path, meter, FakeLayers()), pipelines, every_s=0.001)
    await monitor.start()
    await asyncio.wait_for(pipelines.reported.wait(), 10)
    await monitor.stop()

    assert len(recorded_log("monitor_failed")) == 1
    assert len(recorded_log("ml_models_status")) == 1


async def test_every_poll_sets_the_gauges_again(tmp_path: Path, meter: RecordingMeter) -> None:
    """Ray drops gauges that were not set for 20 s."""
    made = switches(tmp_path, meter, FakeLayers())

    await monitor_of(made, FakePipelines(), ScoringMetrics(meter)).poll()

    assert meter.refreshed == 1


async def test_every_poll_tries_the_layers_that_are_open(
    tmp_path: Path, meter: RecordingMeter
) -> None:
    """P21b: without traffic the status word would stay what it was when the traffic ended."""
    pipelines = FakePipelines()

    await monitor_of(switches(tmp_path, meter, FakeLayers()), pipelines).poll()

    assert pipelines.trials == 1
