"""Training over HTTP.

A job is accepted at once, is visible to its own tenant only, and ends in a version that serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config.settings import read_settings
from deployments.management.training_actor import FitWork
from deployments.web.api_keys import Scope
from ensemble.store.layout import Store
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.tabular_rows import Step
from ensemble.training.publish import Trained
from ensemble.training.recipes.tabular import fit_steps
from tests.support.management import ManagementClient, trust_the_key
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.training_rows import rows

NAME = "isolation_forest_anomaly_detector"
Ask = Callable[..., httpx.Response]


async def fit_here(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
    """The fit without Ray."""
    for step in fit_steps(work.table, name=work.name, seed=work.seed, metadata=work.metadata):
        yield step
        await asyncio.sleep(0)


async def never_ends(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
    """A fit that hangs after its first step."""
    del work
    yield Step("forest 1 of 6", 0.25)
    await asyncio.Event().wait()


BODY = {"network_data": rows()}
TRAINER = [Scope.TRAIN, Scope.READ]


@pytest.fixture
def store(own_state: Path, trust: Trust) -> Store:
    return Store(own_state, None, trust)


@pytest.fixture
def open_managed(
    own_trust: Path, tmp_path: Path, signer: Signer, no_fsync: None, meter: RecordingMeter
) -> Iterator[Callable[..., ManagementClient]]:
    """`open_managed(run)`: the application, whose fits are `run`."""
    del no_fsync
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    opened: list[ManagementClient] = []

    def make(run: Callable[..., Any] = never_ends, **management: Any) -> ManagementClient:
        overrides = {"store": {"shipped": str(tmp_path / "artifacts")}, "management": management}
        made = ManagementClient(read_settings(overrides), meter, run=run)
        for tenant in ("acme", "banks"):
            made.key_of(tenant)
        made.key_of("acme", TRAINER)
        made.open()
        opened.append(made)
        return made

    yield make
    for made in opened:
        made.close()


def as_acme(managed: ManagementClient) -> Ask:
    return lambda method, path, **more: managed.request(
        method, path, headers=managed.key_of("acme"), **more
    )


def test_a_job_is_taken_at_once_and_ends_in_a_version_that_serves(
    open_managed: Callable[..., ManagementClient],
) -> None:
    """S4-13, C-25: 202 with a Location; then the model is listed, with the caller's metadata."""
    managed = open_managed(fit_here)
    ask = as_acme(managed)

    taken = ask(
        "POST",
        "/models/train",
        json=BODY
        | {"version": "2026-11", "user_metadata": {"ticket": "A-17"}, "tenant_id": "acme"},
    )
    job = managed.finished_job(taken.headers["location"])

    assert taken.status_code == 202
    assert taken.headers["location"] == f"/models/jobs/{taken.json()['id']}"
    assert (taken.json()["status"], taken.json()["rows"], taken.json()["label"]) == (
        "queued",
        120,
        "2026-11",
    )
    assert (job["status"], job["model_version"], job["is_champion"], job["error"]) == (
        "done",
        1,
        True,
        None,
    )
    info = ask("GET", f"/models/{NAME}/info").json()
    assert (info["version"], info["label"], info["aliases"], info["user_metadata"]) == (
        1,
        "2026-11",
        ["champion"],
        {"ticket": "A-17"},
    )
    assert info["feature_names"] == ["bytes_transferred", "packet_count", "connection_duration"]
    assert info["model_type"]
    assert info["training_data_hash"]


def test_a_job_that_shall_not_promote_leaves_the_champion_alone(
    open_managed: Callable[..., ManagementClient],
) -> None:
    managed = open_managed(fit_here)

    taken = as_acme(managed)(
        "POST", "/models/train", json=BODY | {"promote": False, "name": "quiet"}
    )
    job = managed.finished_job(taken.headers["location"])

    assert (job["status"], job["is_champion"]) == ("done", False)
    assert as_acme(managed)("GET", "/models/quiet/info").json()["aliases"] == []


def test_a_job_is_seen_and_cancelled_by_its_own_tenant_alone(
    open_managed: Callable[..., ManagementClient],
) -> None:
    """P10: another tenant's job gets the same answer as no job."""
    managed = open_managed()
    ask = as_acme(managed)
    path = ask("POST", "/models/train", json=BODY).headers["location"]
    theirs = managed.key_of("banks")

    for method in ("GET", "DELETE"):
        foreign = managed.request(method, path, headers=theirs | {"X-Request-ID": "r"})
        absent = managed.request(
            method, f"/models/jobs/{'0' * 32}", headers=theirs | {"X-Request-ID": "r"}
        )
        assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content)
        assert code_of(foreign) == (404, "UNKNOWN_JOB")
    assert managed.request("GET", "/models/jobs", headers=theirs).json() == {"jobs": []}
    assert len(ask("GET", "/models/jobs").json()["jobs"]) == 1
    assert ask("DELETE", path).json()["status"] == "cancelled"
    assert ask("GET", path).json()["status"] == "cancelled"


