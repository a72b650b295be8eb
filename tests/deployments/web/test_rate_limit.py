"""The token bucket of each tenant, compared with a slow one that fills tick by tick (P21).

And the tarpit, which delays refusals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as some

from deployments.config.tenants import Limit
from deployments.web.rate_limit import FEW, Tarpit, TokenBuckets
from ensemble.store.names import Tenant

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
# times, rates and costs are whole eighths here: floats hold them exactly, so the oracle may be held
# to the letter
TICK_S = 0.125


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowBucket:
    """The obvious bucket: every tick adds a little, until it is full."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = Fraction(rate), Fraction(burst)
        self.level = self.burst

    def tick(self) -> None:
        self.level = min(self.burst, self.level + self.rate * Fraction(TICK_S))

    def consume(self, cost: float) -> bool:
        is_admitted = self.level >= min(Fraction(cost), self.burst)
        if is_admitted:
            self.level = max(self.level - Fraction(cost), -self.burst)
        return is_admitted


eighths = some.integers(1, 400).map(lambda n: n / 8)
bursts = some.integers(8, 400).map(lambda n: n / 8)
asked = some.lists(
    some.tuples(some.integers(0, 40), eighths), max_size=40
)  # ticks since the one before, and cost


@given(rate=eighths, burst=bursts, requests=asked)
def test_who_is_admitted_is_who_the_slow_bucket_admits(
    rate: float, burst: float, requests: list[tuple[int, float]]
) -> None:
    clock, slow = Clock(), SlowBucket(rate, burst)
    buckets = TokenBuckets(rate, burst, clock=clock)

    for ticks, cost in requests:
        clock.now += ticks * TICK_S
        for _ in range(ticks):
            slow.tick()
        assert (buckets.consume(ACME, cost) == 0.0) == slow.consume(cost)


@given(rate=eighths, burst=bursts, requests=asked, luck=some.floats(0, 1, exclude_max=True))
def test_who_waits_as_long_as_was_said_is_admitted(
    rate: float, burst: float, requests: list[tuple[int, float]], luck: float
) -> None:
    clock = Clock()
    buckets = TokenBuckets(rate, burst, clock=clock, jitter=lambda: luck)

    for ticks, cost in requests:
        clock.now += ticks * TICK_S
        wait_s = buckets.consume(ACME, cost)
        if wait_s:
            clock.now += wait_s
            assert buckets.consume(ACME, cost) == 0.0


@given(rate=eighths, burst=bursts, requests=asked)
def test_the_rate_holds_over_any_time_for_costs_of_up_to_twice_the_burst(
    rate: float, burst: float, requests: list[tuple[int, float]]
) -> None:
    clock = Clock()
    buckets = TokenBuckets(rate, burst, clock=clock)
    admitted = 0.0

    for ticks, cost in requests:
        clock.now += ticks * TICK_S
        fair = min(cost, 2 * burst)
        admitted += fair if buckets.consume(ACME, fair) == 0.0 else 0.0
        assert admitted <= 2 * burst + rate * clock.now


@given(requests=asked)
def test_what_one_tenant_asks_is_nothing_to_another(requests: list[tuple[int, float]]) -> None:
    clock = Clock()
    alone, beside = (
        TokenBuckets(2, 4, clock=clock, jitter=lambda: 0.0),
        TokenBuckets(2, 4, clock=clock, jitter=lambda: 0.0),
    )

    for ticks, cost in requests:
        clock.now += ticks * TICK_S
        for _ in range(5):
            beside.consume(GLOBEX, 4)
        assert beside.consume(ACME, cost) == alone.consume(ACME, cost)


def test_a_wait_is_whole_seconds_and_at_least_one() -> None:
    clock = Clock()
    buckets = TokenBuckets(1000, 1, clock=clock, jitter=lambda: 0.0)
    buckets.consume(ACME)

    assert buckets.consume(ACME) == 1.0


def test_those_who_are_refused_together_do_not_all_come_back_together() -> None:
    """The wait is lengthened by up to half, never shortened.

    A caller that came back early would only be refused again.
    """
    luck = iter([0.0, 0.5, 0.999])
    buckets = TokenBuckets(0.01, 1, clock=Clock(), jitter=lambda: next(luck))
    buckets.consume(ACME)

    assert [buckets.consume(ACME) for _ in range(3)] == [100.0, 125.0, 150.0]


def test_a_batch_above_the_burst_waits_for_a_full_bucket_and_pays_its_debt() -> None:
    clock = Clock()
    buckets = TokenBuckets(10, 100, clock=clock, jitter=lambda: 0.0)
    buckets.consume(ACME, 1)

    assert buckets.consume(ACME, 150) == 1.0  # one is missing: it is not full
    clock.now += 0.1
    assert buckets.consume(ACME, 150) == 0.0
    assert buckets.consume(ACME, 1) == 6.0  # 50 in debt, and one to have: 5.1 s
    assert buckets.consume(ACME, 150) == 15.0  # 50 in debt, and 100 to be full


