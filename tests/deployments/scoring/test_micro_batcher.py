"""The micro-batcher: every caller gets its own result, whatever happens to the other callers.

The tests are driven by events; no clock, no sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from deployments.scoring.micro_batcher import MicroBatcher
from ensemble.errors import Overloaded

LIMIT_S = 5.0  # a test that hangs fails after this time


class Counter:
    """Scores an item as ten times itself.

    Records its batches, and holds each batch until it is released.
    """

    def __init__(self, *, is_open: bool = True, bad: frozenset[int] = frozenset()) -> None:
        self.batches: list[list[int]] = []
        self.out = self.most_out = 0
        self.bad = bad
        self.gate = asyncio.Event()
        if is_open:
            self.gate.set()

    async def score(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        self.out += 1
        self.most_out = max(self.most_out, self.out)
        try:
            await self.gate.wait()
            if self.bad & set(items):
                raise ArithmeticError("this batch")
            return [item * 10 for item in items]
        finally:
            self.out -= 1


async def turns(count: int = 20) -> None:
    """Run the event loop until every task that can proceed has done so."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("batch_size", "in_flight"), [(1, 1), (7, 1), (256, 2), (3, 4)])
async def test_every_item_gets_its_own_result(batch_size: int, in_flight: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        counter = Counter()
        batcher = MicroBatcher(counter.score, batch_size=batch_size, in_flight=in_flight)

        answers = await asyncio.gather(*(batcher.submit(item) for item in range(500)))

        assert answers == [item * 10 for item in range(500)]
        assert sorted(item for batch in counter.batches for item in batch) == list(range(500))


@pytest.mark.parametrize("in_flight", [1, 2, 5])
async def test_the_number_of_batches_in_flight_is_limited(in_flight: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        counter = Counter(is_open=False)
        batcher = MicroBatcher(counter.score, batch_size=2, in_flight=in_flight)
        callers = [asyncio.create_task(batcher.submit(item)) for item in range(100)]
        await turns()

        assert counter.out == in_flight

        counter.gate.set()
        await asyncio.gather(*callers)
        assert counter.most_out == in_flight


async def test_the_size_of_a_batch_is_limited() -> None:
    async with asyncio.timeout(LIMIT_S):
        counter = Counter()
        batcher = MicroBatcher(counter.score, batch_size=16, in_flight=2)

        await asyncio.gather(*(batcher.submit(item) for item in range(1000)))

        assert max(map(len, counter.batches)) == 16


async def test_while_a_batch_is_in_flight_the_next_one_gathers() -> None:
    async with asyncio.timeout(LIMIT_S):
        counter = Counter(is_open=False)
        batcher = MicroBatcher(counter.score, batch_size=256, in_flight=1)
        first = asyncio.create_task(batcher.submit(0))
        await turns()
        rest = [asyncio.create_task(batcher.submit(item)) for item in range(1, 100)]
        await turns()
        assert counter.batches == [[0]]

        counter.gate.set()
        await asyncio.gather(first, *rest)

        assert counter.batches == [[0], list(range(1, 100))]


async def test_a_single_caller_does_not_wait() -> None:
    """There is no timer.

    The batch leaves in the next turn of the event loop, without a timer of the loop.
    """
    counter = Counter()
    batcher = MicroBatcher(counter.score, batch_size=256, in_flight=2)
    loop = asyncio.get_running_loop()
    timers: list[object] = []
    loop.call_later = loop.call_at = lambda *arguments, **_: timers.append(arguments)  # type: ignore[method-assign,assignment]
    caller = asyncio.ensure_future(batcher.submit(1))

    await turns()

    assert caller.done()
    assert caller.result() == 10
    assert not timers


async def test_a_failing_batch_fails_its_callers_alone() -> None:
    async with asyncio.timeout(LIMIT_S):
        counter = Counter(is_open=False, bad=frozenset({4}))
        batcher = MicroBatcher(counter.score, batch_size=3, in_flight=1)
        callers = [asyncio.create_task(batcher.submit(item)) for item in range(9)]
        counter.gate.set()

        answers = await asyncio.gather(*callers, return_exceptions=True)

        unlucky = next(batch for batch in counter.batches if 4 in batch)
        for item, answer in enumerate(answers):
            assert isinstance(answer, ArithmeticError) if item in unlucky else answer == item * 10
        assert len(unlucky) == 3
        assert await batcher.submit(7) == 70


async def test_a_batch_with_too_few_results_fails_its_callers_alone() -> None:
    async with asyncio.timeout(LIMIT_S):

        async def forgetful(items: Sequence[int]) -> Sequence[int]:
            return [item * 10 for item in items][: 1 if len(items) > 1 else None]

        batcher = MicroBatcher(forgetful, batch_size=4, in_flight=1)

        answers = await asyncio.gather(
            *(batcher.submit(item) for item in range(4)), return_exceptions=True
        )

        assert any(isinstance(answer, Exception) for answer in answers)
        assert await batcher.submit(3) == 30


@pytest.mark.parametrize("is_out", [False, True], ids=["while waiting", "while out"])
async def test_a_cancelled_caller_does_not_affect_the_others(is_out: bool) -> None:  # noqa: FBT001  # a case
    async with asyncio.timeout(LIMIT_S):
        counter = Counter(is_open=False)
        batcher = MicroBatcher(counter.score, batch_size=256 if is_out else 1, in_flight=1)
        callers = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
        await turns()

        callers[3].cancel()
        counter.gate.set()
        answers = await asyncio.gather(*callers, return_exceptions=True)

        assert isinstance(answers[3], asyncio.CancelledError)
        assert [answers[item] for item in (0, 1, 2, 4)] == [0, 10, 20, 40]


async def test_a_cancelled_batch_fails_its_callers_alone() -> None:
    """Ray cancels a call with CancelledError, which is not an Exception.

    The callers must still get an error.
    """
    async with asyncio.timeout(LIMIT_S):
        calls = 0

        async def score(items: Sequence[int]) -> Sequence[int]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError
            return [item * 10 for item in items]

        batcher = MicroBatcher(score, batch_size=2, in_flight=1)

        answers = await asyncio.wait_for(
            asyncio.gather(*(batcher.submit(item) for item in range(4)), return_exceptions=True),
            3.0,
        )

        assert all(isinstance(answer, BaseException) for answer in answers[:2])
        assert answers[2:] == [20, 30]


async def test_a_tenant_that_sends_much_waits_for_itself() -> None:
    """B10: in the next batch, another tenant's item stands beside the first of the many."""
    async with asyncio.timeout(LIMIT_S):
        counter = Counter()
        counter.gate.clear()
        batcher = MicroBatcher(counter.score, batch_size=4, in_flight=1)
        first = asyncio.create_task(batcher.submit(0, "loud"))
        await turns()

        loud = [asyncio.create_task(batcher.submit(item, "loud")) for item in range(1, 20)]
        await turns()
        quiet = asyncio.create_task(batcher.submit(100, "quiet"))
        await turns()
        counter.gate.set()
        await asyncio.gather(first, *loud, quiet)

        assert 100 in counter.batches[1]


async def test_an_item_that_would_wait_too_long_is_refused_at_once_and_no_other_tenants() -> None:
    """P20, P21: the refusal costs no work, and does not wait for the deadline."""
    async with asyncio.timeout(LIMIT_S):
        now = [0.0]
        counter = Counter()
        refused: list[None] = []

        async def score(items: Sequence[int]) -> Sequence[int]:
            now[0] += 0.01 * len(items)
            return await counter.score(items)

        batcher = MicroBatcher(
            score,
            batch_size=64,
            in_flight=1,
            longest_wait_s=0.3,
            on_refused=lambda: refused.append(None),
            clock=lambda: now[0],
        )
        await asyncio.gather(*(batcher.submit(item, "loud") for item in range(500)))
        counter.gate.clear()
        first = asyncio.create_task(batcher.submit(0, "loud"))
        await turns()

        loud = [asyncio.create_task(batcher.submit(item, "loud")) for item in range(100)]
        await turns()
        late = [task for task in loud if task.done()]
        quiet = asyncio.create_task(batcher.submit(1, "quiet"))
        await turns()

        assert 20 <= len(loud) - len(late) <= 40  # a third of a second, at 10 ms each
        assert all(isinstance(task.exception(), Overloaded) for task in late)
        assert len(refused) == len(late)
        assert not quiet.done()
        counter.gate.set()
        await asyncio.gather(first, quiet, *(task for task in loud if task not in late))


async def test_after_a_slow_time_the_estimate_of_the_wait_falls_with_small_batches_too() -> None:
    """A quiet service sends no large batch, which could lower it."""
    async with asyncio.timeout(LIMIT_S):
        now, item_s = [0.0], [0.1]

        async def score(items: Sequence[int]) -> Sequence[int]:
            now[0] += item_s[0] * len(items)
            return items

        batcher = MicroBatcher(
            score, batch_size=64, in_flight=1, longest_wait_s=0.3, clock=lambda: now[0]
        )
        await asyncio.gather(*(batcher.submit(item) for item in range(500)))
        slow = await asyncio.gather(*map(batcher.submit, range(20)), return_exceptions=True)
        assert any(isinstance(one, Overloaded) for one in slow)

        item_s[0] = 0.001
        for item in range(30):
            await batcher.submit(item)

        assert await asyncio.gather(*map(batcher.submit, range(20))) == [*range(20)]
