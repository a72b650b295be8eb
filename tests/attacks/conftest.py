"""Fixtures of the attacks: the service of tests/deployments."""

from __future__ import annotations

from tests.support.service_fixtures import (
    classifier,
    client,
    flow_events,
    flows,
    meter,
    open_classifier,
    open_client,
    own_state,
    own_trust,
    process_events,
    shipped,
    slots,
)

__all__ = [
    "classifier",
    "client",
    "flow_events",
    "flows",
    "meter",
    "open_classifier",
    "open_client",
    "own_state",
    "own_trust",
    "process_events",
    "shipped",
    "slots",
]
