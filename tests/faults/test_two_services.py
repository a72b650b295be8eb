"""Two services on one machine, one with keys and one without: neither answers for the other."""

from __future__ import annotations

import threading
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
PAUSE_S = 0.01


class Probe(threading.Thread):
    """Sends the same event to a service, without a key, until it is stopped, and counts statuses.

    Each request has a connection of its own, as that of a new caller.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._url = f"http://127.0.0.1:{service.port}/v1/score"
        self._body = service.bodies[0]
        self._is_over = threading.Event()
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        while not self._is_over.wait(PAUSE_S):
            with suppress(httpx.HTTPError):
                answer = httpx.post(self._url, content=self._body, timeout=5.0, trust_env=False)
                self.statuses[answer.status_code] += 1

    def stop(self) -> Counter[int]:
        self._is_over.set()
        self.join()
        return self.statuses


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
        wait_until(partial(is_ready, service), 2 * STARTED_WITHIN_S)
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
    probes = [Probe(closed), Probe(is_open)]
    for probe in probes:
        probe.start()
    for _ in range(KILLS):
        for service in two_services:
            killed = service.only_replica("ingress")
            kill(killed)
            assert wait_until(partial(is_back, service, killed), BACK_WITHIN_S)
    of_closed, of_open = (probe.stop() for probe in probes)
    print(f"\nwith keys: {dict(of_closed)}; without: {dict(of_open)}")

    assert of_closed[401] > KILLS
    assert of_open[200] > KILLS
    assert of_closed[200] == 0
    assert of_open[401] == 0
