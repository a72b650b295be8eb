"""The pipeline: every event gets its verdict in time, whatever a layer does.

A layer that did not speak is named with its reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError
from ray.serve.exceptions import BackPressureError

from deployments.config.settings import read_settings
from deployments.scoring.pipeline import TenantPipeline
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.features.flow import FEATURE_NAMES
from ensemble.fusion import Fusion, Thresholds
from ensemble.guard import Deadline
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import KindState, SlotState
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus, SystemStatus, VerdictLabel, Verdicts
from tests.support.pipelines import layer_client, tenant_pipeline

RELEASE = "default/7"
DEADLINE_S = 0.25
SETTINGS = read_settings({"fusion": {"min_coverage": 0.5, "posture_bound": 0.5}})
FLOWS = FlowBatch(("a", "b"), ("", ""), np.zeros((2, len(FEATURE_NAMES)), np.float32))
PROCESSES = ProcessBatch.of([ProcessEvent("sh"), ProcessEvent("ls")])
_RISING = Thresholds(0.1, 0.5, 0.9)
FUSIONS = ReleaseFusion(
    RELEASE,
    {
        Kind.FLOW: Fusion(
            {"anomaly": 0.6, "behavior": 0.4},
            1.0,
            {"anomaly+behavior": _RISING, "anomaly": _RISING, "behavior": _RISING},
        ),
        Kind.PROCESS: Fusion({"anomaly": 1.0}, 1.0, {"anomaly": _RISING}),
    },
)
Call = Callable[[EventBatch, int, bool], Awaitable[LayerScores]]


def speaks(layer: str, score: float = 0.7, *, release: str = RELEASE) -> Call:
    # as Serve passes it
    async def call(batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        return LayerScores(layer, LayerStatus.LIVE, "1", release, np.full(len(batch), score))

    return call


def raises(error: BaseException) -> Call:
    async def call(_batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        raise error

    return call


class HungLayer:
    """A layer that never responds; it records whether it was cancelled."""

    def __init__(self) -> None:
        self.was_cancelled = False

    async def __call__(self, _batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        raise AssertionError


def pipeline_of(
    changed: Mapping[str, Call],
    *,
    release: ReleaseFusion | None = FUSIONS,
    deadline_s: float = 20.0,
    states: Mapping[str, Any] | None = None,
) -> TenantPipeline:
    """A pipeline in which all layers speak, except those that are `changed`.

    It fuses with `release`, or with the built-in rule for None.
    """
    calls = {layer: speaks(layer) for layer in LAYERS} | dict(changed)
    layers = layer_client(calls, states, deadline_s=deadline_s)
    made = tenant_pipeline(layers, settings=SETTINGS)
    if release is not None:
        made.controller.switch_to(release, at_once=True)
    return made


async def verdicts_of(
    pipeline: TenantPipeline, batch: EventBatch = FLOWS, *, waited_s: float = 0.0
) -> Verdicts:
    before = asyncio.all_tasks()
    deadline = Deadline(time.monotonic() - waited_s, pipeline.layers.deadline_s)
    (verdicts,) = await pipeline.score(batch, deadline, explain=False)
    for _ in range(20):  # a cancelled call ends in the next turn of the loop, a probe in several
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "a call of a layer is left running"
    return verdicts


def new_deadline(pipeline: TenantPipeline) -> Deadline:
    return Deadline(time.monotonic(), pipeline.layers.deadline_s)


def opinion(verdicts: Verdicts, layer: str) -> LayerScores:
    return next(one for one in verdicts.layers if one.layer == layer)


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the pipeline waited for layers.

    The wait itself is cut short, so that no test depends on the load of the machine.
    """
    asked: list[float] = []
    wait = asyncio.wait

    # as asyncio.wait has it
    async def recorded(calls: Any, *, timeout: float) -> Any:  # noqa: ASYNC109
        if next(iter(calls)).get_coro().__name__ != "results_async":  # of a probe
            asked.append(timeout)
        return await wait(calls, timeout=0.01)

    monkeypatch.setattr("deployments.scoring.pipeline.asyncio.wait", recorded)
    return asked


async def test_every_layer_speaks_and_is_named_in_one_order() -> None:
    verdicts = await verdicts_of(pipeline_of({}))

    assert [one.layer for one in verdicts.layers] == list(LAYERS)
    assert {one.status for one in verdicts.layers} == {LayerStatus.LIVE}
    assert verdicts.coverage == 1.0
    assert not verdicts.degraded
    assert verdicts.status is SystemStatus.FULLY_OPERATIONAL


