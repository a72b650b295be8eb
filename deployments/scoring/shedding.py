"""Load shedding: an event to which every layer was late is refused, not given an empty verdict.

A caller can send a refused event again. A verdict without evidence looks like an answer (P20).
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.scoring import verdict_wire
from ensemble.errors import EventError, LayerOverloaded, Overloaded
from ensemble.fusion import RESILIENCE
from ensemble.verdicts import LayerStatus

__all__ = ["is_shed", "overloaded", "shed_late"]

RETRY_AFTER_S = 1  # by then, the parts of bulk before it have left the layers
_NOT_CALLED = (LayerStatus.NOT_APPLICABLE, LayerStatus.DISABLED)


def overloaded() -> Overloaded:
    """Make the refusal of an event that cannot be scored in time."""
    return Overloaded(RETRY_AFTER_S)


def shed_late(
    verdicts: Sequence[verdict_wire.Verdict | EventError],
) -> list[verdict_wire.Verdict | EventError]:
    """Put a refusal in the place of each verdict to which every layer was late."""
    return [overloaded() if _is_late(verdict) else verdict for verdict in verdicts]


def is_shed(result: verdict_wire.Verdict | verdict_wire.RowError) -> bool:
    """Whether an event of a batch was refused as late."""
    return isinstance(result, verdict_wire.RowError) and result.error.code == Overloaded.code


def _is_late(verdict: verdict_wire.Verdict | EventError) -> bool:
    """Whether no layer scored the event, and none for another reason than lateness."""
    if isinstance(verdict, EventError) or verdict.coverage or not verdict.degraded:
        return False
    is_late = [
        layer.status == LayerStatus.TIMEOUT or layer.reason == LayerOverloaded.code
        for layer in verdict.layers
        if layer.layer != RESILIENCE and layer.status not in _NOT_CALLED
    ]
    return bool(is_late) and all(is_late)
