"""The micro-batcher: requests that wait together leave in one batch.

While a batch is in flight, the next one gathers; when it returns, all waiting requests leave at
once. There is no timer, so an idle service scores a single event immediately, and the batches of a
busy one grow by themselves. Tenants take turns: one that sends much waits for itself. An item that
would wait too long is refused at once, before any work is done for it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from deployments.scoring.shedding import overloaded
from ensemble.guard import FairQueue

__all__ = ["MicroBatcher"]

LARGE = 32  # items
LATEST = 0.2  # weight of the latest batch in the average
Item = TypeVar("Item")
Result = TypeVar("Result")


class MicroBatcher(Generic[Item, Result]):
    """Gather items of concurrent callers into batches.

    Args:
        score: scores a batch and returns one result for each item, in order; an exception reaches
            every caller of that batch.
        batch_size: the most items in a batch.
        in_flight: the most batches at a time.
        longest_wait_s: an item that would wait longer is refused.
        on_refused: called when one is.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        batch_size: int,
        in_flight: int,
        longest_wait_s: float = math.inf,
        on_refused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_wait_s, self._on_refused, self._clock = longest_wait_s, on_refused, clock
        self._item_s = 0.0  # seconds of the scorer for an item of a large batch, an average
        self._score, self._batch_size, self._in_flight = score, batch_size, in_flight
        self._waiting: FairQueue[tuple[Item, asyncio.Future[Result]]] = FairQueue(1)
        self._flushes: set[asyncio.Task[None] | None] = set()

    async def submit(self, item: Item, tenant: str = "") -> Result:
        """Add `item` of a tenant to the next batch, and return its result.

        Raises:
            Overloaded: it would wait too long.
        """
        if self._waiting.ahead_of(tenant) * self._item_s > self._longest_wait_s:
            self._on_refused()
            raise overloaded()
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.push(tenant, 1, (item, result))
        if len(self._flushes) < self._in_flight:
            self._flushes.add(asyncio.create_task(self._flush()))
        return await result

    async def _flush(self) -> None:
        """Send batches until no item waits.

        There is no await between the last check and the end of this task, so no item is left.
        """
        try:
            while self._waiting.waiting:
                size = min(self._batch_size, self._waiting.waiting)
                turns = [self._waiting.pop() for _ in range(size)]
                await self._send([one for one in turns if one is not None])
        finally:
            self._flushes.discard(asyncio.current_task())

    async def _send(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        began = self._clock()
        try:
            results = await self._score([item for item, _ in batch])
            item_s = (self._clock() - began) / (len(batch) * self._in_flight)
            # a small one takes more for an item, so it only shows that the average is too high
            if len(batch) >= LARGE or item_s < self._item_s:
                self._item_s += LATEST * (item_s - self._item_s)
            scored = list(zip(batch, results, strict=True))
        # not swallowed: every caller of this batch gets the error
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        RuntimeError("the batch was cancelled")
                        if isinstance(error, asyncio.CancelledError)
                        else error
                    )
            return
        for (_, future), result in scored:
            if not future.done():  # a caller that left has cancelled its future
                future.set_result(result)
