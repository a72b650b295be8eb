"""Tenants over HTTP (P10): no route, name or body reads, names, guesses or changes another's data.

The routes are read from the application, so a new route is attacked too, or a test fails.
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

MINE, THEIRS, ABSENT = "mine", "theirs", "absent"
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
]  # valid names of absent models


@dataclass(frozen=True)
class TwoTenants:
    """Two tenants of one service: acme, which attacks, and banks, which has models and releases."""

    client: ManagementClient
    store: Store

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        headers = self.client.key_of("acme") | SAME_ID
        return self.client.request(method, path, headers=headers, **request)

    def data_of_banks(self) -> dict[str, bytes]:
        """Read every file of banks, and its lines of the audit log."""
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
def tenants(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trust: Trust,
    signer: Signer,
    publish: Callable[..., BundleRef],
    no_fsync: None,
) -> Iterator[TwoTenants]:
    del no_fsync
    trust_list = tmp_path / "trust.yaml"
    shipped = (ROOT / "configs" / "trust.yaml").read_text()
    trust_list.write_text(re.sub(r"(?m)^keys:.*\n(?:[ \t]+\S.*\n)*", "keys: {}\n", shipped))
    for variable, value in (
        ("STATE", tmp_path / "state"),
        ("TRUST", trust_list),
        ("SIGNING_KEY", tmp_path / "home" / "signing.key"),
    ):
        monkeypatch.setenv(f"AXON_{variable}", str(value))
    trust_the_key(trust_list, tmp_path / "home" / "signing.key", signer)
    store = Store(tmp_path / "state", None, trust)
    _fill(store, publish, signer, tenant="acme", model=MINE)
    _fill(store, publish, signer, tenant="banks", model=THEIRS)
    client = ManagementClient(
        read_settings({"store": {"shipped": str(tmp_path / "artifacts")}}), RecordingMeter()
    )
    client.key_of("acme")
    client.open()
    yield TwoTenants(client, store)
    client.close()


def _fill(
    store: Store, publish: Callable[..., BundleRef], signer: Signer, *, tenant: str, model: str
) -> None:
    """Publish two versions of a model, the first as champion; and two releases of banks."""
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


def send(
    tenants: TwoTenants, method: str, path: str, name: str, *, number: str = "1"
) -> httpx.Response:
    """Send a request to a route with `name` in its path."""
    key = f"{method} {path}"
    filled = (
        path.replace("{name}", escaped(name))
        .replace("{id}", escaped(name))
        .replace("{serial}", number)
    )
    filled = filled.replace("{version}", number)
    body = {"json": BODIES[key]} if key in BODIES else {}
    return tenants.request(method, PREFIX + filled, params=QUERIES.get(key), **body)


def test_every_route_responds_the_same_for_a_model_of_another_tenant_and_an_absent_one(
    tenants: TwoTenants,
) -> None:
    """With the same bytes, for the same request id."""
    before = tenants.data_of_banks()
    routes = routes_of(tenants.client)

    for method, path in routes:
        foreign, absent = (send(tenants, method, path, name) for name in (THEIRS, ABSENT))
        assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content), (
            method,
            path,
        )
        assert foreign.status_code == 404, (method, path)
        assert "banks" not in foreign.text
    assert len(routes) >= 11
    assert tenants.data_of_banks() == before


def test_a_release_of_another_tenant_is_not_found(tenants: TwoTenants) -> None:
    """Acme has no release: number 1 is of banks, number 7 of no tenant."""
    for path in ("/models/releases/{}/promote", "/models/challenger"):
        method, answers = ("POST" if "promote" in path else "PUT"), []
        for number in (1, 7):
            body = {} if "promote" in path else {"json": {"release": number}}
            answers.append(tenants.request(method, path.format(number), **body))
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
    assert tenants.request("POST", "/models/rollback").status_code == 404
    assert tenants.request("GET", "/models/releases").json()["releases"] == []


def test_the_same_routes_find_the_models_of_the_tenant(tenants: TwoTenants) -> None:
    """Otherwise the tests above would pass with an application that finds nothing."""
    own = {
        (method, path): send(tenants, method, path, MINE, number="2").status_code
        for method, path in routes_of(tenants.client)
        if "{name}" in path and not path.endswith(("/load", "/detect"))
    }
    deleted = tenants.request("DELETE", f"/models/{MINE}", params={"version": "2"})

    assert {
        status for (method, path), status in own.items() if (method, path) != ("DELETE", "/{name}")
    } == {200}
    assert deleted.status_code in (200, 409)  # 409 if a route has promoted it before


@pytest.mark.parametrize(
    "name", [pytest.param(name, id=ascii(name)[:40]) for name in [*HOSTILE, *ALIKE]]
)
def test_a_hostile_name_is_rejected_or_not_found_and_opens_no_file_of_others(
    tenants: TwoTenants, name: str
) -> None:
    before = tenants.data_of_banks()

    with opened_files() as opened:
        answers = {
            (method, path): send(tenants, method, path, name)
            for method, path in routes_of(tenants.client)
        }

    for (method, path), answer in answers.items():
        assert answer.status_code in (404, 422), (method, path, answer.status_code)
        assert answer.json()["error"].keys() <= {"code", "message", "field", "request_id"}
        assert "banks" not in answer.text
        assert str(tenants.store.state) not in answer.text
    for file in opened:
        assert ".." not in Path(file).parts, file
        assert not any(odd in file for odd in ("passwd", "banks/bundles", "\0")), file
    assert tenants.data_of_banks() == before


@pytest.mark.parametrize(
    "number", ["0", "-1", "01", "1e3", "1.0", "x", "9" * 30, "1 ", "\u0661", "1\0", "..", "null"]
)
def test_an_invalid_number_is_rejected(tenants: TwoTenants, number: str) -> None:
    sent = escaped(number)

    for method, path in [
        ("POST", f"releases/{sent}/promote"),
        ("GET", f"{MINE}/versions/{sent}/export"),
    ]:
        assert tenants.request(method, f"/models/{path}").status_code == 422
    assert (
        tenants.request("DELETE", f"/models/{MINE}", params={"version": number}).status_code == 422
    )
    assert (
        tenants.request("GET", f"/models/{MINE}/info", params={"version": number}).status_code
        == 422
    )


NAMING_OTHERS = [
    pytest.param("GET", "/models?tenant_id=banks", None, id="in the query"),
    pytest.param(
        "POST", "/models/train", {"network_data": [{}], "tenant_id": "banks"}, id="in the body"
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), NAMING_OTHERS)
def test_a_request_that_names_another_tenant_gets_the_response_for_an_absent_one(
    tenants: TwoTenants, method: str, path: str, body: Any
) -> None:
    foreign = tenants.request(method, path, json=body)
    absent = tenants.request(
        method, path.replace("banks", "absent"), json=body and {**body, "tenant_id": "absent"}
    )

    assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content)
    assert foreign.status_code == 404


@pytest.mark.parametrize(
    "header", ["X-Tenant", "X-Tenant-Id", "X-Axon-Tenant", "X-Forwarded-User", "Tenant"]
)
def test_no_header_changes_the_tenant_of_a_caller(tenants: TwoTenants, header: str) -> None:
    headers = tenants.client.key_of("acme") | {header: "banks"}

    listed = tenants.client.request("GET", "/models", headers=headers).json()

    assert {model["tenant_id"] for model in listed["models"]} == {"acme"}


# -- opened files

_RECORDINGS: list[list[str]] = []


def _record_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _RECORDINGS:
        _RECORDINGS[-1].append(str(arguments[0]))


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Record the names by which any thread of this process opens files."""
    if _record_open not in _HOOKED:
        _HOOKED.append(_record_open)
        sys.addaudithook(_record_open)  # Python cannot remove a hook
    names: list[str] = []
    _RECORDINGS.append(names)
    try:
        yield names
    finally:
        _RECORDINGS.remove(names)


_HOOKED: list[Callable[[str, tuple[Any, ...]], None]] = []
