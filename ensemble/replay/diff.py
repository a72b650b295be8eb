"""Then and now, line by line: what each layer said, and what was fused of it."""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict
from ensemble.verdicts import LayerScores, Verdicts

__all__ = ["Difference", "compare_fused", "compare_layer"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that a verdict says.

    Attributes:
        what: a layer's name, or what of the fused verdict.
        then: a number or a word; of a layer that was silent its status.
        now: likewise.
        is_same: equal; numbers within the tolerance.
    """

    what: str
    then: float | str | bool
    now: float | str | bool
    is_same: bool


def compare_layer(
    said: RecordedOpinion, opinion: LayerScores, tolerance: float
) -> list[Difference]:
    """One layer's word on one event; one that was silent is as it was.

    Args:
        said: then.
        opinion: now, of the one event.
        tolerance: two scores this close are the same.
    """
    if not said.spoke:
        return [Difference(said.layer, str(said.status), str(said.status), is_same=True)]
    if not opinion.speaks:
        return [Difference(said.layer, said.score, str(opinion.status), is_same=False)]
    score = float(opinion.scores[0])
    lines = [
        Difference(said.layer, said.score, score, is_same=abs(said.score - score) <= tolerance)
    ]
    if said.version != opinion.version:
        lines.append(
            Difference(f"{said.layer} version", said.version, opinion.version, is_same=False)
        )
    return lines


def compare_fused(
    recorded: RecordedVerdict, verdicts: Verdicts, tolerance: float
) -> list[Difference]:
    """The fused verdict on one event; likewise."""
    numbers = {
        "score": (recorded.score, float(verdicts.score[0])),
        "low": (recorded.low, float(verdicts.low[0])),
        "high": (recorded.high, float(verdicts.high[0])),
        "coverage": (recorded.coverage, verdicts.coverage),
    }
    words: dict[str, tuple[str | bool, str | bool]] = {
        "verdict": (recorded.word, str(verdicts.word[0])),
        "severity": (recorded.severity, str(verdicts.severity[0])),
        "degraded": (recorded.degraded, verdicts.degraded),
        "status": (recorded.status, str(verdicts.status)),
    }
    return [
        *(
            Difference(what, then, now, is_same=abs(then - now) <= tolerance)
            for what, (then, now) in numbers.items()
        ),
        *(Difference(what, then, now, is_same=then == now) for what, (then, now) in words.items()),
    ]
