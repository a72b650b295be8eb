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
from tests.support.guarded_layers import FLOWS, CountingMetrics, FakeLayer
from tests.support.pipelines import layer_handle
from tests.support.timing import Clock

DEADLINE_S = 0.02


class Guarded:
    """A layer under its guard, with the default settings or other ones."""

    def __init__(self, **numbers: float) -> None:
        self.clock, self.metrics = Clock(), CountingMetrics()
        self.layer = FakeLayer("behavior", self.clock)
        self.rules: GuardSettings = read_settings({"guard": numbers}).guard
        self.guard = GuardedLayer(
            "behavior",
            layer_handle(self.layer, check_health=self.layer.check_health),
            self.rules,
            clock=self.clock,
            metrics=self.metrics,
        )

    async def call(self, method: Callable[[], Awaitable[str]]) -> str:
        return await self.guard.call(method, within_s=DEADLINE_S)

    async def error_of(self, method: Callable[[], Awaitable[str]]) -> type[LayerError]:
        with pytest.raises(LayerError) as refusal:
            await self.call(method)
        return type(refusal.value)


async def answer() -> str:
    return "answer"


async def hang() -> str:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def raising(*errors: BaseException) -> Callable[[], Awaitable[str]]:
    left = list(errors)

    async def respond() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return respond


async def test_a_response_is_returned_and_frees_the_bulkhead() -> None:
    guarded = Guarded(calls_in_flight=1)

    assert [await guarded.call(answer) for _ in range(3)] == ["answer"] * 3


FAULTS = [
    pytest.param(raising(RuntimeError("/srv/secret")), LayerError, id="raises"),
    pytest.param(
        raising(BackPressureError(num_queued_requests=1, max_queued_requests=1)),
        LayerOverloaded,
        id="its queue is full",
    ),
    pytest.param(raising(*[ActorDiedError()] * 9), LayerCrashed, id="its replica died"),
    pytest.param(
        raising(LayerCrashed("behavior")), LayerCrashed, id="a response to another request"
    ),
    pytest.param(hang, LayerTimeout, id="hangs"),
]


@pytest.mark.parametrize(("method", "kind"), FAULTS)
async def test_a_failure_is_raised_with_its_code_and_counted(
    method: Callable[[], Awaitable[str]], kind: type[LayerError]
) -> None:
    guarded = Guarded(retries_saved=1)

    assert await guarded.error_of(method) is kind
    assert guarded.metrics.failures == {("behavior", kind.code): 1}


async def test_a_call_to_a_dead_replica_is_retried_once_within_the_budget() -> None:
    guarded = Guarded(retry_share=1.0)

    assert await guarded.call(raising(ActorDiedError())) == "answer"
    assert guarded.metrics.retries == ["behavior"]


async def test_failures_of_both_methods_open_the_same_breaker() -> None:
    guarded = Guarded(failures_in_a_row=4)
    for _ in range(2):
        guarded.layer.errors = [RuntimeError()]
        pending = guarded.guard.start(FLOWS, "", explain=False)
        assert isinstance(pending, InFlightCall)
        await asyncio.wait([pending.call])
        guarded.guard.result(pending)
        assert await guarded.error_of(raising(RuntimeError())) is LayerError

    assert guarded.guard.breaker.state is BreakerState.OPEN
    assert await guarded.error_of(answer) is LayerOpen
    assert not isinstance(guarded.guard.start(FLOWS, "", explain=False), InFlightCall)


async def test_another_method_may_be_the_trial_that_closes_the_breaker() -> None:
    guarded = Guarded(failures_in_a_row=1)
    assert await guarded.error_of(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s

    assert await guarded.call(answer) == "answer"
    assert guarded.guard.breaker.state is BreakerState.CLOSED


async def test_a_failed_trial_opens_the_breaker_for_longer() -> None:
    guarded = Guarded(failures_in_a_row=1, jitter=0.0)
    assert await guarded.error_of(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s
    assert await guarded.error_of(raising(RuntimeError())) is LayerError
    guarded.clock.now += guarded.rules.open_s

    assert await guarded.error_of(answer) is LayerOpen


@pytest.mark.parametrize("is_hung", [True, False])
async def test_a_timeout_is_a_failure_only_of_a_layer_that_hangs(is_hung: bool) -> None:  # noqa: FBT001
    guarded = Guarded(failures_in_a_row=1, hung_s=0.02)
    guarded.layer.is_hung = is_hung

    for _ in range(3):
        assert await guarded.error_of(hang) in (LayerTimeout, LayerOpen)
        await asyncio.sleep(0.03)

    expected = BreakerState.OPEN if is_hung else BreakerState.CLOSED
    assert guarded.guard.breaker.state is expected


async def test_a_slow_response_is_no_failure() -> None:
    """The request may be larger than any event: a thousand flows through a forest."""
    guarded = Guarded(failures_in_a_row=1)

    async def slow() -> str:
        guarded.clock.now += DEADLINE_S
        return "answer"

    assert await guarded.call(slow) == "answer"
    assert guarded.guard.breaker.state is BreakerState.CLOSED


async def test_both_methods_share_the_bulkhead() -> None:
    guarded = Guarded(calls_in_flight=1)
    guarded.layer.gate = asyncio.Event()
    pending = guarded.guard.start(FLOWS, "", explain=False)
    assert isinstance(pending, InFlightCall)

    assert await guarded.error_of(answer) is LayerOverloaded
    guarded.layer.gate.set()
    await asyncio.wait([pending.call])
    assert await guarded.call(answer) == "answer"


async def test_a_cancelled_caller_does_not_rate_the_layer_and_frees_the_bulkhead() -> None:
    guarded = Guarded(calls_in_flight=1, failures_in_a_row=1)
    calling = asyncio.create_task(guarded.call(hang))
    await asyncio.sleep(0)
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)

    assert await guarded.call(answer) == "answer"
    assert guarded.metrics.failures == {}
