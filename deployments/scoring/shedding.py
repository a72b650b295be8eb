"""Load shedding: an event for which no layer has time is refused, not given an empty verdict.

A caller can send a refused event again; a verdict without evidence looks like an answer (P20). That
holds for load alone. While layers are dead or hung, a retry would not help, and the verdict says
what is missing.
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
    """Put a refusal in the place of each verdict for which no layer had time."""
    return [overloaded() if _lacks_time(verdict) else verdict for verdict in verdicts]


def is_shed(result: verdict_wire.Verdict | verdict_wire.RowError) -> bool:
    """Whether an event of a batch was refused because of load."""
    return isinstance(result, verdict_wire.RowError) and result.error.code == Overloaded.code


def _lacks_time(verdict: verdict_wire.Verdict | EventError) -> bool:
    """Whether every layer has too much work; a layer that may be dead is not meant."""
    if isinstance(verdict, EventError) or verdict.coverage or not verdict.degraded:
        return False
    reasons = [
        layer.reason
        for layer in verdict.layers
        if layer.layer != RESILIENCE and layer.status not in _NOT_CALLED
    ]
    return bool(reasons) and set(reasons) == {LayerOverloaded.code}
