"""Authentication (P30).

A request without a valid key is refused; a key allows what its scopes name, for its own tenant; and
no caller learns which keys exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from deployments.web.api_keys import Key, Scope
from deployments.web.auth import BODIES_AT_ONCE, Authenticator, Caller, caller_of
from deployments.web.browser_guard import BrowserGuard
from deployments.web.contract import Answer
from deployments.web.errors import as_json
from deployments.web.key_ring import KeyRing
from deployments.web.rate_limit import Tarpit
from deployments.web.routes import AuthenticatedApp, Endpoint, ScopedRoute
from ensemble.errors import RateLimited
from ensemble.store.names import Tenant
from tests.support.asgi_clients import AsgiClient
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter

ACME, DEFAULT = Tenant("acme"), Tenant("default")
GOOD = "axon_0badcafe_" + "g" * 43
BEARER = {"Authorization": f"Bearer {GOOD}"}


class Ring:
    """One key of the tenant acme with the scope `score`."""

    def __init__(self) -> None:
        self.looked_for: list[str] = []
        self.scopes = frozenset({Scope.SCORE})

    def reload(self) -> None: ...

    def log_problem(self, error: Exception) -> None: ...

    def find(self, token: str) -> Key | None:
        self.looked_for.append(token)
        return (
            Key("0badcafe", "", ACME, self.scopes, "0" * 64, 0.0, None, None)
            if token == GOOD
            else None
        )


class Limits:
    """A limit that admits requests until a test sets a wait."""

    def __init__(self) -> None:
        self.wait_s, self.taken, self.debits = 0.0, [], []

    def consume(self, tenant: Tenant, cost: float = 1.0) -> float:
        self.taken.append((tenant, cost))
        return self.wait_s

    def debit(self, tenant: Tenant, cost: float) -> None:
        self.debits.append((tenant, cost))


def _route(
    path: str, endpoint: Endpoint, needs: Scope | None, methods: Sequence[str] = ("GET",)
) -> ScopedRoute:
    answers = {200: Answer(dict)}
    return ScopedRoute(
        path, endpoint, needs=needs, methods=methods, tag="tests", summary=path, answers=answers
    )


class Pieces:
    """A body of 500 bytes that is sent without a length."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for size in (300, 200):
            yield b"x" * size


class World:
    """A small application behind authentication."""

    def __init__(self, meter: RecordingMeter, *, is_off: bool = False) -> None:
        self.ring, self.limits, self.unauthenticated, self.stalled = Ring(), Limits(), Limits(), 0
        ring = None if is_off else self.ring
        self.authenticator = Authenticator(
            ring,
            self.limits,
            unauthenticated=self.unauthenticated,
            tarpit=Tarpit(0.5, sleep=self._stall),
            anonymous=DEFAULT,
            meter=meter,
            bytes_per_request=1000,
        )
        self.callers: list[Caller] = []
        self.app = AuthenticatedApp(
            self.authenticator,
            guard=BrowserGuard(frozenset(), None),
            routes=[
                _route("/health", self._public, None),
                _route("/score", self._seen, Scope.SCORE, methods=["POST"]),
                _route("/switch", self._seen, Scope.MANAGE, methods=["POST"]),
            ],
        )
        self.asked = AsgiClient(self.app)

    async def _stall(self, _: float) -> None:
        self.stalled += 1

    async def _public(self, _: Request) -> Response:
        return as_json({"public": True})

    async def _seen(self, request: Request) -> Response:
        await request.body()
        self.callers.append(caller_of(request.scope))
        return as_json({"seen": True})

    def post(self, path: str, headers: Any = None) -> httpx.Response:
        return self.asked.request("POST", path, headers=headers)


@pytest.fixture
def world(meter: RecordingMeter) -> Iterator[World]:
    made = World(meter)
    yield made
    made.asked.close()


def test_a_good_key_is_let_in_as_its_own_tenant(world: World) -> None:
    assert world.post("/score", BEARER).status_code == 200
    assert world.callers == [Caller(ACME, frozenset({Scope.SCORE}), "0badcafe")]


