"""Whom the router asks.

Serve's own router around replicas that only say what they would report (C-34, N-06).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    RequestMetadata,
)
from ray.serve._private.request_router.common import PendingRequest

from deployments.layers.router import SpeakingFirst, routing_stats
from ensemble.events import FlowBatch, Kind
from ensemble.runtime.model_state import KindState, SlotState
from ensemble.verdicts import LayerStatus

Report = Mapping[str, float]
# a choice of two among three that leaves one out by chance every time is as likely as 10^-11
ASKED_TIMES = 64
LAYER = DeploymentID(name="anomaly", app_name="axon")
SPEAKS, ABSTAINS, IS_NEW = {"flow": 1.0}, {"process": 1.0}, {}


@dataclass
class FakeReplica:
    """As the router knows a replica."""

    name: str
    routing_stats: Report
    node_id: str = "here"
    availability_zone: str | None = None
    multiplexed_model_ids: frozenset[str] = frozenset()
    max_ongoing_requests: int = 16
    replica_id: ReplicaID = field(init=False)

    def __post_init__(self) -> None:
        self.replica_id = ReplicaID(self.name, LAYER)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        del deadline_s
        return 0


def router_around(replicas: Sequence[FakeReplica], *, prefers_its_node: bool = False) -> Any:
    """Serve's router, which needs a running loop."""
    router = SpeakingFirst(
        deployment_id=LAYER,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="here",
        prefer_local_node_routing=prefers_its_node,
        use_replica_queue_len_cache=True,
    )
    router.update_replicas(list(replicas))
    return router


def request_of(asked: object) -> PendingRequest:
    """A call with `asked` as its first argument.

    Calls of one HTTP request share the internal id.
    """
    return PendingRequest(
        args=[asked], kwargs={}, metadata=RequestMetadata(request_id="r", internal_request_id="i")
    )


async def chosen(
    replicas: Sequence[FakeReplica], *, asked: object, prefers_its_node: bool = False
) -> set[str]:
    """Names of the replicas that such a call may go to."""
    router = router_around(replicas, prefers_its_node=prefers_its_node)
    found: set[str] = set()
    for _ in range(ASKED_TIMES):
        for rank in await router.choose_replicas(list(replicas), request_of(asked)):
            found |= {replica.name for replica in rank}
    await asyncio.sleep(0)
    return found


@pytest.fixture
def flow() -> FlowBatch:
    return FlowBatch(ids=("e1",), hosts=("",), features=np.zeros((1, 78), np.float32))


CASES: Sequence[Any] = [
    pytest.param([SPEAKS, SPEAKS, SPEAKS], {"0", "1", "2"}, id="all speak"),
    pytest.param([SPEAKS, ABSTAINS, SPEAKS], {"0", "2"}, id="one is in fallback"),
    pytest.param([ABSTAINS, SPEAKS, ABSTAINS], {"1"}, id="one speaks"),
    pytest.param([SPEAKS, IS_NEW, SPEAKS], {"0", "2"}, id="one has just started"),
    pytest.param([ABSTAINS, ABSTAINS, ABSTAINS], {"0", "1", "2"}, id="none speaks"),
    pytest.param([IS_NEW, IS_NEW, IS_NEW], {"0", "1", "2"}, id="none has reported"),
]


@pytest.mark.parametrize(("reports", "expected"), CASES)
async def test_the_replicas_that_speak_of_this_kind_are_asked(
    reports: Sequence[Mapping[str, float]], expected: set[str], flow: FlowBatch
) -> None:
    """C-34.

    A replica that only abstains attracts nothing while another one speaks; where none does, all are
    asked.
    """
    assert (
        await chosen(
            [FakeReplica(str(number), report) for number, report in enumerate(reports)], asked=flow
        )
        == expected
    )


async def test_a_question_for_the_state_goes_to_any_replica() -> None:
    """What is broken is not hidden: the one in fallback answers for itself too."""
    assert await chosen(
        [FakeReplica("0", SPEAKS), FakeReplica("1", ABSTAINS)], asked="default/3"
    ) == {
        "0",
        "1",
    }


async def test_a_replica_of_another_node_that_speaks_comes_before_one_of_this_node_that_does_not(
    flow: FlowBatch,
) -> None:
    near, far = FakeReplica("near", ABSTAINS), FakeReplica("far", SPEAKS, node_id="there")

    assert await chosen([near, far], asked=flow, prefers_its_node=True) == {"far"}


async def test_of_two_that_speak_the_one_on_this_node_is_asked(flow: FlowBatch) -> None:
    """Serve's own preference stays."""
    near, far = FakeReplica("near", SPEAKS), FakeReplica("far", SPEAKS, node_id="there")

    assert await chosen([near, far], asked=flow, prefers_its_node=True) == {"near"}


def test_a_replica_reports_the_kinds_it_speaks_of() -> None:
    kinds = {
        Kind.FLOW: KindState(LayerStatus.FALLBACK, reason="ARTIFACT_CORRUPT"),
        Kind.PROCESS: KindState(LayerStatus.LAST_GOOD, "3"),
    }

    home = SlotState("anomaly", "default/3", kinds)

    assert routing_stats(home, {"default": home}) == {"process": 1.0, "default/process": 1.0}


async def test_a_replica_serves_the_call_it_was_chosen_for(flow: FlowBatch) -> None:
    """Serve's own router would give it to the call that waits longest.

    A question for the state would hand its replica to a batch.
    """
    speaking, other = FakeReplica("speaks", SPEAKS), FakeReplica("abstains", ABSTAINS)
    router = router_around([speaking, other])
    batch, question = request_of(flow), request_of("default/3")
    router._pending_requests_to_fulfill.extend([batch, question])

    router._fulfill_next_pending_request(other, question.metadata)
    router._fulfill_next_pending_request(speaking, batch.metadata)

    assert [(await one.future).name for one in (batch, question)] == ["speaks", "abstains"]
