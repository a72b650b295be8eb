"""Releases over HTTP: which serves, promotion, rollback, and the challenger in shadow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.config.settings import read_settings
from ensemble.store.layout import Store
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.signing import Signer, Trust
from tests.support.management import ManagementClient, trust_the_key
from tests.support.recorded_telemetry import RecordingMeter

ACME = Tenant("acme")


@pytest.fixture
def store(own_state: Path, trust: Trust) -> Store:
    return Store(own_state, None, trust)


@pytest.fixture
def managed(
    own_trust: Path, tmp_path: Path, signer: Signer, no_fsync: None, meter: RecordingMeter
) -> Iterator[ManagementClient]:
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    made = ManagementClient(
        read_settings({"store": {"shipped": str(tmp_path / "artifacts")}}), meter
    )
    made.key_of("acme")
    made.open()
    yield made
    made.close()


@pytest.fixture
def ask(managed: ManagementClient) -> Callable[..., httpx.Response]:
    """Requests with the key of acme."""
    return lambda method, path, **more: managed.request(
        method, path, headers=managed.key_of("acme"), **more
    )


Ask = Callable[..., httpx.Response]
Two = tuple[ReleaseRef, ReleaseRef]


def test_a_tenant_without_a_release_lives_on_the_generic_one(ask: Ask) -> None:
    body = ask("GET", "/models/releases").json()

    assert body == {
        "tenant_id": "acme",
        "serving_tenant": "default",
        "release": None,
        "pointer_serial": 0,
        "previous": [],
        "challenger": None,
        "problem": "",
        "challenger_problem": "",
        "releases": [],
    }


def test_promoting_and_rolling_back_move_the_pointer_forward(
    ask: Ask, two_releases: Two, store: Store
) -> None:
    """P8: a rollback is one call, and a newer pointer."""
    first = ask("POST", "/models/releases/1/promote")
    second = ask("POST", "/models/releases/2/promote", json={"at_once": True})
    back = ask("POST", "/models/rollback")

    assert [answer.status_code for answer in (first, second, back)] == [200, 200, 200]
    assert second.json() == {
        "release": 2,
        "sha256": two_releases[1].sha256,
        "pointer_serial": 2,
        "previous": [1],
        "at_once": True,
    }
    assert back.json() == {
        "release": 1,
        "sha256": two_releases[0].sha256,
        "pointer_serial": 3,
        "previous": [],
        "at_once": True,
    }
    assert read_pointer(store, ACME).ref == two_releases[0]
    listed = ask("GET", "/models/releases").json()
    assert (listed["release"], listed["pointer_serial"], listed["serving_tenant"]) == (1, 3, "acme")
    assert [(one["release"], one["in_use"], one["notes"]) for one in listed["releases"]] == [
        (2, False, "toy"),
        (1, True, "toy"),
    ]


@pytest.mark.usefixtures("two_releases")
def test_there_is_nothing_to_roll_back_to_before_the_first(ask: Ask) -> None:
    assert code_of(ask("POST", "/models/rollback")) == (404, "ARTIFACT_MISSING")
    ask("POST", "/models/releases/1/promote")
    assert code_of(ask("POST", "/models/rollback")) == (404, "ARTIFACT_MISSING")
    assert code_of(ask("POST", "/models/rollback", json={"to": 7})) == (404, "ARTIFACT_MISSING")


def test_a_challenger_is_set_seen_and_cleared(ask: Ask, two_releases: Two) -> None:
    tried = ask("PUT", "/models/challenger", json={"release": 2})
    seen = ask("GET", "/models/challenger").json()
    listed = ask("GET", "/models/releases").json()
    cleared = ask("DELETE", "/models/challenger").json()

    assert tried.json() == seen == {"release": 2, "sha256": two_releases[1].sha256, "serial": 1}
    assert listed["challenger"] == 2
    assert [one["is_challenger"] for one in listed["releases"]] == [True, False]
    assert cleared == {"release": None, "sha256": "", "serial": 2}


@pytest.mark.usefixtures("two_releases")
def test_promoting_the_challenger_is_one_call_and_ends_the_trial(ask: Ask) -> None:
    ask("POST", "/models/releases/1/promote")
    ask("PUT", "/models/challenger", json={"release": 2})

    promoted = ask("POST", "/models/releases/2/promote")

    assert (promoted.status_code, promoted.json()["release"]) == (200, 2)
    assert ask("GET", "/models/challenger").json()["release"] is None


@pytest.mark.usefixtures("two_releases")
def test_a_release_whose_bundle_is_broken_is_known_and_not_promoted(ask: Ask, store: Store) -> None:
    ask("POST", "/models/releases/1/promote")
    broken = next((store.state / "tenants/acme/bundles/anomaly-flow/2").glob("*.safetensors"))
    broken.chmod(0o644)
    broken.write_bytes(b"torn")

    answer = ask("POST", "/models/releases/2/promote")

    assert code_of(answer) == (409, "ARTIFACT_CORRUPT")
    assert "safetensors" not in answer.text
    assert read_pointer(store, ACME).release == 1


@pytest.mark.usefixtures("two_releases")
def test_a_broken_pointer_is_told_and_replaced_by_the_next_promotion(
    ask: Ask, store: Store
) -> None:
    ask("POST", "/models/releases/1/promote")
    (store.state / "tenants/acme/CURRENT").write_bytes(b"{")

    said = ask("GET", "/models/releases").json()
    answer = ask("POST", "/models/releases/2/promote")

    assert (said["release"], said["problem"]) == (None, "ARTIFACT_CORRUPT")
    assert (answer.status_code, answer.json()["release"]) == (200, 2)


@pytest.mark.usefixtures("two_releases")
def test_a_broken_challenger_is_reported(ask: Ask, store: Store) -> None:
    ask("PUT", "/models/challenger", json={"release": 2})
    (store.state / "tenants/acme/CHALLENGER").write_bytes(b"{")

    listed = ask("GET", "/models/releases").json()

    assert (listed["challenger"], listed["challenger_problem"]) == (None, "ARTIFACT_CORRUPT")
    assert listed["problem"] == ""


@pytest.mark.parametrize("serial", ["0", "01", "-1", "1e3", "x", "9" * 400, "1 "])
def test_what_is_no_number_is_no_release(ask: Ask, serial: str) -> None:
    assert code_of(ask("POST", f"/models/releases/{serial}/promote")) == (422, "MALFORMED_EVENT")


BODIES = [
    pytest.param(
        "POST",
        "releases/1/promote",
        b'{"at_once": 1}',
        (422, "MALFORMED_EVENT"),
        id="a number for a claim",
    ),
    pytest.param(
        "POST",
        "releases/1/promote",
        b'{"atonce": true}',
        (422, "MALFORMED_EVENT"),
        id="an unknown field",
    ),
    pytest.param("POST", "releases/1/promote", b"[]", (422, "MALFORMED_EVENT"), id="a list"),
    pytest.param("POST", "rollback", b'{"to": 0}', (422, "MALFORMED_EVENT"), id="release nought"),
    pytest.param(
        "POST", "rollback", b'{"to": 1.5}', (422, "MALFORMED_EVENT"), id="a release and a half"
    ),
    pytest.param(
        "PUT", "challenger", b"", (400, "MALFORMED_JSON"), id="no body where there must be one"
    ),
    pytest.param("PUT", "challenger", b"{}", (422, "MALFORMED_EVENT"), id="no release"),
    pytest.param(
        "PUT", "challenger", b"{" * 60_000, (400, "MALFORMED_JSON"), id="sixty thousand braces"
    ),
    pytest.param(
        "PUT", "challenger", b'{"release": 1}\xff', (400, "MALFORMED_JSON"), id="no UTF-8"
    ),
    pytest.param(
        "PUT", "challenger", b" " * (65 << 10), (413, "BODY_TOO_LARGE"), id="65 kibibytes"
    ),
    pytest.param(
        "PUT",
        "challenger",
        b'{"release": 1, "release": 2}',
        (400, "MALFORMED_JSON"),
        id="a name twice",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "refusal"), BODIES)
def test_a_bad_body_is_refused_by_code(
    ask: Ask, method: str, path: str, body: bytes, refusal: tuple[int, str]
) -> None:
    assert code_of(ask(method, f"/models/{path}", content=body)) == refusal


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