def test_a_label_is_used_once_also_by_a_job_that_still_runs(
    open_managed: Callable[..., ManagementClient],
) -> None:
    managed = open_managed(fit_here)
    ask = as_acme(managed)

    first = ask("POST", "/models/train", json=BODY | {"version": "v1"})
    while_it_runs = ask("POST", "/models/train", json=BODY | {"version": "v1"})
    managed.finished_job(first.headers["location"])
    afterwards = ask("POST", "/models/train", json=BODY | {"version": "v1"})

    assert code_of(while_it_runs) == code_of(afterwards) == (409, "VERSION_EXISTS")
    assert (
        ask("POST", "/models/train", json=BODY | {"version": "v1", "name": "other"}).status_code
        == 202
    )


def test_the_label_of_a_job_that_came_to_nothing_is_free_again(
    open_managed: Callable[..., ManagementClient],
) -> None:
    ask = as_acme(open_managed())
    path = ask("POST", "/models/train", json=BODY | {"version": "v1"}).headers["location"]

    ask("DELETE", path)

    assert ask("POST", "/models/train", json=BODY | {"version": "v1"}).status_code == 202


def test_two_requests_with_one_label_at_once_make_one_job(
    open_managed: Callable[..., ManagementClient],
) -> None:
    managed = open_managed()
    mine = managed.key_of("acme")

    async def both() -> list[httpx.Response]:
        body = BODY | {"version": "v1"}
        return await asyncio.gather(
            *(managed.send("POST", "/models/train", headers=mine, json=body) for _ in range(2))
        )

    assert sorted(answer.status_code for answer in managed.loop.run(both())) == [202, 409]


def test_more_jobs_than_a_tenant_may_have_are_429_and_come_again(
    open_managed: Callable[..., ManagementClient],
) -> None:
    managed = open_managed(jobs_per_tenant=1)
    as_acme(managed)("POST", "/models/train", json=BODY)

    answer = as_acme(managed)("POST", "/models/train", json=BODY)

    assert code_of(answer) == (429, "JOB_QUOTA")
    assert int(answer.headers["retry-after"]) > 0
    assert (
        managed.request(
            "POST", "/models/train", headers=managed.key_of("banks"), json=BODY
        ).status_code
        == 202
    )


BAD = [
    pytest.param({}, (422, "MALFORMED_EVENT", "network_data"), id="no rows"),
    pytest.param(
        {"network_data": []}, (422, "MALFORMED_EVENT", "network_data"), id="an empty list"
    ),
    pytest.param({"network_data": {}}, (422, "MALFORMED_EVENT", "network_data"), id="an object"),
    pytest.param(
        {"network_data": [7]}, (422, "MALFORMED_EVENT", "network_data[0]"), id="a number for a row"
    ),
    pytest.param({"network_data": rows(3)}, (422, "TRAINING_ERROR", None), id="three rows"),
    pytest.param(
        {"network_data": [rows(1)[0]] * 120}, (422, "TRAINING_ERROR", None), id="all alike"
    ),
    pytest.param(
        {"network_data": [*rows(110), {"packet_count": 1}]},
        (422, "FEATURE_MISMATCH", "network_data[110].bytes_transferred"),
        id="a row without a feature",
    ),
    pytest.param(
        {"network_data": [*rows(110), rows(1)[0] | {"packet_count": "7"}]},
        (422, "FEATURE_MISMATCH", "network_data[110].packet_count"),
        id="text for a number",
    ),
    pytest.param(
        BODY | {"features": ["packet_count"]},
        (422, "FEATURE_MISMATCH", "features"),
        id="one feature",
    ),
    pytest.param(
        BODY | {"features": ["a", "a", "b"]},
        (422, "FEATURE_MISMATCH", "features[1]"),
        id="one twice",
    ),
    pytest.param(
        BODY | {"tenant_id": "banks"}, (404, "UNKNOWN_TENANT", "tenant_id"), id="another tenant"
    ),
    pytest.param(
        BODY | {"tenant_id": "nobody"}, (404, "UNKNOWN_TENANT", "tenant_id"), id="no tenant"
    ),
    pytest.param(
        BODY | {"name": "../x"}, (422, "MALFORMED_EVENT", "model"), id="a name that climbs"
    ),
    pytest.param(BODY | {"name": "jobs"}, (422, "RESERVED_NAME", "name"), id="a word of a route"),
    pytest.param(
        BODY | {"name": "anomaly-flow"}, (422, "RESERVED_NAME", "name"), id="a layer's model"
    ),
    pytest.param(
        BODY | {"version": "../x"}, (422, "MALFORMED_EVENT", "version"), id="a label that climbs"
    ),
    pytest.param(
        BODY | {"user_metadata": {"x": "y" * 9000}},
        (422, "MALFORMED_EVENT", "user_metadata"),
        id="a novel to remember",
    ),
    pytest.param(BODY | {"missing": "guess"}, (422, "MALFORMED_EVENT", "missing"), id="a guess"),
    pytest.param(
        BODY | {"contamination": 0.1},
        (422, "MALFORMED_EVENT", "contamination"),
        id="an unknown field",
    ),
]


