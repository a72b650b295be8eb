"""Tenants over HTTP (P10): no route, name or body reads, names, guesses or changes another's data.

The routes are taken from the application, so a new route is attacked too, or this fails.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config.settings import ROOT, read_settings
from deployments.management.openapi import PREFIX
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.aliases import Alias, set_model_alias
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.signing import Signer, Trust
from tests.support.management import ManagementClient, trust_the_key
from tests.support.publishing import NOW
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.tenant_pairs import HOMOGLYPHS
from tests.support.tenant_routes import BODIES, QUERIES, SAME_ID, escaped, routes_of

MINE, THEIRS, NOBODYS = "mine", "theirs", "nobodys"
HOSTILE = [
    "..", ".", "../theirs", "../../etc/passwd", "..\\theirs", "/etc/passwd", "theirs/..", "%2e%2e",
    "%252e%252e%252f", "*", "?", "[a-z]",
    "~", "$HOME",
    "theirs\0", "theirs\n", "theirs ", " theirs", "THEIRS",
    "theirs".translate(HOMOGLYPHS), "theirs\u0301", "theirs\u200b",
    "\uff54\uff48\uff45\uff49\uff52\uff53", "thei" + "r" * 251, "a" * 64,
    "-theirs", "_theirs", ".theirs", ".staging", "CON",
    "\u202esriehT",
    "theirs;rm -rf", "theirs'--", "{name}", "{{7*7}}", "null", "tenants/banks/bundles/theirs",
]  # fmt: skip
ALIKE = [
    "their",
    "theirs_b",
    "theirs-1",
    "theirs.",
    "theirs1",
    "mine_b",
]  # names that may be, of what is not there


@dataclass(frozen=True)
class World:
    """Two tenants of one service: acme, who asks, and banks, who has more of everything."""

    managed: ManagementClient
    store: Store

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = self.managed.key_of("acme") | SAME_ID
        return self.managed.request(method, path, headers=headers, **request)

    def seen_by_banks(self) -> dict[str, bytes]:
        """Every file of theirs; their part of the audit log too."""
        home = self.store.state / "tenants" / "banks"
        files = {
            str(path.relative_to(home)): path.read_bytes()
            for path in sorted(home.rglob("*"))
            if path.is_file()
        }
        lines = [
            line
            for line in (self.store.state / "audit.jsonl").read_bytes().splitlines()
            if b'"tenant":"banks"' in line
        ]
        return files | {"audit": b"\n".join(lines)}


@pytest.fixture
def world(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: Trust,
    signer: Signer,
    publish: Callable[..., BundleRef],
    no_fsync: None,
) -> Iterator[World]:
    del no_fsync
    list_of_trust = tmp_path / "trust.yaml"
    shipped = (ROOT / "configs" / "trust.yaml").read_text()
    list_of_trust.write_text(re.sub(r"(?m)^keys:.*\n(?:[ \t]+\S.*\n)*", "keys: {}\n", shipped))
    for variable, value in (
        ("STATE", tmp_path / "state"),
        ("TRUST", list_of_trust),
        ("SIGNING_KEY", tmp_path / "home" / "signing.key"),
    ):
        monkeypatch.setenv(f"AXON_{variable}", str(value))
    trust_the_key(list_of_trust, tmp_path / "home" / "signing.key", signer)
    store = Store(tmp_path / "state", None, trust)
    _fill(store, publish, signer, tenant="acme", model=MINE)
    _fill(store, publish, signer, tenant="banks", model=THEIRS)
    managed = ManagementClient(
        read_settings({"store": {"shipped": str(tmp_path / "artifacts")}}), RecordingMeter()
    )
    managed.key_of("acme")
    managed.open()
    yield World(managed, store)
    managed.close()


def _fill(
    store: Store, publish: Callable[..., BundleRef], signer: Signer, *, tenant: str, model: str
) -> None:
    """A model of two versions, of which the first serves; and, for banks, two releases."""
    first, _ = [publish(store, value, tenant=tenant, model=model) for value in (1.0, 2.0)]
    set_model_alias(
        store, Tenant(tenant), ModelName(model), Alias.CHAMPION, first, 0, signer=signer
    )
    if tenant == "banks":
        releases: list[ReleaseRef] = [
            publish_release(
                store,
                Tenant(tenant),
                [first],
                {"weights": {}},
                notes="secret",
                now=NOW,
                signer=signer,
            )
            for _ in range(2)
        ]
        promote(store, Tenant(tenant), releases[0], 0, signer=signer)


def ask(world: World, method: str, path: str, name: str, *, number: str = "1") -> httpx.Response:
    """Ask a route with `name` in the place of whatever it names."""
    key = f"{method} {path}"
    filled = (
        path.replace("{name}", escaped(name))
        .replace("{id}", escaped(name))
        .replace("{serial}", number)
    )
    filled = filled.replace("{version}", number)
    body = {"json": BODIES[key]} if key in BODIES else {}
    return world.request(method, PREFIX + filled, params=QUERIES.get(key), **body)


def test_every_route_answers_the_same_of_what_another_has_as_of_what_nobody_has(
    world: World,
) -> None:
    """To the byte, but for the request's id."""
    before = world.seen_by_banks()
    routes = routes_of(world.managed)

    for method, path in routes:
        foreign, absent = (ask(world, method, path, name) for name in (THEIRS, NOBODYS))
        assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content), (
            method,
            path,
        )
        assert foreign.status_code == 404, (method, path)
        assert "banks" not in foreign.text
    assert len(routes) >= 11
    assert world.seen_by_banks() == before


