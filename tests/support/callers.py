"""Callers that send requests on n connections during a fault and record every outcome.

Nothing is averaged: a test reads the requests sent before, during and after its fault.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

import msgspec

from tests.support.timing import wait_until

__all__ = ["Asked", "Callers", "figures", "median_ms"]

SILENCE_S = 10.0  # no answer within this is a lost request: it hangs
PAUSE_AFTER_LOSS_S = 0.05
LOOK_EVERY_S = 0.05
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and what came of it.

    Attributes:
        at: when it was sent, in seconds of the monotonic clock.
        took_s: until its answer was read whole, or until it was lost.
        status: of HTTP; 0 where no answer came.
        problem: why there is no verdict, "" with one.
        verdict: benign .. malicious, or indeterminate.
        system: FULLY_OPERATIONAL and so on.
        is_degraded: as the answer says.
        coverage: in [0, 1].
        layers: name -> (status, reason).
        release: `<tenant>/<serial>` that made it.
        answer: as it came; empty unless the callers were told to keep it.
    """

    at: float
    took_s: float
    status: int
    problem: str = ""
    verdict: str = ""
    system: str = ""
    is_degraded: bool = False
    coverage: float = 0.0
    layers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    release: str = ""
    answer: bytes = b""

    @property
    def was_cut_off(self) -> bool:
        """Whether it was lost with the ingress that had it, which is no error of ours.

        HAProxy closes the caller's connection, or answers 502 or 503, which Serve words as a plain
        500. What Axon answers is JSON.
        """
        return self.status == 0 or (self.status, self.problem) == (500, "Internal Server Error")

    @property
    def is_answered(self) -> bool:
        return self.status == 200

    def status_of(self, layer: str) -> str:
        return self.layers.get(layer, ("", ""))[0]


class _Layer(msgspec.Struct):
    layer: str
    status: str
    reason: str = ""


class _Answer(msgspec.Struct):
    verdict: str
    coverage: float
    degraded: bool
    status: str
    release: str
    layers: list[_Layer]


_decode = msgspec.json.Decoder(_Answer).decode


