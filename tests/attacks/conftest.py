"""The door of the service for those who attack it: the fixtures of tests/deployments."""

from __future__ import annotations

from tests.deployments.conftest import (
    classifier,
    door,
    flow_events,
    flows,
    meter,
    open_classifier,
    open_door,
    own_state,
    own_trust,
    process_events,
    shipped,
    slots,
)

__all__ = [
    "classifier",
    "door",
    "flow_events",
    "flows",
    "meter",
    "open_classifier",
    "open_door",
    "own_state",
    "own_trust",
    "process_events",
    "shipped",
    "slots",
]
