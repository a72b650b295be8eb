"""The end of a service by a signal, and the next start (P25)."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support.asgi_clients import Event
from tests.support.callers import figures
from tests.support.running_service import (
    ENDED_WITHIN_S,
    STARTED_WITHIN_S,
    Service,
    start_service,
)
from tests.support.timing import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.ends_service]

GONE_WITHIN_S = 15.0  # until the other processes have ended, after the head


def test_a_signal_under_load_loses_no_accepted_request_and_a_second_start_works(
    service: Service, process_events: list[Event], tmp_path: Path
) -> None:
    """P25: a connection is refused, or its request gets a verdict.

    The first service ends as by `kill` or a container runtime: SIGTERM to its head. The second
    one, on the same port, ends as by Ctrl-C in a terminal: SIGINT to its group.
    """
    with service.callers() as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        service.head.send_signal(signal.SIGTERM)
        service.head.wait(ENDED_WITHIN_S)
    sent = callers.between(at - 1.0)
    accepted = [one for one in sent if not one.problem.startswith("connecting")]
    lost = [one for one in accepted if not one.is_answered]
    print(
        f"\nended under load: {len(lost)} of {len(accepted)} accepted requests lost; "
        f"{figures(sent)}"
    )

    assert service.head.returncode == 0, service.output()[-2000:]
    assert lost == []
    assert left_running(service) == []
    # the text of Ray's handler, which writes a stack trace and leaves processes running
    assert "SIGTERM received" not in service.output()
    assert "failed" not in service.output().partition("axon: stopping")[2]

    again = start_service(tmp_path, service.bodies, on_three_nodes=False, port=service.port)
    try:
        again.await_complete(STARTED_WITHIN_S)
        assert again.score(json.dumps(process_events[0]).encode())["coverage"] == 1.0
        os.killpg(again.head.pid, signal.SIGINT)
        again.head.wait(ENDED_WITHIN_S)
        assert left_running(again) == []
    finally:
        again.end()


def left_running(service: Service) -> list[str]:
    """List the names of the processes that still run after the end of their service."""
    wait_until(lambda: not service.processes(), GONE_WITHIN_S)
    return [process.name() for process in service.processes()]
