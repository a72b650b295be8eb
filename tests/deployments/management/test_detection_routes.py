"""Rows are rated by the tenant's own detector, or by an inherited one.

A load happens in the replicas that serve (C-26).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from deployments.config.settings import read_settings
from deployments.management import sent_rows
from ensemble.errors import ArtifactCorrupt, TooManyRows
from ensemble.events import Kind
from ensemble.runtime.model_state import KindState, SlotState
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, Tenant
from ensemble.store.signing import Signer, Trust
from ensemble.training.publish import make_champion, publish_detector
from ensemble.training.recipes.tabular import fit_tabular
from ensemble.verdicts import LayerStatus
from tests.support.management import ManagementClient, ReplicasHandle, trust_the_key
from tests.support.publishing import NOW
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.training_rows import rows

MODEL = "flows-of-acme"
Ask = Callable[..., httpx.Response]
Open = Callable[..., ManagementClient]
ORDINARY = {"bytes_transferred": 3000.0, "packet_count": 40, "connection_duration": 2.5}
WILD = {"bytes_transferred": 9e12, "packet_count": 10**9, "connection_duration": 0.0}


@pytest.fixture(scope="module")
def trained() -> Any:
    """A detector of 200 rows."""
    return fit_tabular(rows(200), name=MODEL)


@pytest.fixture
def store(own_state: Path, trust: Trust) -> Store:
    return Store(own_state, None, trust)


@pytest.fixture
def publish_for(
    store: Store, trained: Any, signer: Signer, no_fsync: None
) -> Callable[..., BundleRef]:
    """`publish_for(tenant)`.

    The detector, as the next version of that tenant, and as its champion unless said otherwise.
    """
    del no_fsync

    def one(tenant: str, *, serves: bool = True) -> BundleRef:
        ref = publish_detector(store, Tenant(tenant), trained, now=NOW, signer=signer)
        if serves:
            make_champion(store, ref, signer=signer)
        return ref

    return one


@pytest.fixture
def open_managed(
    own_trust: Path, tmp_path: Path, signer: Signer, meter: RecordingMeter
) -> Iterator[Open]:
    trust_the_key(own_trust, tmp_path / "home" / "signing.key", signer)
    opened: list[ManagementClient] = []

    # only read
    def make(management: Mapping[str, Any] = {}, **parts: Any) -> ManagementClient:  # type: ignore[assignment]
        overrides = {
            "store": {"shipped": str(tmp_path / "artifacts")},
            "management": dict(management),
        }
        made = ManagementClient(read_settings(overrides), meter, **parts)
        made.key_of("acme")
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


def detect(managed: ManagementClient, body: Any, model: str = MODEL) -> httpx.Response:
    return as_acme(managed)("POST", f"/models/{model}/detect", json=body)


# -- detect


def test_rows_are_rated_in_order_and_come_back_as_they_were_sent(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """S4-10."""
    publish_for("acme")

    body = detect(
        open_managed(), {"network_data": [ORDINARY | {"source_ip": "10.0.0.7"}, WILD]}
    ).json()

    assert (body["model_name"], body["model_version"], body["tenant_id"], body["is_last_good"]) == (
        MODEL,
        1,
        "acme",
        False,
    )
    ordinary, wild = body["results"]
    assert ordinary.keys() == {
        "index",
        "is_anomaly",
        "anomaly_score",
        "threat_level",
        "original_data",
    }
    assert (ordinary["index"], ordinary["original_data"]) == (
        0,
        ORDINARY | {"source_ip": "10.0.0.7"},
    )
    assert (wild["index"], wild["is_anomaly"], wild["threat_level"], wild["original_data"]) == (
        1,
        True,
        "critical",
        WILD,
    )
    assert 0 <= ordinary["anomaly_score"] < wild["anomaly_score"] <= 1


def test_a_bad_row_spoils_only_itself_and_is_named_by_its_own_place(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    publish_for("acme")
    sent = [7, ORDINARY, {"packet_count": 1}, ORDINARY | {"packet_count": "x"}, WILD]

    results = detect(open_managed(), {"network_data": sent}).json()["results"]

    assert [one["index"] for one in results] == [0, 1, 2, 3, 4]
    said = [
        (one["error"]["code"], one["error"]["field"]) if "error" in one else one["is_anomaly"]
        for one in results
    ]
    assert said[0] == ("MALFORMED_EVENT", "network_data[0]")
    assert said[2:4] == [
        ("FEATURE_MISMATCH", "network_data[2].bytes_transferred"),
        ("FEATURE_MISMATCH", "network_data[3].packet_count"),
    ]
    assert said[4] is True


def test_what_is_missing_is_nought_only_where_the_caller_says_so(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """The `fillna` of S4-09, only on request."""
    publish_for("acme")

    (result,) = detect(
        open_managed(), {"network_data": [{"packet_count": 1}], "missing": "zero"}
    ).json()["results"]

    assert "anomaly_score" in result


def test_a_number_comes_back_to_its_last_digit(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """The row stays text: a decoder would round its numbers, or have no type for them."""
    publish_for("acme")
    row = (
        b'{"bytes_transferred": 1.10, "packet_count": 3, "connection_duration": 2, '
        b'"flow_id": 123456789012345678901234567890}'
    )

    answer = as_acme(open_managed())(
        "POST", f"/models/{MODEL}/detect", content=b'{"network_data": [' + row + b"]}"
    )

    assert row in answer.content


def test_who_has_no_detector_of_that_name_uses_the_generic_one(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    publish_for("default")

    body = detect(open_managed(), {"network_data": [ORDINARY]}).json()

    assert (body["tenant_id"], len(body["results"])) == ("default", 1)


def test_a_detector_of_another_tenant_is_as_none(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    publish_for("banks")
    managed = open_managed()

    for path in ("detect", "load"):
        foreign, absent = (
            managed.request(
                "POST",
                f"/models/{name}/{path}",
                headers=managed.key_of("acme") | {"X-Request-ID": "r"},
                json={"network_data": [ORDINARY]} if path == "detect" else None,
            )
            for name in (MODEL, "nobodys")
        )
        assert (foreign.status_code, foreign.content) == (absent.status_code, absent.content)
        assert code_of(foreign) == (404, "ARTIFACT_MISSING")


def test_a_model_that_is_known_and_not_promoted_is_409(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """C-16."""
    publish_for("acme", serves=False)
    managed = open_managed()

    assert code_of(detect(managed, {"network_data": [ORDINARY]})) == (409, "NOT_SERVING")
    assert code_of(as_acme(managed)("POST", f"/models/{MODEL}/load")) == (409, "NOT_SERVING")


BODIES = [
    pytest.param({}, (422, "MALFORMED_EVENT"), id="no rows"),
    pytest.param({"network_data": []}, (422, "MALFORMED_EVENT"), id="an empty list"),
    pytest.param(
        {"network_data": [ORDINARY], "explain": True},
        (422, "MALFORMED_EVENT"),
        id="an unknown field",
    ),
    pytest.param(
        {"network_data": [ORDINARY], "missing": "mean"}, (422, "MALFORMED_EVENT"), id="a guess"
    ),
    pytest.param(
        {"network_data": [ORDINARY] * 3},
        (422, "TOO_MANY_ROWS"),
        id="more rows than a request may have",
    ),
]


@pytest.mark.parametrize(("body", "refusal"), BODIES)
def test_a_bad_body_is_refused_whole(
    open_managed: Open,
    publish_for: Callable[..., BundleRef],
    body: dict[str, Any],
    refusal: tuple[int, str],
) -> None:
    publish_for("acme")

    assert code_of(detect(open_managed({"max_rows": 2}), body)) == refusal


class Failing:
    """Replicas that do not answer, in the ways that Serve has."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def detect(self, *_: object) -> None:
        raise self._error

    load = detect


