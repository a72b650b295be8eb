"""Diagnosis of a replay: the likeliest cause of each difference, as far as it can be shown.

Settings are not guessed. The recorded scores of the layers are fused again under other settings
until they give the recorded score. If no setting, device or library explains a difference, the
verdict was altered, or another version of Axon gave it.
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
from ensemble.runtime import ReleaseFusion
from ensemble.verdicts import LayerScores, VerdictLabel, Verdicts

__all__ = ["GPU_TOLERANCE", "FusionRule", "why_fused", "why_layer"]

GPU_TOLERANCE = 1e-5  # RELIABILITY P15; DESIGN, decision 12
DAY_S = 86_400
# A layer reads its clock after its batch got its time: at most a deadline and a clock skew later.
MIDNIGHT_S = 1.0
OF_AGE = "; posture.stale_after_days or posture.expired_after_days may have differed then"
OF_MIDNIGHT = (
    "; it was scored within a second of midnight UTC:"
    " the layer may have computed the age of its data for the other day"
)
ALTERED = "another version of Axon gave the verdict, or it was altered since"


@dataclass(frozen=True, slots=True)
class FusionRule:
    """A release's fusion for one kind of event, under the current settings by default."""

    release: ReleaseFusion
    kind: Kind
    settings: ReplaySettings

    def fuse(
        self, opinions: Sequence[LayerScores], *, posture_bound: float | None = None
    ) -> Verdicts:
        """Fuse the scores of one event, optionally under another posture bound."""
        bound = self.settings.posture_bound if posture_bound is None else posture_bound
        (verdicts,) = self.release.fuse(
            self.kind, opinions, min_coverage=self.settings.min_coverage, posture_bound=bound
        )
        return verdicts


def why_layer(
    old: RecordedOpinion,
    opinion: LayerScores,
    scored_at: float,
    libraries: Sequence[str],
    tolerance: float,
) -> list[str]:
    """Explain why one layer scores the same event differently; empty if it does not.

    Args:
        old: the recorded opinion.
        opinion: the replayed one, a batch of the one event.
        scored_at: when the verdict was given, seconds since 1970.
        libraries: those whose version differs from when its model was trained.
        tolerance: largest difference of two scores that are the same.
    """
    if all(line.is_same for line in compare_layer(old, opinion, tolerance)):
        return []
    of_age = (OF_AGE + OF_MIDNIGHT * _is_near_midnight(scored_at)) * (old.layer == RESILIENCE)
    if not opinion.speaks or 0 in opinion.abstained:
        reason = opinion.abstained[0].reason if opinion.speaks else opinion.reason
        return [f"{old.layer} has no opinion of this event now: {reason}{of_age}"]
    if old.version != opinion.version:
        return [
            (
                f"{old.layer}: the verdict records version {old.version[:32]},"
                f" its release has version {opinion.version}"
            )
        ]
    difference = abs(old.score - float(opinion.scores[0]))
    if difference <= GPU_TOLERANCE:
        return [
            (
                f"{old.layer} differs by {difference:.1e}, as two devices may:"
                f" replay a verdict from a GPU with --tolerance {GPU_TOLERANCE:g}"
            )
        ]
    if old.layer == RESILIENCE:
        remarks = [
            remark[:200] or "nothing"
            for remark in (old.reason, opinion.reason or opinion.notes.get(0, ""))
        ]
        return [f"resilience remarked {remarks[0]} then, {remarks[1]} now{of_age}"]
    return [f"{old.layer}: {note}" for note in libraries] or [
        f"{old.layer}: the same model scores the same event differently: {ALTERED}"
    ]


def why_fused(recorded: RecordedVerdict, rule: FusionRule, tolerance: float) -> list[str]:
    """Explain why the recorded layer scores fuse to another verdict now; empty if they do not."""
    opinions = [old.to_scores() for old in recorded.layers]
    wrong = _differing(recorded, rule.fuse(opinions), tolerance)
    why: list[str] = []
    bound = _bound_then(recorded, rule, opinions, tolerance) if wrong & _NUMBERS else None
    if bound is not None:
        wrong = _differing(recorded, rule.fuse(opinions, posture_bound=bound), tolerance)
        why.append(
            f"fusion.posture_bound is {rule.settings.posture_bound:g} now;"
            f" with {bound:.4g} the layers give the old score"
        )
    was_too_little = recorded.verdict == VerdictLabel.INDETERMINATE
    is_too_little = rule.fuse(opinions).label[0] == VerdictLabel.INDETERMINATE
    if was_too_little != is_too_little and not wrong & (_NUMBERS | {"coverage"}):
        side = "above" if was_too_little else "at most"
        why.append(
            f"fusion.min_coverage is {rule.settings.min_coverage:g} now,"
            f" and was {side} {recorded.coverage:g}"
        )
        wrong -= {"verdict"}
    if wrong:
        why.append(
            f"the recorded layer scores do not give the old {', '.join(sorted(wrong))}: {ALTERED}"
        )
    return why


_NUMBERS = frozenset({"score", "low", "high"})


def _differing(recorded: RecordedVerdict, verdicts: Verdicts, tolerance: float) -> frozenset[str]:
    return frozenset(
        line.what for line in compare_fused(recorded, verdicts, tolerance) if not line.is_same
    )


def _bound_then(
    recorded: RecordedVerdict, rule: FusionRule, opinions: Sequence[LayerScores], tolerance: float
) -> float | None:
    """Find the posture bound under which the layers give the recorded score, low and high.

    None if there is none.
    """
    neutral = rule.fuse(opinions, posture_bound=0.0)
    posture = next(
        (float(one.scores[0]) for one in opinions if one.layer == RESILIENCE and one.speaks), None
    )
    if posture is None:  # then the score is not shifted, and `low` is shifted by the full bound
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
        if _differing(recorded, rule.fuse(opinions, posture_bound=bound), tolerance) & _NUMBERS
        else bound
    )


def _odds(score: float) -> float:
    return math.log(score / (1.0 - score)) if 0.0 < score < 1.0 else math.inf


def _is_near_midnight(at: float) -> bool:
    return min(at % DAY_S, DAY_S - at % DAY_S) <= MIDNIGHT_S
