"""Golden events: a model serves only if it scores them as it did when it was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ensemble.errors import ArtifactCorrupt
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessEvent
from ensemble.features import flow, process

__all__ = ["golden_batch"]

GOLDEN_TOLERANCE = {"cpu": 1e-6, "cuda": 1e-5}  # DESIGN, decision 12


def golden_batch(kind: Kind, events: Sequence[Mapping[str, Any]]) -> EventBatch:
    """Convert golden events to columns; an event with a host alone becomes a flow of zeros."""
    if kind is Kind.PROCESS:
        names = ("name", "parent", "command_line", "user", "host")
        return process.admit(
            [ProcessEvent(**{name: str(event.get(name, "")) for name in names}) for event in events]
        )
    blank = [0.0] * len(flow.FEATURE_NAMES)
    admitted = flow.admit([event.get("features", blank) for event in events])
    if admitted.refused:
        raise ArtifactCorrupt("golden events", "contain a flow that fails validation")
    batch = FlowBatch(
        ("",) * len(events),
        tuple(str(event.get("host", "")) for event in events),
        admitted.features,
    )
    return replace(batch, flags=admitted.flags)
