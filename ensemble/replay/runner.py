"""Replay: score the event of a verdict again by the same release and layers, as of the same day.

The layers that had an opinion then are called again; those that abstained abstain again, whatever
the reason. The age of vulnerability data is computed for the time of the verdict. The settings are
the current ones.

Fit for: showing that a verdict is reproducible; finding out what changed. Unfit for: proving which
service gave a verdict, because a verdict is not signed. Cost: loading a release, a second or less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.errors import NotReplayable
from ensemble.events import EventBatch
from ensemble.features import event_digests
from ensemble.replay.diagnosis import FusionRule, why_fused, why_layer
from ensemble.replay.diff import Difference, compare_fused, compare_layer
from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.runtime import LocalEnsemble, PinnedRelease, SlotEvent
from ensemble.store import Store
from ensemble.verdicts import LayerScores

__all__ = ["CPU_TOLERANCE", "Replay", "replay"]

CPU_TOLERANCE = 1e-6  # RELIABILITY P15; DESIGN, decision 12
ADDED_UP = "differences of layers within the tolerance add up, or lie on both sides of a threshold"


@dataclass(frozen=True, slots=True)
class Replay:
    """The result of a replay.

    Attributes:
        lines: comparisons of the layers, then of the fused verdict.
        why: causes of the differences, the likeliest first; empty without differences.
    """

    lines: tuple[Difference, ...]
    why: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every compared value is the same."""
        return all(line.is_same for line in self.lines)


def replay(
    recorded: RecordedVerdict,
    event: EventBatch,
    open_store: Callable[[], Store],
    now: ReplaySettings,
    *,
    tolerance: float,
) -> Replay:
    """Score the event of a verdict again and compare.

    Args:
        recorded: the verdict.
        event: the event of the verdict, a batch of one.
        open_store: opens the store of its release and models, under the current trust list.
        now: the current settings.
        tolerance: largest difference of two numbers that are the same.

    Raises:
        NotReplayable: the verdict is about another event or has no release, or a layer that had an
            opinion cannot score now.
        ArtifactError: its release is missing, has another digest, or is no longer trusted.
    """
    if event_digests(event) != (recorded.input_sha256,):
        raise NotReplayable("the verdict is about another event")
    loads: list[SlotEvent] = []
    ensemble = LocalEnsemble(
        PinnedRelease(open_store, *recorded.made_by),
        min_coverage=now.min_coverage,
        posture_bound=now.posture_bound,
        stale_after_days=now.stale_after_days,
        expired_after_days=now.expired_after_days,
        now=lambda: recorded.scored_at,
        on_event=loads.append,
    )
    pairs = [(old, _score_again(old, ensemble, event)) for old in recorded.layers]
    rule = FusionRule(ensemble.release, event.kind, now)
    lines = [line for old, opinion in pairs for line in compare_layer(old, opinion, tolerance)]
    lines += compare_fused(recorded, rule.fuse([opinion for _, opinion in pairs]), tolerance)
    if all(line.is_same for line in lines):
        return Replay(tuple(lines), ())
    why = [
        reason
        for old, opinion in pairs
        for reason in why_layer(
            old, opinion, recorded.scored_at, _libraries(old.layer, loads), tolerance
        )
    ]
    why += why_fused(recorded, rule, tolerance)
    return Replay(tuple(lines), tuple(why) or (ADDED_UP,))


def _score_again(old: RecordedOpinion, ensemble: LocalEnsemble, event: EventBatch) -> LayerScores:
    """Score the event with one layer; a layer that abstained then is not called."""
    if not old.spoke:
        return old.to_scores()
    slot = ensemble.slots.get(old.layer)
    if slot is None:
        raise NotReplayable(f"a layer spoke then that this version does not have: {old.layer[:64]}")
    opinion = slot.score(event, ensemble.release.name)
    state = slot.state(ensemble.release.name).kinds.get(event.kind)
    if not opinion.speaks and state is not None and state.problem is not None:
        raise NotReplayable(
            f"{old.layer} spoke then, and its model cannot be loaded now: {state.problem.message}"
        )
    return opinion


def _libraries(layer: str, loads: Sequence[SlotEvent]) -> list[str]:
    """List the libraries whose version differs from when the layer's models were trained."""
    notes = [
        note
        for event in loads
        if event.layer == layer and event.what == "loaded"
        for note in event.fields.get("libraries", ())
    ]
    return list(dict.fromkeys(notes))
