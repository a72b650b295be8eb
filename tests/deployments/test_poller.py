"""Poller: it survives failed polls, never overlaps polls, and ends when stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deployments.poller import Poller


class Polled:
    """A poll that counts and fails as scripted, and a record of the pauses."""

    def __init__(self, *script: Exception | bool | None) -> None:
        self.script, self.polls = list(script), 0
        self.errors: list[tuple[str, str]] = []
        self.slept: list[float] = []
        self.poller = Poller(self.poll, every_s=2.0, on_error=self.failed, sleep=self.sleep)

    async def poll(self) -> bool | None:
        self.polls += 1
        result = self.script.pop(0) if self.script else None
        if isinstance(result, Exception):
            raise result
        return result

    def failed(self, error: Exception) -> None:
        self.errors.append((self.poller.last_error, type(error).__name__))

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20.0):
        while not holds():  # noqa: ASYNC110  # the condition has no event to wait for
            await asyncio.sleep(0)


async def test_a_poll_that_fails_is_reported_and_the_next_one_comes() -> None:
    polled = Polled(OSError(), OSError(), KeyError(), None, OSError())

    await polled.poller.start()
    await until(lambda: polled.polls > 5)
    await polled.poller.stop()

    assert polled.errors == [
        ("", "OSError"),
        ("OSError", "OSError"),
        ("OSError", "KeyError"),
        ("", "OSError"),
    ]


async def test_a_poll_that_has_more_to_do_comes_again_without_the_pause() -> None:
    polled = Polled(*[True] * 2, None)

    await polled.poller.start()
    await until(lambda: polled.polls > 3)
    await polled.poller.stop()

    assert polled.slept[:4] == [0.0, 0.0, 2.0, 2.0]


async def test_a_start_waits_for_the_first_poll_but_not_for_a_hanging_one() -> None:
    before = asyncio.all_tasks()
    polled = Polled(OSError())
    await polled.poller.start(within_s=20.0)
    assert polled.poller.has_polled
    await polled.poller.stop()

    async def hangs() -> None:
        await asyncio.get_running_loop().create_future()

    hanging = Poller(hangs, every_s=1.0, on_error=lambda _: None)
    await hanging.start(within_s=0.001)
    assert not hanging.has_polled
    await hanging.stop()

    assert asyncio.all_tasks() == before
