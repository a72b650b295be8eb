"""Load on one service: n connections that send the next request after a response, or at a pace.

One thread, one epoll, plain keep-alive sockets: a request costs the sender some 30 microseconds, a
tenth of the cost with `httpx`, so that on two cores the service has most of the CPU time. It runs
in a separate process.

A load with a pace is an open loop: requests are due at equal distances, whether or not earlier ones
were answered, and a response time counts from the moment at which its request was due. A slow
service therefore cannot slow its own measurement down (Tene, "How NOT to measure latency", 2015).
"""

from __future__ import annotations

import math
import selectors
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
import numpy as np

__all__ = ["Load", "Traffic", "Window", "drive"]

RECEIVE_BYTES = 1 << 18
SILENCE_S = 10.0  # a request without a response counts as lost, and the connection is replaced
REFUSALS = {"429", "503"}
PAUSE_AFTER_LOSS_S = 0.05  # do not flood a service that refuses connections


@dataclass(frozen=True, slots=True)
class Load:
    """Requests to send, and for how long.

    Attributes:
        path: of the route.
        bodies: sent in turns by all connections.
        connections: requests in flight.
        warm_up_s: seconds of load before the measurement.
        window_s: measured seconds.
        key: API key of the sending tenant, "" without authentication.
        per_s: requests that are due in a second; 0 sends the next one after a response.
        method: of the requests; a GET has no body.
        at_most: responses after which the measurement ends early; 0 for no such end.
    """

    path: str
    bodies: Sequence[bytes]
    connections: int
    warm_up_s: float
    window_s: float
    key: str = ""
    per_s: float = 0.0
    method: str = "POST"
    at_most: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """Responses of the measured seconds.

    Attributes:
        seconds: length of the window.
        answers: responses with status 200 and a score.
        events: scored in them; a batch holds many.
        failures: other statuses, responses without a score, lost connections, timeouts.
        degraded: events with a degraded verdict.
        coverage: mean over the events; 0 without one.
        p50_ms: median time of an answer.
        p99_ms: 99th percentile of the time of an answer.
        problem: the first failure, "" without one.
        statuses: status of a response, or "lost" -> how often.
        refused_p99_ms: 99th percentile of the time of a refusal (429, 503); 0 without one.
        without_retry_after: refusals that do not say when to come back.
        unsent: requests that were due and found no free connection until the end.
    """

    seconds: float
    answers: int
    events: int
    failures: int
    degraded: int
    coverage: float
    p50_ms: float
    p99_ms: float
    problem: str
    statuses: Mapping[str, int]
    refused_p99_ms: float
    without_retry_after: int
    unsent: int

    @property
    def answers_per_s(self) -> float:
        """Throughput in requests/s."""
        return self.answers / self.seconds

    @property
    def events_per_s(self) -> float:
        """Throughput in events/s."""
        return self.events / self.seconds

    @property
    def responses(self) -> str:
        """How often each status came, e.g. `200: 467 503: 5`."""
        return " ".join(f"{status}: {count:,}" for status, count in self.statuses.items())

    @property
    def whole_per_s(self) -> float:
        """Throughput in events/s whose verdict is not degraded: the goodput."""
        return (self.events - self.degraded) / self.seconds


class _Scored(msgspec.Struct):
    score: float
    degraded: bool = False
    coverage: float = 0.0


class _ScoredBatch(msgspec.Struct):
    results: list[_Scored]


_one = msgspec.json.Decoder(_Scored).decode
_many = msgspec.json.Decoder(_ScoredBatch).decode


