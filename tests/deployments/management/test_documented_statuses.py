"""Every status that the management contract documents occurs on its route, as documented."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from deployments.config.trusted_store import TrustedStore
from deployments.management.job_records import JobRecords
from deployments.management.openapi import PREFIX
from deployments.web.api_keys import Scope
from deployments.web.rate_limit import TokenBuckets
from ensemble.errors import ArtifactCorrupt
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef
from ensemble.store.signing import Signer, Trust
from tests.support.management import trust_the_key
from tests.support.populated_management import MODEL, PopulatedService, populate
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.training_rows import rows

Route = tuple[str, str]
ROW = {"bytes_transferred": 3000.0, "packet_count": 40, "connection_duration": 2.5}
OCTETS = {"Content-Type": "application/octet-stream"}
GOOD: Mapping[Route, Mapping[str, Any]] = {  # in an order in which each has something to do
    ("get", PREFIX): {},
    ("get", f"{PREFIX}/audit"): {},
    ("get", f"{PREFIX}/{{name}}/info"): {},
    ("get", f"{PREFIX}/{{name}}/versions"): {},
    ("get", f"{PREFIX}/{{name}}/versions/{{version}}/export"): {},
    ("post", f"{PREFIX}/{{name}}/load"): {},
    ("post", f"{PREFIX}/{{name}}/detect"): {"json": {"network_data": [ROW]}},
    ("put", f"{PREFIX}/{{name}}/challenger"): {"json": {"version": 2}},
    ("post", f"{PREFIX}/{{name}}/promote"): {"json": {"alias": "challenger"}},
    ("delete", f"{PREFIX}/{{name}}/challenger"): {},
    ("delete", f"{PREFIX}/{{name}}"): {"params": {"version": "1"}},
    ("get", f"{PREFIX}/releases"): {},
    ("get", f"{PREFIX}/challenger"): {},
    ("put", f"{PREFIX}/challenger"): {"json": {"release": 1}},
    ("post", f"{PREFIX}/releases/{{serial}}/promote"): {"json": {"at_once": True}},
    ("post", f"{PREFIX}/rollback"): {},
    ("delete", f"{PREFIX}/challenger"): {},
    ("post", f"{PREFIX}/train"): {"json": {"network_data": rows()}},
    ("get", f"{PREFIX}/jobs"): {},
    ("get", f"{PREFIX}/jobs/{{id}}"): {},
    ("delete", f"{PREFIX}/jobs/{{id}}"): {},
    ("post", f"{PREFIX}/import"): {"headers": OCTETS},
    ("post", f"{PREFIX}/retention"): {"json": {"keep": 1}},
}


@pytest.fixture
def store(own_state: Path, trust: Trust) -> Store:
    return Store(own_state, None, trust)


@pytest.fixture
def populated(
    own_trust: Path,
    tmp_path: Path,
    store: Store,
    release_of: Callable[..., ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    no_fsync: None,
    meter: RecordingMeter,
) -> Iterator[PopulatedService]:
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    made = populate(tmp_path, store, release_of, publish, signer, meter, auth={"stall_s": 0.0})
    yield made
    made.client.close()


@pytest.fixture
def contract(populated: PopulatedService) -> dict[str, Any]:
    found: dict[str, Any] = populated.client.request("GET", f"{PREFIX}/openapi.json").json()
    return found


def documented(contract: dict[str, Any]) -> Iterator[tuple[Route, str]]:
    return (
        ((method, path), status)
        for path, one in contract["paths"].items()
        for method, said in one.items()
        for status in said["responses"]
    )


def filled(path: str, job: str, *, name: str = MODEL, number: str = "1") -> str:
    return path.format(name=name, version=number, serial="2" if number == "1" else number, id=job)


def check(answer: httpx.Response, route: Route, status: str, contract: dict[str, Any]) -> None:
    method, path = route
    assert str(answer.status_code) == status, (route, answer.text[:300])
    said = contract["paths"][path][method]["responses"][status]
    media = answer.headers["content-type"].partition(";")[0]
    assert media in said["content"], route
    if media == "application/json":
        schema = said["content"][media]["schema"] | {"components": contract["components"]}
        jsonschema.validate(answer.json(), schema, cls=jsonschema.Draft202012Validator)
    assert {name for name in said.get("headers", ()) if name not in answer.headers} == set(), (
        route,
        status,
    )


def test_every_route_answers_what_is_right_as_the_contract_says(
    populated: PopulatedService, contract: dict[str, Any]
) -> None:
    found = {(route, status) for route, status in documented(contract) if status < "300"}
    public = {route for route, _ in found} - GOOD.keys()

    for route in public:
        check(populated.client.request(route[0], route[1]), route, "200", contract)
    for route, request in GOOD.items():
        (status,) = (status for one, status in found if one == route)
        content = {"content": populated.archive} if route[1].endswith("/import") else {}
        check(
            populated.request(route[0], filled(route[1], populated.job), **request, **content),
            route,
            status,
            contract,
        )
    assert {path for _, path in public} <= {
        path
        for path in contract["paths"]
        if path.startswith((f"{PREFIX}/docs", f"{PREFIX}/openapi"))
    }


Provoke = Callable[[PopulatedService, Route, dict[str, Any]], httpx.Response]


def at(populated: PopulatedService, route: Route) -> tuple[str, str]:
    return route[0], filled(route[1], populated.job)


def without_the_scope(
    populated: PopulatedService, route: Route, good: dict[str, Any]
) -> httpx.Response:
    contract = populated.client.request("GET", f"{PREFIX}/openapi.json").json()
    about = contract["paths"][route[1]][route[0]]["description"]
    (needed,) = (scope for scope in Scope if f"the scope `{scope}`" in about)
    return populated.request(*at(populated, route), without=needed, **good)


def too_often(populated: PopulatedService, route: Route, good: dict[str, Any]) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenBuckets, "consume", lambda *_: 7.0)
        return populated.request(*at(populated, route), **good)


def too_large(populated: PopulatedService, route: Route, good: dict[str, Any]) -> httpx.Response:
    limits = populated.client.settings.management
    content = b" " * (1 + (limits.max_import_bytes if "content" in good else limits.max_body_bytes))
    return populated.request(
        *at(populated, route), content=content, headers=good.get("headers", {})
    )


class Slow:
    """A body that does not come."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await asyncio.sleep(30.0)
        yield b""


