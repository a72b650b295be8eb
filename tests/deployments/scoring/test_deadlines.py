"""Deadlines: a caller may name one, and an event for which no layer has time is refused (B13)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from deployments.scoring import wire
from deployments.scoring.fast_path import SCORE
from deployments.scoring.liveness import Liveness
from ensemble.events import Kind
from ensemble.guard import Deadline
from tests.support.asgi_clients import Event, IngressClient, OpenIngress
from tests.support.fake_classifier import flow

HEADER = "X-Axon-Deadline-Ms"
HASTY = {"auth": {"mode": "off"}, "ingress": {"deadline_ms": 40.0, "batch_deadline_ms": 60.0}}
PATIENT = {"auth": {"mode": "off"}, "ingress": {"deadline_ms": 500.0}}


def make_late(client: IngressClient, *, is_alive: bool = True) -> None:
    """Make every layer slower than any deadline of these tests; if alive, it answers others."""
    for guarded in client.ingress._layers._guarded.values():

        async def late(*_: object, liveness: Liveness = guarded._liveness) -> Any:
            if is_alive:
                liveness.answered()
            await asyncio.sleep(30.0)

        guarded._score = late


BODIES = {
    SCORE: lambda event: event,
    "/v1/score/batch": lambda event: {"events": [event]},
    "/predict/batch": lambda _: {"flows": [{"features": flow()}]},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("value", ["9", "60001", "1e3", "-10", "", "100.0", "soon", "9" * 400])
def test_a_deadline_that_is_no_number_in_the_range_is_refused(
    client: IngressClient, flow_events: list[Event], path: str, value: str
) -> None:
    answer = client.post(path, BODIES[path](flow_events[0]), headers={HEADER: value})

    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("MALFORMED_EVENT", HEADER)


@pytest.mark.parametrize("value", ["10000", "60000"])
@pytest.mark.parametrize("path", [SCORE, f"{SCORE}?explain=true", "/v1/score/batch"])
def test_with_a_named_deadline_the_verdict_is_the_same(
    client: IngressClient, flow_events: list[Event], path: str, value: str
) -> None:
    body = BODIES[path.split("?", maxsplit=1)[0]](flow_events[0])

    answer = client.post(path, body, headers={HEADER: value})

    assert answer.status_code == 200
    assert answer.json().get("coverage") == 1.0


@pytest.mark.parametrize("path", [SCORE, "/v1/score/batch"])
@pytest.mark.parametrize("headers", [{}, {HEADER: "20"}], ids=["default", "named"])
def test_an_event_for_which_no_layer_has_time_is_refused_and_not_spooled(
    open_client: OpenIngress, flow_events: list[Event], path: str, headers: dict[str, str]
) -> None:
    """P20: the service sheds load before it gives verdicts without evidence."""
    client = open_client(overrides=HASTY)
    make_late(client)

    answer = client.post(path, BODIES[path](flow_events[0]), headers=headers)

    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "OVERLOADED")
    assert answer.headers["Retry-After"] == "1"
    assert answer.elapsed.total_seconds() < 5.0
    assert client.ingress._spool._buffer == []


def test_while_layers_may_be_dead_the_verdict_says_what_is_missing(
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    """P38: a retry would not help, and the event waits in the spool for their return."""
    client = open_client(overrides=HASTY)
    make_late(client, is_alive=False)

    answer = client.post(SCORE, flow_events[0])

    assert answer.status_code == 200
    assert (answer.json()["coverage"], answer.json()["degraded"]) == (0.0, True)
    assert len(client.ingress._spool._buffer) == 1


def test_one_late_layer_is_missing_and_the_verdict_says_so(
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    client = open_client(overrides=PATIENT)

    async def late(*_: object) -> Any:
        await asyncio.sleep(30.0)

    client.ingress._layers._guarded["behavior"]._score = late

    verdict = client.post(SCORE, flow_events[0]).json()

    assert verdict["degraded"]
    assert 0.0 < verdict["coverage"] < 1.0


def test_an_event_whose_deadline_passed_while_it_waited_is_not_begun(
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    client = open_client(overrides=HASTY)
    pipeline = client.ingress._pipelines.default
    began: list[int] = []
    score = pipeline.score

    async def counted(batch: Any, *arguments: Any, **options: Any) -> Any:
        began.append(len(batch))
        return await score(batch, *arguments, **options)

    pipeline.score = counted
    pipeline.layers.clock = lambda: 1e12  # long after every arrival

    answer = client.post(SCORE, flow_events[0])

    assert (answer.status_code, began) == (503, [])


def test_an_event_with_its_own_deadline_takes_its_tenants_turn(
    open_client: OpenIngress, flow_events: list[Event]
) -> None:
    """B10: it is scored alone, so it waits at the gate of bulk and passes nobody."""
    client = open_client(overrides=PATIENT)
    gate = client.ingress._bulk
    free, gate._free = gate._free, 0  # bulk of others has all places

    refused = client.post(SCORE, flow_events[0], headers={HEADER: "30"})
    gate._free = free
    scored = client.post(SCORE, flow_events[0], headers={HEADER: "5000"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "OVERLOADED")
    assert (scored.status_code, scored.json()["coverage"]) == (200, 1.0)
    assert gate._free == free


@pytest.mark.parametrize("path", [SCORE, "/predict"])
def test_a_batch_has_the_deadline_of_its_oldest_event(
    open_client: OpenIngress, flow_events: list[Event], path: str
) -> None:
    """Tenants take turns, so the first of a batch is not always the oldest."""
    client = open_client(overrides=PATIENT)
    pipeline = client.ingress._pipelines.default
    now = time.monotonic()
    deadlines: list[Deadline] = []

    async def recorded(*arguments: Any, **_: object) -> list[None]:
        deadlines.append(arguments[-1])
        return [None, None]

    if path == SCORE:
        pipeline.score_events = recorded
        event = wire.parse_event(msgspec.json.encode(flow_events[0]))
        flush: Any = pipeline._flush(Kind.FLOW, explain=False)
        waiting: list[Any] = [(event, "quiet", now), (event, "loud", now - 0.2)]
    else:
        predictor = client.ingress._predictor
        predictor.predict_all = recorded
        flush = predictor._flush(pipeline, "neural_net")
        waiting = [(flow(), now), (flow(), now - 0.2)]
    client.loop.run(flush(waiting))

    assert deadlines == [Deadline(now - 0.2, 0.5)]
