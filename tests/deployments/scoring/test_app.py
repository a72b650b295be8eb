"""The HTTP application over real slots and shipped models, without Ray.

Every route, every rejection, and every degraded state.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from deployments.scoring import wire
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores
from tests.deployments.conftest import (
    PATIENT,
    Door,
    Event,
    FakeHandle,
    FakeMethod,
    OpenDoor,
    broken_slot,
)

TOLERANCE = 1e-6  # P15, DESIGN decision 12
HEALTH_KEYS = {"status", "ml_status", "coverage", "models_loaded", "available_models", "providers"}
VERDICT_KEYS = {
    "id",
    "score",
    "low",
    "high",
    "verdict",
    "severity",
    "coverage",
    "degraded",
    "status",
    "layers",
    "elapsed_ms",
}
MADE_BY_KEYS = {
    "release",
    "release_sha256",
    "input_sha256",
    "scored_at",
}  # N-09: what a replay goes by
TWENTY_MB = 20 * 1000 * 1000
ROUTES = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("GET", "/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v1/status"),
    ("GET", "/v1/layers"),
    ("POST", "/v1/layers/{layer}/test"),
    ("POST", "/v1/layers/{layer}/disable"),
    ("POST", "/v1/layers/{layer}/enable"),
    ("POST", "/v1/layers/{layer}/reset"),
    ("POST", "/v1/score"),
    ("POST", "/v1/score/batch"),
    ("POST", "/predict"),
    ("POST", "/predict/batch"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/docs/start.js"),
    ("GET", "/docs/swagger-ui-bundle.js"),
    ("GET", "/docs/swagger-ui.css"),
    ("GET", "/docs/favicon.png"),
]
ML = {"anomaly", "behavior", "classifier"}


def error_of(
    answer: httpx.Response, status: int, code: str, field: str | None = None
) -> dict[str, Any]:
    """The error of a response, after checks that hold for every error: DESIGN section 4, P27."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert (
        {"code", "message", "request_id"}
        <= error.keys()
        <= {"code", "message", "field", "request_id"}
    )
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["X-Request-ID"]
    if field is not None:
        assert error.get("field", "") == field
    for inside in (
        "Traceback",
        "/work",
        "/home",
        ".py",
        "site-packages",
        "msgspec",
        "deployments.",
    ):
        assert inside not in answer.text
    return error


def scored(door: Door, event: Event, **request: Any) -> dict[str, Any]:
    answer = door.post("/v1/score", event, **request)
    assert answer.status_code == 200, answer.text[:300]
    body: dict[str, Any] = answer.json()
    return body


def batch_of(door: Door, events: list[Any], **request: Any) -> dict[str, Any]:
    answer = door.post("/v1/score/batch", {"events": events}, **request)
    assert answer.status_code == 200, answer.text[:300]
    body: dict[str, Any] = answer.json()
    return body


# -- what an answer holds


def test_a_flow_gets_one_score_of_all_live_layers(door: Door, flow_events: list[Event]) -> None:
    body = scored(door, flow_events[0])

    assert body.keys() >= VERDICT_KEYS | MADE_BY_KEYS
    assert body["id"] == "f0"
    assert 0.0 <= body["low"] <= body["score"] <= body["high"] <= 1.0
    assert [(layer["layer"], layer["status"]) for layer in body["layers"]] == [
        (layer, "live") for layer in LAYERS
    ]
    assert (body["coverage"], body["degraded"], body["status"]) == (1.0, False, "FULLY_OPERATIONAL")
    assert body["verdict"] in {"benign", "suspicious", "malicious"}


def test_a_process_start_is_scored_by_the_layers_that_know_processes(
    door: Door, process_events: list[Event]
) -> None:
    body = scored(door, process_events[0])

    assert {layer["layer"]: layer["status"] for layer in body["layers"]} == {
        "anomaly": "live",
        "behavior": "not_applicable",
        "classifier": "not_applicable",
        "resilience": "live",
    }
    assert (body["coverage"], body["degraded"]) == (1.0, False)