WRONG = [
    pytest.param({}, id="no key"),
    pytest.param({"Authorization": f"Bearer {GOOD[:-1]}x"}, id="another secret"),
    pytest.param({"Authorization": f"Bearer {GOOD} "}, id="a blank behind it"),
    pytest.param({"Authorization": f"Basic {GOOD}"}, id="another scheme"),
    pytest.param({"Authorization": GOOD}, id="no scheme"),
    pytest.param({"Authorization": "Bearer"}, id="no token"),
    pytest.param({"Authorization": "Bearer " + "A" * (1 << 20)}, id="a token of 1 MiB"),
    pytest.param({"Authorization": "Bearer \xe4\xf6"}, id="a token that is no ASCII"),
    pytest.param(
        [("Authorization", f"Bearer {GOOD}"), ("Authorization", f"Bearer {GOOD}")], id="two headers"
    ),
    pytest.param({"X-Api-Key": GOOD}, id="in another header"),
]


@pytest.mark.parametrize("headers", WRONG)
@pytest.mark.parametrize("path", ["/score", "/switch", "/no/such/path", "/health/"])
def test_whatever_is_wrong_with_a_key_the_answer_is_one_and_the_same(
    world: World, headers: Any, path: str
) -> None:
    """P30, I8: a caller learns neither which keys exist nor which paths."""
    pairs = headers.items() if isinstance(headers, dict) else headers

    answer = world.post(path, [(name.encode(), value.encode("latin-1")) for name, value in pairs])

    body = answer.json()["error"]
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert (body["code"], body["message"]) == (
        "UNAUTHORIZED",
        "an API key is needed: Authorization: Bearer axon_...; `axon keys create` makes one",
    )
    assert body.keys() == {"code", "message", "request_id"}
    assert world.callers == []


def test_a_key_in_the_query_is_no_key(world: World) -> None:
    assert world.post(f"/score?access_token={GOOD}&key={GOOD}").status_code == 401


def test_a_scope_that_is_lacking_is_named_and_a_missing_path_is_told_to_who_has_a_key(
    world: World, meter: RecordingMeter
) -> None:
    answer = world.post("/switch", BEARER)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "FORBIDDEN")
    assert "`manage`" in answer.json()["error"]["message"]
    assert meter.total("axon_requests_refused_total", code="FORBIDDEN") == 1
    assert world.post("/no/such/path", BEARER).status_code == 404


def test_what_is_public_needs_no_key_and_no_limit(world: World) -> None:
    world.limits.wait_s = 3.0

    assert world.asked.request("GET", "/health").status_code == 200
    assert world.ring.looked_for == []


def test_over_the_rate_nothing_of_the_body_is_read_and_the_time_is_told(world: World) -> None:
    world.limits.wait_s = 3.0

    answer = world.post("/score", BEARER)

    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (
        429,
        "RATE_LIMITED",
        "3",
    )
    assert world.limits.taken == [(ACME, 1.0)]
    assert world.callers == []
    assert world.stalled == 1


def test_nobody_within_the_rate_waits(world: World) -> None:
    """Neither a caller that lacks a scope nor one with a mistyped key waits."""
    for path, headers in (("/score", BEARER), ("/switch", BEARER), ("/score", {})):
        world.post(path, headers)

    assert world.stalled == 0


def test_who_knocks_too_often_without_a_key_is_refused_late_and_no_tenant_pays(
    world: World,
) -> None:
    world.unauthenticated.wait_s = 1.0

    assert world.post("/score").status_code == 401
    assert (world.stalled, world.limits.taken) == (1, [])
    assert world.post("/score", BEARER).status_code == 200


async def test_a_batch_is_charged_for_the_rest_of_its_events(world: World) -> None:
    caller = Caller(ACME, frozenset(), "0badcafe")

    await world.authenticator.consume(caller, 1)
    await world.authenticator.consume(caller, 101)
    assert world.limits.taken == [(ACME, 5.0)]

    world.limits.wait_s = 2.0
    with pytest.raises(RateLimited):
        await world.authenticator.consume(caller, 2)
    assert world.stalled == 1


@pytest.mark.parametrize(
    ("body", "debited"),
    [
        pytest.param(b"x" * 16_384, 0.0, id="small"),
        pytest.param(b"x" * 32_000, 32.0, id="large"),
        pytest.param(Pieces(), 0.5, id="without a length"),
    ],
)
def test_a_tenant_pays_for_the_bytes_that_it_sends(
    world: World, body: bytes | Pieces, debited: float
) -> None:
    """B10: eight mebibytes cost as much as one event, and took the time of a hundred."""
    world.asked.request("POST", "/score", content=body, headers=BEARER)

    assert sum(cost for _, cost in world.limits.debits) == debited
    assert {tenant for tenant, _ in world.limits.debits} <= {ACME}
    assert world.limits.taken == [(ACME, 1.0)]


