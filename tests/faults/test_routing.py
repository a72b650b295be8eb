"""Routing past a replica in fallback, which responds fastest (C-34, N-06)."""

from __future__ import annotations

import pytest

from tests.support.callers import figures
from tests.support.running_service import BUSY, Service, kill
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

MEASURED_S = 3.0
# a replica polls its files every 2 s, and the next test needs both replicas live; the load in one
# must cost no request either
HEALS_S = 4.0
BACK_WITHIN_S = 15.0


def test_a_replica_in_fallback_gets_no_traffic_while_the_other_one_is_live(
    cluster: Service,
) -> None:
    """C-34, N-06: one of two replicas starts on truncated files; the other gets the requests."""
    with cluster.callers() as callers:
        callers.warm()
        with cluster.truncated_models("behavior"):
            killed = cluster.replicas("behavior")[0]
            at = kill(killed)
            assert wait_until(
                lambda: cluster.has_replaced("behavior", killed), BUSY * BACK_WITHIN_S
            )
            assert wait_until(lambda: has_status(cluster, "fallback"), BUSY * BACK_WITHIN_S)
            callers.go_on(MEASURED_S)
        callers.go_on(HEALS_S)
    replies = callers.between(at)
    absent = [one for one in replies if one.status_of("behavior") in {"fallback", "warming_up"}]
    print(
        f"\none of two replicas of behavior in fallback: {len(absent)} of {len(replies)} "
        f"verdicts are from it; {figures(replies)}"
    )

    assert [one for one in replies if not one.is_answered] == []
    assert len(absent) <= 0.01 * len(replies)


def has_status(service: Service, status: str) -> bool:
    """Whether one replica reports this status; a request for the state goes to any of them."""
    return bool(service.get("/health")["providers"]["behavior"]["status"] == status)
