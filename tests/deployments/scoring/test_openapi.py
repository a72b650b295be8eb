"""The OpenAPI document is complete and true: it names every route, and responses agree with it."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from deployments.scoring.examples import ATTACK, BENIGN, SHELL
from deployments.scoring.liveness import Liveness
from deployments.scoring.tenants import TenantPipelines
from deployments.web.errors import status_of
from ensemble import errors
from ensemble.features.flow import FEATURE_NAMES
from ensemble.layers.catalog import LAYERS
from tests.support.asgi_clients import IngressClient, OpenIngress
from tests.support.contracts import management_document
from tests.support.fake_classifier import flow
from tests.support.fake_handles import FakeMethod
from tests.support.scoring_client import ROUTES

TWENTY_MB = b" " * 20_000_000
FLOW = {"kind": "flow", "features": BENIGN}
Provoke = Callable[[IngressClient], httpx.Response]


@pytest.fixture
def classifier_client(open_classifier: OpenIngress) -> IngressClient:
    return open_classifier()


@pytest.fixture
def contract(classifier_client: IngressClient) -> dict[str, Any]:
    found: dict[str, Any] = classifier_client.get("/openapi.json").json()
    return found


def operations(contract: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    return (
        (method, path, one)
        for path, methods in contract["paths"].items()
        for method, one in methods.items()
    )


def valid(instance: object, schema: dict[str, Any], contract: dict[str, Any]) -> None:
    jsonschema.validate(
        instance,
        schema | {"components": contract["components"]},
        cls=jsonschema.Draft202012Validator,
    )


# -- complete


def test_the_document_names_every_route(contract: dict[str, Any]) -> None:
    written = {(method.upper(), path) for method, path, _ in operations(contract)}

    assert written == set(ROUTES)


def test_every_schema_is_valid_and_every_reference_resolves(
    contract: dict[str, Any],
) -> None:
    assert contract["openapi"].startswith("3.1")
    for schema in contract["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(contract)):
        assert name in contract["components"]["schemas"]


def test_every_schema_is_used(contract: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(contract)))

    assert contract["components"]["schemas"].keys() - used == set()


def test_every_operation_has_a_unique_name_a_summary_and_a_tag(
    contract: dict[str, Any],
) -> None:
    found = [one for _, _, one in operations(contract)]

    assert len({one["operationId"] for one in found}) == len(found)
    assert all(one["summary"] and one["tags"] for one in found)


def test_every_response_has_a_schema_and_no_object_is_open(contract: dict[str, Any]) -> None:
    for _, path, one in operations(contract):
        for status, answer in one["responses"].items():
            for media, content in answer["content"].items():
                assert content["schema"], (path, status, media)
    closed = [
        name for name, schema in contract["components"]["schemas"].items() if "properties" in schema
    ]
    open_ones = [
        name
        for name in closed
        if contract["components"]["schemas"][name].get("additionalProperties") is not False
    ]
    assert open_ones == []


def test_every_error_code_is_listed_where_its_status_is(contract: dict[str, Any]) -> None:
    """Clients decide by code, so each response lists the codes that can occur."""
    for _, path, one in operations(contract):
        for status, answer in one["responses"].items():
            schema = answer["content"].get("application/json", {}).get("schema", {})
            if {"$ref": "#/components/schemas/ErrorAnswer"} not in schema.get("allOf", ()):
                continue
            codes = schema["allOf"][1]["properties"]["error"]["properties"]["code"]["enum"]
            assert {str(status_of(code)) for code in codes} == {status}, path
            assert all(f"`{code}`: " in answer["description"] for code in codes)


def test_every_error_of_a_caller_is_documented_for_a_route(contract: dict[str, Any]) -> None:
    """It may be a route of either application. Files of events are read in the terminal only."""
    of_terminal = {errors.EventError, errors.UnreadableSource}
    said = json.dumps(contract) + json.dumps(management_document()["paths"])
    kinds = [
        kind
        for name in errors.__all__
        if issubclass(kind := getattr(errors, name), errors.EventError | errors.LayerError)
    ]

    assert [
        kind.code for kind in kinds if kind not in of_terminal and f'"{kind.code}"' not in said
    ] == []


def test_a_field_is_described_by_its_docstring(contract: dict[str, Any]) -> None:
    health = contract["components"]["schemas"]["Health"]

    assert health["description"] == "Whether the ensemble is complete."
    assert (
        health["properties"]["coverage"]["description"]
        == "Share of the validated evidence on flows that is available."
    )


# -- true: requests


def test_the_examples_are_valid_and_accepted(
    classifier_client: IngressClient, contract: dict[str, Any]
) -> None:
    shown = 0
    for method, path, one in operations(contract):
        content = one.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in content.get("examples", {}).values():
            shown += 1
            valid(example["value"], content["schema"], contract)
            if method == "post" and "score" not in path:  # the made-up classifier is in no fusion
                assert classifier_client.post(path, example["value"]).status_code == 200
        for answer in one["responses"].values():
            for media in answer["content"].values():
                if "example" in media:
                    valid(media["example"], media["schema"], contract)
    assert shown >= 5


def test_the_examples_of_events_are_accepted(client: IngressClient) -> None:
    for event in (FLOW, {"kind": "flow", "features": ATTACK}, SHELL):
        assert client.post("/v1/score", event).status_code == 200


ALLOWED = [
    pytest.param(
        "/predict", {"features": dict(zip(FEATURE_NAMES, BENIGN, strict=True))}, id="by name"
    ),
    pytest.param(
        "/predict",
        {"features": {name: 0 for name in FEATURE_NAMES if name != "Fwd Header Length.1"}},
        id="77 by name",
    ),
    pytest.param(
        "/predict",
        {
            "features": dict.fromkeys(FEATURE_NAMES, 0)
            | {"Flow Bytes/s": None, "Flow Packets/s": 1e300}
        },
        id="rates",
    ),
    pytest.param(
        "/predict", {"features": BENIGN, "model_name": "decision_tree"}, id="another model"
    ),
    pytest.param("/predict/batch", {"flows": [{"features": BENIGN}, 17, None, {}]}, id="bad flows"),
    pytest.param("/v1/score/batch", {"events": [17, None, {}]}, id="bad events"),
]


@pytest.mark.parametrize(("path", "body"), ALLOWED)
def test_what_the_document_allows_is_accepted(
    classifier_client: IngressClient, contract: dict[str, Any], path: str, body: object
) -> None:
    valid(
        body,
        contract["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"],
        contract,
    )

    assert classifier_client.post(path, body).status_code == 200


FORBIDDEN = [
    pytest.param("/predict", {"features": BENIGN[:77]}, id="77"),
    pytest.param("/predict", {"features": [*BENIGN, 1]}, id="79"),
    pytest.param("/predict", {"features": [*BENIGN[:77], 1e39]}, id="1e39"),
    pytest.param("/predict", {"features": [*BENIGN[:77], "1"]}, id="a string"),
    pytest.param("/predict", {"features": [*BENIGN[:77], True]}, id="a boolean"),
    pytest.param("/predict", {"features": {"Flow Duration": 1}}, id="one by name"),
    pytest.param(
        "/predict",
        {"features": dict(zip(FEATURE_NAMES, BENIGN, strict=True)) | {"Colour": 1}},
        id="an unknown feature",
    ),
    pytest.param("/predict", {"features": BENIGN, "model_name": "svm"}, id="an unknown model"),
    pytest.param("/predict", {"features": BENIGN, "tenant": "x"}, id="an unknown field"),
    pytest.param("/predict", {}, id="nothing"),
    pytest.param("/predict/batch", {"flows": []}, id="no flows"),
    pytest.param("/predict/batch", {"flows": [{}] * 1001}, id="1,001 flows"),
    pytest.param("/v1/score", {"kind": "process", "name": ""}, id="a process without a name"),
    pytest.param(
        "/v1/score", {"kind": "flow", "features": BENIGN, "id": "i" * 257}, id="a long id"
    ),
    pytest.param("/v1/score/batch", {"events": [], "more": 1}, id="an unknown field of a batch"),
]


@pytest.mark.parametrize(("path", "body"), FORBIDDEN)
def test_what_the_document_forbids_is_rejected(
    classifier_client: IngressClient, contract: dict[str, Any], path: str, body: object
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        valid(
            body,
            contract["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"],
            contract,
        )

    assert classifier_client.post(path, body).status_code in {404, 422}


# -- true: answers


def test_every_route_without_a_body_responds_as_documented(
    classifier_client: IngressClient, contract: dict[str, Any]
) -> None:
    names = {"{layer}": "behavior", "{file}": "start.js"}
    for method, path, one in operations(contract):
        if "requestBody" in one:
            continue
        answer = classifier_client.request(
            method.upper(), re.sub(r"\{\w+\}", lambda found: names[found[0]], path)
        )
        assert answer.status_code == 200, path
        media = answer.headers["content-type"].partition(";")[0]
        schema = one["responses"]["200"]["content"][media]["schema"]
        valid(answer.json() if media == "application/json" else answer.text, schema, contract)


def breaking_inside(path: str, body: object) -> Provoke:
    def ask(client: IngressClient) -> httpx.Response:
        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("hunter2")

        client.ingress._pipelines.for_tenant = broken  # type: ignore[assignment]
        return client.post(path, body)

    return ask


def twice_at_once(client: IngressClient) -> httpx.Response:
    """Run two tests of one layer; the first ends after the second was rejected."""

    async def both() -> httpx.Response:
        began, may_end = asyncio.Event(), asyncio.Event()

        async def test() -> dict[str, Any]:
            began.set()
            await may_end.wait()
            return {}

        handles = client.ingress._operator_routes._handles
        handles["behavior"].test = FakeMethod(test)
        first = asyncio.create_task(client.send("POST", "/v1/layers/behavior/test"))
        await asyncio.wait_for(began.wait(), 10)
        second = await client.send("POST", "/v1/layers/behavior/test")
        may_end.set()
        await first
        return second

    return client.loop.run(both())


def without_room(client: IngressClient) -> httpx.Response:
    """Send a batch while so much waits that it cannot be in time."""
    gate = client.ingress._bulk
    gate._queue.push("other", 10, asyncio.Future(loop=client.loop.get_loop()))
    gate._measured(events=1, taken_s=60.0)
    return client.post("/v1/score/batch", {"events": [FLOW]})


def with_late_layers(client: IngressClient) -> httpx.Response:
    """Send an event for which no layer has time."""
    for guarded in client.ingress._layers._guarded.values():

        async def late(*_: object, liveness: Liveness = guarded._liveness) -> None:
            liveness.answered()  # to another call
            await asyncio.sleep(60.0)

        guarded._score = late
    return client.post("/v1/score", FLOW, headers={"X-Axon-Deadline-Ms": "10"})


def without_a_state_folder(verb: str) -> Provoke:
    def ask(client: IngressClient) -> httpx.Response:
        state = client.ingress._settings.state
        if state.exists():
            state.rename(state.with_name("away"))
        state.write_text("a file where the folder should be")
        return client.post(f"/v1/layers/behavior/{verb}", b"")

    return ask


PROVOKED: dict[tuple[str, str], dict[str, Provoke]] = {
    ("post", "/v1/score"): {
        "400": lambda client: client.post("/v1/score", b"{"),
        "413": lambda client: client.post("/v1/score", TWENTY_MB),
        "415": lambda client: client.post(
            "/v1/score", b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"}
        ),
        "422": lambda client: client.post("/v1/score", {"kind": "smoke"}),
        "500": breaking_inside("/v1/score", FLOW),
        "503": with_late_layers,
    },
    ("post", "/v1/score/batch"): {
        "400": lambda client: client.post("/v1/score/batch", b"{"),
        "413": lambda client: client.post("/v1/score/batch", TWENTY_MB),
        "415": lambda client: client.post(
            "/v1/score/batch", b"", headers={"Content-Encoding": "gzip"}
        ),
        "422": lambda client: client.post("/v1/score/batch", {"events": []}),
        "500": breaking_inside("/v1/score/batch", {"events": [FLOW]}),
        "503": without_room,
    },
    ("post", "/predict"): {
        "400": lambda client: client.post("/predict", b"{"),
        "404": lambda client: client.post("/predict", {"features": flow(), "model_name": "svm"}),
        "409": lambda client: client.post(
            "/predict", {"features": flow(), "model_name": "xgboost"}
        ),
        "413": lambda client: client.post("/predict", TWENTY_MB),
        "415": lambda client: client.post("/predict", b"", headers={"Content-Type": "text/plain"}),
        "422": lambda client: client.post("/predict", {"features": []}),
        "500": breaking_inside("/predict", {"features": flow()}),
        "503": lambda client: client.post("/predict", {"features": flow(666)}),
    },
    ("post", "/predict/batch"): {
        "400": lambda client: client.post("/predict/batch", b"{"),
        "404": lambda client: client.post("/predict/batch", {"flows": [{}], "model_name": "svm"}),
        "409": lambda client: client.post(
            "/predict/batch", {"flows": [{"features": flow()}], "model_name": "xgboost"}
        ),
        "413": lambda client: client.post("/predict/batch", TWENTY_MB),
        "415": lambda client: client.post(
            "/predict/batch", b"", headers={"Content-Type": "text/plain"}
        ),
        "422": lambda client: client.post("/predict/batch", {"flows": []}),
        "500": breaking_inside("/predict/batch", {"flows": [{}]}),
        "503": lambda client: client.post("/predict/batch", {"flows": [{"features": flow(666)}]}),
    },
    ("post", "/v1/layers/{layer}/test"): {
        "404": lambda client: client.post("/v1/layers/nowhere/test", b""),
        "409": twice_at_once,
        "503": without_a_state_folder("test"),
    },
    **{
        ("post", f"/v1/layers/{{layer}}/{verb}"): {
            "404": lambda client, verb=verb: client.post(f"/v1/layers/nowhere/{verb}", b""),  # type: ignore[misc]
            "503": without_a_state_folder(verb),
        }
        for verb in ("disable", "enable", "reset")
    },
}
CASES = [
    pytest.param(*route, status, provoke, id=f"{route[0]} {route[1]} {status}")
    for route, by_status in PROVOKED.items()
    for status, provoke in by_status.items()
]


@pytest.mark.parametrize(("method", "path", "status", "provoke"), CASES)
def test_every_documented_error_occurs_as_documented(
    classifier_client: IngressClient,
    contract: dict[str, Any],
    method: str,
    path: str,
    status: str,
    provoke: Provoke,
) -> None:
    documented = contract["paths"][path][method]["responses"][status]

    answer = provoke(classifier_client)

    assert answer.status_code == int(status), answer.text
    valid(answer.json(), documented["content"]["application/json"]["schema"], contract)
    assert {name for name in documented["headers"] if name not in answer.headers} == set()


GATE = {"401", "403", "408", "429"}  # the same for every route, with tests of their own


def test_every_documented_error_is_provoked_above(contract: dict[str, Any]) -> None:
    """500 is provoked where that is possible, and `/ready` has a test of its own.

    The errors of authentication are in tests/attacks.
    """
    documented = {
        (method, path, status)
        for method, path, one in operations(contract)
        for status in one["responses"]
        if status not in {"200", "500", *GATE}
        and (path, status) not in {("/ready", "503"), ("/v2/health/ready", "503")}
    }

    assert documented <= {
        (*route, status) for route, by_status in PROVOKED.items() for status in by_status
    }


@pytest.mark.parametrize("path", ["/ready", "/v2/health/ready"])
def test_not_ready_responds_as_documented(
    classifier_client: IngressClient,
    contract: dict[str, Any],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(TenantPipelines, "is_ready", False)

    answer = classifier_client.get(path)

    assert answer.status_code == 503
    valid(
        answer.json(),
        contract["paths"][path]["get"]["responses"]["503"]["content"]["application/json"]["schema"],
        contract,
    )


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_another_method_gets_the_allowed_ones(
    classifier_client: IngressClient, method: str, path: str
) -> None:
    """RFC 9110, section 15.5.6: 405 comes with Allow."""
    answer = classifier_client.request("DELETE", path)

    assert answer.status_code == 405
    assert method in answer.headers["Allow"]


# -- content types


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score?explain=true", "/v1/score/batch", "/predict", "/predict/batch"]
)
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Type", "text/plain"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Type", "text/json"),
        ("Content-Type", "application/xml+jsonx"),
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "identity, br"),
    ],
)
def test_a_body_of_another_content_type_is_not_read(
    classifier_client: IngressClient, path: str, header: str, value: str
) -> None:
    answer = classifier_client.post(path, b"{}", headers={header: value})

    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert header in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/vnd.axon+json",
        "",
        None,
    ],
)
def test_a_body_of_json_or_without_a_content_type_is_read(
    classifier_client: IngressClient, value: str | None
) -> None:
    headers = {} if value is None else {"Content-Type": value}

    assert (
        classifier_client.post(
            "/predict", json.dumps({"features": flow()}).encode(), headers=headers
        ).status_code
        == 200
    )


# -- keys


def test_the_document_names_the_scope_that_a_route_needs(contract: dict[str, Any]) -> None:
    scored = contract["paths"]["/v1/score"]["post"]
    health = contract["paths"]["/health"]["get"]

    assert scored["security"] == [{"key": []}]
    assert {"401", "403", "429"} <= scored["responses"].keys()
    assert "`score`" in scored["description"]
    assert health["security"] == []
    assert health["responses"].keys() == {"200", "500"}
    assert contract["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    layer = contract["paths"]["/v1/layers/{layer}/test"]["post"]["parameters"][0]
    assert set(LAYERS) <= set(layer["schema"]["enum"])


def test_the_largest_documented_number_is_the_largest_accepted_one(
    classifier_client: IngressClient, contract: dict[str, Any]
) -> None:
    largest = contract["components"]["schemas"]["FeaturesByName"]["properties"]["Idle Min"][
        "maximum"
    ]

    assert (
        classifier_client.post("/predict", {"features": [*BENIGN[:77], largest]}).status_code == 200
    )
    assert (
        classifier_client.post(
            "/predict", {"features": [*BENIGN[:77], math.nextafter(largest, math.inf)]}
        ).status_code
        == 422
    )
