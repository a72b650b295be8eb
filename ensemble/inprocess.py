"""The whole ensemble in one process: what the terminal scores with when no service runs, and what training evaluates.

The same loaders, models and fusion as behind the service; only the fan-out is a loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ensemble.events import EventBatch
from ensemble.loading import LAYERS, FusionLoader, ReleaseFusion, ReleaseLoader
from ensemble.slot import LayerSlot
from ensemble.store.layout import Store
from ensemble.verdicts import Verdicts

__all__ = ["Ensemble"]


class Ensemble:
    """A tenant's current release, ready to score.

    Args:
        store: where the models are.
        tenant: whose.
        min_coverage: as configured.
        posture_bound: as configured.
        stale_after_days: as configured.
        expired_after_days: as configured.
        now: the clock that ages vulnerability data.

    Raises:
        ArtifactError: the tenant has no release that can be read. A model of it that cannot be had is a silent layer, not an error.
    """

    def __init__(
        self,
        store: Store,
        tenant: str,
        *,
        min_coverage: float,
        posture_bound: float,
        stale_after_days: int,
        expired_after_days: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._min_coverage, self._posture_bound = min_coverage, posture_bound
        self.release: ReleaseFusion = FusionLoader(store, tenant).load()
        self.slots = {}
        for layer, plan in LAYERS.items():
            loader = ReleaseLoader(store, tenant, layer, "cpu", stale_after_days, expired_after_days, now)
            self.slots[layer] = LayerSlot(layer, loader.load, fallback_score=plan.fallback_score)
            self.slots[layer].load()

    def score(self, batch: EventBatch, *, explain: bool = False) -> Verdicts:
        """The verdicts of a batch of one kind."""
        opinions = [slot.score(batch, self.release.name, explain=explain) for slot in self.slots.values()]
        return self.release.of(batch.kind).fuse(opinions, min_coverage=self._min_coverage, posture_bound=self._posture_bound)
