"""Pipelines with guarded layers.

A failing layer soon costs no time, is tried in the background, and returns once it has recovered.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import BackPressureError

from ensemble.events import EventBatch, Kind
from ensemble.guard import BreakerState
from ensemble.layers.catalog import LAYERS
from ensemble.verdicts import Abstention, LayerScores, LayerStatus, VerdictLabel
from tests.support.guarded_layers import (
    DEADLINE_S,
    FLOWS,
    GuardedPipeline,
    until,
)
from tests.support.recorded_telemetry import RecordedLog

# -- the breaker


async def test_a_hanging_layer_costs_a_few_deadlines_and_is_then_not_called() -> None:
    """P19, R5: it is not called; the others go on, and the verdict names it."""
    world = GuardedPipeline()
    hung = world.layers["behavior"]
    hung.is_hung = True

    said = [(await world.score())["behavior"] for _ in range(30)]

    statuses = [one.status for one in said]
    late = statuses.index(LayerStatus.OPEN)
    assert 1 <= late <= 5
    assert statuses == [LayerStatus.TIMEOUT] * late + [LayerStatus.OPEN] * (30 - late)
    assert said[-1].reason == "LAYER_OPEN"
    assert len(hung.requested) <= late
    assert hung.probes == 1, "one probe at a time"
    assert len(world.layers["anomaly"].requested) == 30
    assert world.pipeline.layers.breakers["anomaly"].state is BreakerState.CLOSED
    assert world.metrics.breakers == [("behavior", BreakerState.OPEN)]


@pytest.mark.parametrize("slow", [["behavior"], list(LAYERS)], ids=["one", "all"])
async def test_a_layer_that_is_late_and_answers_its_probe_stays_in_use(slow: list[str]) -> None:
    """P21b: load makes every call late; a breaker that opens for it would blind detection."""
    world = GuardedPipeline()
    for layer in slow:
        world.layers[layer].gate = asyncio.Event()

    said = [await world.score() for _ in range(30)]

    assert {one[layer].status for one in said for layer in slow} == {LayerStatus.TIMEOUT}
    assert all(world.layers[layer].probes for layer in slow)
    assert world.metrics.breakers == []


async def test_a_reply_that_comes_late_is_a_sign_of_life() -> None:
    """A replica that computes for long answers no probe, and is not hung."""
    world = GuardedPipeline({"guard": {"hung_s": 0.2}})
    behavior = world.layers["behavior"]
    behavior.is_hung = True
    await world.score()
    behavior.is_hung = False  # the probe that is out hangs

    await world.score()
    await asyncio.sleep(0.3)

    assert behavior.probes == 1
    assert world.metrics.breakers == []


async def test_a_replica_that_is_gone_answers_no_probe() -> None:
    """A call that finds no replica waits, as one to a hung replica does."""
    world = GuardedPipeline()
    behavior = world.layers["behavior"]
    behavior.gate, behavior.is_dead = asyncio.Event(), True

    await world.score()

    await until(lambda: world.pipeline.layers.breakers["behavior"].state is BreakerState.OPEN)


async def test_calls_in_flight_end_when_their_layer_is_found_hung() -> None:
    """A batch with a long deadline does not wait it out."""
    world = GuardedPipeline()
    world.layers["behavior"].is_hung = True
    patient = asyncio.create_task(world.score(waited_s=-60.0))

    await world.score()
    said = (await asyncio.wait_for(patient, 5.0))["behavior"]

    assert said.status is LayerStatus.TIMEOUT


async def test_an_open_layer_is_tried_without_traffic() -> None:
    """The word of the status must not wait for a caller."""
    world = GuardedPipeline()
    await world.open_behavior()
    behavior, calls = world.layers["behavior"], len(world.layers["behavior"].requested)
    behavior.is_hung = False
    layers = world.pipeline.layers

    layers.try_again()
    assert len(behavior.requested) == calls, "its pause is not over"
    world.clock.now += 2.0
    layers.try_again()

    await until(lambda: layers.breakers["behavior"].state is BreakerState.CLOSED)
    layers.try_again()
    assert len(behavior.requested) == calls + 1, "a layer in use needs no trial"


async def test_no_batch_waits_for_a_trial() -> None:
    """While a layer hangs, its trials run in the background.

    The batch that starts a trial goes on without the layer.
    """
    world = GuardedPipeline()
    await world.open_behavior()
    waits: list[int] = []
    wait = asyncio.wait

    # as asyncio.wait has it
    async def counted(calls: Any, *, timeout: float) -> Any:  # noqa: ASYNC109
        waits.append(len(list(calls)))
        return await wait(calls, timeout=timeout)

    world.clock.now += 2.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.scoring.layer_client.asyncio.wait", counted)
        said = [(await world.score())["behavior"].status for _ in range(10)]

    assert said == [LayerStatus.OPEN] * 10
    assert len(world.layers["behavior"].requested) == 2, "exactly one trial"
    assert waits[0] == len(LAYERS) - 1, "the batch waited for the others only"


async def test_a_trial_that_hangs_fails_by_its_own_deadline() -> None:
    world = GuardedPipeline()
    await world.open_behavior()
    hung = world.layers["behavior"]
    hung.was_cancelled = False
    world.clock.now += 2.0

    await world.score()
    await until(lambda: hung.was_cancelled)

    await until(lambda: world.metrics.breakers[-1] == ("behavior", BreakerState.OPEN))
    assert [state for _, state in world.metrics.breakers] == [
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.OPEN,
    ]


async def test_a_recovered_layer_gets_all_traffic_after_one_trial() -> None:
    """P19: it returns within ten seconds; the longest pause is eight."""
    world = GuardedPipeline()
    await world.open_behavior()
    for _ in range(4):  # trials fail, the pause grows
        world.clock.now += 8.0
        await world.score()
        await until(lambda: world.pipeline.layers.breakers["behavior"].state is BreakerState.OPEN)
    world.layers["behavior"].is_hung = False

    world.clock.now += 8.0
    await world.score()
    await until(lambda: world.pipeline.layers.breakers["behavior"].state is BreakerState.CLOSED)

    assert {(await world.score())["behavior"].status for _ in range(10)} == {LayerStatus.LIVE}


async def test_an_operator_closes_a_breaker_and_the_layer_is_called_again() -> None:
    world = GuardedPipeline()
    await world.open_behavior()
    world.layers["behavior"].is_hung = False

    world.pipeline.layers.reset("behavior")

    assert (await world.score())["behavior"].status is LayerStatus.LIVE


async def test_an_abstention_does_not_open_the_breaker() -> None:
    """A layer without a model responds at once.

    Calling it is cheap, and it reports when it has a model.
    """
    world = GuardedPipeline()
    world.layers["behavior"].status = LayerStatus.FALLBACK

    for _ in range(50):
        await world.score()

    assert world.metrics.breakers == []


@pytest.mark.parametrize(
    "error", [ValueError("inside"), BackPressureError(num_queued_requests=9, max_queued_requests=8)]
)
async def test_a_layer_that_keeps_failing_is_no_longer_called(error: BaseException) -> None:
    world = GuardedPipeline()
    world.layers["behavior"].errors = [error] * 99

    said = [(await world.score())["behavior"].status for _ in range(8)]

    assert said == [LayerStatus.FALLBACK] * 5 + [LayerStatus.OPEN] * 3


async def test_slow_scores_are_used_and_open_no_breaker() -> None:
    """R4: slow is not broken."""
    world = GuardedPipeline()
    world.layers["behavior"].takes_s = 0.9 * DEADLINE_S

    said = [(await world.score())["behavior"].status for _ in range(30)]

    assert said == [LayerStatus.LIVE] * 30
    assert world.metrics.breakers == []


async def test_a_delay_of_all_layers_opens_no_breaker() -> None:
    """A busy ingress finds every layer slow.

    If all breakers opened, nothing would be detected under load.
    """
    world = GuardedPipeline()
    for layer in world.layers.values():
        layer.takes_s = 0.6 * DEADLINE_S

    for _ in range(30):
        await world.score()

    assert world.metrics.breakers == []


@pytest.mark.parametrize("hung", [["anomaly", "behavior"], list(LAYERS)], ids=["two", "all"])
async def test_layers_that_hang_together_are_no_longer_called(hung: list[str]) -> None:
    """P18, P19: with no layer left to wait for, the verdict comes at once."""
    world = GuardedPipeline()
    for layer in hung:
        world.layers[layer].is_hung = True

    for _ in range(8):
        said = await world.score()

    assert {layer for layer, one in said.items() if one.status is LayerStatus.OPEN} == set(hung)
    assert all(len(world.layers[layer].requested) <= 5 for layer in hung)


async def test_a_slow_explanation_does_not_open_the_breaker() -> None:
    world = GuardedPipeline()
    world.layers["behavior"].takes_s = 0.6 * DEADLINE_S

    for _ in range(30):
        await world.score(explain=True)

    assert world.metrics.breakers == []


async def test_an_explanation_waits_no_longer_than_a_verdict() -> None:
    """P18."""
    world = GuardedPipeline()
    world.layers["behavior"].is_hung = True

    said = [(await world.score(explain=True))["behavior"].status for _ in range(7)]

    assert [said[0], said[-1]] == [LayerStatus.TIMEOUT, LayerStatus.OPEN]


async def test_the_waiting_time_of_events_does_not_open_a_breaker() -> None:
    """Otherwise a flood would open the breakers of healthy layers."""
    world = GuardedPipeline()
    behavior = world.layers["behavior"]
    behavior.gate = asyncio.Event()  # answers later than the tenth of the deadline that is left
    behavior.takes_s = 0.1 * DEADLINE_S

    said = [(await world.score(waited_s=DEADLINE_S))["behavior"].status for _ in range(20)]

    assert set(said) == {LayerStatus.TIMEOUT}
    assert world.metrics.breakers == []


# -- what is said of it


async def test_failed_calls_are_all_counted_and_logged_once_a_code(
    recorded_log: RecordedLog,
) -> None:
    """C-13.

    Four calls of ten fail, which opens no breaker; the log reports the rest after five minutes.
    """
    world = GuardedPipeline()
    behavior = world.layers["behavior"]
    for number in range(100):
        behavior.errors = [ValueError("inside")] if number % 5 < 2 else []
        await world.score()
    assert [record["suppressed"] for record in recorded_log("layer_call_failed")] == [0]

    world.clock.now += 300.0
    behavior.errors = [ValueError("inside")]
    await world.score()

    assert [record["suppressed"] for record in recorded_log("layer_call_failed")] == [0, 39]
    assert world.metrics.failures == {("behavior", "LAYER_ERROR"): 41}


async def test_calls_that_are_late_are_counted() -> None:
    world = GuardedPipeline()
    await world.open_behavior()

    assert world.metrics.failures == {("behavior", "LAYER_TIMEOUT"): 1}


async def test_a_breaker_logs_opening_and_closing_and_counts_its_trials(
    recorded_log: RecordedLog,
) -> None:
    """C-13: a layer that is down for an hour is one log line, not one for each trial."""
    world = GuardedPipeline()
    behavior = world.layers["behavior"]
    behavior.errors = [ValueError("inside")] * 8
    for _ in range(5):
        await world.score()
    for trials in range(1, 4):
        world.clock.now += 8.0
        await world.score()
        # mypy loses the default
        await until(lambda trials=trials: len(world.metrics.breakers) == 1 + 2 * trials)  # type: ignore[misc]

    world.clock.now += 8.0
    await world.score()
    await until(lambda: world.pipeline.layers.breakers["behavior"].state is BreakerState.CLOSED)

    assert [(record["layer"], record["state"]) for record in recorded_log("breaker_changed")] == [
        ("behavior", "open"),
        ("behavior", "closed"),
    ]
    assert world.metrics.failures == {("behavior", "LAYER_ERROR"): 8}, "a failed trial counts once"
    assert len(world.metrics.breakers) == 9


# -- the bulkhead


async def test_a_layer_with_a_full_bulkhead_is_not_called() -> None:
    world = GuardedPipeline({"guard": {"calls_in_flight": 2}})
    behavior = world.layers["behavior"]
    behavior.gate = asyncio.Event()
    out = [asyncio.create_task(world.score()) for _ in range(2)]
    await until(lambda: len(behavior.requested) == 2)

    third = await world.score()
    behavior.gate.set()
    first, second = await asyncio.gather(*out)

    assert (third["behavior"].status, third["behavior"].reason) == (
        LayerStatus.FALLBACK,
        "LAYER_OVERLOADED",
    )
    assert third["anomaly"].speaks
    assert len(behavior.requested) == 2
    assert {first["behavior"].status, second["behavior"].status} <= {
        LayerStatus.LIVE,
        LayerStatus.TIMEOUT,
    }
    assert (await world.score())["behavior"].speaks, "a place was not given back"


@pytest.mark.parametrize(
    "leaves_after", [0, 1, 5], ids=["before it began", "at once", "in the middle"]
)
async def test_the_calls_of_a_client_that_left_are_cancelled(leaves_after: int) -> None:
    """I10: the bulkhead has room again, however early the client left."""
    before = asyncio.all_tasks()
    world = GuardedPipeline({"guard": {"calls_in_flight": 1}})
    for _ in range(10):
        for layer in world.layers.values():
            layer.gate = asyncio.Event()
        request = asyncio.create_task(world.score())
        for _ in range(leaves_after):
            await asyncio.sleep(0)
        request.cancel()
        await asyncio.wait([request])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before, "a call of a layer is left running"

    for layer in world.layers.values():
        layer.gate = None

    assert all(one.speaks for one in (await world.score()).values())


# -- one retry

DEATHS = [
    pytest.param(ActorDiedError(), id="its actor died"),
    pytest.param(ActorUnavailableError("gone", None), id="its actor is unreachable"),
    pytest.param(
        AioRpcError(StatusCode.CANCELLED, Metadata(), Metadata()), id="its server was drained"
    ),
]


@pytest.mark.parametrize("death", DEATHS)
async def test_a_call_whose_replica_died_is_retried_once(death: BaseException) -> None:
    """P23, R1: with a second replica no call is lost."""
    world = GuardedPipeline()
    for _ in range(11):
        await world.score()
    world.layers["behavior"].errors = [death]

    said = (await world.score())["behavior"]

    assert said.status is LayerStatus.LIVE
    assert len(world.layers["behavior"].requested) == 13
    assert world.metrics.retries == ["behavior"]


async def test_a_call_is_retried_once_at_most() -> None:
    """P22: a row that kills every replica that scores it kills two, not all of them."""
    world = GuardedPipeline()
    for _ in range(100):
        await world.score()
    world.layers["behavior"].errors = [ActorDiedError(), ActorDiedError()]

    said = (await world.score())["behavior"]

    assert (said.status, said.reason) == (LayerStatus.FALLBACK, "LAYER_CRASHED")
    assert len(world.layers["behavior"].requested) == 102


async def test_attempts_stay_within_eleven_tenths_of_the_requests() -> None:
    """P22, with every first attempt dying."""
    world = GuardedPipeline({"guard": {"failures_in_a_row": 1000, "window": 1000}})
    behavior = world.layers["behavior"]
    for _ in range(200):
        behavior.errors = [ActorDiedError()]
        await world.score()
        behavior.errors = []

    assert 200 < len(behavior.requested) <= 220


NO_DEATHS = [
    pytest.param(ValueError("inside"), id="its code raised"),
    pytest.param(
        RayTaskError("score", "", ActorDiedError()).as_instanceof_cause(),
        id="its code met a dead actor",
    ),
    pytest.param(
        BackPressureError(num_queued_requests=9, max_queued_requests=8), id="its queue is full"
    ),
    pytest.param(asyncio.CancelledError(), id="cancelled by Ray"),
]


@pytest.mark.parametrize("error", NO_DEATHS)
async def test_an_error_of_a_live_replica_is_not_retried(error: BaseException) -> None:
    world = GuardedPipeline()
    for _ in range(100):
        await world.score()
    world.layers["behavior"].errors = [error]

    assert not (await world.score())["behavior"].speaks
    assert len(world.layers["behavior"].requested) == 101


# -- what operators do and see


async def test_a_disabled_layer_is_not_called_and_weighs_nothing() -> None:
    world = GuardedPipeline()
    world.pipeline.layers.disabled = frozenset({"behavior"})

    (verdicts,) = await world.pipeline.score(FLOWS, world.deadline(), explain=False)

    behavior = next(one for one in verdicts.layers if one.layer == "behavior")
    assert (behavior.status, behavior.reason) == (
        LayerStatus.DISABLED,
        "disabled by an operator",
    )
    assert world.layers["behavior"].requested == []
    assert (verdicts.coverage, verdicts.degraded) == (pytest.approx(0.6), True)


async def test_each_batch_is_counted_once_with_the_latency_of_each_layer() -> None:
    world = GuardedPipeline()
    world.layers["anomaly"].takes_s = 0.001
    world.layers["behavior"].is_hung = True

    await world.score()

    ((kind, groups, elapsed_s),) = world.metrics.batches
    assert kind is Kind.FLOW
    assert sum(len(group.label) for group in groups) == 2
    assert elapsed_s["anomaly"] > 0.0
    assert "behavior" not in elapsed_s


async def test_a_row_that_a_layer_cannot_score_is_fused_without_it() -> None:
    """R6: the other row gets the verdict that it has alone."""
    world = GuardedPipeline()

    async def call(batch: EventBatch, release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        return LayerScores(
            "anomaly",
            LayerStatus.LIVE,
            "1",
            release,
            np.full(len(batch), 0.7),
            abstained={0: Abstention(LayerStatus.FALLBACK, "LAYER_CRASHED")},
        )

    (whole,) = await world.pipeline.score(FLOWS, world.deadline(), explain=False)
    world.pipeline.layers._guarded["anomaly"]._score = call

    groups = await world.pipeline.score(FLOWS, world.deadline(), explain=False)

    by_row = {int(group.rows[0]): group for group in groups if group.rows is not None}
    assert by_row[1].score.tobytes() == whole.score[1:].tobytes()
    assert (by_row[1].coverage, by_row[1].degraded) == (1.0, False)
    assert (by_row[0].coverage, by_row[0].degraded) == (pytest.approx(0.4), True)
    assert by_row[0].label == (VerdictLabel.INDETERMINATE,)
