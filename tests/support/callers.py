"""Callers that send requests on n connections during a fault and record every reply.

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

__all__ = ["Callers", "Reply", "figures", "median_ms"]

SILENCE_S = 10.0  # a request without a response after this time counts as lost
PAUSE_AFTER_LOSS_S = 0.05
WARM_UP_S = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """The response to one request, or its loss.

    Attributes:
        at: when it was sent, in seconds of the monotonic clock.
        elapsed_s: until its response was read completely, or until it was lost.
        status: of HTTP; 0 without a response.
        problem: the reason that there is no verdict, "" with one.
        verdict: benign .. malicious, or indeterminate.
        system: status of the ensemble, e.g. FULLY_OPERATIONAL.
        is_degraded: as the response states.
        coverage: in [0, 1].
        layers: name -> (status, reason).
        release: `<tenant>/<serial>` that made it.
        body: of the response; empty unless the callers record bodies.
    """

    at: float
    elapsed_s: float
    status: int
    problem: str = ""
    verdict: str = ""
    system: str = ""
    is_degraded: bool = False
    coverage: float = 0.0
    layers: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    release: str = ""
    body: bytes = b""

    @property
    def was_cut_off(self) -> bool:
        """Whether the request was lost with the ingress that had it, which is no error of Axon.

        HAProxy closes the caller's connection, or responds with 502 or 503, which Serve turns into
        a plain 500. A response of Axon is JSON.
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


class _Verdict(msgspec.Struct):
    verdict: str
    coverage: float
    degraded: bool
    status: str
    release: str
    layers: list[_Layer]


_decode = msgspec.json.Decoder(_Verdict).decode