def test_a_benign_flow_scores_below_a_flood(door: Door) -> None:
    """Golden events of the shipped behavior model.

    The first half are means of benign flows, the second half of attacks.
    """
    goldens = sorted(
        (door.ingress._settings.shipped / "tenants/default/bundles/behavior-flow").glob(
            "*/golden.json"
        )
    )
    golden = json.loads(goldens[-1].read_text())
    rows = [event["features"] for event in golden["events"]]
    scores = [
        scored(door, {"kind": "flow", "features": row})["score"] for row in (*rows[:4], *rows[-4:])
    ]

    assert sum(scores[:4]) < sum(scores[4:])


def test_every_verdict_is_that_of_the_ensemble_in_one_process(
    door: Door, ensemble: LocalEnsemble, flow_events: list[Event], process_events: list[Event]
) -> None:
    """P15: an event gets the same score alone, together with others, and in a batch."""
    for kind, events in ((Kind.FLOW, flow_events), (Kind.PROCESS, process_events)):
        parsed = [wire.parse_event(json.dumps(event).encode()) for event in events]
        expected = ensemble.score(wire.admit(kind, parsed)[0]).score.tolist()

        alone = [scored(door, event)["score"] for event in events]
        together = [answer.json()["score"] for answer in door.ask_all(events)]
        in_a_batch = [result["score"] for result in batch_of(door, events)["results"]]

        for found in (alone, together, in_a_batch):
            assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("asked", ["true", "1", "TRUE"])
def test_an_explanation_names_what_moved_each_layer(
    door: Door, flow_events: list[Event], asked: str
) -> None:
    explanation = scored(door, flow_events[-1], params={"explain": asked})["explanation"]

    assert {part["layer"] for part in explanation} >= ML
    assert all(part.keys() == {"layer", "feature", "contribution"} for part in explanation)


@pytest.mark.parametrize("asked", [None, "false", "0", "False"])
def test_a_verdict_has_no_explanation_by_default(
    door: Door, flow_events: list[Event], asked: str | None
) -> None:
    assert "explanation" not in scored(
        door, flow_events[0], params={} if asked is None else {"explain": asked}
    )


@pytest.mark.parametrize("asked", ["maybe", "", "yes", "2", "truetrue"])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_an_invalid_value_of_explain_is_rejected(
    door: Door, flow_events: list[Event], path: str, asked: str
) -> None:
    body = flow_events[0] if path == "/v1/score" else {"events": flow_events[:1]}

    error_of(door.post(path, body, params={"explain": asked}), 422, "MALFORMED_EVENT", "explain")


def test_an_explanation_changes_no_score(door: Door, flow_events: list[Event]) -> None:
    plain, explained = (
        scored(door, flow_events[0]),
        scored(door, flow_events[0], params={"explain": "true"}),
    )

    assert explained["score"] == pytest.approx(plain["score"], abs=TOLERANCE)


def test_a_flow_without_duration_is_scored_and_flagged(
    door: Door, flow_events: list[Event]
) -> None:
    features = list(flow_events[0]["features"])
    features[1], features[14], features[15] = 0, None, None

    assert scored(door, {"kind": "flow", "features": features})["flags"] == ["rates_undefined"]


# -- batches


def test_a_batch_of_mixed_kinds_keeps_its_order(
    door: Door, flow_events: list[Event], process_events: list[Event]
) -> None:
    events = [
        event for pair in zip(flow_events, process_events * 40, strict=False) for event in pair
    ]

    body = batch_of(door, events)

    assert [result["id"] for result in body["results"]] == [event["id"] for event in events]
    assert (body["status"], body["coverage"]) == ("FULLY_OPERATIONAL", 1.0)


