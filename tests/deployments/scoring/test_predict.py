"""The API of the CICIDS2017 service: a label and its probabilities for a flow and a model's name.

Every error of it, too.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
import weakref
from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from deployments.config.settings import read_settings
from deployments.scoring.predict import Predictor
from deployments.scoring.predict_wire import DEFAULT_MODEL
from ensemble.events import FlowBatch
from ensemble.features.flow import FEATURE_NAMES
from ensemble.runtime.classification import KNOWN_MODELS, Classification
from ensemble.runtime.model_state import LoadFailure
from tests.support.asgi_clients import LONG_DEADLINE, IngressClient, OpenIngress
from tests.support.fake_classifier import NOT_INSTALLED, FakeClassifier, FakeReleases, flow, hang
from tests.support.fake_handles import FakeMethod
from tests.support.pipelines import layer_client, tenant_pipeline
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.scoring_client import error_of

PREDICTION_KEYS = {
    "prediction",
    "confidence",
    "probabilities",
    "model_name",
    "model_version",
    "inference_time_ms",
    "timestamp",
}
QUICK = {**LONG_DEADLINE, "ingress": {"deadline_ms": 300}}


@pytest.fixture
def classifier_client(open_classifier: OpenIngress) -> IngressClient:
    return open_classifier()


def predicted(client: IngressClient, features: object, **request: Any) -> dict[str, Any]:
    answer = client.post("/predict", {"features": features, **request})
    assert answer.status_code == 200, answer.text[:300]
    body: dict[str, Any] = answer.json()
    return body


def batch_of(client: IngressClient, flows: list[Any], **request: Any) -> list[dict[str, Any]]:
    answer = client.post("/predict/batch", {"flows": flows, **request})
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json().keys() == {"predictions"}
    found: list[dict[str, Any]] = answer.json()["predictions"]
    return found


# -- what an answer holds


def test_a_flow_gets_a_label_and_the_probability_of_every_class(
    classifier_client: IngressClient,
) -> None:
    """S2-04, S2-11, S2-23."""
    body = predicted(classifier_client, flow(1), model_name="random_forest")

    assert body.keys() == PREDICTION_KEYS
    assert (body["prediction"], body["confidence"]) == ("Flood", pytest.approx(0.8))
    assert body["probabilities"] == pytest.approx({"BENIGN": 0.1, "Flood": 0.8, "Scan": 0.1})
    assert (body["model_name"], body["model_version"]) == ("random_forest", "7")
    assert body["inference_time_ms"] > 0.0


def test_the_time_of_a_prediction_is_in_utc(classifier_client: IngressClient) -> None:
    said = predicted(classifier_client, flow())["timestamp"]

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", said)
    assert (
        abs(datetime.fromisoformat(said).timestamp() - datetime.now().astimezone().timestamp()) < 60
    )


@pytest.mark.parametrize(
    ("name", "confidence"),
    [("random_forest", 0.8), ("decision_tree", 1.0), ("hist_gradient_boosting", 0.8)],
)
def test_each_model_is_called_by_its_name(
    classifier_client: IngressClient, name: str, confidence: float
) -> None:
    """S2-09."""
    body = predicted(classifier_client, flow(2), model_name=name)

    assert (body["model_name"], body["prediction"], body["confidence"]) == (
        name,
        "Scan",
        pytest.approx(confidence),
    )


def test_the_default_model_is_the_forest(classifier_client: IngressClient) -> None:
    assert predicted(classifier_client, flow())["model_name"] == "random_forest"


def test_features_may_be_given_by_name_in_any_dialect(classifier_client: IngressClient) -> None:
    named = dict(zip(FEATURE_NAMES, flow(2), strict=True))
    named["dst port"] = named.pop("Destination Port")

    assert predicted(classifier_client, named)["prediction"] == "Scan"


def test_a_flow_gets_the_same_prediction_alone_among_others_and_in_a_batch(
    classifier_client: IngressClient,
) -> None:
    ports = [0, 1, 2, 5, 7, 11]
    alone = [predicted(classifier_client, flow(port))["probabilities"] for port in ports]
    together = [
        answer.json()["probabilities"]
        for answer in classifier_client.post_all(
            [{"features": flow(port)} for port in ports], "/predict"
        )
    ]
    in_a_batch = [
        one["probabilities"]
        for one in batch_of(classifier_client, [{"features": flow(port)} for port in ports])
    ]

    assert alone == together == in_a_batch


def test_flows_that_arrive_together_leave_in_one_call_a_model(
    classifier_client: IngressClient, classifier: FakeClassifier
) -> None:
    bodies = [
        {"features": flow(n), "model_name": name}
        for n in range(20)
        for name in ("random_forest", "decision_tree")
    ]

    answers = [answer.json() for answer in classifier_client.post_all(bodies, "/predict")]

    assert [answer["model_name"] for answer in answers] == [body["model_name"] for body in bodies]
    assert [answer["prediction"] for answer in answers] == [
        classifier.labels[n % 3] for n in range(20) for _ in range(2)
    ]
    assert sum(size for size, _ in classifier.batches) == 40
    assert len(classifier.batches) < 20


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_response_has_the_id_of_its_request(classifier_client: IngressClient, path: str) -> None:
    body = {"features": flow()} if path == "/predict" else {"flows": [{"features": flow()}]}

    assert (
        classifier_client.post(path, body, headers={"X-Request-ID": "abc-1"}).headers[
            "X-Request-ID"
        ]
        == "abc-1"
    )
    assert re.fullmatch(r"[0-9a-f]{32}", classifier_client.post(path, body).headers["X-Request-ID"])


async def test_an_evicted_pipeline_that_predicted_is_freed(meter: RecordingMeter) -> None:
    """Otherwise each evicted tenant costs memory until the service restarts."""

    async def classify(batch: FlowBatch, release: str, model: str) -> Classification:
        del model
        return Classification(release, "7", ("BENIGN",), np.ones((len(batch), 1)))

    layers = layer_client({"classifier": hang}, deadline_s=30.0)
    handle = SimpleNamespace(classify=FakeMethod(classify))
    predictor = Predictor(handle, read_settings().ingress, meter)
    pipeline = tenant_pipeline(layers)

    predicted = await predictor.predict(pipeline, flow(), DEFAULT_MODEL, time.monotonic())
    assert predicted.prediction == "BENIGN"
    evicted = weakref.ref(pipeline)
    del pipeline
    gc.collect()

    assert evicted() is None


# -- batches


def test_an_invalid_flow_gets_an_error_in_its_own_place(classifier_client: IngressClient) -> None:
    """P29, S2-16: order and count stay, and every error is in its own place."""
    flows: list[Any] = [
        {"features": flow(0)},
        {"features": flow(0)[:77]},
        {"features": flow(1)},
        {"features": [*flow(1)[:5], "six", *flow(1)[6:]]},
        {},
        17,
        {"features": flow(2), "label": "benign"},
        {"features": flow(2, **{"Flow Duration": 1e39})},
        {"features": flow(2)},
    ]

    found = batch_of(classifier_client, flows, model_name="decision_tree")

    assert [one.get("prediction") for one in found] == [
        "BENIGN",
        None,
        "Flood",
        None,
        None,
        None,
        None,
        None,
        "Scan",
    ]
    errors = [
        (one["error"]["code"], one["error"].get("field", "")) for one in found if "error" in one
    ]
    assert errors == [
        ("FEATURE_MISMATCH", "features"),
        ("MALFORMED_EVENT", "features[5]"),
        ("MALFORMED_EVENT", "features"),
        ("MALFORMED_EVENT", ""),
        ("MALFORMED_EVENT", "label"),
        ("FEATURE_MISMATCH", "features.Flow Duration"),
    ]
    assert all(one.keys() == ({"error"} if "error" in one else PREDICTION_KEYS) for one in found)


def test_only_the_flow_on_which_the_model_fails_gets_no_prediction(
    classifier_client: IngressClient,
) -> None:
    """N-13 for predictions.

    The other flows of the batch, and of the same call of the micro-batcher, get theirs.
    """
    found = batch_of(classifier_client, [{"features": flow(port)} for port in (0, 666, 1)])
    together = classifier_client.post_all(
        [{"features": flow(port)} for port in (0, 666, 1, 2)], "/predict"
    )

    assert [one.get("prediction") for one in found] == ["BENIGN", None, "Flood"]
    assert found[1]["error"]["code"] == "LAYER_CRASHED"
    assert [answer.status_code for answer in together] == [200, 503, 200, 200]
    assert "hunter2" not in str(found) + together[1].text


def test_a_batch_of_invalid_flows_alone_does_not_call_the_model(
    classifier_client: IngressClient, classifier: FakeClassifier
) -> None:
    assert [
        one["error"]["code"] for one in batch_of(classifier_client, [{"features": []}] * 3)
    ] == ["FEATURE_MISMATCH"] * 3
    assert classifier.batches == []


def test_a_thousand_flows_are_a_few_calls(
    classifier_client: IngressClient, classifier: FakeClassifier
) -> None:
    """S2-05, I5: parts, so that single predictions of other tenants do not wait for all of it."""
    assert len(batch_of(classifier_client, [{"features": flow(1)}] * 1000)) == 1000
    assert sum(size for size, _ in classifier.batches) == 1000
    assert len(classifier.batches) <= 4


@pytest.mark.parametrize("flows", [[{"features": flow()}] * 1001, [{}] * 1001], ids=["good", "bad"])
def test_more_flows_than_the_limit_are_rejected(
    classifier_client: IngressClient, flows: list[Any]
) -> None:
    """S2-17, C-17."""
    error_of(
        classifier_client.post("/predict/batch", {"flows": flows}), 422, "TOO_MANY_EVENTS", "flows"
    )


def test_the_limits_are_settings_and_are_documented(open_classifier: OpenIngress) -> None:
    """C-17: one setting, in `GET /` and in the OpenAPI document."""
    client = open_classifier(
        overrides={
            **LONG_DEADLINE,
            "ingress": {**LONG_DEADLINE["ingress"], "max_events": 2, "max_body_bytes": 2000},
        }
    )

    error_of(client.post("/predict/batch", {"flows": [{}] * 3}), 422, "TOO_MANY_EVENTS", "flows")
    error_of(client.post("/predict", b" " * 2001), 413, "BODY_TOO_LARGE")
    limits = client.get("/").json()["limits"]
    assert (limits["max_events"], limits["max_body_bytes"]) == (2, 2000)
    contract = client.get("/openapi.json").json()
    assert (
        contract["components"]["schemas"]["PredictBatchRequest"]["properties"]["flows"]["maxItems"]
        == 2
    )
    assert "2,000 bytes" in contract["info"]["description"]


# -- refusals

SINGLE = [
    pytest.param(b"", 400, "MALFORMED_JSON", "", id="empty"),
    pytest.param(b'{"features": [NaN]}', 400, "MALFORMED_JSON", "", id="NaN"),
    pytest.param({}, 422, "MALFORMED_EVENT", "features", id="no features"),
    pytest.param({"features": []}, 422, "FEATURE_MISMATCH", "features", id="0 features"),
    pytest.param({"features": flow()[:77]}, 422, "FEATURE_MISMATCH", "features", id="77 features"),
    pytest.param(
        {"features": [*flow(), 1.0]}, 422, "FEATURE_MISMATCH", "features", id="79 features"
    ),
    pytest.param({"features": "1" * 78}, 422, "MALFORMED_EVENT", "features", id="a string"),
    pytest.param(
        {"features": {"Destination Port": 1}},
        422,
        "FEATURE_MISMATCH",
        "features.Flow Duration",
        id="one by name",
    ),
    pytest.param(
        {"features": flow(), "model_name": 7},
        422,
        "MALFORMED_EVENT",
        "model_name",
        id="a number for a name",
    ),
    pytest.param(
        {"features": flow(), "model_name": None},
        422,
        "MALFORMED_EVENT",
        "model_name",
        id="null for a name",
    ),
    pytest.param(
        {"features": flow(), "model": "random_forest"},
        422,
        "MALFORMED_EVENT",
        "model",
        id="unknown field",
    ),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), SINGLE)
def test_an_invalid_flow_is_rejected_with_code_and_field(
    classifier_client: IngressClient, body: object, status: int, code: str, field: str
) -> None:
    """S2-08, S2-13, C-16."""
    error_of(classifier_client.post("/predict", body), status, code, field)


@pytest.mark.parametrize(
    "name", ["svm", "", "RANDOM_FOREST", "../random_forest", "random_forest\x00", "x" * 256]
)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(
    classifier_client: IngressClient, path: str, name: str
) -> None:
    """C-16. The requested name is not repeated."""
    body = {"model_name": name} | (
        {"features": flow()} if path == "/predict" else {"flows": [{"features": flow()}]}
    )

    error = error_of(classifier_client.post(path, body), 404, "UNKNOWN_MODEL", "model_name")

    assert (
        error["message"]
        == f"model_name: there is no such model; there are: {', '.join(KNOWN_MODELS)}"
    )


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_known_model_that_is_not_loaded_has_a_reason(
    classifier_client: IngressClient, path: str
) -> None:
    """C-16: 409, and the others go on."""
    body = {"model_name": "xgboost"} | (
        {"features": flow()} if path == "/predict" else {"flows": [{"features": flow()}]}
    )

    error = error_of(classifier_client.post(path, body), 409, "MODEL_NOT_LOADED", "model_name")

    assert NOT_INSTALLED in error["message"]
    assert predicted(classifier_client, flow())["model_name"] == "random_forest"


def unavailable(answer: httpx.Response, code: str) -> dict[str, Any]:
    error = error_of(answer, 503, code)
    assert int(answer.headers["Retry-After"]) >= 1
    return error


def test_a_classifier_without_a_model_has_a_reason(
    open_classifier: OpenIngress,
) -> None:
    broken = FakeReleases(
        None, failure=LoadFailure("ARTIFACT_CORRUPT", "/srv/store/x: sha256 differs")
    )

    error = error_of(
        open_classifier(source=broken).post("/predict", {"features": flow()}),
        409,
        "MODEL_NOT_LOADED",
    )

    assert "ARTIFACT_CORRUPT" in error["message"]
    assert "/srv" not in error["message"]


def test_a_classifier_that_is_loading_says_when_to_retry(open_classifier: OpenIngress) -> None:
    unavailable(
        open_classifier(source=FakeReleases(None)).post("/predict", {"features": flow()}),
        "LAYER_WARMING_UP",
    )


def test_a_service_without_the_classifier_has_no_models_loaded(open_client: OpenIngress) -> None:
    client = open_client()
    client.ingress._predictor._classify = None

    error_of(client.post("/predict", {"features": flow()}), 409, "MODEL_NOT_LOADED", "model_name")


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_hanging_classifier_costs_the_deadline_at_most(
    open_classifier: OpenIngress, path: str
) -> None:
    """C-14: no header of the caller changes the deadline."""
    client = open_classifier(call=hang, overrides=QUICK)
    body = {"features": flow()} if path == "/predict" else {"flows": [{"features": flow()}]}

    named = {"x-axon-deadline-ms": "50"} if path == "/predict/batch" else {}
    answer = client.post(path, body, headers={"x-request-timeout-seconds": "0"} | named)

    unavailable(answer, "LAYER_TIMEOUT")
    assert answer.elapsed.total_seconds() < 5


def test_a_classifier_that_keeps_failing_is_no_longer_called_until_it_recovers(
    open_classifier: OpenIngress,
) -> None:
    """The breaker is the layer's own.

    Failed predictions open it for verdicts too, and an operator closes it for both.
    """
    calls = 0
    is_sick = True

    async def call(batch: FlowBatch, release: str, name: str) -> Classification:
        nonlocal calls
        del name
        calls += 1
        if is_sick:
            raise RuntimeError("/srv/secret")
        return Classification(release, "7", ("BENIGN",), np.ones((len(batch), 1)))

    client = open_classifier(call=call)
    limit = read_settings({}).guard.failures_in_a_row

    for _ in range(limit):
        assert "secret" not in str(
            unavailable(client.post("/predict", {"features": flow()}), "LAYER_ERROR")
        )
    unavailable(client.post("/predict", {"features": flow()}), "LAYER_OPEN")

    assert calls == limit
    assert client.get("/health").json()["providers"]["classifier"]["status"] == "open"
    is_sick = False
    assert client.post("/v1/layers/classifier/reset", b"").status_code == 200
    assert predicted(client, flow())["prediction"] == "BENIGN"


def test_a_disabled_classifier_is_not_called(
    classifier_client: IngressClient, classifier: FakeClassifier
) -> None:
    assert classifier_client.post("/v1/layers/classifier/disable", b"").status_code == 200

    unavailable(classifier_client.post("/predict", {"features": flow()}), "LAYER_DISABLED")

    assert classifier.batches == []
    assert classifier_client.post("/v1/layers/classifier/enable", b"").status_code == 200
    assert predicted(classifier_client, flow())["prediction"] == "BENIGN"


def test_more_calls_than_the_bulkhead_holds_are_shed(open_classifier: OpenIngress) -> None:
    """C-16: load shedding is 503 with Retry-After."""
    client = open_classifier(call=hang, overrides={**QUICK, "guard": {"calls_in_flight": 1}})

    answers = client.post_all([{"flows": [{"features": flow()}]}] * 3, "/predict/batch")

    assert sorted(answer.json()["error"]["code"] for answer in answers) == [
        "LAYER_OVERLOADED",
        "LAYER_OVERLOADED",
        "LAYER_TIMEOUT",
    ]
    assert all(answer.status_code == 503 for answer in answers)


WRONG = [
    pytest.param(
        lambda n, _: Classification("default/999", "7", ("BENIGN",), np.ones((n, 1))),
        id="of another release",
    ),
    pytest.param(
        lambda n, release: Classification(release, "7", ("BENIGN",), np.ones((n + 1, 1))),
        id="of other flows",
    ),
    pytest.param(
        lambda n, release: Classification(release, "7", ("BENIGN", "Flood"), np.ones((n, 1))),
        id="of other classes",
    ),
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_response_to_another_request_is_an_error(
    open_classifier: OpenIngress, wrong: Callable[..., Classification]
) -> None:
    async def call(batch: FlowBatch, release: str, name: str) -> Classification:
        del name
        return wrong(len(batch), release)

    unavailable(open_classifier(call=call).post("/predict", {"features": flow()}), "LAYER_CRASHED")


NONSENSE = [
    pytest.param(lambda rows: np.full((len(rows), 3), np.nan), id="NaN"),
    pytest.param(lambda rows: np.full((len(rows), 3), 0.5), id="sums to 1.5"),
    pytest.param(lambda rows: np.full((len(rows), 2), 0.5), id="two classes of three"),
    pytest.param(lambda rows: np.tile([1.5, -0.5, 0.0], (len(rows), 1)), id="outside of 0 and 1"),
]


@pytest.mark.parametrize("instead", NONSENSE)
def test_a_model_with_invalid_probabilities_has_failed(
    open_classifier: OpenIngress, classifier: FakeClassifier, instead: Callable[..., Any]
) -> None:
    classifier.instead = instead

    unavailable(open_classifier().post("/predict", {"features": flow()}), "LAYER_CRASHED")


def test_the_call_of_a_caller_that_left_is_cancelled(open_classifier: OpenIngress) -> None:
    """I10: the bulkhead has room again."""
    was_cancelled, is_out = False, asyncio.Event()

    async def call(*_: object) -> Classification:
        nonlocal was_cancelled
        is_out.set()
        try:
            return await hang()
        except asyncio.CancelledError:
            was_cancelled = True
            raise

    client = open_classifier(
        call=call, overrides={**LONG_DEADLINE, "guard": {"calls_in_flight": 1}}
    )

    async def leave() -> None:
        asking = asyncio.create_task(
            client.send("POST", "/predict/batch", json={"flows": [{"features": flow()}]})
        )
        await asyncio.wait_for(is_out.wait(), 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    client.loop.run(leave())

    assert was_cancelled
    assert client.ingress._layers._guarded["classifier"]._bulkhead._free == 1


# -- what is told of it


def test_predictions_are_counted_by_model(
    classifier_client: IngressClient, meter: RecordingMeter
) -> None:
    """S2-06."""
    predicted(classifier_client, flow())
    batch_of(
        classifier_client,
        [{"features": flow()}, {"features": []}, {"features": flow(666)}],
        model_name="decision_tree",
    )

    assert meter.total("predictions_total", model="random_forest") == 1
    assert meter.total("predictions_total", model="decision_tree") == 1
    assert [
        labels for name, _, labels in meter.observed if name == "inference_latency_seconds"
    ] == [
        {"model": "random_forest"},
        {"model": "decision_tree"},
    ]


def test_the_root_names_the_serving_release(classifier_client: IngressClient) -> None:
    """S2-01."""
    body = classifier_client.get("/").json()

    assert body.keys() == {
        "service",
        "version",
        "about",
        "model_version",
        "models",
        "limits",
        "routes",
    }
    assert body["model_version"] == classifier_client.get("/v1/status").json()["release"]
    assert body["models"] == classifier_client.get("/health").json()["available_models"]
    assert "POST /predict" in body["routes"]
