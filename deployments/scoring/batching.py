"""The micro-batcher: requests that wait together leave together.

While a batch is out, the next one gathers; when a batch comes back, whoever waits leaves at once.
There is no timer, so an
idle service answers a single event immediately and a busy one grows its batches by itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["MicroBatcher"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class MicroBatcher(Generic[Item, Answer]):
    """Gathers items of concurrent callers into batches.

    Args:
        score: takes a batch, returns one answer for each item in the same order; an exception
            reaches every caller of that batch.
        batch_size: the most items in a batch.
        in_flight: the most batches out at a time.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        batch_size: int,
        in_flight: int,
    ) -> None:
        self._score, self._batch_size, self._in_flight = score, batch_size, in_flight
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._flushes: set[asyncio.Task[None] | None] = set()

    async def submit(self, item: Item) -> Answer:
        """The answer for `item`, from the batch it travelled in."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if len(self._flushes) < self._in_flight:
            self._flushes.add(asyncio.create_task(self._flush()))
        return await answer

    async def _flush(self) -> None:
        """Send batches until nobody waits.

        It steps down in the same breath as it last looked, so that no one is left behind.
        """
        try:
            while self._waiting:
                await self._send(
                    [
                        self._waiting.popleft()
                        for _ in range(min(self._batch_size, len(self._waiting)))
                    ]
                )
        finally:
            self._flushes.discard(asyncio.current_task())

    async def _send(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._score([item for item, _ in batch])
            answered = list(zip(batch, answers, strict=True))
        # not swallowed: every caller of this batch gets it
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        RuntimeError("the batch was cancelled")
                        if isinstance(error, asyncio.CancelledError)
                        else error
                    )
            return
        for (_, future), answer in answered:
            if not future.done():  # a caller that left has cancelled its future
                future.set_result(answer)