def test_a_debt_is_never_more_than_a_burst() -> None:
    buckets = TokenBuckets(10, 100, clock=Clock(), jitter=lambda: 0.0)

    assert buckets.consume(ACME, 1_000_000) == 0.0
    assert buckets.consume(ACME, 100) == 20.0


def test_who_is_refused_pays_nothing() -> None:
    clock = Clock()
    buckets = TokenBuckets(1, 2, clock=clock, jitter=lambda: 0.0)
    buckets.consume(ACME, 2)
    for _ in range(100):
        buckets.consume(ACME)

    clock.now += 1
    assert buckets.consume(ACME) == 0.0


def test_a_limit_of_its_own_holds_for_what_it_says_and_a_change_from_the_next_request_on() -> None:
    own: dict[Tenant, Limit] = {ACME: Limit(burst=3)}
    clock = Clock()
    buckets = TokenBuckets(1, 1, of=own.get, clock=clock, jitter=lambda: 0.0)

    assert [buckets.consume(ACME) for _ in range(4)] == [0.0, 0.0, 0.0, 1.0]
    assert [buckets.consume(GLOBEX) for _ in range(2)] == [0.0, 1.0]

    own[ACME] = Limit(requests_per_s=0.1, burst=3)
    assert buckets.consume(ACME) == 10.0


def test_tenants_that_went_quiet_are_forgotten_and_a_debtor_is_not() -> None:
    """Memory is bounded: a bucket is dropped once it is full again."""
    clock = Clock()
    buckets = TokenBuckets(10, 10, clock=clock)
    debtor = Tenant("debtor")

    most = 0
    for number in range(20 * FEW):
        clock.now += 0.001
        buckets.consume(debtor, 20)
        buckets.consume(Tenant(f"t{number}"))
        most = max(most, len(buckets._buckets))

    assert most <= 2 * FEW
    assert buckets.consume(debtor, 20) > 0.0


def test_tenants_with_debits_alone_are_forgotten_too() -> None:
    clock = Clock()
    buckets = TokenBuckets(10, 10, clock=clock)

    most = 0
    for number in range(20 * FEW):
        clock.now += 0.001
        buckets.debit(Tenant(f"t{number}"), 0.5)
        most = max(most, len(buckets._buckets))

    assert most <= 2 * FEW


@pytest.mark.parametrize(
    ("requests_per_s", "burst"), [(0, 1), (-1, 1), (1, 0.5), (float("nan"), 1), (1, float("nan"))]
)
def test_a_bucket_that_would_admit_nobody_is_not_made(requests_per_s: float, burst: float) -> None:
    with pytest.raises(ValueError, match="no request is admitted"):
        TokenBuckets(requests_per_s, burst)


@pytest.mark.parametrize("cost", [0, -1, float("nan")])
def test_nothing_is_free_and_nobody_is_paid(cost: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TokenBuckets(1, 1).consume(ACME, cost)


class Sleepers:
    """A sleep that ends when the test releases it."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []
        self._goes_on = asyncio.Event()

    def __call__(self, seconds: float) -> Awaitable[object]:
        self.asked_s.append(seconds)
        return self._goes_on.wait()

    def wake(self) -> None:
        self._goes_on.set()


async def test_the_refused_wait_each_a_time_of_its_own() -> None:
    sleepers, luck = Sleepers(), iter([0.0, 0.5])
    stall = Tarpit(0.5, sleep=sleepers, jitter=lambda: next(luck))
    waiting = [asyncio.create_task(stall.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    assert sleepers.asked_s == [0.5, 0.625]
    assert not any(task.done() for task in waiting)
    sleepers.wake()
    await asyncio.gather(*waiting)


async def test_only_so_many_wait_and_their_places_are_given_back_by_who_leaves_too() -> None:
    """A waiting request takes room from callers that are within their rate."""
    sleepers = Sleepers()
    stall = Tarpit(0.5, most=2, sleep=sleepers, jitter=lambda: 0.0)
    first, second = [asyncio.create_task(stall.wait()) for _ in range(2)]
    await asyncio.sleep(0)
    await asyncio.wait_for(stall.wait(), 1.0)  # at once

    first.cancel()  # its caller hung up
    await asyncio.gather(first, return_exceptions=True)
    third = asyncio.create_task(stall.wait())
    await asyncio.sleep(0)
    assert not third.done()
    assert len(sleepers.asked_s) == 3
    sleepers.wake()
    await asyncio.gather(second, third)


def test_a_debit_delays_later_requests_and_has_a_floor() -> None:
    buckets = TokenBuckets(10, 100, clock=Clock(), jitter=lambda: 0.0)
    buckets.debit(ACME, 150)

    assert buckets.consume(ACME) == 6.0  # 50 in debt, and one to have: 5.1 s
    buckets.debit(ACME, 1_000_000)
    assert buckets.consume(ACME) == 11.0
    assert buckets.consume(GLOBEX) == 0.0
