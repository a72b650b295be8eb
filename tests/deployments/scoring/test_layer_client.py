"""A call other than `score` goes through the same guard: one breaker and one bulkhead for both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from deployments.config.settings import GuardSettings, read_settings
from deployments.scoring.guarded_call import GuardedLayer, InFlightCall
from ensemble.errors import LayerCrashed, LayerError, LayerOpen, LayerOverloaded, LayerTimeout
from ensemble.guard import BreakerState
from tests.deployments.scoring.test_guarded_call import FLOWS, Counting, Layer
from tests.support.pipelines import layer_handle
from tests.support.timing import Clock

DEADLINE_S = 0.02


class Guarded:
    """A layer under its guard, with the numbers of the settings or some of its own."""

    def __init__(self, **numbers: float) -> None:
        self.clock, self.seen = Clock(), Counting()
        self.layer = Layer("behavior", self.clock)
        self.rules: GuardSettings = read_settings({"guard": numbers}).guard
        self.guard = GuardedLayer(
            "behavior",
            layer_handle(self.layer),
            self.rules,
            deadline_s=DEADLINE_S,
            clock=self.clock,
            metrics=self.seen,
        )

    async def ask(self, question: Callable[[], Awaitable[str]]) -> str:
        return await self.guard.call(question, within_s=DEADLINE_S)

    async def refused(self, question: Callable[[], Awaitable[str]]) -> type[LayerError]:
        with pytest.raises(LayerError) as refusal:
            await self.ask(question)
        return type(refusal.value)


async def answer() -> str:
    return "answer"


async def hang() -> str:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def raising(*errors: BaseException) -> Callable[[], Awaitable[str]]:
    left = list(errors)

    async def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


async def test_an_answer_comes_back_and_frees_its_place() -> None:
    guarded = Guarded(calls_in_flight=1)

    assert [await guarded.ask(answer) for _ in range(3)] == ["answer"] * 3


FAULTS = [
    pytest.param(raising(RuntimeError("/srv/secret")), LayerError, id="raises"),
    pytest.param(
        raising(BackPressureError(num_queued_requests=1, max_queued_requests=1)),
        LayerOverloaded,
        id="its queue is full",
    ),
    pytest.param(raising(*[ActorDiedError()] * 9), LayerCrashed, id="its replica died"),
    pytest.param(
        raising(LayerCrashed("behavior")), LayerCrashed, id="another question was answered"
    ),
    pytest.param(hang, LayerTimeout, id="hangs"),
]


@pytest.mark.parametrize(("question", "kind"), FAULTS)
async def test_what_is_wrong_is_raised_by_its_code_and_counted(
    question: Callable[[], Awaitable[str]], kind: type[LayerError]
) -> None:
    guarded = Guarded(retries_saved=1)

    assert await guarded.refused(question) is kind
    assert guarded.seen.failures == {("behavior", kind.code): 1}


async def test_a_dead_replica_is_asked_again_once_within_the_budget() -> None:
    guarded = Guarded(retry_share=1.0)

    assert await guarded.ask(raising(ActorDiedError())) == "answer"
    assert guarded.seen.retries == ["behavior"]


async def test_failures_of_either_question_open_the_one_breaker() -> None:
    guarded = Guarded(failures_in_a_row=4)
    for _ in range(2):
        guarded.layer.errors = [RuntimeError()]
        pending = guarded.guard.start(FLOWS, "", explain=False)
        assert isinstance(pending, InFlightCall)
        await asyncio.wait([pending.call])
        guarded.guard.result(pending, excused_s=0.0)
        assert await guarded.refused(raising(RuntimeError())) is LayerError

    assert guarded.guard.breaker.state is BreakerState.OPEN
    assert await guarded.refused(answer) is LayerOpen
    assert not isinstance(guarded.guard.start(FLOWS, "", explain=False), InFlightCall)


async def test_a_question_may_be_the_trial_that_closes_the_breaker() -> None:
    guarded = Guarded(failures_in_a_row=1)
    assert await guarded.refused(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s

    assert await guarded.ask(answer) == "answer"
    assert guarded.guard.breaker.state is BreakerState.CLOSED


async def test_a_trial_that_fails_opens_it_again_for_longer() -> None:
    guarded = Guarded(failures_in_a_row=1, jitter=0.0)
    assert await guarded.refused(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s
    assert await guarded.refused(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s

    assert await guarded.refused(answer) is LayerOpen


async def test_a_timeout_counts_as_a_failure_only_of_a_layer_that_had_its_time() -> None:
    had_little, had_all = Guarded(failures_in_a_row=1), Guarded(failures_in_a_row=1)

    async def slow() -> str:
        had_all.clock.now += DEADLINE_S
        return await hang()

    assert await had_little.refused(hang) is LayerTimeout
    assert await had_all.refused(slow) is LayerTimeout

    assert had_little.guard.breaker.state is BreakerState.CLOSED
    assert had_all.guard.breaker.state is BreakerState.OPEN


async def test_a_slow_answer_is_an_answer() -> None:
    """The question may be larger than any event: a thousand flows through a forest."""
    guarded = Guarded(failures_in_a_row=1)

    async def slow() -> str:
        guarded.clock.now += DEADLINE_S
        return "answer"

    assert await guarded.ask(slow) == "answer"
    assert guarded.guard.breaker.state is BreakerState.CLOSED


async def test_the_bulkhead_is_one_for_both_questions() -> None:
    guarded = Guarded(calls_in_flight=1)
    guarded.layer.gate = asyncio.Event()
    pending = guarded.guard.start(FLOWS, "", explain=False)
    assert isinstance(pending, InFlightCall)

    assert await guarded.refused(answer) is LayerOverloaded
    guarded.layer.gate.set()
    await asyncio.wait([pending.call])
    assert await guarded.ask(answer) == "answer"


async def test_a_caller_that_leaves_tells_nothing_of_the_layer_and_frees_its_place() -> None:
    guarded = Guarded(calls_in_flight=1, failures_in_a_row=1)
    asking = asyncio.create_task(guarded.ask(hang))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)

    assert await guarded.ask(answer) == "answer"
    assert guarded.seen.failures == {}
