"""The ensemble in one process, for the terminal without a service and for evaluation.

The same loaders, models and fusion as behind the service; only the fan-out is a loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ensemble.events import EventBatch
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.model_state import SlotEvent
from ensemble.runtime.release_fusion import (
    FusionResolver,
    ReleaseFusion,
    choose_release,
    is_complete,
)
from ensemble.runtime.resolver import ReleaseSource
from ensemble.runtime.slot import LayerSlot
from ensemble.verdicts import Verdicts

__all__ = ["LocalEnsemble"]


class LocalEnsemble:
    """The best release of a tenant that can be had now, ready to score.

    Args:
        lineage: whose releases may serve.
        min_coverage: as configured.
        posture_bound: as configured.
        stale_after_days: as configured.
        expired_after_days: as configured.
        now: the clock that ages vulnerability data.
        tell: is told what happened to the layers; must not raise.

    Raises:
        ArtifactError: the tenant has no release that can be read. A model of it that cannot be
            had is a silent layer, not an error.
    """

    def __init__(
        self,
        lineage: ReleaseSource,
        *,
        min_coverage: float,
        posture_bound: float,
        stale_after_days: int,
        expired_after_days: int,
        now: Callable[[], float] = time.time,
        tell: Callable[[SlotEvent], None] = lambda _: None,
    ) -> None:
        self._min_coverage, self._posture_bound = min_coverage, posture_bound
        builder = ModelBuilder("cpu", stale_after_days, expired_after_days, now)
        self.slots = {
            layer: LayerSlot(
                layer,
                [*plan.kinds],
                ReleaseLoader(lineage, layer, builder),
                fallback_score=plan.fallback_score,
                tell=tell,
            )
            for layer, plan in LAYERS.items()
        }
        self.release: ReleaseFusion = self._choose(FusionResolver(lineage))

    def _choose(self, fusions: FusionResolver) -> ReleaseFusion:
        """Load what serves, and what stands in its place where it is not whole."""
        offer = fusions.look()
        said = {}
        for release in offer.releases:
            for layer, slot in self.slots.items():
                slot.state(release.name)  # asks for it
                slot.look()
                said[layer] = slot.state()
            if is_complete(release.name, said):
                break
        return choose_release(offer, said)

    def score(self, batch: EventBatch, *, explain: bool = False) -> Verdicts:
        """The verdicts of a batch of one kind of which no layer abstains from single rows.

        Raises:
            ValueError: a layer does; `judge` has the rows apart.
        """
        (verdicts,) = self.judge(batch, explain=explain)
        return verdicts

    def judge(self, batch: EventBatch, *, explain: bool = False) -> tuple[Verdicts, ...]:
        """The verdicts of a batch of one kind, in groups of rows of which the same layers spoke.

        Usually one group.
        """
        opinions = [
            slot.score(batch, self.release.name, explain=explain) for slot in self.slots.values()
        ]
        return self.release.fuse(
            batch.kind, opinions, min_coverage=self._min_coverage, posture_bound=self._posture_bound
        )