def too_slowly(populated: PopulatedService, route: Route, good: dict[str, Any]) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deployments.web.body.GRACE_S", 0.0)
        return populated.request(
            *at(populated, route), content=Slow(), headers=good.get("headers", {})
        )


def of_what_is_absent(
    populated: PopulatedService, route: Route, good: dict[str, Any]
) -> httpx.Response:
    """Request a thing that does not exist, where the path names one.

    Else request as a tenant without models, or name another tenant.
    """
    method, path = route
    if "{" in path:
        return populated.request(
            method, filled(path, "0" * 32, name="nobodys", number="99"), **good
        )
    if path == PREFIX:
        return populated.request(method, path, params={"tenant_id": "banks"})
    if path.endswith("/train"):
        return populated.request(method, path, json=good["json"] | {"tenant_id": "banks"})
    return populated.request(method, path, tenant="banks", **good)


def while_the_store(fails: Exception) -> Provoke:
    """Of the models, and of the jobs, whose records the first request reads from disk."""

    def broken(*_: object) -> None:
        raise fails

    def ask(populated: PopulatedService, route: Route, good: dict[str, Any]) -> httpx.Response:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TrustedStore, "__call__", broken)
            patch.setattr(JobRecords, "recover", broken)
            patch.setattr(populated.client.manage._jobs, "_begun", None)
            return populated.request(*at(populated, route), **good)

    return ask


PROVOKED: Mapping[str, Provoke] = {
    "400": lambda populated, route, _: populated.request(*at(populated, route), content=b"{"),
    "401": lambda populated, route, good: populated.client.request(*at(populated, route), **good),
    "403": without_the_scope,
    "404": of_what_is_absent,
    "405": lambda populated, route, good: populated.request(route[0], f"{PREFIX}/train", **good),
    "408": too_slowly,
    "409": while_the_store(ArtifactCorrupt("CURRENT", "its digest is another")),
    "413": too_large,
    "415": lambda populated, route, _: populated.request(
        *at(populated, route), content=b"a=b", headers={"Content-Type": "text/plain"}
    ),
    "422": lambda populated, route, good: populated.request(
        *at(populated, route), **good | {"params": {"nonsense": "1"}}
    ),
    "429": too_often,
    "500": while_the_store(RuntimeError("hunter2")),
    "503": while_the_store(OSError(errno.EIO, "the disk fails")),
    "507": while_the_store(OSError(errno.ENOSPC, "the disk is full")),
}


@pytest.mark.parametrize("status", PROVOKED)
def test_every_documented_refusal_can_be_had_of_every_route(
    status: str, populated: PopulatedService, contract: dict[str, Any]
) -> None:
    routes = [route for route, said in documented(contract) if said == status and route in GOOD]

    assert routes
    for route in routes:
        content = {"content": populated.archive} if route[1].endswith("/import") else {}
        check(
            PROVOKED[status](populated, route, {**GOOD[route], **content}), route, status, contract
        )


def test_no_documented_refusal_is_forgotten_above(contract: dict[str, Any]) -> None:
    """The contract and its page are in memory: they fail only with the whole application."""
    assert {status for route, status in documented(contract) if route in GOOD} - {
        "200",
        "201",
        "202",
    } == PROVOKED.keys()
    assert {
        route
        for route, status in documented(contract)
        if route not in GOOD and status not in {"200", "500"}
    } == set()