class Callers:
    """Callers in a thread until a block ends: `with Callers(port, bodies, connections=16) as c:`.

    Args:
        port: of loopback, where the service listens.
        bodies: of POST /v1/score, in turns.
        connections: requests in flight.
        pause_s: seconds between a response and the caller's next request; 0 keeps a small
            machine fully busy with sending.
        records_bodies: record the body of each response, some 2 kB.
    """

    def __init__(
        self,
        port: int,
        bodies: Sequence[bytes],
        *,
        connections: int,
        pause_s: float,
        records_bodies: bool = False,
    ) -> None:
        head = (
            f"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\n"
        )
        self._requests = [
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies
        ]
        self._port, self._connections, self._pause_s = port, connections, pause_s
        self._records_bodies = records_bodies
        self._is_over = False
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._send_on_all()), name="callers"
        )
        self.replies: list[Reply] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no new requests, and return when the last one has its response."""
        self._is_over = True
        self._thread.join(SILENCE_S + 5.0)
        assert not self._thread.is_alive()

    def warm(self) -> None:
        """Wait for a verdict of all layers, and then until the first slow requests are over."""
        self.wait_for(
            lambda one: one.is_answered and not one.is_degraded, since=0.0, within_s=SILENCE_S
        )
        self.go_on(WARM_UP_S)

    def go_on(self, seconds: float) -> tuple[float, float]:
        """Go on sending for `seconds`.

        Returns:
            The begin and the end of that time, in seconds of the monotonic clock.
        """
        since = time.monotonic()
        time.sleep(seconds)
        return since, time.monotonic()

    def between(self, since: float, until: float = float("inf")) -> list[Reply]:
        """Select the replies to the requests sent from `since` until before `until`."""
        return [one for one in list(self.replies) if since <= one.at < until]

    def wait_for(self, is_it: Callable[[Reply], bool], *, since: float, within_s: float) -> Reply:
        """Wait for the first reply for which `is_it` is true, to a request sent after `since`."""
        found: list[Reply] = []
        checked = 0

        def is_found() -> bool:
            nonlocal checked
            now = list(self.replies)
            found.extend(one for one in now[checked:] if one.at >= since and is_it(one))
            checked = len(now)
            return bool(found)

        assert wait_until(is_found, within_s), (
            f"no such reply within {within_s} s: {figures(self.between(since))}"
        )
        return found[0]

    async def _send_on_all(self) -> None:
        await asyncio.gather(*(self._send_on_one(number) for number in range(self._connections)))

    async def _send_on_one(self, number: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._is_over:
            number += self._connections
            at = time.monotonic()
            try:
                async with asyncio.timeout(SILENCE_S):
                    # a connection closed while it was idle is replaced, as every client does
                    if connection is None or connection[0].at_eof():
                        connection = _closed(connection)
                        at = time.monotonic()
                        connection = await asyncio.open_connection("127.0.0.1", self._port)
                    connection[1].write(self._requests[number % len(self._requests)])
                    status, body, is_last = await _read_response(connection[0])
                if is_last:
                    connection = _closed(connection)
                reply = _reply_of(at, status, body)
                self.replies.append(replace(reply, body=body) if self._records_bodies else reply)
                await asyncio.sleep(self._pause_s)
            # TimeoutError is an OSError
            except (OSError, EOFError, asyncio.LimitOverrunError) as error:
                elapsed_s = time.monotonic() - at
                got = (
                    f" after {len(error.partial)} bytes"
                    if isinstance(error, asyncio.IncompleteReadError)
                    else ""
                )
                self.replies.append(
                    Reply(
                        at,
                        elapsed_s,
                        0,
                        f"{'sending' if connection else 'connecting'}: {type(error).__name__}{got}",
                    )
                )
                connection = _closed(connection)
                # do not flood a service that refuses connections
                await asyncio.sleep(PAUSE_AFTER_LOSS_S)
        _closed(connection)


def _closed(connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection[1].close()


async def _read_response(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Read the status, the body, and whether the service closes the connection after it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    return (
        int(head[9:12]),
        await reader.readexactly(int(length or b"0")),
        b"connection: close" in head,
    )


def _reply_of(at: float, status: int, body: bytes) -> Reply:
    elapsed_s = time.monotonic() - at
    if status != 200:
        return Reply(at, elapsed_s, status, body[:200].decode(errors="replace"))
    try:
        verdict = _decode(body)
    except msgspec.DecodeError as error:
        return Reply(at, elapsed_s, status, f"no verdict: {error}")
    layers = {layer.layer: (layer.status, layer.reason) for layer in verdict.layers}
    return Reply(
        at,
        elapsed_s,
        status,
        "",
        verdict.verdict,
        verdict.status,
        verdict.degraded,
        verdict.coverage,
        layers,
        verdict.release,
    )


def median_ms(replies: Sequence[Reply]) -> float:
    """Compute the median time of the answered requests; there must be some."""
    return statistics.median(one.elapsed_s for one in replies if one.is_answered) * 1000.0


def figures(replies: Sequence[Reply]) -> str:
    """Summarize the replies in one line."""
    elapsed_ms = sorted(one.elapsed_s * 1000.0 for one in replies if one.is_answered) or [0.0]
    problems: dict[str, int] = {}
    for one in replies:
        if one.problem:
            named = f"{one.status} {one.problem[:90]}"
            problems[named] = problems.get(named, 0) + 1
    layers: dict[str, int] = {}
    for one in replies:
        for layer, (status, reason) in one.layers.items():
            if status not in {"live", "last_good", "not_applicable"}:
                layers[f"{layer} {status} {reason}"] = (
                    layers.get(f"{layer} {status} {reason}", 0) + 1
                )
    return (
        f"{len(replies)} requests, {sum(not one.is_answered for one in replies)} without a "
        f"verdict {problems or ''}, "
        f"{sum(one.is_degraded for one in replies)} degraded {layers or ''}, "
        f"p50 {elapsed_ms[len(elapsed_ms) // 2]:.1f} ms, p99 "
        f"{elapsed_ms[len(elapsed_ms) * 99 // 100]:.1f} ms, most {elapsed_ms[-1]:.1f} ms"
    )
