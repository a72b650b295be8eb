"""What the ingress sees, it says: metrics exact and by batch, log events on change alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.monitor import IngressTelemetry, Monitor
from deployments.scoring.status import EnsembleStatus, build_status
from ensemble.errors import LoadTimeout
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers.catalog import LAYERS
from ensemble.rollout.canary import RolloutState, RolloutView
from ensemble.runtime.controls import Controls, change_controls
from ensemble.runtime.model_state import KindState
from ensemble.verdicts import (
    LayerScores,
    LayerStatus,
    Severity,
    SystemStatus,
    Verdicts,
    VerdictWord,
)
from tests.deployments.conftest import RecordingMeter, Told
from tests.deployments.scoring.test_status import DOWN, FUSIONS, LIVE, Breaker, slots


class FakeFanOut:
    def __init__(self) -> None:
        self.disabled: frozenset[str] = frozenset()
        self.resets: list[str] = []

    def reset(self, layer: str) -> None:
        self.resets.append(layer)


@dataclass(frozen=True)
class RetroCounts:
    spooled: int = 0
    adopted: int = 0
    dropped: Any = None
    rescored: int = 0
    findings: int = 0
    waiting_events: int = 0
    waiting_bytes: int = 0
    oldest_age_s: float = 0.0


@pytest.fixture
def telemetry(meter: RecordingMeter) -> IngressTelemetry:
    return IngressTelemetry(meter)


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
def test_the_status_of_the_models_is_told_with_its_fields_and_its_level(
    telemetry: IngressTelemetry,
    meter: RecordingMeter,
    told: Told,
    down: dict[str, KindState],
    word: str,
    level: str,
    fields: dict[str, Any],
    number: int,
) -> None:
    """S0-12, S0-23, S0-31, C-10."""
    for _ in range(3):
        telemetry.system_seen(view_of(**down))

    (record,) = told("ml_models_status")
    assert record.items() >= ({"status": word, "levelname": level} | fields).items()
    assert meter.word("axon_ml_status") == word
    assert meter.value("axon_ml_status_level") == number


def test_every_change_of_the_status_is_told_and_nothing_between(
    telemetry: IngressTelemetry, told: Told
) -> None:
    """C-13."""
    none = {"anomaly": DOWN, "behavior": DOWN, "classifier": DOWN}

    for down in ({}, {}, {"behavior": DOWN}, {"behavior": DOWN}, none, {}):
        telemetry.system_seen(view_of(**down))

    words = [record["status"] for record in told("ml_models_status")]
    assert words == [
        "FULLY_OPERATIONAL",
        "PARTIALLY_OPERATIONAL",
        "FALLBACK_MODE",
        "FULLY_OPERATIONAL",
    ]


def test_the_release_that_serves_is_told_at_the_first_look_and_on_change(
    telemetry: IngressTelemetry, told: Told
) -> None:
    """S0-23: by the watch, because Serve lets no INFO into the log while a replica starts."""
    for release in ("", "default/1", "default/1", "default/2", "default/1"):
        telemetry.system_seen(replace(view_of(), release=release))

    said = [(record["before"], record["release"]) for record in told("release_serves")]
    assert said == [("", "default/1"), ("default/1", "default/2"), ("default/2", "default/1")]


def test_how_each_layer_stands_is_a_state_set_and_a_share(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    """S1-02: a health score of 0 is an initialisation that failed."""
    telemetry.system_seen(
        view_of(
            behavior=DOWN, anomaly=replace(LIVE, status=LayerStatus.LAST_GOOD), classifier=ABSENT
        )
    )

    assert meter.word("axon_layer_status", layer="behavior", kind="flow") == "fallback"
    assert meter.word("axon_layer_status", layer="anomaly", kind="process") == "last_good"
    assert meter.value("axon_provider_health_score", provider="behavior") == 0.0
    assert meter.value("axon_provider_health_score", provider="anomaly") == 1.0
    assert meter.value("axon_provider_health_score", provider="classifier") == 1.0
    assert meter.value("axon_coverage", kind="flow") == pytest.approx(0.6)
    assert meter.value("axon_coverage", kind="process") == 1.0
    assert meter.word("axon_breaker_state", layer="anomaly") == "closed"


def test_a_layer_that_changes_is_told_with_what_it_was(
    telemetry: IngressTelemetry, told: Told
) -> None:
    telemetry.system_seen(view_of())
    telemetry.system_seen(view_of(behavior=DOWN))
    telemetry.system_seen(view_of(behavior=DOWN))
    telemetry.system_seen(view_of())

    changes = told("layer_status_changed")
    assert [(c["layer"], c["before"], c["status"], c["levelname"]) for c in changes] == [
        ("behavior", "live", "fallback", "WARNING"),
        ("behavior", "fallback", "live", "INFO"),
    ]
    assert changes[0]["reason"] == "ARTIFACT_CORRUPT"


# -- what the fan-out does


def verdicts(words: list[VerdictWord], **statuses: LayerStatus) -> Verdicts:
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


def test_a_batch_is_counted_by_verdict_and_what_did_not_look_by_layer(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    """C-13: exact, where the log is not. A layer that is not applicable was not missed."""
    first = verdicts(
        [VerdictWord.BENIGN] * 5 + [VerdictWord.MALICIOUS] * 2,
        anomaly=LayerStatus.LIVE,
        behavior=LayerStatus.TIMEOUT,
        resilience=LayerStatus.NOT_APPLICABLE,
    )
    second = verdicts(
        [VerdictWord.BENIGN],
        anomaly=LayerStatus.FALLBACK,
        behavior=LayerStatus.TIMEOUT,
        resilience=LayerStatus.LIVE,
    )

    telemetry.scored(Kind.FLOW, (first, second), {"anomaly": 0.002})

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


def test_a_breaker_that_changes_is_counted(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    """P19."""
    telemetry.breaker_changed("behavior", BreakerState.OPEN, "5 failures in a row")
    telemetry.retried("anomaly")

    assert meter.word("axon_breaker_state", layer="behavior") == "open"
    assert meter.total("axon_breaker_changes_total", layer="behavior", state="open") == 1
    assert meter.total("axon_layer_retries_total", layer="anomaly") == 1


def test_an_open_breaker_is_seen_at_every_look(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    telemetry.system_seen(replace(view_of(), breakers={"anomaly": Breaker("half_open")}))

    assert meter.word("axon_breaker_state", layer="anomaly") == "half_open"


def test_the_bringing_in_of_a_release_is_counted(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    """N-12."""
    telemetry.rollout_changed(RolloutView("default/2", 1, 0.1, 0, 0, RolloutState.STEPPING))
    telemetry.rollout_changed(
        RolloutView("default/2", 1, 0.0, 500, 40, RolloutState.RETREATED, "flips")
    )

    assert meter.value("axon_rollout_share") == 0.0
    assert meter.total("axon_rollout_changes_total", state="retreated") == 1


def test_what_waits_for_a_second_look_is_counted_by_what_was_added(
    telemetry: IngressTelemetry, meter: RecordingMeter
) -> None:
    """N-02: the spool tells totals; a counter takes what came since."""
    telemetry.retro_seen(
        RetroCounts(
            spooled=10, dropped={"size": 1}, waiting_events=9, waiting_bytes=900, oldest_age_s=5.0
        )
    )
    telemetry.retro_seen(
        RetroCounts(spooled=12, dropped={"size": 1, "age": 2}, rescored=12, findings=3)
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


def switches(
    state: Path, meter: RecordingMeter, fan_out: FakeFanOut, *always: str
) -> LayerSwitches:
    return LayerSwitches(fan_out, state, frozenset(always), meter)


def test_the_switches_hold_before_the_first_event(tmp_path: Path, meter: RecordingMeter) -> None:
    """And a reset of the past is none of a process that began after it."""
    change_controls(tmp_path, lambda now: now.with_disabled("anomaly").with_reset("behavior"))
    fan_out = FakeFanOut()

    asyncio.run(switches(tmp_path, meter, fan_out, "behavior").look())

    assert fan_out.disabled == {"anomaly", "behavior"}
    assert fan_out.resets == []


def test_a_disk_that_hangs_holds_up_nobody_and_gets_one_thread(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F13.

    What the environment says holds all the same; when the disk comes back, its answer is used.
    """
    come_back, reads = threading.Event(), []

    def hanging(_: Path) -> Controls:
        reads.append(1)
        come_back.wait(10)
        return Controls(frozenset({"anomaly"}))

    monkeypatch.setattr("deployments.scoring.layer_switches.read_controls", hanging)
    monkeypatch.setattr("deployments.scoring.layer_switches.LOOK_WITHIN_S", 0.01)
    fan_out = FakeFanOut()

    async def looks() -> None:
        looking = switches(tmp_path, meter, fan_out, "behavior")
        for _ in range(5):
            await looking.look()
        assert (fan_out.disabled, len(reads)) == ({"behavior"}, 1)
        assert meter.value("axon_controls_readable") == 0.0
        come_back.set()
        monkeypatch.setattr("deployments.scoring.layer_switches.LOOK_WITHIN_S", 10.0)
        await looking.look()

    asyncio.run(looks())

    assert fan_out.disabled == {"anomaly", "behavior"}


