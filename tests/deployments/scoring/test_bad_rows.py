"""An event that a layer cannot score affects only its own verdict, over HTTP too.

Order, count and the other verdicts stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ensemble.events import EventBatch
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.verdicts import Abstention, LayerScores, LayerStatus
from tests.support.asgi_clients import Event, IngressClient, OpenIngress
from tests.support.fake_handles import FakeHandle

POISON = "poison"


class PoisonedHandle(FakeHandle):
    """A layer that cannot score the events of one id, as a slot reports it after bisection."""

    def __init__(self, slot: LayerSlot) -> None:
        super().__init__(slot)
        score = self.score.remote

        # as the deployment
        async def poisoned(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
            said: LayerScores = await score(batch, release, explain)
            return replace(
                said,
                abstained={
                    row: Abstention(LayerStatus.FALLBACK, "LAYER_CRASHED")
                    for row, event in enumerate(batch.ids)
                    if event == POISON
                },
            )

        self.score.remote = poisoned


@pytest.fixture
def poisoned_client(open_client: OpenIngress, slots: Mapping[str, LayerSlot]) -> IngressClient:
    """An application whose behavior layer cannot score the poisoned event."""
    return open_client(handles={"behavior": PoisonedHandle(slots["behavior"])})


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in result.items() if name not in {"elapsed_ms", "scored_at"}
    }


@pytest.mark.parametrize("explain", ["true", "false"])
@pytest.mark.parametrize("place", [0, 3, 8], ids=["first", "in the middle", "last"])
def test_the_other_verdicts_are_those_of_the_batch_without_the_poison(
    client: IngressClient,
    poisoned_client: IngressClient,
    flow_events: list[Event],
    place: int,
    explain: str,
) -> None:
    """P29, R6, N-13.

    The other verdicts stay the same to the bit, and the poisoned event gets a verdict too.
    """
    events = flow_events[:9]
    mixed = [*events]
    mixed[place] = {**events[place], "id": POISON}

    def asked(of: IngressClient, sent: list[Event]) -> list[dict[str, Any]]:
        answer = of.post("/v1/score/batch", {"events": sent}, params={"explain": explain})
        return [without_time(result) for result in answer.json()["results"]]

    expected, found = asked(client, events), asked(poisoned_client, mixed)

    assert [result["id"] for result in found] == [event["id"] for event in mixed]
    assert found[:place] + found[place + 1 :] == expected[:place] + expected[place + 1 :]
    poisoned = {layer["layer"]: layer for layer in found[place]["layers"]}
    assert (poisoned["behavior"]["status"], poisoned["behavior"]["reason"]) == (
        "fallback",
        "LAYER_CRASHED",
    )
    assert poisoned["anomaly"]["status"] == "live"
    assert found[place]["degraded"]
    assert 0.0 < found[place]["coverage"] < 1.0
    assert found[place]["status"] == "PARTIALLY_OPERATIONAL"


def test_single_events_batched_with_a_poisoned_one_are_not_affected(
    poisoned_client: IngressClient, flow_events: list[Event]
) -> None:
    events = [
        {**event, "id": POISON} if number == 5 else event
        for number, event in enumerate(flow_events[:40])
    ]

    answers = [answer.json() for answer in poisoned_client.post_all(events)]

    assert [answer["coverage"] == 1.0 for answer in answers] == [
        event["id"] != POISON for event in events
    ]