def test_an_invalid_event_gets_an_error_in_its_own_place(
    door: Door, flow_events: list[Event], process_events: list[Event]
) -> None:
    """P29, S2-16: an invalid event that parses, and one that does not, among both kinds."""
    bad: list[Any] = [
        {"kind": "flow", "id": "short", "features": [1.0] * 77},
        {"kind": "flow", "id": "huge", "features": [1e39] * 78},
        {"kind": "smoke", "id": "unknown"},
        17,
    ]
    events = [
        flow_events[0],
        bad[0],
        process_events[0],
        bad[1],
        bad[2],
        flow_events[1],
        bad[3],
        process_events[1],
    ]

    results = batch_of(door, events)["results"]

    assert [result["id"] for result in results] == [
        "f0",
        "short",
        "p0",
        "huge",
        "unknown",
        "f1",
        "",
        "p1",
    ]
    codes = [result.get("error", {}).get("code") for result in results]
    assert codes == [
        None,
        "FEATURE_MISMATCH",
        None,
        "FEATURE_MISMATCH",
        "MALFORMED_EVENT",
        None,
        "MALFORMED_EVENT",
        None,
    ]
    assert results[1]["error"]["field"] == "features"
    assert results[3]["error"]["field"] == "features.Destination Port"
    assert results[4]["error"]["field"] == "kind"
    clean = batch_of(
        door, [event for event, code in zip(events, codes, strict=True) if code is None]
    )["results"]
    assert [r["score"] for r in results if "score" in r] == pytest.approx(
        [r["score"] for r in clean], abs=TOLERANCE
    )


def test_a_batch_of_invalid_events_alone_gets_a_response(door: Door) -> None:
    body = batch_of(door, [{"kind": "flow", "features": []}] * 3)

    assert [result["error"]["code"] for result in body["results"]] == ["FEATURE_MISMATCH"] * 3


def test_a_thousand_events_are_accepted(door: Door, process_events: list[Event]) -> None:
    assert len(batch_of(door, [process_events[0]] * 1000)["results"]) == 1000


# -- refusals

SINGLE = [
    pytest.param(b"", 400, "MALFORMED_JSON", "", id="empty"),
    pytest.param(b"{", 400, "MALFORMED_JSON", "", id="cut"),
    pytest.param(b"\xff\xfe{}", 400, "MALFORMED_JSON", "", id="not UTF-8"),
    pytest.param(b'{"kind": "flow", "features": [NaN]}', 400, "MALFORMED_JSON", "", id="NaN"),
    pytest.param(b'{"a":' * 50_000, 400, "MALFORMED_JSON", None, id="nested 50,000 deep"),
    pytest.param(
        {"kind": "flow", "features": [1.0] * 77},
        422,
        "FEATURE_MISMATCH",
        "features",
        id="77 features",
    ),
    pytest.param(
        {"kind": "flow", "features": [1.0] * 79},
        422,
        "FEATURE_MISMATCH",
        "features",
        id="79 features",
    ),
    pytest.param(
        {"kind": "flow", "features": ["1"] * 78},
        422,
        "MALFORMED_EVENT",
        "features[0]",
        id="strings for numbers",
    ),
    pytest.param(
        {"kind": "flow", "features": [None] * 78},
        422,
        "FEATURE_MISMATCH",
        "features.Destination Port",
        id="nulls",
    ),
    pytest.param(
        {"kind": "flow", "features": [1e39] * 78},
        422,
        "FEATURE_MISMATCH",
        "features.Destination Port",
        id="1e39",
    ),
    pytest.param({"kind": "smoke"}, 422, "MALFORMED_EVENT", "kind", id="unknown kind"),
    pytest.param({"name": "sh"}, 422, "MALFORMED_EVENT", "kind", id="no kind"),
    pytest.param(
        {"kind": "process", "name": "sh", "tenant": "x"},
        422,
        "MALFORMED_EVENT",
        "tenant",
        id="unknown field",
    ),
    pytest.param(
        {"kind": "process", "name": "sh", "id": "i" * 300},
        422,
        "MALFORMED_EVENT",
        "id",
        id="huge id",
    ),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), SINGLE)
def test_an_invalid_event_is_rejected_with_code_and_field(
    door: Door, body: object, status: int, code: str, field: str | None
) -> None:
    error_of(door.post("/v1/score", body), status, code, field)


