"""The HTTP application over real slots and shipped models, without Ray.

Every route, every rejection, and every degraded state.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deployments.scoring import wire
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores, by_row
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient, OpenIngress
from tests.support.fake_handles import FakeHandle, FakeMethod
from tests.support.scoring_client import ROUTES, batch_of, error_of, scored
from tests.support.slots import broken_slot

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
ML = {"anomaly", "behavior", "classifier"}


# -- what an answer holds


def test_a_flow_gets_one_score_of_all_live_layers(
    client: IngressClient, flow_events: list[Event]
) -> None:
    body = scored(client, flow_events[0])

    assert body.keys() >= VERDICT_KEYS | MADE_BY_KEYS
    assert body["id"] == "f0"
    assert 0.0 <= body["low"] <= body["score"] <= body["high"] <= 1.0
    assert [(layer["layer"], layer["status"]) for layer in body["layers"]] == [
        (layer, "live") for layer in LAYERS
    ]
    assert (body["coverage"], body["degraded"], body["status"]) == (1.0, False, "FULLY_OPERATIONAL")
    assert body["verdict"] in {"benign", "suspicious", "malicious"}


def test_a_process_start_is_scored_by_the_layers_that_know_processes(
    client: IngressClient, process_events: list[Event]
) -> None:
    body = scored(client, process_events[0])

    assert {layer["layer"]: layer["status"] for layer in body["layers"]} == {
        "anomaly": "live",
        "behavior": "not_applicable",
        "classifier": "not_applicable",
        "resilience": "live",
    }
    assert (body["coverage"], body["degraded"]) == (1.0, False)


def test_a_benign_flow_scores_below_a_flood(client: IngressClient) -> None:
    """Golden events of the shipped behavior model.

    The first half are means of benign flows, the second half of attacks.
    """
    goldens = sorted(
        (client.ingress._settings.shipped / "tenants/default/bundles/behavior-flow").glob(
            "*/golden.json"
        )
    )
    golden = json.loads(goldens[-1].read_text())
    rows = [event["features"] for event in golden["events"]]
    scores = [
        scored(client, {"kind": "flow", "features": row})["score"]
        for row in (*rows[:4], *rows[-4:])
    ]

    assert sum(scores[:4]) < sum(scores[4:])


def test_every_verdict_is_that_of_the_ensemble_in_one_process(
    client: IngressClient,
    ensemble: LocalEnsemble,
    flow_events: list[Event],
    process_events: list[Event],
) -> None:
    """P15: an event gets the same score alone, together with others, and in a batch."""
    for kind, events in ((Kind.FLOW, flow_events), (Kind.PROCESS, process_events)):
        parsed = [wire.parse_event(json.dumps(event).encode()) for event in events]
        groups = ensemble.score_groups(wire.admit(kind, parsed)[0])
        expected = by_row(groups, lambda group: group.score).tolist()

        alone = [scored(client, event)["score"] for event in events]
        together = [answer.json()["score"] for answer in client.post_all(events)]
        in_a_batch = [result["score"] for result in batch_of(client, events)["results"]]

        for found in (alone, together, in_a_batch):
            assert found == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("asked", ["true", "1", "TRUE"])
def test_an_explanation_names_what_moved_each_layer(
    client: IngressClient, flow_events: list[Event], asked: str
) -> None:
    explanation = scored(client, flow_events[-1], params={"explain": asked})["explanation"]

    assert {part["layer"] for part in explanation} >= ML
    assert all(part.keys() == {"layer", "feature", "contribution"} for part in explanation)


@pytest.mark.parametrize("asked", [None, "false", "0", "False"])
def test_a_verdict_has_no_explanation_by_default(
    client: IngressClient, flow_events: list[Event], asked: str | None
) -> None:
    assert "explanation" not in scored(
        client, flow_events[0], params={} if asked is None else {"explain": asked}
    )


@pytest.mark.parametrize("asked", ["maybe", "", "yes", "2", "truetrue"])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_an_invalid_value_of_explain_is_rejected(
    client: IngressClient, flow_events: list[Event], path: str, asked: str
) -> None:
    body = flow_events[0] if path == "/v1/score" else {"events": flow_events[:1]}

    error_of(client.post(path, body, params={"explain": asked}), 422, "MALFORMED_EVENT", "explain")


def test_an_explanation_changes_no_score(client: IngressClient, flow_events: list[Event]) -> None:
    plain, explained = (
        scored(client, flow_events[0]),
        scored(client, flow_events[0], params={"explain": "true"}),
    )

    assert explained["score"] == pytest.approx(plain["score"], abs=TOLERANCE)


def test_a_flow_without_duration_is_scored_and_flagged(
    client: IngressClient, flow_events: list[Event]
) -> None:
    features = list(flow_events[0]["features"])
    features[1], features[14], features[15] = 0, None, None

    assert scored(client, {"kind": "flow", "features": features})["flags"] == ["rates_undefined"]


@pytest.mark.parametrize(
    ("days", "flags"), [(0, []), (-30, []), (1, ["skewed"]), (-3650, ["skewed"])]
)
def test_an_event_of_another_time_is_scored_the_same_and_flagged(
    client: IngressClient, flow_events: list[Event], days: int, flags: list[str]
) -> None:
    """T2: in the future, or ten years old."""
    at = datetime.now(UTC) + timedelta(days=days)
    plain = scored(client, flow_events[0])

    for time in (at.isoformat(), at.timestamp()):
        answer = scored(client, {**flow_events[0], "time": time})

        assert answer.get("flags", []) == [*plain.get("flags", []), *flags]
        assert answer["score"] == pytest.approx(plain["score"], abs=TOLERANCE)


def test_a_text_that_is_no_time_is_scored_and_flagged(
    client: IngressClient, flow_events: list[Event], process_events: list[Event]
) -> None:
    """If it were refused, an event could evade its score."""
    for event in (flow_events[0], process_events[0]):
        assert "time_invalid" in scored(client, {**event, "time": "yesterday"})["flags"]


# -- batches


def test_a_batch_of_mixed_kinds_keeps_its_order(
    client: IngressClient, flow_events: list[Event], process_events: list[Event]
) -> None:
    events = [
        event for pair in zip(flow_events, process_events * 40, strict=False) for event in pair
    ]

    body = batch_of(client, events)

    assert [result["id"] for result in body["results"]] == [event["id"] for event in events]
    # of one process start in three, nothing is known
    assert (body["status"], body["coverage"]) == ("FULLY_OPERATIONAL", 0.0)


def test_an_invalid_event_gets_an_error_in_its_own_place(
    client: IngressClient, flow_events: list[Event], process_events: list[Event]
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

    results = batch_of(client, events)["results"]

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
        client, [event for event, code in zip(events, codes, strict=True) if code is None]
    )["results"]
    assert [r["score"] for r in results if "score" in r] == pytest.approx(
        [r["score"] for r in clean], abs=TOLERANCE
    )


def test_a_batch_of_invalid_events_alone_gets_a_response(client: IngressClient) -> None:
    body = batch_of(client, [{"kind": "flow", "features": []}] * 3)

    assert [result["error"]["code"] for result in body["results"]] == ["FEATURE_MISMATCH"] * 3


def test_a_thousand_events_are_accepted(client: IngressClient, process_events: list[Event]) -> None:
    assert len(batch_of(client, [process_events[0]] * 1000)["results"]) == 1000


# -- health and status


def test_health_has_exactly_the_agreed_keys(client: IngressClient) -> None:
    answer = client.get("/health")

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


def test_the_status_lists_every_layer_by_kind_of_event(client: IngressClient) -> None:
    body = client.get("/v1/status").json()

    assert body.keys() > HEALTH_KEYS
    assert body["release"].startswith("default/")
    kinds = {layer["layer"]: layer["kinds"].keys() for layer in body["layers"]}
    assert kinds == {layer: {str(kind) for kind in plan.kinds} for layer, plan in LAYERS.items()}
    assert all(layer["device"] == "cpu" for layer in body["layers"])


def test_the_root_lists_the_routes(client: IngressClient) -> None:
    text = client.get("/").text

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
    open_client: OpenIngress, flow_events: list[Event], down: set[str], word: str
) -> None:
    """S0-12: the status says whether all, some or none of the learning layers speak.

    The classifier of known attacks counts too. P38: a degraded ensemble responds with 200, so that
    it is not restarted.
    """
    client = open_client(down=down)

    health, verdict, batch = (
        client.get("/health"),
        scored(client, flow_events[0]),
        batch_of(client, flow_events[:2]),
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
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    """S0-13, RESILIENCE_SCORING_ONLY.

    The score is the prior shifted by the posture, and the verdict is indeterminate.
    """
    client = open_client(down=ML)

    weak, strong = (scored(client, flow_events[0] | {"host": host}) for host in ("web-1", "ws-17"))

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
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    """S0-11: anomaly 0.0 and behavior 0.1."""
    body = scored(open_client(down=ML), flow_events[0])

    assert [layer["score"] for layer in body["layers"][:2]] == [0.0, 0.1]


def test_with_every_layer_down_every_verdict_is_indeterminate(
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    body = scored(open_client(down=set(LAYERS)), flow_events[0])

    assert (body["verdict"], body["coverage"], body["degraded"]) == ("indeterminate", 0.0, True)
    assert body["low"] < body["score"] < body["high"]


def test_a_hanging_layer_delays_the_response_until_the_deadline(
    open_client: OpenIngress, flow_events: list[Event]
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
    client = open_client(
        handles={"behavior": handle}, overrides={**LONG_DEADLINE, "ingress": {"deadline_ms": 500}}
    )

    body = scored(client, flow_events[0], headers={"x-request-timeout-seconds": "0"})

    assert {layer["layer"]: layer["status"] for layer in body["layers"]}["behavior"] == "timeout"
    assert body["elapsed_ms"] < 5_000
    assert client.get("/health").json()["providers"]["behavior"]["status"] == "timeout"


def test_the_limits_are_those_of_the_settings(
    open_client: OpenIngress, process_events: list[Event]
) -> None:
    client = open_client(
        overrides={
            **LONG_DEADLINE,
            "ingress": {**LONG_DEADLINE["ingress"], "max_events": 2, "max_body_bytes": 1000},
        }
    )

    error_of(
        client.post("/v1/score/batch", {"events": process_events}), 422, "TOO_MANY_EVENTS", "events"
    )
    error_of(client.post("/v1/score", b" " * 1001), 413, "BODY_TOO_LARGE")
    assert (
        client.get("/openapi.json").json()["components"]["schemas"]["BatchRequest"]["properties"][
            "events"
        ]["maxItems"]
        == 2
    )