async def test_a_tenant_sends_a_few_large_bodies_at_a_time(world: World) -> None:
    """I9: 1,100 slow bodies with one key held every place of a replica."""
    open_bodies = ExitStack()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    def request(announced: bytes = b"20000") -> dict[str, Any]:
        length = (b"content-length", announced)
        key = (b"authorization", BEARER["Authorization"].encode())
        return {"type": "http", "method": "POST", "path": "/score", "headers": [length, key]}

    for _ in range(BODIES_AT_ONCE):
        scope = request()
        assert await world.authenticator.authenticate(scope) is None
        last = open_bodies.enter_context(world.authenticator.metered(scope, receive))

    for length in (b"20000", b"0" * 30 + b"20000", b"9" * 30):
        refusal = await world.authenticator.authenticate(request(length))
        assert refusal is not None
        assert (refusal.status_code, refusal.headers["Retry-After"]) == (429, "1")
    assert await world.authenticator.authenticate(request(b"100")) is None

    await last()  # one has come whole
    assert await world.authenticator.authenticate(request()) is None
    open_bodies.close()
    assert world.authenticator._bodies == {}


def test_with_keys_off_everybody_is_the_generic_tenant_with_every_scope_and_no_limit(
    meter: RecordingMeter,
) -> None:
    world = World(meter, is_off=True)
    world.limits.wait_s = 9.0

    assert [world.post(path).status_code for path in ("/score", "/switch")] == [200, 200]
    assert {(caller.tenant, caller.scopes) for caller in world.callers} == {
        (DEFAULT, frozenset(Scope))
    }
    asyncio.run(world.authenticator.consume(world.callers[0], 1000))
    world.asked.close()


def test_refusals_are_counted_and_told_without_a_key(
    world: World, meter: RecordingMeter, recorded_log: RecordedLog
) -> None:
    world.post("/score", {"Authorization": "Bearer axon_0badcafe_secret"})
    world.post("/score")
    world.limits.wait_s = 1.0
    world.post("/score", BEARER)

    assert meter.total("axon_requests_refused_total", code="UNAUTHORIZED") == 2
    assert meter.total("axon_requests_refused_total", code="RATE_LIMITED") == 1
    said = recorded_log("request_refused")
    assert [(one["code"], one["tenant"]) for one in said] == [
        ("UNAUTHORIZED", ""),
        ("RATE_LIMITED", "acme"),
    ]
    assert "secret" not in str(said)
    assert GOOD not in str(said)


async def test_a_reload_that_fails_with_any_error_is_logged_once(
    meter: RecordingMeter,
    recorded_log: RecordedLog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not once a second; and with the fields that the runbook names."""
    reloads: list[int] = []

    def broken(_: Path) -> bytes:
        reloads.append(1)
        raise RuntimeError("a bug")

    monkeypatch.setattr("deployments.web.key_ring.read_key_file", broken)
    monkeypatch.setattr("deployments.web.auth.RELOAD_EVERY_S", 0.001)
    authenticator = Authenticator(
        KeyRing(tmp_path / "keys.json"),
        Limits(),
        unauthenticated=Limits(),
        tarpit=Tarpit(0.5),
        anonymous=DEFAULT,
        meter=meter,
        bytes_per_request=1000,
    )

    await authenticator.start()
    async with asyncio.timeout(20.0):
        while len(reloads) < 3:  # noqa: ASYNC110  # what is waited for is a thread
            await asyncio.sleep(0.001)
    await authenticator.stop()

    (logged,) = recorded_log("keys_unreadable")
    assert (logged["code"], logged["error"], logged["action"]) == (
        "INTERNAL_ERROR",
        "RuntimeError",
        "refusing_all_keys",
    )


def test_behind_a_prefix_the_public_paths_are_still_those_of_the_application(world: World) -> None:
    """Serve passes the whole path and the prefix of the application."""
    answer = world.asked.request("GET", "/models/health", root_path="/models")

    assert answer.status_code == 200
    assert world.asked.request("GET", "/modelshealth", root_path="/models").status_code == 401
