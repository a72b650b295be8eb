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
    """Headers with every kind of key.

    Attributes:
        refused: kind -> a header that is no valid key.
        with_scopes: makes a header with a key of the given scopes.
    """

    refused: Mapping[str, Mapping[str, str]]
    with_scopes: Callable[..., Mapping[str, str]]


@pytest.fixture
def keys(own_state: Any) -> Keys:
    """Keys in the key file, before an application opens and reads them."""
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
        "of no tenant": "axon_00000000_" + "x" * 43,
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
        "in another header": {"X-Api-Key": good},
    }
    return Keys(refused, lambda *scopes: {"Authorization": f"Bearer {tokens[frozenset(scopes)]}"})


Send = Callable[..., httpx.Response]


@pytest.fixture
def scoring(keys: Keys, open_client: OpenIngress) -> tuple[Any, Send]:
    del keys
    client: IngressClient = open_client(overrides=WITH_KEYS)
    return client.app, client.request


@pytest.fixture
def managing(keys: Keys, meter: RecordingMeter) -> Iterator[tuple[Any, Send]]:
    del keys
    client = ManagementClient(read_settings(WITH_KEYS), meter)
    client.open()
    yield (
        client.app,
        lambda method, path, **request: client.request(method, PREFIX + path, **request),
    )
    client.close()


@pytest.fixture(params=["scoring", "managing"])
def application(request: pytest.FixtureRequest) -> tuple[Any, Send]:
    return request.getfixturevalue(str(request.param))  # type: ignore[no-any-return]


def routes(app: Any) -> list[tuple[str, str, Scope | None]]:
    """List method, a path and the needed scope of every route."""
    assert all(isinstance(route, ScopedRoute) for route in app.routes), "a route without a scope"
    found = [
        (method, _path(route.path), route.needs)
        for route in app.routes
        for method in sorted(route.methods or ())
    ]
    assert len(found) > 20
    return found


def _path(pattern: str) -> str:
    return re.sub(r"{[^}]*}", "1", pattern)


def test_without_a_valid_key_every_route_that_needs_one_responds_the_same(
    application: tuple[Any, Send], keys: Keys
) -> None:
    """401 with the same bytes: no caller learns whether a key is absent, expired or revoked."""
    app, send = application
    responses: set[tuple[bytes, str]] = set()

    for method, path, needs in routes(app):
        for kind, header in keys.refused.items():
            response = send(method, path, headers=header | SAME_ID)
            if needs is None:
                assert response.status_code in {200, 503}, (method, path, kind)
            else:
                assert response.status_code == 401, (method, path, kind)
                responses.add(
                    (
                        response.content if method != "HEAD" else b"",
                        response.headers["WWW-Authenticate"],
                    )
                )

    assert len({content for content, _ in responses if content}) == 1
    assert len({challenge for _, challenge in responses}) == 1


def test_a_scope_allows_its_routes_and_no_others(application: tuple[Any, Send], keys: Keys) -> None:
    """403 with every scope except the needed one; with only that one, the route responds."""
    app, send = application

    for method, path, needs in routes(app):
        if needs is None:
            continue
        without = keys.with_scopes(*(scope for scope in Scope if scope is not needs))
        refused, allowed = (
            send(method, path, headers=without),
            send(method, path, headers=keys.with_scopes(needs)),
        )
        assert refused.status_code == 403, (method, path)
        assert allowed.status_code not in {401, 403, 500}, (method, path, allowed.text)


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND", "GET", "POST"])
def test_without_a_key_an_unknown_route_responds_like_a_known_one(
    application: tuple[Any, Send], method: str
) -> None:
    """A caller without a key cannot discover the routes."""
    _, send = application

    assert send(method, "/no/such/route").status_code == 401
