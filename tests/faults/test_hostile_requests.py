"""Hostile requests to a running service, over its front proxy (P27)."""

from __future__ import annotations

import socket
from collections import Counter
from contextlib import suppress

import pytest

from tests.support.hostile_requests import HostileRequest, HostileRequests
from tests.support.running_service import IS_LONG, Service

pytestmark = pytest.mark.cluster

REQUESTS = 10_000 if IS_LONG else 300
SEED = 12
ENDLESS_S = 60.0  # of silence; every limit of the front proxy is shorter
FRAMING = {"content-length", "transfer-encoding", "expect", "host"}  # may be answered by closing


def test_no_request_makes_an_error_of_the_service(service: Service) -> None:
    """What is not HTTP is refused by the front proxy; afterwards every layer is still live."""
    made = HostileRequests(service.get("/openapi.json"), SEED, without=SWITCHES)
    statuses: Counter[int] = Counter()

    for request in made.take(REQUESTS):
        answer = sent(service.port, request)
        status = int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0
        statuses[status] += 1
        assert status < 500 or status == 503, (request, answer[:500])
        assert status or FRAMING & {name.lower() for name, _ in request.headers}, request
        assert b"Traceback" not in answer

    assert statuses[200] > REQUESTS // 4
    print(f"\n{REQUESTS:,} hostile requests, by status: {dict(sorted(statuses.items()))}")
    assert service.is_complete()


SWITCHES = [f"POST /v1/layers/{{layer}}/{switch}" for switch in ("disable", "reset", "enable")]


def sent(port: int, request: HostileRequest) -> bytes:
    """Send a request as it is over a connection of its own, and read until it is closed."""
    named = {name.lower() for name, _ in request.headers}
    headers = list(request.headers)
    if "host" not in named:
        headers.append(("Host", "localhost"))
    if not named & {"content-length", "transfer-encoding"}:
        headers.append(("Content-Length", str(len(request.body))))
    lines = [f"{request.method} {request.target} HTTP/1.1", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    answer = b""
    with socket.create_connection(("127.0.0.1", port), ENDLESS_S) as connection, suppress(OSError):
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + request.body)
        if named & FRAMING:  # the service may wait for more
            connection.shutdown(socket.SHUT_WR)
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
