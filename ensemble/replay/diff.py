"""Differences between a recorded verdict and its replay, by layer and by field of the verdict."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict
from ensemble.verdicts import LayerScores, Verdicts

__all__ = ["Difference", "compare_fused", "compare_layer"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One compared value.

    Attributes:
        what: a layer's name, or a field of the fused verdict.
        then: the recorded number or text; the status if the layer abstained.
        now: the replayed number or text; the status if the layer abstains.
        is_same: whether they are equal, or numbers within the tolerance.
    """

    what: str
    then: float | str | bool
    now: float | str | bool
    is_same: bool


def compare_layer(old: RecordedOpinion, opinion: LayerScores, tolerance: float) -> list[Difference]:
    """Compare one layer's scores of one event; a layer that abstained then counts as the same.

    Args:
        old: the recorded opinion.
        opinion: the replayed one, a batch of the one event.
        tolerance: largest difference of two scores that are the same.
    """
    if not old.spoke:
        return [Difference(old.layer, str(old.status), str(old.status), is_same=True)]
    if not opinion.speaks:
        return [Difference(old.layer, old.score, str(opinion.status), is_same=False)]
    if 0 in opinion.abstained:
        now = str(opinion.abstained[0].status)
        return [Difference(old.layer, old.score, now, is_same=False)]
    score = float(opinion.scores[0])
    lines = [Difference(old.layer, old.score, score, is_same=abs(old.score - score) <= tolerance)]
    if old.version != opinion.version:
        lines.append(
            Difference(f"{old.layer} version", old.version, opinion.version, is_same=False)
        )
    return lines


def compare_fused(
    recorded: RecordedVerdict, verdicts: Verdicts, tolerance: float
) -> list[Difference]:
    """Compare the recorded verdict with the replayed one, a batch of the one event."""
    numbers = {
        "score": (recorded.score, float(verdicts.score[0])),
        "low": (recorded.low, float(verdicts.low[0])),
        "high": (recorded.high, float(verdicts.high[0])),
        "coverage": (recorded.coverage, verdicts.coverage),
    }
    texts: dict[str, tuple[str | bool, str | bool]] = {
        "verdict": (recorded.verdict, str(verdicts.label[0])),
        "severity": (recorded.severity, str(verdicts.severity[0])),
        "degraded": (recorded.degraded, verdicts.degraded),
        "status": (recorded.status, str(verdicts.status)),
    }
    return [
        *(
            Difference(what, then, now, is_same=abs(then - now) <= tolerance)
            for what, (then, now) in numbers.items()
        ),
        *(Difference(what, then, now, is_same=then == now) for what, (then, now) in texts.items()),
    ]
