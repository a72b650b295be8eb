"""Authentication matrix (P30): every route of both applications with every kind of key.

Routes and scopes are read from the applications, so a new route is in the matrix too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from deployments.config.settings import read_settings
from deployments.management.openapi import PREFIX
from deployments.web.api_keys import Scope, create_key, revoke_key
from deployments.web.routes import ScopedRoute
from ensemble.store.names import Tenant
from tests.support.asgi_clients import LONG_DEADLINE, IngressClient, OpenIngress
from tests.support.management import ManagementClient
from tests.support.recorded_telemetry import RecordingMeter

ACME = Tenant("acme")
WITH_KEYS = LONG_DEADLINE | {
    "auth": {"mode": "keys", "requests_per_s": 1e6, "burst": 1e6, "stall_s": 0.0}
}
SAME_ID = {"X-Request-ID": "the-same"}


@dataclass(frozen=True)
class Keys:
    """One header of each kind."""

    refused: Mapping[str, Mapping[str, str]]
    with_scopes: Callable[..., Mapping[str, str]]


@pytest.fixture
def keys(own_state: Any) -> Keys:
    """Made before an application opens, as a replica reads them when it starts."""
    del own_state
    path, now = read_settings().keys, time.time()

    def made(*scopes: Scope, expires_at: float | None = None, at: float = now) -> tuple[str, str]:
        key, token = create_key(path, ACME, scopes, "", expires_at, at)
        return key.id, token

    tokens = {frozenset({scope}): made(scope)[1] for scope in Scope} | {
        frozenset(Scope) - {scope}: made(*(other for other in Scope if other is not scope))[1]
        for scope in Scope
    }
    good = tokens[frozenset({Scope.SCORE})]
    _, expired = made(*Scope, expires_at=now - 10.0, at=now - 100.0)
    revoked_id, revoked = made(*Scope)
    revoke_key(path, revoked_id, now)
    bearer = {
        "malformed": "axon_",
        "of nobody": "axon_00000000_" + "x" * 43,
        "of a known id with another secret": good[: len("axon_00000000_")] + "x" * 43,
        "cut": good[:-1],
        "longer": good + "x",
        "expired": expired,
        "revoked": revoked,
        "very long": "axon_" + "x" * 60_000,
    }
    refused = {name: {"Authorization": f"Bearer {token}"} for name, token in bearer.items()}
    refused |= {
        "none": {},
        "of another scheme": {"Authorization": f"Basic {good}"},
        "in no header of its own": {"X-Api-Key": good},
    }
    return Keys(refused, lambda *scopes: {"Authorization": f"Bearer {tokens[frozenset(scopes)]}"})


Ask = Callable[..., httpx.Response]


@pytest.fixture
def scoring(keys: Keys, open_client: OpenIngress) -> tuple[Any, Ask]:
    del keys
    client: IngressClient = open_client(overrides=WITH_KEYS)
    return client.app, client.request


@pytest.fixture
def managing(keys: Keys, meter: RecordingMeter) -> Iterator[tuple[Any, Ask]]:
    del keys
    managed = ManagementClient(read_settings(WITH_KEYS), meter)
    managed.open()
    yield (
        managed.app,
        lambda method, path, **request: managed.request(method, PREFIX + path, **request),
    )
    managed.close()


@pytest.fixture(params=["scoring", "managing"])
def application(request: pytest.FixtureRequest) -> tuple[Any, Ask]:
    return request.getfixturevalue(str(request.param))  # type: ignore[no-any-return]


def routes(app: Any) -> list[tuple[str, str, Scope | None]]:
    """Method, a path of it, and the scope that it needs."""
    assert all(isinstance(route, ScopedRoute) for route in app.routes), (
        "a route that the gate does not know"
    )
    found = [
        (method, _path(route.path), route.needs)
        for route in app.routes
        for method in sorted(route.methods or ())
    ]
    assert len(found) > 20
    return found


def _path(pattern: str) -> str:
    return re.sub(r"{[^}]*}", "1", pattern)


def test_without_a_living_key_every_route_that_needs_one_answers_the_same(
    application: tuple[Any, Ask], keys: Keys
) -> None:
    """401, to the byte, and nothing of why.

    Whether a key exists, is over or is withdrawn is nobody's business.
    """
    app, ask = application
    answers: set[tuple[bytes, str]] = set()

    for method, path, needs in routes(app):
        for kind, header in keys.refused.items():
            answer = ask(method, path, headers=header | SAME_ID)
            if needs is None:
                assert answer.status_code in {200, 503}, (method, path, kind)
            else:
                assert answer.status_code == 401, (method, path, kind)
                answers.add(
                    (
                        answer.content if method != "HEAD" else b"",
                        answer.headers["WWW-Authenticate"],
                    )
                )

    assert len({content for content, _ in answers if content}) == 1
    assert len({challenge for _, challenge in answers}) == 1


def test_a_key_opens_what_its_scope_says_and_nothing_else(
    application: tuple[Any, Ask], keys: Keys
) -> None:
    """With every scope but the one that is needed.

    403. With that one alone: whatever the route itself says.
    """
    app, ask = application

    for method, path, needs in routes(app):
        if needs is None:
            continue
        without = keys.with_scopes(*(scope for scope in Scope if scope is not needs))
        refused, let_in = (
            ask(method, path, headers=without),
            ask(method, path, headers=keys.with_scopes(needs)),
        )
        assert refused.status_code == 403, (method, path)
        assert let_in.status_code not in {401, 403, 500}, (method, path, let_in.text)


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND", "GET", "POST"])
def test_what_is_no_route_tells_a_stranger_nothing(
    application: tuple[Any, Ask], method: str
) -> None:
    """A path is not found out by asking: without a key, absent and present are the same."""
    _, ask = application

    assert ask(method, "/no/such/route").status_code == 401