BATCHES = [
    pytest.param(b"", 400, "MALFORMED_JSON", "", id="empty"),
    pytest.param(
        b'{"events": [' + b'{"a":' * 50_000, 400, "MALFORMED_JSON", None, id="nested and cut"
    ),
    pytest.param(
        b'{"events": [' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"]}",
        400,
        "MALFORMED_JSON",
        None,
        id="nested 50,000 deep",
    ),
    pytest.param({"events": []}, 422, "MALFORMED_EVENT", "events", id="no events"),
    pytest.param({"events": [{}] * 1001}, 422, "TOO_MANY_EVENTS", "events", id="1,001 bad events"),
    pytest.param(
        {"events": [{"kind": "process", "name": "a"}] * 1001},
        422,
        "TOO_MANY_EVENTS",
        "events",
        id="1,001 good events",
    ),
    pytest.param([], 422, "MALFORMED_EVENT", "", id="a bare list"),
    pytest.param({"event": {}}, 422, "MALFORMED_EVENT", None, id="another name"),
]


@pytest.mark.parametrize(("body", "status", "code", "field"), BATCHES)
def test_an_invalid_batch_is_rejected(
    door: Door, body: object, status: int, code: str, field: str | None
) -> None:
    """S2-17 is one of the cases."""
    error_of(door.post("/v1/score/batch", body), status, code, field)


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_body_of_twenty_megabytes_is_too_large(door: Door, path: str) -> None:
    """P28, fault I2."""
    error_of(door.post(path, b" " * TWENTY_MB), 413, "BODY_TOO_LARGE")