@dataclass(slots=True)
class _Tally:
    elapsed_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    without_retry_after: int = 0
    events: int = 0
    failures: int = 0
    degraded: int = 0
    coverage: float = 0.0
    problem: str = ""

    def failed(self, problem: str) -> None:
        self.failures += 1
        self.problem = self.problem or problem

    def answered(self, head: bytes, body: bytes, elapsed_s: float) -> None:
        status = head[9:12].decode()
        self.statuses[status] += 1
        if status in REFUSALS:
            self.refused_s.append(elapsed_s)
            self.without_retry_after += b"\r\nretry-after:" not in head.lower()
        if status != "200":
            self.failed(f"status {status}: {body[:200].decode(errors='replace')}")
            return
        try:
            scored = _many(body).results if body.startswith(b'{"results"') else [_one(body)]
        except msgspec.DecodeError as error:
            self.failed(f"no score: {error}")
            return
        self.elapsed_s.append(elapsed_s)
        self.events += len(scored)
        self.degraded += sum(event.degraded for event in scored)
        self.coverage += sum(event.coverage for event in scored)


class Traffic:
    """The connections to one service.

    Args:
        port: of the service, on loopback.
        load: the requests to send.
    """

    def __init__(self, port: int, load: Load) -> None:
        head = (
            f"{load.method} {load.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Content-Type: application/json\r\n"
        )
        head += f"Authorization: Bearer {load.key}\r\n" if load.key else ""
        self._requests = [
            f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in load.bodies
        ]
        self._port, self._load = port, load
        self._next = 0
        self._idle: deque[_Connection] = deque()  # only of a load with a pace
        self._due_at = 0.0  # of the next request of such a load
        self._selector = selectors.EpollSelector()
        self._tally = _Tally()

    def run(self) -> Window:
        """Send until the time is over, and return the measurement."""
        self._due_at = time.perf_counter()
        connections = [_Connection(self) for _ in range(self._load.connections)]
        starts = time.perf_counter() + self._load.warm_up_s
        self._until(starts, connections)
        self._tally = _Tally()
        self._until(starts + self._load.window_s, connections)
        now = time.perf_counter()
        seconds, tally = now - starts, self._tally
        per_s = self._load.per_s
        unsent = max(0, int((now - self._due_at) * per_s))
        for connection in connections:
            connection.close()
        self._selector.close()
        p50, p99 = _percentiles_ms(tally.elapsed_s)
        coverage = tally.coverage / tally.events if tally.events else 0.0
        return Window(
            seconds,
            len(tally.elapsed_s),
            tally.events,
            tally.failures,
            tally.degraded,
            coverage,
            p50,
            p99,
            tally.problem,
            dict(tally.statuses),
            _percentiles_ms(tally.refused_s)[1],
            tally.without_retry_after,
            unsent,
        )

    def _until(self, ends: float, connections: Sequence[_Connection]) -> None:
        checked_at = time.perf_counter()
        at_most = self._load.at_most or math.inf
        while (now := time.perf_counter()) < ends and self._tally.statuses.total() < at_most:
            for key, ready in self._selector.select(min(ends - now, self._wait_s(now))):
                key.data.go_on(ready)
            self._send_due()
            if now - checked_at > 1.0:
                checked_at = now
                for connection in connections:
                    connection.give_up_if_silent(now)

    def rest(self, connection: _Connection) -> bool:
        """Keep a connection until a request is due; False without a pace: it sends at once."""
        if self._load.per_s:
            self._idle.append(connection)
        return bool(self._load.per_s)

    def _wait_s(self, now: float) -> float:
        """Seconds to wait for responses at most."""
        return max(0.0, min(self._due_at - now, 0.2)) if self._idle else 0.2

    def _send_due(self) -> None:
        while self._idle and self._due_at <= time.perf_counter():
            due_at, self._due_at = self._due_at, self._due_at + 1.0 / self._load.per_s
            self._idle.popleft().send(due_at)

    def next_request(self) -> bytes:
        """Return the next body with its head."""
        self._next = (self._next + 1) % len(self._requests)
        return self._requests[self._next]

    def open(self, connection: _Connection) -> socket.socket:
        """Open a connection to the service and watch it for responses."""
        opened = socket.create_connection(("127.0.0.1", self._port), timeout=SILENCE_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.settimeout(0.0)  # never blocks; epoll waits
        self._selector.register(opened, selectors.EVENT_READ, connection)
        return opened

    def watch(self, connection: _Connection, opened: socket.socket, *, also_writable: bool) -> None:
        """Watch a connection for responses, and if `also_writable` for space in its send buffer."""
        self._selector.modify(
            opened,
            selectors.EVENT_READ | (selectors.EVENT_WRITE if also_writable else 0),
            connection,
        )

    def close(self, opened: socket.socket) -> None:
        """Stop watching a connection, and close it."""
        self._selector.unregister(opened)
        opened.close()

    @property
    def tally(self) -> _Tally:
        """The current counts."""
        return self._tally


class _Connection:
    """One connection with one request in flight."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._opened = traffic.open(self)
        self._is_idle = False
        self._continue()

    def close(self) -> None:
        self._traffic.close(self._opened)

    def go_on(self, ready: int) -> None:
        try:
            if ready & selectors.EVENT_WRITE:
                self._send_rest()
            if ready & selectors.EVENT_READ:
                self._receive()
        except OSError as error:
            self._lose(f"{type(error).__name__}: {error}")

    def give_up_if_silent(self, now: float) -> None:
        if not self._is_idle and now - self._sent > SILENCE_S:
            self._lose("no response")

    def send(self, since: float) -> None:
        """Send the next request; its response time counts from `since`."""
        self._answer, self._needed = b"", 0
        self._unsent = memoryview(self._traffic.next_request())
        self._since, self._sent = since, time.perf_counter()
        self._is_idle = self._is_waiting_to_send = False
        try:
            self._send_rest()
        except OSError as error:  # the service closed an idle connection
            self._lose(f"{type(error).__name__}: {error}")

    def _continue(self) -> None:
        self._is_idle = self._traffic.rest(self)
        if not self._is_idle:
            self.send(time.perf_counter())

    def _send_rest(self) -> None:
        with suppress(BlockingIOError):  # the send buffer is full; epoll reports when it has space
            self._unsent = self._unsent[self._opened.send(self._unsent) :]
        if bool(self._unsent) != self._is_waiting_to_send:
            self._is_waiting_to_send = bool(self._unsent)
            self._traffic.watch(self, self._opened, also_writable=self._is_waiting_to_send)

    def _receive(self) -> None:
        came = self._opened.recv(RECEIVE_BYTES)
        if not came:
            self._lose("connection closed")
            return
        self._answer = self._answer + came if self._answer else came
        if not self._needed:
            end = self._answer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._body_at = end + 4
            self._needed = self._body_at + _content_length(self._answer[:end])
        if len(self._answer) >= self._needed:
            elapsed_s = time.perf_counter() - self._since
            head, body = self._answer[: self._body_at], self._answer[self._body_at : self._needed]
            self._traffic.tally.answered(head, body, elapsed_s)
            self._continue()

    def _lose(self, problem: str) -> None:
        """Count a lost request and replace the connection; a service may close an idle one."""
        self._traffic.close(self._opened)
        if self._is_idle:
            self._opened = self._traffic.open(self)
            return
        self._traffic.tally.failed(problem)
        self._traffic.tally.statuses["lost"] += 1
        time.sleep(PAUSE_AFTER_LOSS_S)
        self._opened = self._traffic.open(self)
        self._continue()


def _percentiles_ms(elapsed_s: Sequence[float]) -> tuple[float, float]:
    """Median and 99th percentile in ms; zeros without a time."""
    if not elapsed_s:
        return 0.0, 0.0
    p50, p99 = np.percentile(elapsed_s, [50, 99]) * 1000.0
    return float(p50), float(p99)


def _content_length(head: bytes) -> int:
    at = head.lower().find(b"\r\ncontent-length:")
    if at < 0:
        raise OSError(f"a response without a length: {head[:200].decode(errors='replace')}")
    return int(head[at + 17 :].split(b"\r\n", 1)[0])


def drive(port: int, load: Load) -> Window:
    """Send `load` to the service at `port`, and return the measurement.

    Raises:
        OSError: the service accepts no connections.
    """
    return Traffic(port, load).run()
