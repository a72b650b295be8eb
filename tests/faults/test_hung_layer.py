"""A layer that neither responds nor dies (P18, P19, R5).

Its process is stopped by a signal, and with it its loop, its threads and the GIL.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence

import psutil
import pytest

from tests.support.callers import figures, median_ms
from tests.support.running_service import (
    BUSY,
    IS_LONG,
    LAYERS_OF_FLOWS,
    NOISE_S,
    RESTARTED_WITHIN_S,
    Service,
)
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

ANSWERED_WITHIN_S = 0.250 * 1.1 + NOISE_S  # P18
# five timeouts in a row, two calls in flight, a quarter of a second each, and a margin for a busy
# machine
OPENS_WITHIN_S = 8.0
MEASURED_S = 2.0
SLOWER_BY_MS = 5.0  # more than the healthy median of the same run
BACK_WITHIN_S = 15.0

HUNG = [pytest.param(["anomaly"], id="one layer")]
if IS_LONG:
    HUNG += [
        pytest.param(["anomaly", "behavior"], id="two layers"),
        pytest.param(LAYERS_OF_FLOWS, id="every layer"),
    ]


@pytest.mark.parametrize("hung", HUNG)
def test_a_hung_layer_costs_a_few_deadlines_and_is_then_restarted(
    service: Service, hung: Sequence[str]
) -> None:
    """P18, P19, R5.

    Every response is in time, and as fast as before once the breaker is open. A new process makes
    the layer live again.
    """
    stopped = {layer: service.only_replica(layer) for layer in hung}
    with service.callers() as callers:
        callers.warm()
        healthy_since, at = callers.go_on(MEASURED_S)
        for process in stopped.values():
            process.send_signal(signal.SIGSTOP)
        try:
            opened = callers.wait_for(
                lambda one: all(one.status_of(layer) == "open" for layer in hung),
                since=at,
                within_s=OPENS_WITHIN_S,
            )
            open_since, open_until = callers.go_on(MEASURED_S)
            assert wait_until(
                lambda: all(is_another(service, layer, old) for layer, old in stopped.items()),
                2 * RESTARTED_WITHIN_S,
            )
            _, restarted = callers.go_on(0.0)
            back = callers.wait_for(
                lambda one: all(one.status_of(layer) == "live" for layer in hung),
                since=at + 1.0,
                within_s=4 * BACK_WITHIN_S,
            )
        finally:
            for process in stopped.values():
                process.send_signal(signal.SIGCONT)
    healthy, behind_breaker = (
        callers.between(healthy_since, at),
        callers.between(open_since, open_until),
    )
    replies = callers.between(at - 0.5)
    print(
        f"\n{', '.join(hung)} hung: breaker open after {opened.at - at:.2f} s, new process "
        f"after {restarted - at:.1f} s, live after "
        f"{back.at - at:.1f} s; median {median_ms(healthy):.1f} ms healthy, "
        f"{median_ms(behind_breaker):.1f} ms behind the breaker; "
        f"{figures(replies)}"
    )

    assert [one for one in replies if not one.is_answered] == []
    assert [one for one in replies if one.elapsed_s > ANSWERED_WITHIN_S] == []
    assert median_ms(behind_breaker) <= median_ms(healthy) + SLOWER_BY_MS
    assert restarted - at <= BUSY * RESTARTED_WITHIN_S
    assert back.at - restarted <= BUSY * BACK_WITHIN_S
    # Serve has ended the stopped processes; they exit when they continue
    assert psutil.wait_procs(list(stopped.values()), timeout=30.0)[1] == []


def is_another(service: Service, layer: str, old: psutil.Process) -> bool:
    return any(one.pid != old.pid for one in service.replicas(layer))


def test_a_layer_that_continues_before_its_restart_is_live_again_in_its_old_process(
    service: Service,
) -> None:
    """P19: live within 10 s after the fault ends; a short fault restarts no process."""
    process = service.only_replica("behavior")
    with service.callers() as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        process.send_signal(signal.SIGSTOP)
        try:
            callers.wait_for(
                lambda one: one.status_of("behavior") != "live", since=at, within_s=OPENS_WITHIN_S
            )
            _, continued = callers.go_on(1.0)
        finally:
            process.send_signal(signal.SIGCONT)
        back = callers.wait_for(
            lambda one: one.status_of("behavior") == "live", since=continued, within_s=20.0
        )
    replies = callers.between(at)
    print(
        f"\nbehavior hung for a second: live {back.at - continued:.2f} s after it continued; "
        f"{figures(replies)}"
    )

    assert [one for one in replies if not one.is_answered] == []
    assert back.at - continued <= BUSY * 10.0
    assert service.only_replica("behavior").pid == process.pid