class Callers:
    """Send in a thread until the block ends: `with Callers(port, bodies, connections=16) as c:`.

    Args:
        port: of loopback, where the service listens.
        bodies: of POST /v1/score, in turns.
        connections: requests in flight.
        pause_s: a caller rests so long between an answer and its next request; 0 keeps a small
            machine fully busy with asking.
        keeps_answers: keep each answer as it came, some 2 kB.
    """

    def __init__(
        self,
        port: int,
        bodies: Sequence[bytes],
        *,
        connections: int,
        pause_s: float,
        keeps_answers: bool = False,
    ) -> None:
        head = (
            f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\n"
        )
        self._requests = [
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        ]
        self._port, self._connections, self._pause_s = port, connections, pause_s
        self._keeps_answers = keeps_answers
        self._is_over = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="callers")
        self.asked: list[Asked] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No new requests; returns when the last one has its answer."""
        self._is_over = True
        self._thread.join(SILENCE_S + 5.0)
        assert not self._thread.is_alive()

    def warm(self) -> None:
        """Wait for a verdict of all layers, and then until the first, slow requests are over."""
        self.wait_for(
            lambda one: one.is_answered and not one.is_degraded, since=0.0, within_s=SILENCE_S
        )
        self.go_on(WARM_UP_S)

    def go_on(self, seconds: float) -> tuple[float, float]:
        """Let them ask for so long.

        When that began and ended, in seconds of the monotonic clock.
        """
        since = time.monotonic()
        time.sleep(seconds)
        return since, time.monotonic()

    def between(self, since: float, until: float = float("inf")) -> list[Asked]:
        """The requests sent from `since` until before `until`."""
        return [one for one in list(self.asked) if since <= one.at < until]

    def wait_for(self, is_it: Callable[[Asked], bool], *, since: float, within_s: float) -> Asked:
        """The first request sent after `since` of which `is_it` is true."""
        found: list[Asked] = []
        seen = 0

        def looks() -> bool:
            nonlocal seen
            now = list(self.asked)
            found.extend(one for one in now[seen:] if one.at >= since and is_it(one))
            seen = len(now)
            return bool(found)

        assert wait_until(looks, within_s), (
            f"no such answer within {within_s} s: {figures(self.between(since))}"
        )
        return found[0]

    async def _ask(self) -> None:
        await asyncio.gather(*(self._call(number) for number in range(self._connections)))

    async def _call(self, number: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over:
            number += self._connections
            at = time.monotonic()
            try:
                async with asyncio.timeout(SILENCE_S):
                    if (
                        connection is None or connection[0].at_eof()
                    ):  # closed while it was idle: every client opens a new one then
                        connection = _closed(connection)
                        at = time.monotonic()
                        connection = await asyncio.open_connection("127.0.0.1", self._port)
                    connection[1].write(self._requests[number % len(self._requests)])
                    status, body, is_last = await _read_answer(connection[0])
                if is_last:
                    connection = _closed(connection)
                one = _asked(at, status, body)
                self.asked.append(replace(one, answer=body) if self._keeps_answers else one)
                await asyncio.sleep(self._pause_s)
            except (
                OSError,
                EOFError,
                asyncio.LimitOverrunError,
            ) as error:  # TimeoutError is an OSError
                took_s = time.monotonic() - at
                got = (
                    f" after {len(error.partial)} bytes"
                    if isinstance(error, asyncio.IncompleteReadError)
                    else ""
                )
                self.asked.append(
                    Asked(
                        at,
                        took_s,
                        0,
                        f"{'asking' if connection else 'connecting'}: {type(error).__name__}{got}",
                    )
                )
                connection = _closed(connection)
                await asyncio.sleep(
                    PAUSE_AFTER_LOSS_S
                )  # a service that refuses connections is not to be hammered
        _closed(connection)


def _closed(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection[1].close()


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the other side closes the connection after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return (
        int(head[9:12]),
        await reader.readexactly(int(length or b"0")),
        b"connection: close" in head,
    )


def _asked(at: float, status: int, body: bytes) -> Asked:
    took_s = time.monotonic() - at
    if status != 200:
        return Asked(at, took_s, status, body[:200].decode(errors="replace"))
    try:
        said = _decode(body)
    except msgspec.DecodeError as error:
        return Asked(at, took_s, status, f"no verdict: {error}")
    layers = {layer.layer: (layer.status, layer.reason) for layer in said.layers}
    return Asked(
        at,
        took_s,
        status,
        "",
        said.verdict,
        said.status,
        said.degraded,
        said.coverage,
        layers,
        said.release,
    )


def median_ms(asked: Sequence[Asked]) -> float:
    """Of the answered ones; there must be some."""
    return statistics.median(one.took_s for one in asked if one.is_answered) * 1000.0


def figures(asked: Sequence[Asked]) -> str:
    """Everything that happened, in one line."""
    took_ms = sorted(one.took_s * 1000.0 for one in asked if one.is_answered) or [0.0]
    problems: dict[str, int] = {}
    for one in asked:
        if one.problem:
            named = f"{one.status} {one.problem[:90]}"
            problems[named] = problems.get(named, 0) + 1
    layers: dict[str, int] = {}
    for one in asked:
        for layer, (status, reason) in one.layers.items():
            if status not in {"live", "last_good", "not_applicable"}:
                layers[f"{layer} {status} {reason}"] = (
                    layers.get(f"{layer} {status} {reason}", 0) + 1
                )
    return (
        f"{len(asked)} requests, {sum(not one.is_answered for one in asked)} without an "
        f"answer {problems or ''}, "
        f"{sum(one.is_degraded for one in asked)} degraded {layers or ''}, "
        f"p50 {took_ms[len(took_ms) // 2]:.1f} ms, p99 "
        f"{took_ms[len(took_ms) * 99 // 100]:.1f} ms, most {took_ms[-1]:.1f} ms"
    )
