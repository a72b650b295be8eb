"""A replica in fallback answers fastest, and must not draw the traffic to it (C-34, N-06)."""

from __future__ import annotations

import pytest

from tests.support.callers import figures
from tests.support.running_service import BUSY, Service, kill
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

MEASURED_S = 3.0
# it looks at its files every 2 s, and the next test wants both: that it loads beside its sibling
# costs nothing either
HEALS_S = 4.0
BACK_WITHIN_S = 15.0


def test_a_replica_in_fallback_gets_no_traffic_while_its_sibling_speaks(cluster: Service) -> None:
    """C-34, N-06.

    One of two replicas started on torn files; the answers are those of the other one.
    """
    with cluster.callers() as callers:
        callers.warm()
        with cluster.torn("behavior"):
            killed = cluster.replicas("behavior")[0]
            at = kill(killed)
            assert wait_until(
                lambda: cluster.has_replaced("behavior", killed), BUSY * BACK_WITHIN_S
            )
            assert wait_until(lambda: says(cluster, "fallback"), BUSY * BACK_WITHIN_S)
            callers.go_on(MEASURED_S)
        callers.go_on(HEALS_S)
    asked = callers.between(at)
    silent = [one for one in asked if one.status_of("behavior") in {"fallback", "warming_up"}]
    print(
        f"\none of two replicas of behavior in fallback: {len(silent)} of {len(asked)} "
        f"answers are its; {figures(asked)}"
    )

    assert [one for one in asked if not one.is_answered] == []
    assert len(silent) <= 0.01 * len(asked)


def says(service: Service, status: str) -> bool:
    """Whether the replica that happened to be asked says so of itself.

    A request for the state goes to any of them.
    """
    return bool(service.get("/health")["providers"]["behavior"]["status"] == status)
