"""Memory by connection, request and tenant: each is bounded, in resident memory (P28).

test_bodies.py measures the parsers alone, in allocations by Python.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.management.openapi import PREFIX
from deployments.web.auth import BODIES_AT_ONCE
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef
from ensemble.store.signing import Signer, Trust
from tests.support.asgi_clients import LONG_DEADLINE, OpenIngress
from tests.support.management import trust_the_key
from tests.support.populated_management import MODEL, PopulatedService, populate
from tests.support.raw_asgi import RawResponse, send_raw
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.resident_memory import MIB, rise_of_memory
from tests.support.training_rows import rows

LIMIT = 8 * MIB  # of a body
UNLIMITED = {"requests_per_s": 1e6, "burst": 1e6, "stall_s": 0.0}
CONNECTIONS, BYTES_OF_A_CONNECTION = 1_000, 64 << 10


def full(opening: str, repeated: str, closing: str) -> bytes:
    """Make a body of the greatest size."""
    count = (LIMIT - len(opening) - len(closing)) // len(repeated)
    return (opening + repeated * count + closing).encode()


FIXED = 4 * MIB  # of threads and caches, whatever the size of a body
ROWS = {
    "ordinary rows": json.dumps(rows(1)[0]),
    "rows with lists": '{"a": [' + "1," * 40 + "1]}",
    "lists": "[" + "1," * 40 + "1]",
    "numbers": "1",
    "empty rows": "{}",
    "many names": "{" + ",".join(f'"{name:05}":1' for name in range(8000)) + "}",
}
EVENTS = {
    "events": full('{"events": [', '{"kind": "flow", "features": []},', "{}]}"),
    "numbers": full('{"events": [', "0,", "0]}"),
    "half surrogate pairs": full('{"events": [{"name": "', "\\ud800", '"}]}'),
    "one name": full('{"events": [{"kind": "process", "name": "', "a", '"}]}'),
    "brackets": full("", "[", ""),
}


@pytest.fixture
def populated(
    own_state: Path,
    own_trust: Path,
    tmp_path: Path,
    trust: Trust,
    release_of: Callable[..., ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    no_fsync: None,
    meter: RecordingMeter,
) -> Iterator[PopulatedService]:
    """The management application, with a detector of acme."""
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    store = Store(own_state, None, trust)
    made = populate(tmp_path, store, release_of, publish, signer, meter, auth=UNLIMITED)
    yield made
    made.client.close()


def send_rows(
    populated: PopulatedService, path: str, chunks: Sequence[bytes]
) -> Callable[[], RawResponse]:
    key = populated.client.key_of("acme")
    headers = [("Host", "localhost"), ("Content-Type", "application/json"), *key.items()]

    def send() -> RawResponse:
        sent = send_raw(
            populated.client.app, "POST", path, headers, chunks, root_path=PREFIX, keeps_body=False
        )
        return populated.client.loop.run(sent)

    return send


@pytest.mark.parametrize("route", [f"{PREFIX}/{MODEL}/detect", f"{PREFIX}/train"])
def test_a_request_with_rows_takes_less_than_four_times_its_body(
    populated: PopulatedService, route: str
) -> None:
    """8 MiB to `detect` took ten times as much, and 200 MiB if they were not rows."""
    small = json.dumps({"network_data": rows()}).encode()
    assert send_rows(populated, route, [small])().status in (200, 202)  # imports what it needs
    for name, row in ROWS.items():
        body = full('{"network_data": [', row + ",", row + "]}")
        send = send_rows(populated, route, [body])

        with rise_of_memory() as rise:
            answer = send()

        print(f"{route}, {name}: {answer.status}, {rise.bytes / len(body):.1f} times the body")
        assert answer.status < 500, name
        assert rise.bytes < 4 * len(body) + FIXED, name


@pytest.mark.parametrize("route", ["/v1/score", "/v1/score/batch", "/predict", "/predict/batch"])
def test_a_request_with_events_takes_less_than_four_times_its_body(
    open_client: OpenIngress, route: str
) -> None:
    client = open_client(overrides=LONG_DEADLINE)
    headers = [("Host", "localhost"), ("Content-Type", "application/json")]
    client.post(route, {})
    for name, body in EVENTS.items():
        with rise_of_memory() as rise:
            answer = client.loop.run(send_raw(client.app, "POST", route, headers, [body]))

        print(f"{route}, {name}: {answer.status}, {rise.bytes / len(body):.1f} times the body")
        assert answer.status < 500, name
        assert rise.bytes < 4 * len(body) + FIXED, name


def test_a_tenant_holds_memory_for_its_few_large_bodies_alone(
    populated: PopulatedService,
) -> None:
    """The further bodies that a tenant sends at a time are refused before they are read."""
    key = populated.client.key_of("acme")
    headers = {"host": "localhost", "transfer-encoding": "chunked", **key}
    chunk = b" " * MIB
    refused = 0

    async def hold(senders: int) -> int:
        nonlocal refused
        answers = [unfinished(populated.client.app, headers, chunk) for _ in range(senders)]
        tasks = [asyncio.create_task(answer) for answer in answers]
        done, waiting = await asyncio.wait(tasks, timeout=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(tasks)
        refused = len(done)
        return len(waiting)

    with rise_of_memory() as rise:
        held = populated.client.loop.run(hold(4 * BODIES_AT_ONCE))

    print(f"{held} bodies of 1 MiB held, {refused} refused: {rise.bytes / MIB:.0f} MiB")
    assert (held, refused) == (BODIES_AT_ONCE, 3 * BODIES_AT_ONCE)
    assert rise.bytes < 2 * BODIES_AT_ONCE * MIB


def test_a_connection_that_sends_little_takes_little_memory(populated: PopulatedService) -> None:
    """A thousand of one caller, which began a small body and do not end it."""
    headers = {"host": "localhost", "content-type": "application/json", "content-length": "9999"}
    headers |= populated.client.key_of("acme")

    async def hold() -> int:
        app = populated.client.app
        tasks = [
            asyncio.create_task(unfinished(app, headers, b" " * 1_000)) for _ in range(CONNECTIONS)
        ]
        _, waiting = await asyncio.wait(tasks, timeout=0.2)
        for task in waiting:
            task.cancel()
        await asyncio.wait(tasks)
        return len(waiting)

    with rise_of_memory() as rise:
        held = populated.client.loop.run(hold())

    print(f"{held} connections: {rise.bytes / CONNECTIONS / 1024:.1f} KiB each")
    assert held == CONNECTIONS
    assert rise.bytes < CONNECTIONS * BYTES_OF_A_CONNECTION


async def unfinished(app: Any, headers: dict[str, str], chunk: bytes) -> int:
    """Send the beginning of a body, and wait for an answer; return its status."""
    status = 0
    sent = iter([{"type": "http.request", "body": chunk, "more_body": True}])

    async def receive() -> dict[str, Any]:
        return next(sent, None) or await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    path = f"{PREFIX}/train"
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": PREFIX,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
    }
    await app(scope, receive, send)
    return status