@pytest.mark.parametrize(
    "hung", [["anomaly"], ["behavior"], ["resilience"], ["anomaly", "behavior"], list(LAYERS)]
)
async def test_a_hanging_layer_is_missing_at_the_deadline(
    hung: list[str], budgets: list[float]
) -> None:
    """P18.

    Every request gets its response by the deadline; the call is cancelled, so that no queue grows.
    """
    layers = {layer: HungLayer() for layer in hung}

    verdicts = await verdicts_of(pipeline_of(layers, deadline_s=DEADLINE_S))

    assert len(budgets) == 1
    assert budgets[0] <= DEADLINE_S
    for layer, call in layers.items():
        assert opinion(verdicts, layer).status is LayerStatus.TIMEOUT
        assert opinion(verdicts, layer).reason == "LAYER_TIMEOUT"
        assert call.was_cancelled
    assert {one.layer for one in verdicts.layers if one.speaks} == LAYERS.keys() - set(hung)
    assert verdicts.degraded


async def test_a_hanging_layer_costs_about_its_deadline_in_real_time() -> None:
    started = time.monotonic()

    await verdicts_of(pipeline_of({"behavior": HungLayer()}, deadline_s=DEADLINE_S))

    assert (
        time.monotonic() - started < 5.0
    )  # twenty times the deadline: a busy machine passes, waiting for ever does not


@pytest.mark.parametrize("waited_s", [0.0, 0.1, 0.25, 3.0])
async def test_waiting_time_counts_against_the_deadline(
    waited_s: float, budgets: list[float]
) -> None:
    """P18, deadline + 10 %.

    The budget counts from the arrival of the event; a tenth of it stays for the layers.
    """
    await verdicts_of(
        pipeline_of({"anomaly": HungLayer()}, deadline_s=DEADLINE_S), waited_s=waited_s
    )

    assert 0.1 * DEADLINE_S <= budgets[0] <= max(DEADLINE_S - waited_s, 0.1 * DEADLINE_S)
    assert waited_s >= DEADLINE_S or budgets[0] + waited_s <= 1.1 * DEADLINE_S


FAILURES = [
    pytest.param(ValueError("/srv/secret.py line 3"), "LAYER_ERROR", id="raises"),
    pytest.param(RayActorError(), "LAYER_CRASHED", id="its process died"),
    pytest.param(ActorDiedError(), "LAYER_CRASHED", id="its actor died"),
    pytest.param(
        ActorUnavailableError("gone", None), "LAYER_CRASHED", id="its actor is unreachable"
    ),
    pytest.param(
        BackPressureError(num_queued_requests=9, max_queued_requests=8),
        "LAYER_OVERLOADED",
        id="its queue is full",
    ),
    pytest.param(asyncio.CancelledError(), "LAYER_CRASHED", id="cancelled by Ray"),
]


@pytest.mark.parametrize(("error", "code"), FAILURES)
@pytest.mark.parametrize("layer", list(LAYERS))
async def test_a_failing_layer_abstains_under_a_stable_code(
    layer: str, error: BaseException, code: str
) -> None:
    """The others go on, and the error's own text is not shown."""
    verdicts = await verdicts_of(pipeline_of({layer: raises(error)}))

    failed = opinion(verdicts, layer)
    assert (failed.status, failed.reason) == (LayerStatus.FALLBACK, code)
    assert failed.scores.tolist() == [LAYERS[layer].fallback_score] * 2
    assert {one.layer for one in verdicts.layers if one.speaks} == LAYERS.keys() - {layer}
    assert verdicts.degraded == (layer != "classifier"), "which has no share in this fusion"


async def test_a_call_that_fails_before_it_is_awaited_is_a_failing_layer_too() -> None:
    def call(_batch: EventBatch, _release: str, _explain: bool) -> Awaitable[LayerScores]:  # noqa: FBT001
        raise RuntimeError("no replicas")

    verdicts = await verdicts_of(pipeline_of({"behavior": call}))

    assert opinion(verdicts, "behavior").reason == "LAYER_ERROR"


async def test_a_silent_layer_weighs_nothing() -> None:
    """P12: the shown score of an abstention changes neither score nor coverage."""
    whole = await verdicts_of(
        pipeline_of({"behavior": speaks("behavior", 0.01), "anomaly": speaks("anomaly", 0.9)})
    )
    half = await verdicts_of(
        pipeline_of({"behavior": raises(ValueError()), "anomaly": speaks("anomaly", 0.9)})
    )

    assert half.coverage == pytest.approx(0.6)
    assert (half.score > whole.score).all()
    assert (half.low <= half.score).all()
    assert (half.score <= half.high).all()


