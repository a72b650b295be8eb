"""Poller: call an async function periodically, in a task of the event loop, until it is stopped.

A poll that raises does not end the task. Polls never overlap, so a disk that hangs occupies one
thread and not one more every period.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

__all__ = ["Poller"]


class Poller:
    """Call `poll` every `every_s` seconds in a task of its own.

    Args:
        poll: does the work; returns True if there is more to do at once, without the pause.
        every_s: seconds between the end of a poll and the start of the next one.
        on_error: called with the exception of a poll that failed; must not raise. `last_error` is
            then still that of the poll before, so that the callee can log on change only.
        sleep: waits for a number of seconds.

    Attributes:
        last_error: type of the exception of the last poll, "" if it succeeded.
    """

    def __init__(
        self,
        poll: Callable[[], Awaitable[bool | None]],
        *,
        every_s: float,
        on_error: Callable[[Exception], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._poll, self._every_s, self._on_error, self._sleep = poll, every_s, on_error, sleep
        self._first = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last_error = ""

    @property
    def has_polled(self) -> bool:
        """Whether the first poll has ended, successfully or not."""
        return self._first.is_set()

    async def start(self, *, within_s: float = 0.0) -> None:
        """Start polling, and wait up to `within_s` seconds for the first poll to end."""
        self._task = asyncio.create_task(self._run())
        if within_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._first.wait(), within_s)

    async def stop(self) -> None:
        """Cancel the task, and wait until it has ended."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            has_more = False
            try:
                has_more = await self._poll() is True
                self.last_error = ""
            except Exception as error:  # noqa: BLE001  # the next poll may succeed
                self._on_error(error)
                self.last_error = type(error).__name__
            self._first.set()
            await self._sleep(0.0 if has_more else self._every_s)
