"""Reading a body: a sender that makes progress is served, one that stops is refused (I9)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.web import body as page
from deployments.web import read_body
from ensemble.errors import RequestTimeout

LIMIT = 1 << 20


class Sender:
    """Sends a body in parts of some bytes, each after a pause."""

    def __init__(self, parts: int, size: int, pause_s: float) -> None:
        self.left, self.size, self.pause_s = parts, size, pause_s

    async def __call__(self) -> dict[str, Any]:
        await asyncio.sleep(self.pause_s)
        self.left -= 1
        return {"type": "http.request", "body": b"x" * self.size, "more_body": self.left > 0}


@pytest.fixture(autouse=True)
def pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second, and 10,000 bytes a second."""
    monkeypatch.setattr(page, "GRACE_S", 0.1)
    monkeypatch.setattr(page, "LEAST_BYTES_PER_S", 10_000.0)


async def test_a_slow_sender_that_makes_progress_is_served() -> None:
    assert len(await read_body([], Sender(parts=8, size=1000, pause_s=0.02), LIMIT)) == 8000


@pytest.mark.parametrize(
    "sender",
    [
        pytest.param(Sender(parts=2, size=1, pause_s=30.0), id="one that sends nothing"),
        pytest.param(Sender(parts=1000, size=1, pause_s=0.01), id="one that sends single bytes"),
    ],
)
async def test_a_sender_below_the_least_pace_is_refused(sender: Sender) -> None:
    async with asyncio.timeout(10.0):
        with pytest.raises(RequestTimeout):
            await read_body([], sender, LIMIT)
