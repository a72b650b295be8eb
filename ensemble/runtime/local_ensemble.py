"""The whole ensemble in one process, for the terminal without a service and for evaluation.

Loaders, models and fusion are those of the service; the layers are called in a loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ensemble.events import EventBatch
from ensemble.layers import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.model_state import SlotEvent
from ensemble.runtime.release_fusion import (
    FusionResolver,
    ReleaseFusion,
    choose_release,
    is_complete,
)
from ensemble.runtime.resolver import ReleaseSource
from ensemble.verdicts import Verdicts

__all__ = ["LocalEnsemble"]


class LocalEnsemble:
    """The best release of a tenant that can be loaded now, ready to score.

    Args:
        releases: resolves the releases that may serve.
        min_coverage: `fusion.min_coverage` of the settings.
        posture_bound: `fusion.posture_bound` of the settings.
        stale_after_days: `posture.stale_after_days` of the settings.
        expired_after_days: `posture.expired_after_days` of the settings.
        now: clock from which the age of vulnerability data is computed, seconds since 1970.
        on_event: receives each `SlotEvent` of the layers; must not raise.

    Raises:
        ArtifactError: the tenant has no release that can be read. A model that cannot be loaded is
            no error: its layer abstains.
    """

    def __init__(
        self,
        releases: ReleaseSource,
        *,
        min_coverage: float,
        posture_bound: float,
        stale_after_days: int,
        expired_after_days: int,
        now: Callable[[], float] = time.time,
        on_event: Callable[[SlotEvent], None] = lambda _: None,
    ) -> None:
        self._min_coverage, self._posture_bound = min_coverage, posture_bound
        builder = ModelBuilder("cpu", stale_after_days, expired_after_days, now)
        self.slots = {
            layer: LayerSlot(
                layer,
                [*spec.kinds],
                ReleaseLoader(releases, layer, builder),
                fallback_score=spec.fallback_score,
                on_event=on_event,
            )
            for layer, spec in LAYERS.items()
        }
        self.release: ReleaseFusion = self._choose(FusionResolver(releases))

    def _choose(self, fusions: FusionResolver) -> ReleaseFusion:
        """Load the wanted release, and its fallbacks until one is complete."""
        choices = fusions.resolve()
        states = {}
        for release in choices.releases:
            for layer, slot in self.slots.items():
                slot.state(release.name)  # requests it
                slot.refresh()
                states[layer] = slot.state()
            if is_complete(release, states):
                break
        return choose_release(choices, states)

    def score(self, batch: EventBatch, *, explain: bool = False) -> Verdicts:
        """Score a batch of one kind on which no layer abstains from single rows.

        Raises:
            ValueError: a layer abstains from some rows; `score_groups` returns the rows in groups.
        """
        (verdicts,) = self.score_groups(batch, explain=explain)
        return verdicts

    def score_groups(self, batch: EventBatch, *, explain: bool = False) -> tuple[Verdicts, ...]:
        """Score a batch of one kind; return its rows in groups with the same layers' opinions.

        Usually there is one group.
        """
        scores = [
            slot.score(batch, self.release.name, explain=explain) for slot in self.slots.values()
        ]
        return self.release.fuse(
            batch.kind, scores, min_coverage=self._min_coverage, posture_bound=self._posture_bound
        )
