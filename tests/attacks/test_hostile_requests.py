"""Requests that break the OpenAPI documents in every way (P27): no error is one of Axon.

`make verify` sends 100,000, the short form 2,000. test_fuzz_api.py compares the responses with
their schemas; here each is either the documented success or an error in Axon's own form.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.management.openapi import PREFIX
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef
from ensemble.store.signing import Signer, Trust
from tests.support.asgi_clients import LONG_DEADLINE, OpenIngress
from tests.support.hostile_requests import HostileRequest, HostileRequests
from tests.support.management import trust_the_key
from tests.support.populated_management import MODEL, populate
from tests.support.raw_asgi import RawResponse, send_raw
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.running_service import IS_LONG

REQUESTS = 50_000 if IS_LONG else 1_000  # to each of the two applications
SEED = 11
ANY_ROUTE = {401, 404, 405, 421}  # before the route is known
UNLIMITED = {"requests_per_s": 1e6, "burst": 1e6, "stall_s": 0.0}
SECRET = re.compile(rb"Traceback|/work|/home|/tmp|/root|\.py\b|site-packages|msgspec|0x7f")
ERROR_FIELDS = {"code", "message", "request_id", "field"}
Statuses = Counter[int]


@pytest.fixture
def statuses() -> Iterator[Statuses]:
    """Counts of the responses, printed after the test."""
    counts: Statuses = Counter()
    yield counts
    print(f"{sum(counts.values()):,} requests, by status: {dict(sorted(counts.items()))}")


def attack(
    app: Any, made: HostileRequests, own: Mapping[str, str], counts: Statuses, root_path: str = ""
) -> Awaitable[None]:
    """Send all requests, one after the other, with the headers `own` where they have none."""

    async def sent() -> None:
        for request in made.take(REQUESTS):
            named = {name.lower() for name, _ in request.headers}
            headers = [*request.headers, *((k, v) for k, v in own.items() if k not in named)]
            body = request.body
            chunks = [body[: len(body) // 2], body[len(body) // 2 :]]
            response = await send_raw(
                app, request.method, request.target, headers, chunks, root_path=root_path
            )
            counts[response.status] += 1
            check(request, response, made)

    return sent()


def check(request: HostileRequest, response: RawResponse, made: HostileRequests) -> None:
    """Check that a response is documented, and that an error says nothing of the inside."""
    context = request, response
    if response.status < 400 or request.method == "HEAD":
        assert 200 <= response.status < 500, context
        return
    assert not SECRET.search(response.body), context
    assert response.headers["content-type"] == "application/json", context
    error = json.loads(response.body)["error"]
    assert {"code", "message", "request_id"} <= error.keys() <= ERROR_FIELDS, context
    assert response.status < 500 or error["code"] == "LAYER_DISABLED", context  # by a request here
    if request.route.startswith(f"{request.method} ") and response.status not in ANY_ROUTE:
        assert str(response.status) in made.operations[request.route]["responses"], context


def test_no_request_makes_an_error_of_the_scoring_application(
    open_client: OpenIngress, statuses: Statuses
) -> None:
    client = open_client(overrides=LONG_DEADLINE | {"auth": {"mode": "off", **UNLIMITED}})
    made = HostileRequests(client.get("/openapi.json").json(), SEED)

    client.loop.run(attack(client.app, made, {"host": "localhost"}, statuses))

    assert {200, 400, 413, 415, 422} <= statuses.keys() | {413}


def test_no_request_makes_an_error_of_the_management_application(
    own_state: Path,
    own_trust: Path,
    tmp_path: Path,
    trust: Trust,
    release_of: Callable[..., ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    no_fsync: None,
    meter: RecordingMeter,
    statuses: Statuses,
) -> None:
    """With a tenant that has one of everything, and a key of all scopes."""
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    populated = populate(
        tmp_path, Store(own_state, None, trust), release_of, publish, signer, meter, auth=UNLIMITED
    )
    known = {
        "name": [MODEL, "other"],
        "version": ["1", "2"],
        "serial": ["1", "2"],
        "id": [populated.job],
    }
    document = populated.request("GET", f"{PREFIX}/openapi.json").json()
    client = populated.client
    key = {name.lower(): value for name, value in client.key_of("acme").items()}

    made = HostileRequests(document, SEED, known)
    client.loop.run(attack(client.app, made, {"host": "localhost", **key}, statuses, PREFIX))

    client.close()
    assert {200, 400, 401, 404, 409, 415, 422} <= statuses.keys()
