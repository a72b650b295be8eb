"""Two tenants of any names over HTTP (P10, N-14): no response to one has data of the other.

The name pairs are those of test_store_tenants.py. `make verify` tries ten thousand of them.
"""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings

from deployments.config.settings import read_settings
from deployments.management.openapi import PREFIX
from deployments.web.api_keys import Scope, create_key
from ensemble.errors import MalformedEvent
from ensemble.store.names import ModelName, Tenant
from tests.support.management import ManagementClient
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.tenant_pairs import SIGNER, pairs, populated_store
from tests.support.tenant_routes import BODIES, QUERIES, SAME_ID, escaped, routes_of

PAIRS = 10_000 if settings.default and settings.default.max_examples >= 10_000 else 40
LISTS = {  # route -> field with the items of the tenant
    "": "models",
    "/releases": "releases",
    "/audit": "entries",
    "/jobs": "jobs",
}
pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def trust_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trust list with the key that signs the populated store."""
    path = tmp_path_factory.mktemp("trust") / "trust.yaml"
    path.write_text(
        f"keys:\n  {SIGNER.key_id}: {base64.b64encode(SIGNER.public).decode()}\npinned: {{}}\n"
    )
    return path


@settings(max_examples=PAIRS)
@example(("a", "a_b"))
@example(("a_b", "a"))
@given(pairs)
def test_no_response_has_data_of_another_tenant_whatever_the_names(
    trust_list: Path, pair: tuple[str, str]
) -> None:
    try:
        owner, guest = Tenant(pair[0]), Tenant(pair[1])
        model = ModelName(owner)
    except MalformedEvent:
        return  # a tenant cannot have such a name
    if owner == guest:
        return
    with populated_store(owner, model) as (store, ref, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXON_STATE", str(store.state))
        patch.setenv("AXON_TRUST", str(trust_list))
        home = store.state / "tenants" / owner
        before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        known = read_settings({"store": {"shipped": str(store.state / "none")}})
        theirs, own = (
            {"Authorization": f"Bearer {token}"}
            for tenant in (owner, guest)
            for token in [create_key(known.keys, tenant, Scope, "", None, time.time())[1]]
        )
        client = ManagementClient(known, RecordingMeter())
        client.open()
        try:
            for path, field in LISTS.items():
                assert client.request("GET", PREFIX + path, headers=own).json()[field] == [], path
            for method, path in routes_of(client):
                foreign, absent = (
                    request(client, method, path, own, name, number)
                    for name, number in ((model, ref.version), ("no-such-model", 999))
                )
                assert (foreign.status_code, foreign.content) == (
                    absent.status_code,
                    absent.content,
                ), (method, path)
                assert foreign.status_code == 404, (method, path)
            assert [
                one["name"]
                for one in client.request("GET", PREFIX, headers=theirs).json()["models"]
            ] == [model]  # visible to its owner
        finally:
            client.close()
        assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def request(
    client: ManagementClient,
    method: str,
    path: str,
    headers: dict[str, str],
    name: str,
    number: int,
) -> httpx.Response:
    """Send a request to a route with `name` and `number` in its path."""
    key = f"{method} {path}"
    at = path.format(name=escaped(name), id=escaped(name), serial=number, version=number)
    body: dict[str, Any] = {"json": BODIES[key]} if key in BODIES else {}
    return client.request(
        method, PREFIX + at, headers=headers | SAME_ID, params=QUERIES.get(key), **body
    )
