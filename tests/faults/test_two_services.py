"""Two services on one machine, one with keys and one without: neither answers for the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.running_service import (
    IS_LONG,
    STARTED_WITHIN_S,
    Service,
    kill,
    start_service,
)
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

KILLS = 20  # of the ingress of each service
BACK_WITHIN_S = 30.0


@pytest.fixture
def two_services(
    tmp_path_factory: pytest.TempPathFactory, flow_bodies: Sequence[bytes]
) -> Iterator[tuple[Service, Service]]:
    """One with keys, and one without."""

    def start(auth: str) -> Service:
        folder: Path = tmp_path_factory.mktemp(auth)
        return start_service(folder, flow_bodies, on_three_nodes=False, auth=auth)

    closed, is_open = start("keys"), start("off")
    for service in (closed, is_open):
        assert wait_until(partial(is_ready, service), 2 * STARTED_WITHIN_S)
        assert wait_until(
            lambda service=service: bool(service.replicas("ingress")), STARTED_WITHIN_S
        )
    yield closed, is_open
    for service in (closed, is_open):
        service.end()


def is_ready(service: Service) -> bool:
    with suppress(httpx.HTTPError, ValueError):
        return bool(service.get("/ready")["ready"])
    return False


def is_back(service: Service, killed: psutil.Process) -> bool:
    """Whether the service has a new ingress; `/ready` alone may be the answer of the other one."""
    return service.has_replaced("ingress", killed) and is_ready(service)


@pytest.mark.skipif(not IS_LONG, reason="its minutes are spent in the long form, AXON_VERIFY=1")
def test_a_service_without_an_ingress_is_not_answered_for_by_another(
    two_services: tuple[Service, Service],
) -> None:
    """One with keys was answered by one without: 200 where 401 is right, for 18 s after a kill."""
    closed, is_open = two_services
    with closed.callers(connections=1) as to_closed, is_open.callers(connections=1) as to_open:
        for _ in range(KILLS):
            for service in two_services:
                killed = service.only_replica("ingress")
                kill(killed)
                assert wait_until(partial(is_back, service, killed), BACK_WITHIN_S)
    of_closed, of_open = (
        Counter(reply.status for reply in callers.replies) for callers in (to_closed, to_open)
    )
    print(f"\nwith keys: {dict(of_closed)}; without: {dict(of_open)}")

    assert of_closed[401] > KILLS
    assert of_open[200] > KILLS
    assert of_closed[200] == 0
    assert of_open[401] == 0