class Pieces:
    """A body that is sent in pieces, without a content length."""

    def __init__(self, count: int, piece: bytes = b" " * 65_536) -> None:
        self.count, self.piece, self.sent = count, piece, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self.count):
            self.sent += 1
            yield self.piece


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_chunked_body_without_length_is_rejected_once_it_exceeds_the_limit(
    door: Door, path: str
) -> None:
    pieces = Pieces(TWENTY_MB // 65_536)

    error_of(door.ask("POST", path, content=pieces), 413, "BODY_TOO_LARGE")

    assert pieces.sent <= 8 * 1024 * 1024 // 65_536 + 2


def test_a_false_content_length_does_not_bypass_the_limit(door: Door) -> None:
    error_of(
        door.ask("POST", "/v1/score", content=Pieces(320), headers={"Content-Length": "10"}),
        413,
        "BODY_TOO_LARGE",
    )


@pytest.mark.parametrize(
    "length", ["9" * 5000, "-1", "x", ""], ids=["5,000 digits", "negative", "a word", "empty"]
)
def test_an_invalid_content_length_is_rejected(
    door: Door, process_events: list[Event], length: str
) -> None:
    """Fault I3: Python refuses to read an integer of 5,000 digits."""
    answer = door.post("/v1/score", process_events[0], headers={"Content-Length": length})

    assert answer.status_code in {200, 400, 413}


def test_a_large_body_within_the_limit_is_read(door: Door) -> None:
    """A command line of 4 MB is cut, flagged and scored.

    If it were rejected, it would evade detection.
    """
    body = scored(
        door, {"kind": "process", "name": "powershell.exe", "command_line": "A" * 4_000_000}
    )

    assert body["flags"] == ["command_line_cut"]


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/scores", "/v2/models", "/etc/passwd", "/../../etc/passwd", "/%2e%2e/x", "/doc"],
)
def test_an_unknown_route_gets_an_error_with_a_code(door: Door, path: str) -> None:
    error_of(door.get(path), 404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("method", "path"), [("POST" if method == "GET" else "GET", path) for method, path in ROUTES]
)
def test_another_method_gets_an_error_with_a_code(door: Door, method: str, path: str) -> None:
    error_of(door.ask(method, path), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("other", ["PUT", "DELETE", "PATCH"])
def test_no_route_can_be_written_or_deleted(door: Door, method: str, path: str, other: str) -> None:
    """P32."""
    del method
    error_of(door.ask(other, path), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        ("abc-123", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("", False),
        ("a\tb", False),
        ("ü", False),
    ],
)
def test_a_valid_request_id_is_returned(
    door: Door,
    given: str,
    is_kept: bool,  # noqa: FBT001
) -> None:  # a case
    # httpx takes bytes
    answer = door.get("/nowhere", headers={"X-Request-ID": given.encode("latin-1")})  # type: ignore[dict-item]

    error = error_of(answer, 404, "NOT_FOUND")
    assert (error["request_id"] == given) is is_kept
    assert re.fullmatch(r"[\x20-\x7e]{1,128}", error["request_id"])


@pytest.mark.parametrize(
    "path", ["/v1/score", "/v1/score?explain=true"], ids=["by the shortcut", "by the router"]
)
def test_an_unexpected_error_is_raised_after_its_response(
    door: Door, process_events: list[Event], monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Serve counts what the application raises as an error, on the fast path and on the routes.

    A mistake of the caller is not counted.
    """

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(door.ingress._pipelines.default, "score", broken)

    async def ask(body: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=door.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://axon") as client:
            return await client.post(path, json=body)

    with pytest.raises(RuntimeError):
        door._loop.run(ask(process_events[0]))
    assert door._loop.run(ask({"kind": "process"})).status_code == 422


def test_an_unexpected_error_is_a_500_without_details(
    door: Door,
    process_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the details, under the request id that the caller got."""

    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("/srv/secret/models.py says hunter2")

    monkeypatch.setattr(door.ingress._pipelines.default, "score", broken)

    for path, body in (
        ("/v1/score", process_events[0]),
        ("/v1/score/batch", {"events": process_events}),
    ):
        answer = door.post(path, body)
        error = error_of(answer, 500, "INTERNAL_ERROR")
        assert "hunter2" not in answer.text
        assert error["request_id"] in {
            getattr(record, "request_id", "") for record in caplog.records
        }


# -- health and status


def test_health_has_exactly_the_agreed_keys(door: Door) -> None:
    answer = door.get("/health")

    body = answer.json()
    assert answer.status_code == 200
    assert body.keys() == HEALTH_KEYS
    assert (body["status"], body["ml_status"], body["coverage"]) == (
        "healthy",
        "FULLY_OPERATIONAL",
        1.0,
    )
    assert body["models_loaded"] == len(body["available_models"]) > 0
    assert body["providers"].keys() == LAYERS.keys()
    for provider in body["providers"].values():
        assert provider.keys() == {"status", "version", "reason"}
        assert provider["status"] == "live"
        assert provider["version"]


def test_the_status_lists_every_layer_by_kind_of_event(door: Door) -> None:
    body = door.get("/v1/status").json()

    assert body.keys() > HEALTH_KEYS
    assert body["release"].startswith("default/")
    kinds = {layer["layer"]: layer["kinds"].keys() for layer in body["layers"]}
    assert kinds == {layer: {str(kind) for kind in plan.kinds} for layer, plan in LAYERS.items()}
    assert all(layer["device"] == "cpu" for layer in body["layers"])


def test_the_root_lists_the_routes(door: Door) -> None:
    text = door.get("/").text

    for _, path in ROUTES[1:]:
        assert path in text


DOWN = [
    pytest.param(set(), "FULLY_OPERATIONAL", id="none"),
    pytest.param({"behavior"}, "PARTIALLY_OPERATIONAL", id="behavior"),
    pytest.param({"anomaly"}, "PARTIALLY_OPERATIONAL", id="anomaly"),
    pytest.param({"classifier"}, "PARTIALLY_OPERATIONAL", id="classifier"),
    pytest.param({"anomaly", "behavior"}, "PARTIALLY_OPERATIONAL", id="anomaly and behavior"),
    pytest.param(ML, "FALLBACK_MODE", id="anomaly, behavior and classifier"),
    pytest.param({"resilience"}, "FULLY_OPERATIONAL", id="resilience"),
    pytest.param({*ML, "resilience"}, "FALLBACK_MODE", id="all"),
]


@pytest.mark.parametrize(("down", "word"), DOWN)
def test_the_status_counts_the_learning_layers(
    open_door: OpenDoor, flow_events: list[Event], down: set[str], word: str
) -> None:
    """S0-12: the status says whether all, some or none of the learning layers speak.

    The classifier of known attacks counts too. P38: a degraded ensemble responds with 200, so that
    it is not restarted.
    """
    door = open_door(down=down)

    health, verdict, batch = (
        door.get("/health"),
        scored(door, flow_events[0]),
        batch_of(door, flow_events[:2]),
    )

    assert health.status_code == 200
    body = health.json()
    assert body["ml_status"] == verdict["status"] == batch["status"] == word
    assert body["status"] == ("degraded" if down else "healthy")
    assert verdict["degraded"] is bool(down)
    assert (
        body["coverage"] == pytest.approx(verdict["coverage"]) == pytest.approx(batch["coverage"])
    )
    for layer in down:
        assert body["providers"][layer] == {
            "status": "fallback",
            "version": "",
            "reason": "ARTIFACT_MISSING",
        }


def test_with_all_learning_layers_down_the_posture_is_still_scored(
    open_door: OpenDoor, flow_events: list[Event]
) -> None:
    """S0-13, RESILIENCE_SCORING_ONLY.

    The score is the prior shifted by the posture, and the verdict is indeterminate.
    """
    door = open_door(down=ML)

    weak, strong = (scored(door, flow_events[0] | {"host": host}) for host in ("web-1", "ws-17"))

    for body in (weak, strong):
        assert (body["verdict"], body["coverage"], body["status"]) == (
            "indeterminate",
            0.0,
            "FALLBACK_MODE",
        )
        assert {layer["layer"]: layer["status"] for layer in body["layers"]} == {
            "anomaly": "fallback",
            "behavior": "fallback",
            "classifier": "fallback",
            "resilience": "live",
        }
        assert body["low"] < body["score"] < body["high"]
    assert weak["score"] > strong["score"]


def test_the_fallback_scores_of_the_source_are_shown_and_weigh_nothing(
    open_door: OpenDoor, flow_events: list[Event]
) -> None:
    """S0-11: anomaly 0.0 and behavior 0.1."""
    body = scored(open_door(down=ML), flow_events[0])

    assert [layer["score"] for layer in body["layers"][:2]] == [0.0, 0.1]


def test_with_every_layer_down_every_verdict_is_indeterminate(
    open_door: OpenDoor, flow_events: list[Event]
) -> None:
    body = scored(open_door(down=set(LAYERS)), flow_events[0])

    assert (body["verdict"], body["coverage"], body["degraded"]) == ("indeterminate", 0.0, True)
    assert body["low"] < body["score"] < body["high"]


def test_a_hanging_layer_delays_the_response_until_the_deadline(
    open_door: OpenDoor, flow_events: list[Event]
) -> None:
    """P18, and fault I12: no header of the caller changes the deadline."""

    async def hang(*_: object) -> LayerScores:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def state_hangs(_wanted: int) -> tuple[SlotState, str]:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    handle = FakeHandle(broken_slot("behavior"))
    handle.score, handle.state = FakeMethod(hang), FakeMethod(state_hangs)
    door = open_door(
        handles={"behavior": handle}, overrides={**PATIENT, "ingress": {"deadline_ms": 500}}
    )

    body = scored(door, flow_events[0], headers={"x-request-timeout-seconds": "0"})

    assert {layer["layer"]: layer["status"] for layer in body["layers"]}["behavior"] == "timeout"
    assert body["elapsed_ms"] < 5_000
    assert door.get("/health").json()["providers"]["behavior"]["status"] == "timeout"


def test_the_limits_are_those_of_the_settings(
    open_door: OpenDoor, process_events: list[Event]
) -> None:
    door = open_door(
        overrides={
            **PATIENT,
            "ingress": {**PATIENT["ingress"], "max_events": 2, "max_body_bytes": 1000},
        }
    )

    error_of(
        door.post("/v1/score/batch", {"events": process_events}), 422, "TOO_MANY_EVENTS", "events"
    )
    error_of(door.post("/v1/score", b" " * 1001), 413, "BODY_TOO_LARGE")
    assert (
        door.get("/openapi.json").json()["components"]["schemas"]["BatchRequest"]["properties"][
            "events"
        ]["maxItems"]
        == 2
    )
