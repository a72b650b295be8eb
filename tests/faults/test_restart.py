"""A start that a supervisor can repeat, whatever process of the service died (P25)."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import psutil
import pytest

from tests.support.running_service import IS_LONG, STARTED_WITHIN_S, Service
from tests.support.timing import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.ends_service]

# seconds that systemd's default, a signal to every process of a service, may take
GROUP_ENDED_WITHIN_S = 20.0
GONE_WITHIN_S = 15.0


def killed(service: Service, name: str) -> None:
    (process,) = [one for one in service.processes() if one.name() == name]
    process.kill()


def running(service: Service) -> list[str]:
    """List the names of its processes that still run, after a wait for their end."""
    wait_until(lambda: not service.processes(), GONE_WITHIN_S)
    return [process.name() for process in service.processes()]


@pytest.mark.parametrize(
    "head",
    ["raylet", pytest.param("gcs_server", marks=pytest.mark.skipif(not IS_LONG, reason="long"))],
)
def test_a_service_whose_ray_head_died_ends_itself_and_starts_again(
    service: Service, head: str
) -> None:
    """C15: the front proxy that stayed held the port, and every later start was refused."""
    killed(service, head)

    assert service.head.wait(GROUP_ENDED_WITHIN_S) == 1
    assert "Ray's head has died" in service.output()
    assert running(service) == []
    again = service.start_again()
    try:
        again.await_complete(STARTED_WITHIN_S)
    finally:
        again.end()


def test_a_start_ends_what_a_killed_service_left(service: Service) -> None:
    """C15: SIGKILL of `axon serve` itself, from which no process can clean up."""
    service.head.kill()
    service.head.wait(5.0)

    again = service.start_again()
    try:
        again.await_complete(STARTED_WITHIN_S)

        assert "ended what an earlier run had left: " in again.output()
        assert running(service) == []
    finally:
        again.end()
        service.end()


def test_a_signal_to_every_process_ends_the_service_in_time(service: Service) -> None:
    """C15: what a systemd unit does by default."""
    began = time.monotonic()
    for process in service.processes():
        with suppress(psutil.Error, OSError):
            os.kill(process.pid, signal.SIGTERM)

    assert service.head.wait(GROUP_ENDED_WITHIN_S) == 0
    print(f"\na signal to every process: ended after {time.monotonic() - began:.1f} s")
    assert running(service) == []
