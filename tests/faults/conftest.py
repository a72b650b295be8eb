"""Real services to break. A start takes ten seconds or more, so tests share a service."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.load.flows import made_up_flows, single_bodies
from tests.support.running_service import STARTED_WITHIN_S, Service, start_service
from tests.support.service_fixtures import flow_events, flows, process_events

__all__ = ["flow_events", "flows", "process_events"]

DISTINCT_FLOWS = 64
RAY_PORTS = (6379, 8265)  # Ray's own defaults for its head and its dashboard


class Services:
    """The one service that runs now.

    A test that needs the other kind, or finds the service ended, gets a new one.
    """

    def __init__(self, folders: pytest.TempPathFactory, bodies: Sequence[bytes]) -> None:
        self._folders, self._bodies = folders, bodies
        self._running: tuple[bool, Service] | None = None

    def get(self, *, on_three_nodes: bool) -> Service:
        """Return a service of this kind with every replica running and every layer live."""
        if self._running is not None:
            is_on_three_nodes, service = self._running
            if is_on_three_nodes == on_three_nodes and service.head.poll() is None:
                service.await_complete()
                return service
            self.end()
        service = start_service(
            self._folders.mktemp("service"), self._bodies, on_three_nodes=on_three_nodes
        )
        self._running = (on_three_nodes, service)
        service.await_complete(STARTED_WITHIN_S)
        return service

    def end(self) -> None:
        if self._running is not None:
            self._running[1].end()
        self._running = None


@pytest.fixture(scope="session")
def flow_bodies() -> Sequence[bytes]:
    """Bodies of POST /v1/score: made-up flows that every layer scores."""
    return single_bodies(made_up_flows(DISTINCT_FLOWS, seed=3))


@pytest.fixture(scope="session")
def ray_ports_taken() -> Iterator[None]:
    """Listen on the default ports of Ray, unless another process does."""
    with ExitStack() as listeners:
        for port in RAY_PORTS:
            listener = listeners.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                listener.bind(("0.0.0.0", port))  # noqa: S104  # on every address, as another program may
                listener.listen()
        yield


@pytest.fixture(scope="session")
def services(
    ray_ports_taken: None, tmp_path_factory: pytest.TempPathFactory, flow_bodies: Sequence[bytes]
) -> Iterator[Services]:
    """The services of all tests, started while the default ports of Ray are taken."""
    del ray_ports_taken
    running = Services(tmp_path_factory, flow_bodies)
    yield running
    running.end()


@pytest.fixture
def service(services: Services) -> Service:
    """`axon serve`, with one replica of everything."""
    return services.get(on_three_nodes=False)


@pytest.fixture
def cluster(services: Services) -> Service:
    """Three nodes on one machine; two replicas of each deployment, on different nodes."""
    return services.get(on_three_nodes=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests of one service together, and those that end it last.

    Every order is correct; this one needs the fewest starts.
    """
    here = Path(__file__).parent
    places = [number for number, item in enumerate(items) if item.path.parent == here]
    ordered = sorted((items[number] for number in places), key=_place)
    for number, item in zip(places, ordered, strict=True):
        items[number] = item


def _place(item: pytest.Item) -> tuple[bool, bool]:
    return "cluster" in getattr(item, "fixturenames", ()), item.get_closest_marker(
        "ends_service"
    ) is not None
