"""One thin Serve deployment per layer. Knows Ray, knows no detection: batches in, opinions out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from deployments.incidents import LayerTelemetry
from deployments.memory import available_bytes
from deployments.routing import routing_stats
from deployments.settings import Settings
from deployments.stores import lineage_of
from deployments.telemetry import RayMeter
from ensemble.building import LAYERS, ModelBuilder
from ensemble.errors import ArtifactError, LoadTimeout
from ensemble.events import EventBatch, Kind
from ensemble.keeping import Keeper
from ensemble.loading import ReleaseLoader
from ensemble.slot import LayerSlot
from ensemble.states import SlotState, Trial
from ensemble.store.controls import Controls, read_controls
from ensemble.verdicts import LayerScores

__all__ = ["LayerDeployment"]

LOOK_EVERY_S = 2.0  # RELIABILITY F1: at pointer and files
LOAD_WITHIN_S = 10.0  # RELIABILITY F13: a hanging disk costs a load, not the replica


class LayerDeployment:
    """The Ray shell of one layer.

    Args:
        layer: its name.
        settings: as JSON values, so that what travels between processes is data.
        gpus: the share of a GPU this replica was scheduled with; enforced here, because Ray only schedules it.
    """

    def __init__(self, layer: str, settings: Mapping[str, Any], gpus: float) -> None:
        self._settings = Settings.model_validate(settings)
        self._layer, self._device = layer, _device(gpus)
        builder = ModelBuilder(self._device, self._settings.posture.stale_after_days, self._settings.posture.expired_after_days)
        loader = ReleaseLoader(lineage_of(self._settings), layer, builder, available_bytes)
        plan = LAYERS[layer]
        self._telemetry = LayerTelemetry(layer, RayMeter())
        self._slot = LayerSlot(layer, [*plan.kinds], loader, fallback_score=plan.fallback_score, tell=self._telemetry)
        self._controls: Controls | None = None
        self._trial: asyncio.Task[Mapping[Kind, Trial]] | None = None
        self._keeper = Keeper(layer, self._look, self._give_up, every_s=LOOK_EVERY_S, limit_s=LOAD_WITHIN_S)
        self._slot.wake = self._keeper.wake
        self._keeper.start()  # loads beside: a constructor that raises or waits would take the whole application down

    async def score(self, batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001  # Serve passes arguments through
        """This layer's opinion of a batch, by the models of `release`."""
        return self._slot.score(batch, release, explain=explain)

    async def state(self, wanted: str) -> tuple[SlotState, str]:
        """How the slot stands with release `wanted`, and the device it computes on; makes the slot look for a release it has not."""
        return self._slot.state(wanted), self._device

    async def test(self) -> Mapping[Kind, Trial]:
        """Load the wanted release from scratch, beside what serves, and say how it went (S1-05); changes nothing.

        One at a time, for it takes memory: who asks meanwhile, also through another ingress, hears how the same one went.
        """
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(asyncio.to_thread(self._slot.trial))
        return await asyncio.shield(self._trial)

    async def check_health(self) -> None:
        """Raises where a restart would help, and only there; that it is answered at all shows that the loop turns."""
        self._slot.raise_if_broken()

    async def record_routing_stats(self) -> dict[str, float]:
        """What the router wants to know of this replica; Serve asks every second or so."""
        return routing_stats(self._slot.state())

    def _look(self) -> None:
        """Apply what operators switched, then load what is new or missing."""
        try:
            controls = read_controls(self._settings.state)
        except ArtifactError:  # the ingress says so; the switches of before hold
            controls = self._controls or Controls()
        if self._controls is not None and self._layer in controls.resets_since(self._controls):
            self._slot.reset()
        self._controls = controls
        self._slot.is_disabled = self._layer in controls.disabled.union(self._settings.controls.disabled)
        self._slot.look()
        self._telemetry.looked(self._slot.state())

    def _give_up(self) -> None:
        self._slot.give_up(LoadTimeout(f"the models of layer {self._layer}", LOAD_WITHIN_S))


def _device(gpus: float) -> str:
    """Where to compute; the scheduled share becomes a limit on the memory of the GPU."""
    if not gpus:
        return "cpu"
    import torch  # noqa: PLC0415  # 160 MB that a layer on the CPU may do without

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    return "cuda"
