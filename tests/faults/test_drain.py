"""A service that is told to end finishes what it took on (P25)."""

from __future__ import annotations

import signal

import pytest

from tests.support.callers import figures
from tests.support.running_service import ENDED_WITHIN_S, Service

pytestmark = [pytest.mark.cluster, pytest.mark.ends_service]


def test_a_termination_under_load_loses_no_request_that_was_taken(service: Service) -> None:
    """P25: a caller is refused at the door, or gets its verdict; nobody is cut off in between."""
    with service.callers() as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        service.head.send_signal(signal.SIGTERM)
        service.head.wait(ENDED_WITHIN_S)
    asked = callers.between(at - 1.0)
    taken = [one for one in asked if not one.problem.startswith("connecting")]
    lost = [one for one in taken if not one.is_answered]
    print(f"\nended under load: {len(lost)} of {len(taken)} taken requests lost; {figures(asked)}")

    assert service.head.returncode == 0
    assert lost == []
