"""The gate of bulk: parts of batches reach the layers a few at a time, in turns of their tenants.

Layers compute in the order of arrival. Without a gate, every batch in flight stands before the next
single event of any tenant, and a few batches make all of them late (P21b). Behind the gate, a
single event waits for a few parts at most, and what bulk cannot be scored in time is refused.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from deployments.config import IngressSettings
from deployments.observability import Meter
from ensemble.errors import Overloaded
from ensemble.guard import FairQueue

__all__ = ["BulkGate", "gather_all"]

T = TypeVar("T")
FIRST_PART, LEAST_PART = 256, 64  # events: before the first measurement, and on any machine
LATEST = 0.2  # weight of the latest part in the averages


class BulkGate:
    """Gate for the parts of batches. One event loop uses it.

    Args:
        settings: parts at a time, their time in the layers, and events that may wait.
        meter: counts refusals and what waits.
        clock: monotonic clock, seconds.
    """

    def __init__(
        self,
        settings: IngressSettings,
        meter: Meter,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._free, self._most = settings.parts_in_flight, settings.waiting_events
        self._places, self._parts_s = settings.parts_in_flight, settings.parts_ms / 1000.0
        self._largest, self._meter, self._clock = settings.max_events, meter, clock
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(LEAST_PART)
        self._events = self._taken_s = 0.0  # of a part, averages

    @property
    def _event_s(self) -> float:
        """Seconds of the service per event of bulk; 0.0 before the first measurement.

        A part counts by its events, because any part costs some time.
        """
        return self._taken_s / (self._events * self._places) if self._events else 0.0

    @property
    def part_events(self) -> int:
        """Number of events of a part, so that all places together take the set time at most."""
        event_s = self._event_s
        if not event_s:
            return min(FIRST_PART, self._largest)
        fitting = int(self._parts_s / (event_s * self._places))
        return min(max(fitting, LEAST_PART), self._largest)

    def admit(self, tenant: str, events: int, until: float) -> None:
        """Refuse a batch that cannot be scored in time, before any work is done for it.

        Args:
            tenant: of the caller. It may fill half of the room for waiting events.
            events: of the batch.
            until: deadline, by the clock.

        Raises:
            Overloaded: too many events wait, or the wait would be longer than the deadline.
        """
        waiting, own = self._queue.waiting, self._queue.waiting_of(tenant)
        wait_s = waiting * self._event_s
        is_full = waiting and (waiting + events > self._most or own + events > self._most // 2)
        if is_full or wait_s > until - self._clock():
            self._refuse(wait_s)

    @asynccontextmanager
    async def place(self, tenant: str, events: int, until: float) -> AsyncIterator[None]:
        """Hold a place in the layers for a part of a batch.

        Args:
            tenant: of the caller.
            events: of the part.
            until: deadline, by the clock.

        Raises:
            Overloaded: there was no place by the deadline; the part was not begun.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(tenant, events, until)
        began = self._clock()
        try:
            yield
        finally:
            self._measured(events, self._clock() - began)
            self._leave()

    def _measured(self, events: int, taken_s: float) -> None:
        self._events += LATEST * (events - self._events)
        self._taken_s += LATEST * (taken_s - self._taken_s)

    async def _wait(self, tenant: str, events: int, until: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.push(tenant, events, turn)
        try:
            async with asyncio.timeout(until - self._clock()):
                await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                self._leave()  # the turn came as the wait ended
            if isinstance(error, TimeoutError):
                self._refuse(self._queue.waiting * self._event_s)
            raise

    def _leave(self) -> None:
        """Give the place to the next part that still waits."""
        while (turn := self._queue.pop()) is not None:
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _refuse(self, wait_s: float) -> None:
        self._meter.count("axon_requests_refused_total", code=Overloaded.code)
        raise Overloaded(max(1, math.ceil(wait_s)))


async def gather_all(parts: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all parts at once, and return their results in order; if one fails, cancel the others."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