def test_a_release_of_another_tenant_is_no_release(world: World) -> None:
    """Acme has none: number 1 is theirs, number 7 nobody's."""
    for path in ("/models/releases/{}/promote", "/models/challenger"):
        method, answers = ("POST" if "promote" in path else "PUT"), []
        for number in (1, 7):
            body = {} if "promote" in path else {"json": {"release": number}}
            answers.append(world.request(method, path.format(number), **body))
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
    assert world.request("POST", "/models/rollback").status_code == 404
    assert world.request("GET", "/models/releases").json()["releases"] == []


def test_what_is_ones_own_is_found_by_the_same_routes(world: World) -> None:
    """Else the tests above would hold of an application that finds nothing."""
    own = {
        (method, path): ask(world, method, path, MINE, number="2").status_code
        for method, path in routes_of(world.managed)
        if "{name}" in path and not path.endswith(("/load", "/detect"))
    }
    deleted = world.request("DELETE", f"/models/{MINE}", params={"version": "2"})

    assert {
        status for (method, path), status in own.items() if (method, path) != ("DELETE", "/{name}")
    } == {200}
    assert deleted.status_code in (200, 409)  # by then it has been promoted, or not


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=ascii(name)[:40]) for name in [*HOSTILE, *ALIKE]]
)
def test_a_hostile_name_is_refused_or_found_nowhere_and_opens_no_file_of_others(
    world: World, name: str
) -> None:
    before = world.seen_by_banks()

    with opened_files() as opened:
        answers = {
            (method, path): ask(world, method, path, name)
            for method, path in routes_of(world.managed)
        }

    for (method, path), answer in answers.items():
        assert answer.status_code in (404, 422), (method, path, answer.status_code)
        assert answer.json()["error"].keys() <= {"code", "message", "field", "request_id"}
        assert "banks" not in answer.text
        assert str(world.store.state) not in answer.text
    for file in opened:
        assert ".." not in Path(file).parts, file
        assert not any(odd in file for odd in ("passwd", "banks/bundles", "\0")), file
    assert world.seen_by_banks() == before


@pytest.mark.parametrize(
    "number", ["0", "-1", "01", "1e3", "1.0", "x", "9" * 30, "1 ", "\u0661", "1\0", "..", "null"]
)
def test_a_number_that_is_none_is_refused(world: World, number: str) -> None:
    sent = escaped(number)

    for method, path in [
        ("POST", f"releases/{sent}/promote"),
        ("GET", f"{MINE}/versions/{sent}/export"),
    ]:
        assert world.request(method, f"/models/{path}").status_code == 422
    assert world.request("DELETE", f"/models/{MINE}", params={"version": number}).status_code == 422
    assert (
        world.request("GET", f"/models/{MINE}/info", params={"version": number}).status_code == 422
    )


NAMING_OTHERS = [
    pytest.param("GET", "/models?tenant_id=banks", None, id="in the query"),
    pytest.param(
        "POST", "/models/train", {"network_data": [{}], "tenant_id": "banks"}, id="in the body"
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), NAMING_OTHERS)
def test_who_names_another_tenant_hears_what_who_names_none_hears(
    world: World, method: str, path: str, body: Any
) -> None:
    foreign = world.request(method, path, json=body)
    absent = world.request(
        method, path.replace("banks", "nobodys"), json=body and {**body, "tenant_id": "nobodys"}
    )

    assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content)
    assert foreign.status_code == 404


@pytest.mark.parametrize(
    "header", ["X-Tenant", "X-Tenant-Id", "X-Axon-Tenant", "X-Forwarded-User", "Tenant"]
)
def test_no_header_makes_somebody_of_another_tenant(world: World, header: str) -> None:
    headers = world.managed.key_of("acme") | {header: "banks"}

    listed = world.managed.request("GET", "/models", headers=headers).json()

    assert {model["tenant_id"] for model in listed["models"]} == {"acme"}


# -- what is opened

_LISTENING: list[list[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENING:
        _LISTENING[-1].append(str(arguments[0]))


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """The names by which this process opens files, in whatever thread."""
    if _hear not in _HOOKED:
        _HOOKED.append(_hear)
        sys.addaudithook(_hear)  # for ever: Python takes none away
    heard: list[str] = []
    _LISTENING.append(heard)
    try:
        yield heard
    finally:
        _LISTENING.remove(heard)


_HOOKED: list[Callable[[str, tuple[Any, ...]], None]] = []