def test_what_was_read_before_a_change_is_not_applied_after_it(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow read must not take back for a moment what an operator just did."""
    come_back = threading.Event()

    def slow(_: Path) -> Controls:
        come_back.wait(10)
        return Controls()

    fan_out = FakeFanOut()
    looking = switches(tmp_path, meter, fan_out)

    async def change_meanwhile() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("deployments.scoring.layer_switches.read_controls", slow)
            patch.setattr("deployments.scoring.layer_switches.LOOK_WITHIN_S", 0.01)
            await looking.look()
        await looking.change(lambda now: now.with_disabled("anomaly"))
        come_back.set()
        await looking.look()

    asyncio.run(change_meanwhile())

    assert fan_out.disabled == {"anomaly"}


def test_a_change_that_hangs_is_refused_and_the_looks_go_on(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F14.

    One switch on a hanging disk must not take the gauges away; further ones get no thread of their
    own.
    """
    come_back, writes = threading.Event(), []

    def hanging(state: Path, change: Callable[[Controls], Controls]) -> Controls:
        writes.append(1)
        come_back.wait(10)
        return change_controls(state, change)

    monkeypatch.setattr("deployments.scoring.layer_switches.change_controls", hanging)
    fan_out = FakeFanOut()
    looking = switches(tmp_path, meter, fan_out)

    async def history() -> None:
        await looking.look()
        changing = asyncio.create_task(looking.change(lambda now: now.with_disabled("anomaly")))
        while not writes:  # noqa: ASYNC110  # what is waited for is a thread
            await asyncio.sleep(0.001)
        await asyncio.wait_for(looking.look(), 5.0)
        assert not changing.done()
        changing.cancel()
        await asyncio.wait([changing])

        monkeypatch.setattr("deployments.scoring.layer_switches.CHANGE_WITHIN_S", 0.01)
        with pytest.raises(LoadTimeout):
            await looking.change(lambda now: now.with_disabled("behavior"))
        await asyncio.wait_for(looking.look(), 5.0)
        assert (fan_out.disabled, len(writes)) == (frozenset(), 1)

        come_back.set()
        assert looking._writing is not None
        await looking._writing
        await looking.look()
        assert fan_out.disabled == {"anomaly"}, "what the disk kept at last holds"

    asyncio.run(history())


def test_a_write_that_takes_too_long_is_a_timeout(
    tmp_path: Path, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_back = threading.Event()
    monkeypatch.setattr(
        "deployments.scoring.layer_switches.change_controls",
        lambda *_: come_back.wait(10) and Controls(),
    )
    monkeypatch.setattr("deployments.scoring.layer_switches.CHANGE_WITHIN_S", 0.01)

    async def change() -> None:
        try:
            await switches(tmp_path, meter, FakeFanOut()).change(lambda now: now)
        finally:
            come_back.set()

    with pytest.raises(LoadTimeout):
        asyncio.run(change())


def test_each_switch_is_told_once(tmp_path: Path, meter: RecordingMeter, told: Told) -> None:
    looking = switches(tmp_path, meter, FakeFanOut())

    async def history() -> None:
        await looking.look()
        await looking.change(lambda now: now.with_disabled("anomaly").with_reset("behavior"))
        await looking.look()
        await looking.change(lambda now: now.with_enabled("anomaly"))

    asyncio.run(history())

    assert [len(told(event)) for event in ("layer_disabled", "layer_enabled", "layer_reset")] == [
        1,
        1,
        1,
    ]


# -- the watch itself


def test_a_look_that_fails_does_not_end_the_watching(
    tmp_path: Path, meter: RecordingMeter, told: Told
) -> None:
    seen = asyncio.Event()
    looks: list[int] = []

    async def see() -> EnsembleStatus:
        looks.append(1)
        if len(looks) == 1:
            raise RuntimeError("a mistake of ours")
        seen.set()
        return view_of()

    async def watched() -> None:
        watch = Monitor(
            switches(tmp_path, meter, FakeFanOut()),
            IngressTelemetry(meter),
            see,
            meter,
            every_s=0.001,
            retro=no_counts,
        )
        await watch.start()
        await asyncio.wait_for(seen.wait(), 10)
        await watch.stop()

    asyncio.run(watched())

    assert len(told("watch_failed")) == 1
    assert len(told("ml_models_status")) == 1


def no_counts() -> RetroCounts:
    return RetroCounts(dropped={})


def test_every_look_says_the_gauges_again(tmp_path: Path, meter: RecordingMeter) -> None:
    """Ray forgets them after 20 s."""

    async def see() -> EnsembleStatus:
        return view_of()

    asyncio.run(
        Monitor(
            switches(tmp_path, meter, FakeFanOut()),
            IngressTelemetry(meter),
            see,
            meter,
            every_s=1.0,
        ).look()
    )

    assert meter.refreshed == 1
