"""The request router: Serve's own, with fake replicas that only report statistics (C-34, N-06)."""

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
# that a choice of two of three leaves one out every time by chance has a probability of 10^-11
ASKED_TIMES = 64
LAYER = DeploymentID(name="anomaly", app_name="axon")
SPEAKS, ABSTAINS, IS_NEW = {"flow": 1.0}, {"process": 1.0}, {}


@dataclass
class FakeReplica:
    """A replica as the router sees it."""

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
    """Axon's router; it needs a running event loop."""
    router = SpeakingFirst(
        deployment_id=LAYER,
        handle_source=DeploymentHandleSource.REPLICA,
        self_node_id="here",
        prefer_local_node_routing=prefers_its_node,
        use_replica_queue_len_cache=True,
    )
    router.update_replicas(list(replicas))
    return router


def request_of(argument: object) -> PendingRequest:
    """A call with `argument` as its first argument.

    All calls of one HTTP request have the same internal id.
    """
    return PendingRequest(
        args=[argument],
        kwargs={},
        metadata=RequestMetadata(request_id="r", internal_request_id="i"),
    )


async def chosen(
    replicas: Sequence[FakeReplica], *, argument: object, prefers_its_node: bool = False
) -> set[str]:
    """Names of the replicas to which such a call may go."""
    router = router_around(replicas, prefers_its_node=prefers_its_node)
    found: set[str] = set()
    for _ in range(ASKED_TIMES):
        for rank in await router.choose_replicas(list(replicas), request_of(argument)):
            found |= {replica.name for replica in rank}
    await asyncio.sleep(0)
    return found


@pytest.fixture
def flow() -> FlowBatch:
    return FlowBatch(ids=("e1",), hosts=("",), features=np.zeros((1, 78), np.float32))


CASES: Sequence[Any] = [
    pytest.param([SPEAKS, SPEAKS, SPEAKS], {"0", "1", "2"}, id="all can score"),
    pytest.param([SPEAKS, ABSTAINS, SPEAKS], {"0", "2"}, id="one is in fallback"),
    pytest.param([ABSTAINS, SPEAKS, ABSTAINS], {"1"}, id="one can score"),
    pytest.param([SPEAKS, IS_NEW, SPEAKS], {"0", "2"}, id="one has just started"),
    pytest.param([ABSTAINS, ABSTAINS, ABSTAINS], {"0", "1", "2"}, id="none can score"),
    pytest.param([IS_NEW, IS_NEW, IS_NEW], {"0", "1", "2"}, id="none has reported"),
]


@pytest.mark.parametrize(("reports", "expected"), CASES)
async def test_replicas_that_can_score_this_kind_are_called(
    reports: Sequence[Mapping[str, float]], expected: set[str], flow: FlowBatch
) -> None:
    """C-34: a replica that abstains gets no call while another one can score.

    If none can, all are called.
    """
    assert (
        await chosen(
            [FakeReplica(str(number), report) for number, report in enumerate(reports)],
            argument=flow,
        )
        == expected
    )


async def test_a_request_for_the_state_goes_to_any_replica() -> None:
    """A fallback must not be hidden: its replica reports its own state too."""
    assert await chosen(
        [FakeReplica("0", SPEAKS), FakeReplica("1", ABSTAINS)], argument="default/3"
    ) == {
        "0",
        "1",
    }


async def test_a_replica_of_another_node_that_can_score_comes_before_one_of_this_node_that_cannot(
    flow: FlowBatch,
) -> None:
    near, far = FakeReplica("near", ABSTAINS), FakeReplica("far", SPEAKS, node_id="there")

    assert await chosen([near, far], argument=flow, prefers_its_node=True) == {"far"}


async def test_of_two_replicas_that_can_score_the_one_on_this_node_is_called(
    flow: FlowBatch,
) -> None:
    """Serve's own preference stays."""
    near, far = FakeReplica("near", SPEAKS), FakeReplica("far", SPEAKS, node_id="there")

    assert await chosen([near, far], argument=flow, prefers_its_node=True) == {"near"}


def test_a_replica_reports_the_kinds_that_it_can_score() -> None:
    kinds = {
        Kind.FLOW: KindState(LayerStatus.FALLBACK, reason="ARTIFACT_CORRUPT"),
        Kind.PROCESS: KindState(LayerStatus.LAST_GOOD, "3"),
    }

    default = SlotState("anomaly", "default/3", kinds)

    assert routing_stats(default, {"default": default}) == {"process": 1.0, "default/process": 1.0}


async def test_a_replica_serves_the_call_it_was_chosen_for(flow: FlowBatch) -> None:
    """Serve's own router would give it to the call that waits longest.

    So a request for the state would give its replica to a batch.
    """
    speaking, other = FakeReplica("speaks", SPEAKS), FakeReplica("abstains", ABSTAINS)
    router = router_around([speaking, other])
    batch, question = request_of(flow), request_of("default/3")
    router._pending_requests_to_fulfill.extend([batch, question])

    router._fulfill_next_pending_request(other, question.metadata)
    router._fulfill_next_pending_request(speaking, batch.metadata)

    assert [(await one.future).name for one in (batch, question)] == ["speaks", "abstains"]
