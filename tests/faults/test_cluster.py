"""A node dies, with everything on it (P24, R3).

Three nodes on one machine, two replicas of everything, never two of one on a node.
"""

from __future__ import annotations

import psutil
import pytest

from tests.support.callers import figures
from tests.support.running_service import CONNECTIONS, LAYERS_OF_FLOWS, NOISE_S, Service

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ends_service,
]  # it has lost a node: nobody else wants it

ANSWERED_WITHIN_S = 0.250 * 1.1 + NOISE_S
# the front proxy waits so long before it sends a request that a dead ingress did not take to
# another one
SENT_AGAIN_S = 1.0
IN_FLIGHT_S = 0.5
WATCHED_S = 6.0
BACK_WITHIN_S = 60.0
# of each caller: three nodes on two cores need room to start the lost processes anew; this is about
# a node, not about load
PAUSE_S = 0.1
MAY_ABSTAIN = 0.05  # of the answers, while two cores start the lost processes anew


def test_scoring_goes_on_when_a_node_dies(cluster: Service) -> None:
    """P24.

    What was in flight on it may be lost; its replicas come back on the nodes that are left.
    """
    node = worker_node(cluster)
    with cluster.callers(pause_s=PAUSE_S) as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        dying = [node, *node.children(recursive=True)]
        for process in dying:  # at once, as by a power cut: none of it lives to see the others dead
            process.suspend()
        for process in dying:
            process.kill()
        callers.go_on(WATCHED_S)
    asked = callers.between(at - IN_FLIGHT_S)
    lost = [one for one in asked if not one.is_answered]
    print(f"\na node of three killed: {figures(asked)}")
    cluster.await_whole(BACK_WITHIN_S)

    assert len(lost) <= CONNECTIONS
    assert [one for one in lost if not one.was_cut_off] == []
    assert [one for one in asked if one.took_s > ANSWERED_WITHIN_S + SENT_AGAIN_S] == []
    assert sum(one.took_s > ANSWERED_WITHIN_S for one in asked) <= CONNECTIONS
    for layer in LAYERS_OF_FLOWS:
        assert sum(
            one.is_answered and one.status_of(layer) != "live" for one in asked
        ) <= MAY_ABSTAIN * len(asked)


def worker_node(service: Service) -> psutil.Process:
    """The raylet of the node, not the head, that has an ingress and the most replicas beside it."""
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