async def test_without_a_fusion_every_verdict_is_indeterminate() -> None:
    """DESIGN section 4.

    The built-in rule still gives a score, but it is not fitted.
    """
    verdicts = await verdicts_of(pipeline_of({}, release=None))

    assert set(verdicts.label) == {VerdictLabel.INDETERMINATE}
    assert np.isfinite(verdicts.score).all()
    assert all(one.speaks for one in verdicts.layers)


async def test_a_layer_without_processes_is_not_called_for_them_and_not_missed() -> None:
    async def unasked(_batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        raise AssertionError

    verdicts = await verdicts_of(pipeline_of({"behavior": unasked}), PROCESSES)

    assert opinion(verdicts, "behavior").status is LayerStatus.NOT_APPLICABLE
    assert verdicts.coverage == 1.0
    assert not verdicts.degraded


async def test_every_layer_is_called_for_the_release_of_the_fusion() -> None:
    asked: list[tuple[int, bool]] = []

    async def call(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
        asked.append((release, explain))
        return LayerScores("behavior", LayerStatus.LIVE, "1", release, np.full(len(batch), 0.5))

    await verdicts_of(pipeline_of({"behavior": call}))

    assert asked == [(RELEASE, False)]


@pytest.mark.parametrize("other", ["default/6", "other/7", ""])
async def test_scores_of_another_release_are_never_used(other: str) -> None:
    """DESIGN section 4.

    A verdict is made by one release only; its calibration was fitted to another fusion.
    """
    verdicts = await verdicts_of(pipeline_of({"behavior": speaks("behavior", 0.99, release=other)}))

    assert not opinion(verdicts, "behavior").speaks
    assert verdicts.coverage == pytest.approx(0.6)


@pytest.mark.parametrize("size", [0, 1, 3])
async def test_scores_for_another_number_of_events_are_never_used(size: int) -> None:
    """A layer's bug must not stop the others, nor give one event the score of another."""

    async def call(_batch: EventBatch, release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        return LayerScores("behavior", LayerStatus.LIVE, "1", release, np.full(size, 0.99))

    verdicts = await verdicts_of(pipeline_of({"behavior": call}))

    assert not opinion(verdicts, "behavior").speaks
    assert verdicts.score.shape == (2,)


class States:
    """State calls that are counted."""

    def __init__(self, answers: Mapping[str, BaseException | None]) -> None:
        self.asked = 0
        self.calls = {layer: self._call(layer, error) for layer, error in answers.items()}

    def _call(
        self, layer: str, error: BaseException | None
    ) -> Callable[[int], Awaitable[tuple[SlotState, str]]]:
        async def call(_wanted: int) -> tuple[SlotState, str]:
            self.asked += 1
            if error is not None:
                raise error
            return SlotState(
                layer, RELEASE, dict.fromkeys(LAYERS[layer].kinds, KindState(LayerStatus.LIVE, "1"))
            ), "cpu"

        return call


@pytest.mark.parametrize("error", [RayActorError(), asyncio.CancelledError(), ValueError("inside")])
async def test_health_responds_if_a_layer_does_not(error: BaseException) -> None:
    """P38: a layer that does not respond is a status, not a failure of the health route."""
    states = States({"anomaly": None, "behavior": error, "resilience": None})

    view = await pipeline_of({}, states=states.calls).status()

    assert view.status is SystemStatus.PARTIALLY_OPERATIONAL
    assert view.health().providers["behavior"].status == "timeout"
    assert view.health().status == "degraded"
    assert view.coverage == pytest.approx(0.6)


async def test_probes_call_the_layers_once_a_second_at_most() -> None:
    states = States(dict.fromkeys(LAYERS))
    pipeline = pipeline_of({}, states=states.calls)

    await asyncio.gather(*(pipeline.status() for _ in range(50)))

    assert states.asked < 50  # three layers, at most a few rounds however slow the machine


async def test_the_calls_of_a_probe_that_left_are_cancelled() -> None:
    """I10: otherwise probes that give up early would pile up calls at a hanging layer."""
    before = asyncio.all_tasks()

    async def hung(_: str) -> Any:
        await asyncio.get_running_loop().create_future()

    pipeline = pipeline_of({}, states={"anomaly": hung})
    for _ in range(5):
        probe = asyncio.create_task(pipeline.status())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        probe.cancel()
        await asyncio.wait([probe])
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


# -- a challenger in shadow

CHALLENGER = ReleaseFusion("default/8", dict(FUSIONS.fusions))


def by_release(layer: str, scores: Mapping[str, float]) -> Call:
    """A layer whose score depends on the requested release."""

    async def call(batch: EventBatch, release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        return LayerScores(
            layer, LayerStatus.LIVE, "1", release, np.full(len(batch), scores[release])
        )

    return call


async def shadowed(pipeline: TenantPipeline, batches: int = 10) -> list[Verdicts]:
    answers = []
    for _ in range(batches):
        answers += await pipeline.score(FLOWS, new_deadline(pipeline), explain=False)
        await asyncio.gather(*pipeline.evaluation.running)
    return answers


def quiet_and_loud() -> dict[str, Call]:
    """Layers that rate flows benign for the champion, and malicious for the challenger."""
    return {
        layer: by_release(layer, {RELEASE: 0.01, "default/8": 0.99})
        for layer in ("anomaly", "behavior")
    }


async def test_a_challenger_scores_in_shadow_and_changes_no_verdict() -> None:
    """Section 7: its verdicts are counted, the response is the champion's."""
    pipeline = pipeline_of(quiet_and_loud())
    pipeline.evaluation.set_challenger(CHALLENGER)

    answers = await shadowed(pipeline, batches=20)

    assert {word for answer in answers for word in answer.label} == {VerdictLabel.BENIGN}
    assert pipeline.evaluation.agreement is not None
    assert pipeline.evaluation.agreement.flips == {
        "benign>malicious": pipeline.evaluation.agreement.events
    }
    assert pipeline.evaluation.agreement.events == pytest.approx(
        SETTINGS.rollout.shadow_share * 40, abs=2
    )


async def test_without_a_challenger_nothing_is_scored_twice() -> None:
    pipeline = pipeline_of(quiet_and_loud())
    pipeline.evaluation.set_challenger(CHALLENGER)
    pipeline.evaluation.set_challenger(None)

    await shadowed(pipeline)

    assert pipeline.evaluation.agreement is None


def test_the_champion_cannot_be_its_own_challenger() -> None:
    pipeline = pipeline_of({})

    pipeline.evaluation.set_challenger(FUSIONS)

    assert pipeline.evaluation.agreement is None


async def test_the_shadow_counters_restart_when_the_champion_changes() -> None:
    pipeline = pipeline_of(quiet_and_loud())
    pipeline.evaluation.set_challenger(CHALLENGER)
    await shadowed(pipeline)
    counted = pipeline.evaluation.agreement

    pipeline.evaluation.set_challenger(CHALLENGER)
    assert pipeline.evaluation.agreement == counted

    pipeline.controller.switch_to(ReleaseFusion("default/9", dict(FUSIONS.fusions)), at_once=True)
    pipeline.evaluation.set_challenger(CHALLENGER)
    assert pipeline.evaluation.agreement is not None
    assert (pipeline.evaluation.agreement.champion, pipeline.evaluation.agreement.events) == (
        "default/9",
        0,
    )


async def test_a_hanging_challenger_delays_no_verdict_and_its_calls_are_limited() -> None:
    hung = HungLayer()

    async def call(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
        return await (
            hung(batch, release, explain)
            if release == "default/8"
            else speaks("anomaly", 0.01)(batch, release, explain)
        )

    pipeline = pipeline_of({"anomaly": call}, deadline_s=0.2)
    pipeline.evaluation.set_challenger(CHALLENGER)
    for _ in range(200):
        (answer,) = await pipeline.score(FLOWS, new_deadline(pipeline), explain=False)
        assert opinion(answer, "anomaly").status is LayerStatus.LIVE
    assert len(pipeline.evaluation.running) <= SETTINGS.rollout.shadows_in_flight
    await asyncio.gather(*pipeline.evaluation.running)


async def test_scores_of_a_parents_release_are_last_good() -> None:
    """N-05: the verdict shows that it is not by the models that the tenant promoted."""
    layers = layer_client({layer: speaks(layer) for layer in LAYERS}, deadline_s=20.0)
    pipeline = tenant_pipeline(layers, "acme", settings=SETTINGS)
    pipeline.controller.switch_to(FUSIONS, at_once=True)

    assert {one.status for one in (await verdicts_of(pipeline)).layers} == {LayerStatus.LAST_GOOD}
    assert (await verdicts_of(pipeline)).coverage == 1.0
