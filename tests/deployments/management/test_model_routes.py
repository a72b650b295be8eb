"""Models over HTTP.

What a tenant has and inherits, which version serves, what is deleted; and that each action is in
the audit log.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.config.settings import read_settings
from ensemble.store.files import atomic
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.operations.archive import export_bundle
from ensemble.store.releases.aliases import Alias, set_model_alias
from ensemble.store.signing import Signer, Trust
from tests.support.management import ManagementClient, trust_the_key
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter

MODEL = "tab"
OCTETS = {"Content-Type": "application/octet-stream"}
SAID = {
    "recipe": "toy",
    "data_sha256": "0" * 64,
    "seed": 7,
    "rows": 3,
    "model_type": "Forest",
    "model_params": {"n_estimators": 100},
    "user_metadata": {"ticket": "A-17"},
}


@pytest.fixture
def store(own_state: Path, trust: Trust) -> Store:
    return Store(own_state, None, trust)


@pytest.fixture
def managed(
    own_trust: Path,
    tmp_path: Path,
    signer: Signer,
    store: Store,
    no_fsync: None,
    meter: RecordingMeter,
) -> Iterator[ManagementClient]:
    del store, no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    settings = read_settings({"store": {"shipped": str(tmp_path / "artifacts")}})
    made = ManagementClient(settings, meter)
    made.key_of("acme")
    made.key_of("banks")
    made.open()
    yield made
    made.close()


@pytest.fixture
def ask(managed: ManagementClient) -> Callable[..., httpx.Response]:
    """Requests with the key of acme."""
    return lambda method, path, **more: managed.request(
        method, path, headers=managed.key_of("acme"), **more
    )


def test_the_list_names_every_version_with_its_fields_and_the_limits(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    """S2-03 and S4-03 in one body, at the prefix itself."""
    publish(
        store,
        1.0,
        model=MODEL,
        training={
            "recipe": "toy",
            "data_sha256": "0" * 64,
            "seed": 7,
            "rows": 3,
            "label": "monday",
        },
    )
    publish(store, 2.0, model=MODEL)

    answer = ask("GET", "/models")

    assert answer.status_code == 200
    body = answer.json()
    assert body["tenant_id"] == "acme"
    assert [(one["name"], one["version"], one["label"]) for one in body["models"]] == [
        (MODEL, 2, ""),
        (MODEL, 1, "monday"),
    ]
    (_, first) = body["models"]
    assert first | {"size_mb": 0.0} == {
        "name": MODEL,
        "tenant_id": "acme",
        "version": 1,
        "label": "monday",
        "created_at": "2026-11-20T08:15:00Z",
        "type": "toy",
        "size_mb": 0.0,
        "path": f"tenants/acme/bundles/{MODEL}/1",
        "aliases": [],
        "in_use": False,
        "shared": False,
        "problem": "",
    }
    assert first["size_mb"] > 0
    assert body["limits"].keys() == {"max_batch_size", "max_rows", "max_body_bytes"}


def test_what_is_known_of_one_version_is_all_that_its_manifest_and_the_store_say(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    """S4-05 and S4-06; without a version it is the champion."""
    ref = publish(store, model=MODEL, training=SAID)
    publish(store, model=MODEL)

    body = ask("GET", f"/models/{MODEL}/info", params={"version": "1"}).json()

    assert (body["model_name"], body["tenant_id"], body["version"]) == (MODEL, "acme", 1)
    assert (body["model_type"], body["model_params"], body["user_metadata"]) == (
        "Forest",
        {"n_estimators": 100},
        {"ticket": "A-17"},
    )
    assert (body["file_hash"], body["training_data_hash"]) == (ref.manifest_sha256, "0" * 64)
    assert body["path"] == f"tenants/acme/bundles/{MODEL}/1"
    assert body["size_bytes"] == sum(file["size_bytes"] for file in body["files"])
    assert body["libraries"]["numpy"]
    assert body["last_modified"].endswith("Z")
    assert ask("GET", f"/models/{MODEL}/info").json()["version"] == 2


def test_promoting_a_version_makes_it_the_champion_and_no_longer_the_challenger(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    refs = [publish(store, value, model=MODEL) for value in (1.0, 2.0)]

    tried = ask("PUT", f"/models/{MODEL}/challenger", json={"version": 2})
    first = ask("POST", f"/models/{MODEL}/promote", json={"version": 1})
    before = ask("GET", f"/models/{MODEL}/versions").json()["versions"]
    second = ask("POST", f"/models/{MODEL}/promote", json={"alias": "challenger"})
    after = ask("GET", f"/models/{MODEL}/versions").json()["versions"]

    assert [answer.status_code for answer in (tried, first, second)] == [200, 200, 200]
    assert [(one["version"], one["aliases"], one["in_use"]) for one in before] == [
        (2, ["challenger"], True),
        (1, ["champion"], True),
    ]
    assert [(one["version"], one["aliases"], one["in_use"]) for one in after] == [
        (2, ["champion"], True),
        (1, [], False),
    ]
    assert second.json() == {
        "model_name": MODEL,
        "alias": "champion",
        "version": 2,
        "sha256": refs[1].manifest_sha256,
        "serial": 2,
    }


def test_a_challenger_that_is_cleared_is_none(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, model=MODEL)
    ask("PUT", f"/models/{MODEL}/challenger", json={"version": 1})

    cleared = ask("DELETE", f"/models/{MODEL}/challenger")

    assert (cleared.status_code, cleared.json()["version"]) == (200, None)
    assert ask("GET", f"/models/{MODEL}/info").json()["aliases"] == []
    assert code_of(ask("POST", f"/models/{MODEL}/promote", json={"alias": "challenger"})) == (
        404,
        "ARTIFACT_MISSING",
    )


def test_what_serves_is_not_deleted_and_what_does_not_is_gone_for_good(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, model=MODEL)
    publish(store, model=MODEL)
    ask("POST", f"/models/{MODEL}/promote", json={"version": 1})

    live = ask("DELETE", f"/models/{MODEL}", params={"version": "1"})
    other = ask("DELETE", f"/models/{MODEL}", params={"version": "2"})

    assert code_of(live) == (409, "ARTIFACT_IN_USE")
    assert "champion" in live.json()["error"]["message"]
    assert (other.status_code, other.json()) == (200, {"model_name": MODEL, "version": 2})
    assert code_of(ask("DELETE", f"/models/{MODEL}", params={"version": "2"})) == (
        404,
        "ARTIFACT_MISSING",
    )
    assert publish(store, model=MODEL).version == 3


def test_what_is_deleted_is_told_in_the_words_of_the_source_system(
    ask: Callable[..., httpx.Response],
    store: Store,
    publish: Callable[..., BundleRef],
    recorded_log: RecordedLog,
) -> None:
    """S4-14."""
    publish(store, model=MODEL)
    publish(store, model=MODEL)
    ask("POST", f"/models/{MODEL}/promote", json={"version": 1})

    ask("DELETE", f"/models/{MODEL}", params={"version": "1"})
    ask("DELETE", f"/models/{MODEL}", params={"version": "2"})

    (failed,), (deleted,) = recorded_log("model_delete_failed"), recorded_log("model_deleted")
    assert (failed["message"], failed["code"]) == (
        f"model_delete_failed: Failed to delete model: {MODEL}",
        "ARTIFACT_IN_USE",
    )
    assert deleted["message"] == "model_deleted: Model deleted successfully"
    assert (deleted["version"], deleted["tenant"]) == (2, "acme")


def test_without_a_version_nothing_is_deleted(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    """C-22: without a version, a deletion does not mean the latest."""
    publish(store, model=MODEL)

    answer = ask("DELETE", f"/models/{MODEL}")

    assert code_of(answer) == (422, "MALFORMED_EVENT")
    assert answer.json()["error"]["field"] == "version"
    assert len(ask("GET", f"/models/{MODEL}/versions").json()["versions"]) == 1


def test_a_layers_model_is_promoted_by_a_release_and_not_by_itself(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, model="anomaly-flow")

    for method, path, body in [
        ("POST", "promote", {"version": 1}),
        ("PUT", "challenger", {"version": 1}),
        ("DELETE", "challenger", None),
    ]:
        assert code_of(ask(method, f"/models/anomaly-flow/{path}", json=body)) == (
            409,
            "SERVED_BY_RELEASE",
        )


def test_retention_keeps_the_newest_and_what_serves(
    ask: Callable[..., httpx.Response], store: Store, publish: Callable[..., BundleRef]
) -> None:
    for _ in range(4):
        publish(store, model=MODEL)
    ask("POST", f"/models/{MODEL}/promote", json={"version": 1})

    answer = ask("POST", "/models/retention", json={"keep": 1})

    gone = [{"model_name": MODEL, "version": version} for version in (2, 3)]
    assert answer.json() == {"keep": 1, "releases": [], "models": gone}
    assert code_of(ask("POST", "/models/retention", json={"keep": 0})) == (422, "MALFORMED_EVENT")


def test_what_is_exported_is_imported_by_another_tenant_as_its_own(
    managed: ManagementClient, store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, 3.0, model=MODEL, training=SAID)

    exported = managed.request(
        "GET", f"/models/{MODEL}/versions/1/export", headers=managed.key_of("acme")
    )
    imported = managed.request(
        "POST", "/models/import", headers=managed.key_of("banks") | OCTETS, content=exported.content
    )

    assert exported.headers["content-type"] == "application/octet-stream"
    assert exported.headers["content-disposition"] == f'attachment; filename="{MODEL}-1.axon"'
    assert imported.status_code == 201
    assert imported.json() == {
        "models": [{"model_name": MODEL, "version": 1}],
        "release": None,
        "origin": f"acme: {MODEL}/1",
    }
    info = managed.request("GET", f"/models/{MODEL}/info", headers=managed.key_of("banks")).json()
    assert (info["tenant_id"], info["origin"]["tenant"], info["user_metadata"]) == (
        "banks",
        "acme",
        {"ticket": "A-17"},
    )


FOREIGN_FILES = [
    pytest.param(b"", OCTETS, (409, "ARTIFACT_CORRUPT"), id="nothing"),
    pytest.param(b"PK\x03\x04 not ours", OCTETS, (409, "ARTIFACT_CORRUPT"), id="another format"),
    pytest.param(
        b"{}", {"Content-Type": "application/json"}, (415, "UNSUPPORTED_MEDIA_TYPE"), id="JSON"
    ),
    pytest.param(
        b"", OCTETS | {"Content-Encoding": "gzip"}, (415, "UNSUPPORTED_MEDIA_TYPE"), id="packed"
    ),
]


@pytest.mark.parametrize(("data", "headers", "refusal"), FOREIGN_FILES)
def test_a_file_that_no_export_wrote_is_refused_and_nothing_is_kept(
    managed: ManagementClient,
    store: Store,
    data: bytes,
    headers: dict[str, str],
    refusal: tuple[int, str],
) -> None:
    answer = managed.request(
        "POST", "/models/import", headers=managed.key_of("acme") | headers, content=data
    )

    assert code_of(answer) == refusal
    assert not (store.state / "tenants").exists()


def test_a_file_that_a_stranger_signed_is_refused(
    managed: ManagementClient,
    tmp_path: Path,
    publish: Callable[..., BundleRef],
    untrusted_signer: Signer,
) -> None:
    elsewhere = Store(
        tmp_path / "elsewhere",
        None,
        Trust({untrusted_signer.key_id: untrusted_signer.public}, frozenset()),
    )
    data = export_bundle(elsewhere, publish(elsewhere, model=MODEL, signer=untrusted_signer))

    answer = managed.request(
        "POST", "/models/import", headers=managed.key_of("acme") | OCTETS, content=data
    )

    assert code_of(answer) == (409, "ARTIFACT_UNTRUSTED")


def test_what_the_generic_tenant_serves_is_lent_and_nothing_else_of_it(
    managed: ManagementClient, store: Store, publish: Callable[..., BundleRef], signer: Signer
) -> None:
    """A tenant without models of its own is served by inherited ones: visible, not changeable."""
    versions = [publish(store, value, tenant="default", model=MODEL) for value in (1.0, 2.0)]
    set_model_alias(
        store, Tenant("default"), ModelName(MODEL), Alias.CHAMPION, versions[0], 0, signer=signer
    )
    mine = managed.key_of("acme")

    listed = managed.request("GET", "/models", headers=mine).json()["models"]

    assert [(one["name"], one["version"], one["tenant_id"], one["shared"]) for one in listed] == [
        (MODEL, 1, "default", True)
    ]
    assert managed.request("GET", f"/models/{MODEL}/info", headers=mine).json()["shared"] is True
    assert code_of(
        managed.request("GET", f"/models/{MODEL}/info", headers=mine, params={"version": "2"})
    ) == (404, "ARTIFACT_MISSING")
    assert code_of(
        managed.request("DELETE", f"/models/{MODEL}", headers=mine, params={"version": "2"})
    ) == (404, "ARTIFACT_MISSING")
    assert code_of(
        managed.request("POST", f"/models/{MODEL}/promote", headers=mine, json={"version": 2})
    ) == (404, "ARTIFACT_MISSING")
    assert code_of(managed.request("GET", f"/models/{MODEL}/versions/1/export", headers=mine)) == (
        404,
        "ARTIFACT_MISSING",
    )


def test_every_act_leaves_who_did_what_and_from_where(
    managed: ManagementClient, store: Store, publish: Callable[..., BundleRef]
) -> None:
    """P31: the log of a tenant has no actions of others."""
    publish(store, model=MODEL)
    publish(store, model=MODEL)
    mine = managed.key_of("acme")
    managed.request("POST", f"/models/{MODEL}/promote", headers=mine, json={"version": 1})
    managed.request("DELETE", f"/models/{MODEL}", headers=mine, params={"version": "2"})
    managed.request("DELETE", f"/models/{MODEL}", headers=mine, params={"version": "1"})

    entries = managed.request("GET", "/models/audit", headers=mine, params={"limit": "3"}).json()[
        "entries"
    ]

    key_id = mine["Authorization"].split("_")[1]
    assert [(one["act"], one["what"], one["outcome"], one["code"]) for one in entries] == [
        ("delete", f"{MODEL}/1", "failed", "ARTIFACT_IN_USE"),
        ("delete", f"{MODEL}/2", "done", ""),
        ("set_alias", f"champion: {MODEL}/1", "done", ""),
    ]
    assert {(one["who"], one["where"]) for one in entries} == {(key_id, "127.0.0.1")}
    assert entries[2]["digest"]
    assert managed.request("GET", "/models/audit", headers=managed.key_of("banks")).json() == {
        "entries": []
    }


def test_without_a_signing_key_nothing_is_promoted_and_no_path_is_told(
    ask: Callable[..., httpx.Response],
    store: Store,
    publish: Callable[..., BundleRef],
    tmp_path: Path,
) -> None:
    publish(store, model=MODEL)
    (tmp_path / "home" / "signing.key").unlink()

    answer = ask("POST", f"/models/{MODEL}/promote", json={"version": 1})

    assert code_of(answer) == (409, "SIGNING_REFUSED")
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_507_and_nothing_has_changed(
    ask: Callable[..., httpx.Response],
    store: Store,
    publish: Callable[..., BundleRef],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    publish(store, model=MODEL)

    def full(*_: object, **__: object) -> None:
        raise OSError(number, "no room", str(store.state))

    monkeypatch.setattr(atomic, "write_new", full)
    answer = ask("POST", f"/models/{MODEL}/promote", json={"version": 1})

    assert code_of(answer) == (507, "STORE_FULL")
    assert str(store.state) not in answer.text
    assert ask("GET", f"/models/{MODEL}/info").json()["aliases"] == []


def test_a_disk_that_hangs_is_503_with_the_time_to_come_back(
    managed: ManagementClient, store: Store, publish: Callable[..., BundleRef]
) -> None:
    """The event loop goes on: routes that need no disk are answered."""
    publish(store, model=MODEL)
    goes_on = threading.Event()
    managed.manage._executor._open = lambda: goes_on.wait(30.0) and store
    managed.manage._executor._within_s = 0.05

    answer = managed.request("GET", "/models", headers=managed.key_of("acme"))

    assert code_of(answer) == (503, "STORE_UNAVAILABLE")
    assert int(answer.headers["retry-after"]) > 0
    goes_on.set()


NO_NAMES = [
    "jobs",
    "releases",
    "train",
    "import",
    "audit",
    "challenger",
    "rollback",
    "retention",
    "docs",
]


@pytest.mark.parametrize("word", [*NO_NAMES, "openapi.json"])
def test_the_words_of_routes_are_no_names_of_models(
    ask: Callable[..., httpx.Response], word: str
) -> None:
    assert code_of(ask("GET", f"/models/{word}/versions")) == (422, "RESERVED_NAME")
    assert code_of(ask("POST", f"/models/{word}/promote", json={"version": 1})) == (
        422,
        "RESERVED_NAME",
    )


def test_a_query_that_is_not_known_or_comes_twice_is_refused(
    ask: Callable[..., httpx.Response],
) -> None:
    assert code_of(ask("GET", "/models", params={"tenant": "banks"})) == (422, "MALFORMED_EVENT")
    assert code_of(
        ask("DELETE", f"/models/{MODEL}", params=[("version", "1"), ("version", "2")])
    ) == (422, "MALFORMED_EVENT")


def test_the_tenant_of_another_key_is_as_one_that_is_none(
    ask: Callable[..., httpx.Response],
) -> None:
    foreign, absent = (
        ask("GET", "/models", params={"tenant_id": name}) for name in ("banks", "nobody")
    )

    assert code_of(foreign) == code_of(absent) == (404, "UNKNOWN_TENANT")
    assert ask("GET", "/models", params={"tenant_id": "acme"}).status_code == 200


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
