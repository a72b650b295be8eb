"""Replaying: the event of a verdict is scored once more, by the same release, the same layers and on the same day.

The layers that spoke then are asked again; those that were silent stay silent, for whatever reason
they were. The clock that ages
vulnerability data stands at when it was scored. The settings are those of now.

Fit for: showing to somebody else that a verdict was no accident; finding out what changed. Unfit
for: proving who gave a verdict: it is
not signed. Cost: loading a release, a second or less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ensemble.errors import NotReplayable
from ensemble.events import EventBatch
from ensemble.features.digest import input_digests
from ensemble.replay.diagnosis import FusionRule, why_fused, why_layer
from ensemble.replay.diff import Difference, compare_fused, compare_layer
from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import SlotEvent
from ensemble.runtime.resolver import PinnedRelease
from ensemble.store import Store
from ensemble.verdicts import LayerScores

__all__ = ["CPU_TOLERANCE", "Replay", "replay"]

CPU_TOLERANCE = 1e-6  # RELIABILITY P15; DESIGN, decision 12
ADDED_UP = "differences of layers within the tolerance add up, or lie on both sides of a threshold"


@dataclass(frozen=True, slots=True)
class Replay:
    """What came of it.

    Attributes:
        lines: layer by layer, then the fused verdict.
        why: what explains the differences, the likeliest first; empty where there is none.
    """

    lines: tuple[Difference, ...]
    why: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether everything came out as it did."""
        return all(line.is_same for line in self.lines)


def replay(
    recorded: RecordedVerdict,
    event: EventBatch,
    open_store: Callable[[], Store],
    now: ReplaySettings,
    *,
    tolerance: float,
) -> Replay:
    """Make a verdict once more.

    Args:
        recorded: the verdict.
        event: a batch of the one event that it is about, as the door admitted it.
        open_store: where its release and models are, as it is trusted now.
        now: the settings.
        tolerance: two numbers this close are the same.

    Raises:
        NotReplayable: it is about another event, names no release, or a layer spoke that cannot
            be asked any more.
        ArtifactError: its release is not there, is another than its digest says, or is trusted
            no more.
    """
    if input_digests(event) != (recorded.input_sha256,):
        raise NotReplayable("the verdict is about another event")
    told: list[SlotEvent] = []
    ensemble = LocalEnsemble(
        PinnedRelease(open_store, *recorded.made_by),
        min_coverage=now.min_coverage,
        posture_bound=now.posture_bound,
        stale_after_days=now.stale_after_days,
        expired_after_days=now.expired_after_days,
        now=lambda: recorded.scored_at,
        tell=told.append,
    )
    pairs = [(said, _said_again(said, ensemble, event)) for said in recorded.layers]
    rule = FusionRule(ensemble.release, event.kind, now)
    lines = [line for said, opinion in pairs for line in compare_layer(said, opinion, tolerance)]
    lines += compare_fused(recorded, rule.fuse([opinion for _, opinion in pairs]), tolerance)
    if all(line.is_same for line in lines):
        return Replay(tuple(lines), ())
    why = [
        reason
        for said, opinion in pairs
        for reason in why_layer(
            said, opinion, recorded.scored_at, _libraries(said.layer, told), tolerance
        )
    ]
    why += why_fused(recorded, rule, tolerance)
    return Replay(tuple(lines), tuple(why) or (ADDED_UP,))


def _said_again(said: RecordedOpinion, ensemble: LocalEnsemble, event: EventBatch) -> LayerScores:
    """What a layer says now; one that was silent then is not asked."""
    if not said.spoke:
        return said.again()
    slot = ensemble.slots.get(said.layer)
    if slot is None:
        raise NotReplayable(f"a layer spoke then that this Axon does not have: {said.layer[:64]}")
    opinion = slot.score(event, ensemble.release.name)
    state = slot.state(ensemble.release.name).kinds.get(event.kind)
    if not opinion.speaks and state is not None and state.trouble is not None:
        raise NotReplayable(
            f"{said.layer} spoke then, and its model cannot be had now: {state.trouble.message}"
        )
    return opinion


def _libraries(layer: str, told: Sequence[SlotEvent]) -> list[str]:
    """What the loads said of libraries that have another version than when the layer's models were made."""
    notes = [
        note
        for event in told
        if event.layer == layer and event.what == "loaded"
        for note in event.fields.get("libraries", ())
    ]
    return list(dict.fromkeys(notes))
