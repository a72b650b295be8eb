"""One thin Serve deployment per layer. Knows Ray, knows no detection: batches in, opinions out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.settings import Settings
from ensemble.events import EventBatch
from ensemble.loading import LAYERS, ReleaseLoader
from ensemble.slot import LayerSlot, SlotState
from ensemble.store.layout import Store
from ensemble.verdicts import LayerScores

__all__ = ["LayerDeployment"]


class LayerDeployment:
    """The Ray shell of one layer.

    Args:
        layer: its name.
        settings: as JSON values, so that what travels between processes is data.
        gpus: the share of a GPU this replica was scheduled with; enforced here, because Ray only schedules it.
    """

    def __init__(self, layer: str, settings: Mapping[str, Any], gpus: float) -> None:
        checked = Settings.model_validate(settings)
        loader = ReleaseLoader(
            store=Store(checked.state, checked.shipped),
            tenant=checked.store.tenant,
            layer=layer,
            device=_device(gpus),
            stale_after_days=checked.posture.stale_after_days,
            expired_after_days=checked.posture.expired_after_days,
        )
        self._device = loader.device
        self._slot = LayerSlot(layer, loader.load, fallback_score=LAYERS[layer].fallback_score)
        self._slot.start()  # loads beside: a constructor that raises or waits would take the whole application down

    async def score(self, batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001  # Serve passes arguments through
        """This layer's opinion of a batch, by the models of `release`."""
        return self._slot.score(batch, release, explain=explain)

    async def state(self, wanted: str) -> tuple[SlotState, str]:
        """The slot's state, and the device it computes on; also makes the slot look for release `wanted`."""
        return self._slot.state(wanted), self._device


def _device(gpus: float) -> str:
    """Where to compute; the scheduled share becomes a limit on the memory of the GPU."""
    if not gpus:
        return "cpu"
    import torch  # noqa: PLC0415  # 160 MB that a layer on the CPU may do without

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    return "cuda"