@pytest.mark.parametrize(("body", "refusal"), BAD)
def test_what_cannot_be_trained_is_refused_at_the_door_with_its_place(
    open_managed: Callable[..., ManagementClient],
    own_state: Path,
    body: dict[str, Any],
    refusal: tuple[int, str, str | None],
) -> None:
    answer = as_acme(open_managed())("POST", "/models/train", json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("field")) == refusal
    assert not (own_state / "jobs").exists()


def test_a_number_that_is_none_is_refused_before_anything_is_computed(
    open_managed: Callable[..., ManagementClient],
) -> None:
    ask = as_acme(open_managed())

    twice = b'{"network_data": [{"packet_count": 1, "packet_count": 2}]}'
    assert code_of(ask("POST", "/models/train", content=twice)) == (422, "MALFORMED_EVENT")
    nan = ask("POST", "/models/train", content=b'{"network_data": [{"packet_count": NaN}]}')
    huge = ask("POST", "/models/train", content=b'{"network_data": [{"packet_count": 1e999}]}')

    assert code_of(nan) == (400, "MALFORMED_JSON")
    assert code_of(huge) == (422, "MALFORMED_EVENT")


def test_a_body_of_nine_mebibytes_is_413(open_managed: Callable[..., ManagementClient]) -> None:
    """I13: a body whose length is announced is refused before it is read."""
    ask = as_acme(open_managed())

    assert code_of(ask("POST", "/models/train", content=b" " * (9 << 20))) == (
        413,
        "BODY_TOO_LARGE",
    )


def test_more_rows_than_a_job_may_have_are_refused(
    open_managed: Callable[..., ManagementClient],
) -> None:
    answer = as_acme(open_managed(max_rows=100))("POST", "/models/train", json=BODY)

    assert code_of(answer) == (422, "TOO_MANY_ROWS")


def test_without_a_signing_key_no_job_is_taken(
    open_managed: Callable[..., ManagementClient], tmp_path: Path
) -> None:
    ask = as_acme(open_managed())
    (tmp_path / "home" / "signing.key").unlink()

    answer = ask("POST", "/models/train", json=BODY)

    assert code_of(answer) == (409, "SIGNING_REFUSED")
    assert str(tmp_path) not in answer.text


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_key_that_may_only_train_replaces_no_champion_by_default(
    open_managed: Callable[..., ManagementClient],
) -> None:
    """What a scope may not do explicitly, it may not do by the default of a field."""
    managed = open_managed(fit_here)
    trainer = managed.key_of("acme", TRAINER)

    accepted = managed.request("POST", "/models/train", headers=trainer, json=BODY)
    job = managed.finished_job(accepted.headers["location"])

    assert (job["status"], job["is_champion"]) == ("done", False)
    assert as_acme(managed)("GET", f"/models/{NAME}/info").json()["aliases"] == []


def test_a_key_that_may_only_train_is_refused_when_it_asks_for_a_promotion(
    open_managed: Callable[..., ManagementClient],
) -> None:
    managed = open_managed(fit_here)

    answer = managed.request(
        "POST",
        "/models/train",
        headers=managed.key_of("acme", TRAINER),
        json=BODY | {"promote": True},
    )

    assert code_of(answer) == (403, "FORBIDDEN")
    assert "`manage`" in answer.json()["error"]["message"]
    assert as_acme(managed)("GET", "/models/jobs").json() == {"jobs": []}
