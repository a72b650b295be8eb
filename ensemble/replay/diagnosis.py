"""Why a verdict comes out otherwise: the likeliest cause of each difference, as far as it can be shown.

Settings are not guessed: the old words of the layers are fused anew, under other settings, until
they give the old score. What no setting,
device or library explains is what may not happen: then the verdict was altered, or another version
of Axon gave it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.events import Kind
from ensemble.fusion import RESILIENCE
from ensemble.layers.resilience import NEUTRAL
from ensemble.replay.diff import compare_fused, compare_layer
from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerScores, Verdicts, VerdictWord

__all__ = ["GPU_TOLERANCE", "FusionRule", "why_fused", "why_layer"]

GPU_TOLERANCE = 1e-5  # RELIABILITY P15; DESIGN, decision 12
DAY_S = 86_400
# a layer reads its clock after its batch was dated: by a deadline, and by how far two clocks are
# apart
MIDNIGHT_S = 1.0
OF_AGE = "; posture.stale_after_days or posture.expired_after_days may have been others then"
OF_MIDNIGHT = "; it was scored within a second of midnight UTC: the layer may have aged its data by the other day"
ALTERED = "another version of Axon gave the verdict, or it was altered since"


@dataclass(frozen=True, slots=True)
class FusionRule:
    """A release's fusion for one kind of event, under the settings of now unless others are tried."""

    release: ReleaseFusion
    kind: Kind
    settings: ReplaySettings

    def fuse(
        self, opinions: Sequence[LayerScores], *, posture_bound: float | None = None
    ) -> Verdicts:
        """The verdict on one event."""
        bound = self.settings.posture_bound if posture_bound is None else posture_bound
        (verdicts,) = self.release.fuse(
            self.kind, opinions, min_coverage=self.settings.min_coverage, posture_bound=bound
        )
        return verdicts


def why_layer(
    said: RecordedOpinion,
    opinion: LayerScores,
    scored_at: float,
    libraries: Sequence[str],
    tolerance: float,
) -> list[str]:
    """Why one layer says something else of the same event; nothing where it does not.

    Args:
        said: then.
        opinion: now, of the one event.
        scored_at: when that was, seconds since 1970.
        libraries: of its model, that have another version now than when it was made.
        tolerance: two scores this close are the same.
    """
    if all(line.is_same for line in compare_layer(said, opinion, tolerance)):
        return []
    of_age = (OF_AGE + OF_MIDNIGHT * _is_near_midnight(scored_at)) * (said.layer == RESILIENCE)
    if not opinion.speaks:
        return [f"{said.layer} has no opinion of this event now: {opinion.reason}{of_age}"]
    if said.version != opinion.version:
        return [
            f"{said.layer}: the verdict says version {said.version[:32]}, the release that it names holds {opinion.version}"
        ]
    difference = abs(said.score - float(opinion.scores[0]))
    if difference <= GPU_TOLERANCE:
        return [
            f"{said.layer} differs by {difference:.1e}, as two devices may: a verdict from a GPU wants --tolerance {GPU_TOLERANCE:g}"
        ]
    if said.layer == RESILIENCE:
        remarks = [
            remark[:200] or "nothing"
            for remark in (said.reason, opinion.reason or opinion.notes.get(0, ""))
        ]
        return [f"resilience remarked {remarks[0]} then, {remarks[1]} now{of_age}"]
    return [f"{said.layer}: {note}" for note in libraries] or [
        f"{said.layer}: the same model scores the same event otherwise: {ALTERED}"
    ]


def why_fused(recorded: RecordedVerdict, rule: FusionRule, tolerance: float) -> list[str]:
    """Why the layers' old words give another verdict now; nothing where they give the same."""
    heard = [said.again() for said in recorded.layers]
    wrong = _differing(recorded, rule.fuse(heard), tolerance)
    why: list[str] = []
    bound = _bound_then(recorded, rule, heard, tolerance) if wrong & _NUMBERS else None
    if bound is not None:
        wrong = _differing(recorded, rule.fuse(heard, posture_bound=bound), tolerance)
        why.append(
            f"fusion.posture_bound is {rule.settings.posture_bound:g} now; with {bound:.4g} the layers give the old score"
        )
    was_too_little = recorded.word == VerdictWord.INDETERMINATE
    is_too_little = rule.fuse(heard).word[0] == VerdictWord.INDETERMINATE
    if was_too_little != is_too_little and not wrong & (_NUMBERS | {"coverage"}):
        side = "above" if was_too_little else "at most"
        why.append(
            f"fusion.min_coverage is {rule.settings.min_coverage:g} now, and was {side} {recorded.coverage:g}"
        )
        wrong -= {"verdict"}
    if wrong:
        why.append(
            f"what the layers said does not give the old {', '.join(sorted(wrong))}: {ALTERED}"
        )
    return why


_NUMBERS = frozenset({"score", "low", "high"})


def _differing(recorded: RecordedVerdict, verdicts: Verdicts, tolerance: float) -> frozenset[str]:
    return frozenset(
        line.what for line in compare_fused(recorded, verdicts, tolerance) if not line.is_same
    )


def _bound_then(
    recorded: RecordedVerdict, rule: FusionRule, heard: Sequence[LayerScores], tolerance: float
) -> float | None:
    """The reach of the posture with which the layers give the old score, low and high.

    None where none does.
    """
    neutral = rule.fuse(heard, posture_bound=0.0)
    posture = next(
        (float(one.scores[0]) for one in heard if one.layer == RESILIENCE and one.speaks), None
    )
    if posture is None:  # then the score is not shifted, and `low` is by the whole reach
        bound = _odds(float(neutral.low[0])) - _odds(recorded.low)
    elif posture != NEUTRAL:
        bound = (_odds(recorded.score) - _odds(float(neutral.score[0]))) / (
            2.0 * (posture - NEUTRAL)
        )
    else:
        return None
    if not math.isfinite(bound):
        return None
    bound = max(0.0, bound)
    return (
        None
        if _differing(recorded, rule.fuse(heard, posture_bound=bound), tolerance) & _NUMBERS
        else bound
    )


def _odds(score: float) -> float:
    return math.log(score / (1.0 - score)) if 0.0 < score < 1.0 else math.inf


def _is_near_midnight(at: float) -> bool:
    return min(at % DAY_S, DAY_S - at % DAY_S) <= MIDNIGHT_S