class Hanging:
    async def detect(self, *_: object) -> None:
        await asyncio.Event().wait()

    load = detect


GONE = [
    pytest.param(DeploymentUnavailableError("detectors"), id="no replica"),
    pytest.param(RayServeException("of any kind"), id="Serve's own"),
    pytest.param(
        RayTaskError("detect", "a traceback with /a/path", ValueError("/a/path")),
        id="a mistake in the replica",
    ),
    pytest.param(ConnectionError("/a/path"), id="a line that is cut"),
]


@pytest.mark.parametrize("error", GONE)
def test_where_no_detector_answers_it_is_503_and_when_to_come_back(
    open_managed: Open, publish_for: Callable[..., BundleRef], error: Exception
) -> None:
    publish_for("acme")
    managed = open_managed(detectors=ReplicasHandle(Failing(error)))

    answer = detect(managed, {"network_data": [ORDINARY]})

    assert code_of(answer) == (503, "DEPLOYMENT_UNAVAILABLE")
    assert int(answer.headers["retry-after"]) > 0
    assert "/a/path" not in answer.text


def test_a_detector_that_hangs_costs_its_time_and_not_more(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """Serve itself waits for ever while no replica runs."""
    publish_for("acme")
    managed = open_managed({"replicas_within_s": 0.05}, detectors=ReplicasHandle(Hanging()))

    assert code_of(detect(managed, {"network_data": [ORDINARY]})) == (503, "DEPLOYMENT_UNAVAILABLE")


def test_no_row_is_decoded_of_a_request_with_too_many(
    open_managed: Open,
    publish_for: Callable[..., BundleRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four million rows in 8 MB were decoded before they were counted: management hung for 38 s."""
    publish_for("acme")
    managed = open_managed({"max_rows": 2})
    monkeypatch.setattr(sent_rows, "_decode", lambda _: pytest.fail("it was decoded"))

    assert code_of(detect(managed, {"network_data": [{}] * 3})) == (422, "TOO_MANY_ROWS")
    # so many that even undecoded they would need more memory than the body
    many = {"network_data": [{}] * 100}
    assert code_of(detect(managed, many)) == (422, "TOO_MANY_ROWS")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ('{"network_data": [ROW], "missing": "zero", "missing": "refuse"}', "MALFORMED_JSON"),
        ('{"network_data": [ROW], "network_data": [ROW]}', "MALFORMED_JSON"),
    ],
)
def test_a_body_with_a_name_twice_is_refused(open_managed: Open, body: str, refusal: str) -> None:
    ask = as_acme(open_managed())
    content = body.replace("ROW", json.dumps(ORDINARY)).encode()

    assert code_of(ask("POST", f"/models/{MODEL}/detect", content=content)) == (400, refusal)


def test_a_row_with_a_name_twice_spoils_only_itself(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    publish_for("acme")
    good = json.dumps(ORDINARY)
    body = f'{{"network_data": [{good}, {good[:-1]}, "packet_count": 1}}]}}'.encode()

    answer = as_acme(open_managed())("POST", f"/models/{MODEL}/detect", content=body)

    first, second = answer.json()["results"]
    assert first["index"] == 0
    assert (second["index"], second["error"]["field"]) == (1, "network_data[1]")


TRACEBACK = "a traceback with /a/path"
OURS = [
    pytest.param(
        lambda: RayTaskError(
            "detect", TRACEBACK, ArtifactCorrupt("model.safetensors", "sha256 is another")
        ).as_instanceof_cause(),
        (409, "ARTIFACT_CORRUPT"),
        id="the publisher's",
    ),
    pytest.param(
        lambda: RayTaskError("detect", TRACEBACK, TooManyRows(2, 1)),
        (422, "TOO_MANY_ROWS"),
        id="the caller's",
    ),
]


@pytest.mark.parametrize(("wrapped", "refusal"), OURS)
def test_an_error_of_ours_comes_through_ray_without_its_traceback(
    open_managed: Open,
    publish_for: Callable[..., BundleRef],
    wrapped: Callable[[], Exception],
    refusal: tuple[int, str],
) -> None:
    publish_for("acme")

    answer = detect(
        open_managed(detectors=ReplicasHandle(Failing(wrapped()))), {"network_data": [ORDINARY]}
    )

    assert code_of(answer) == refusal
    assert "safetensors" not in answer.text
    assert "/a/path" not in answer.text


# -- load


def test_a_load_is_one_in_every_replica_and_each_says_how_it_stands(
    open_managed: Open, publish_for: Callable[..., BundleRef]
) -> None:
    """S4-13, C-26: not into a detector that is then discarded."""
    publish_for("acme")
    managed = open_managed()

    first = as_acme(managed)("POST", f"/models/{MODEL}/load").json()
    publish_for("acme")
    second = as_acme(managed)("POST", f"/models/{MODEL}/load").json()

    one = {"deployment": "detectors", "kind": "", "status": "live", "reason": ""}
    assert first == {"model_name": MODEL, "replicas": [one | {"version": "1"}] * 2}
    assert second == {"model_name": MODEL, "replicas": [one | {"version": "2"}] * 2}
    assert detect(managed, {"network_data": [ORDINARY]}).json()["model_version"] == 2


class Layer:
    """One replica of a layer, on the models of a tenant."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def load(self, tenant: str) -> SlotState:
        self.asked.append(tenant)
        kinds = {
            Kind.FLOW: KindState(LayerStatus.LIVE, "3"),
            Kind.PROCESS: KindState(LayerStatus.FALLBACK, "", "ARTIFACT_MISSING"),
        }
        return SlotState("anomaly", f"{tenant}/1", kinds)


def test_a_model_of_a_layer_is_loaded_by_that_layer_in_the_application_that_scores(
    open_managed: Open, store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, model="anomaly-flow")
    layers = {"anomaly": ReplicasHandle(Layer(), Failing(DeploymentUnavailableError("anomaly")))}
    managed = open_managed(layer_handle=layers.__getitem__)

    body = as_acme(managed)("POST", "/models/anomaly-flow/load").json()

    assert body["replicas"] == [
        {"deployment": "anomaly", "kind": "flow", "status": "live", "version": "3", "reason": ""},
        {
            "deployment": "anomaly",
            "kind": "",
            "status": "unreachable",
            "version": "",
            "reason": "DEPLOYMENT_UNAVAILABLE",
        },
    ]


def test_while_nothing_scores_a_layers_model_cannot_be_loaded_now(
    open_managed: Open, store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, model="anomaly-flow")
    nothing: dict[str, ReplicasHandle] = {}

    answer = as_acme(open_managed(layer_handle=nothing.__getitem__))(
        "POST", "/models/anomaly-flow/load"
    )

    assert code_of(answer) == (503, "DEPLOYMENT_UNAVAILABLE")


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]
