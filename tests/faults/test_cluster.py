"""The death of a node with everything on it (P24, R3).

Three nodes on one machine, two replicas of each deployment, on different nodes.
"""

from __future__ import annotations

import psutil
import pytest

from tests.support.callers import figures
from tests.support.running_service import CONNECTIONS, LAYERS_OF_FLOWS, NOISE_S, Service

# no other test can use a service that has lost a node
pytestmark = [pytest.mark.cluster, pytest.mark.ends_service]

ANSWERED_WITHIN_S = 0.250 * 1.1 + NOISE_S
# seconds until the front proxy sends a request to another ingress, when a dead one has not
# accepted it
SENT_AGAIN_S = 1.0
IN_FLIGHT_S = 0.5
WATCHED_S = 6.0
BACK_WITHIN_S = 60.0
# pause of each caller: three nodes on two cores need CPU time to restart the lost processes, and
# the test is about a node, not about load
PAUSE_S = 0.1
MAY_ABSTAIN = 0.05  # share of verdicts, while two cores restart the lost processes


def test_scoring_continues_when_a_node_dies(cluster: Service) -> None:
    """P24: only requests in flight on it may be lost; its replicas restart on the other nodes."""
    node = worker_node(cluster)
    with cluster.callers(pause_s=PAUSE_S) as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        dying = [node, *node.children(recursive=True)]
        # all at once, as in a power cut: no process may react to the death of another one
        for process in dying:
            process.suspend()
        for process in dying:
            process.kill()
        callers.go_on(WATCHED_S)
    replies = callers.between(at - IN_FLIGHT_S)
    lost = [one for one in replies if not one.is_answered]
    print(f"\na node of three killed: {figures(replies)}")
    cluster.await_complete(BACK_WITHIN_S)

    assert len(lost) <= CONNECTIONS
    assert [one for one in lost if not one.was_cut_off] == []
    assert [one for one in replies if one.elapsed_s > ANSWERED_WITHIN_S + SENT_AGAIN_S] == []
    assert sum(one.elapsed_s > ANSWERED_WITHIN_S for one in replies) <= CONNECTIONS
    for layer in LAYERS_OF_FLOWS:
        assert sum(
            one.is_answered and one.status_of(layer) != "live" for one in replies
        ) <= MAY_ABSTAIN * len(replies)


def worker_node(service: Service) -> psutil.Process:
    """Find the raylet of a node other than the head, with an ingress and the most replicas."""
    replicas = {
        raylet: {one.pid for one in raylet.children(recursive=True)}
        & {one.pid for one in service.titled("ServeReplica:axon")}
        for raylet in service.processes()
        if raylet.name() == "raylet"
    }
    ingresses = {one.pid for one in service.replicas("ingress")}
    controllers = {one.pid for one in service.titled("ServeController")}
    workers = [
        raylet for raylet in replicas if not {one.pid for one in raylet.children()} & controllers
    ]
    return max(
        workers, key=lambda raylet: (bool(replicas[raylet] & ingresses), len(replicas[raylet]))
    )
