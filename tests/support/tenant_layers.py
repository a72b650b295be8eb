"""The slots of every layer for one tenant, over a store, and what they answer to some events."""

from __future__ import annotations

from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.golden import golden_batch
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.model_state import LoadedModel, SlotEvent
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.layout import Store

__all__ = ["TenantLayers"]

NOW = 1_795_132_800.0
FLOWS = golden_batch(Kind.FLOW, [{"host": "web-1"}, {"host": "10.0.0.7"}, {"host": "new"}])
PROCESSES = golden_batch(Kind.PROCESS, [{"name": "sh", "host": "web-1"}, {"name": "netscape"}])


class TenantLayers:
    """The slots of all layers for one tenant.

    Args:
        store: has the releases.
        tenant: whose release serves.
        beside: their models are not built again if they are equal.
    """

    def __init__(self, store: Store, tenant: str, beside: TenantLayers | None = None) -> None:
        self.events: list[SlotEvent] = []
        builder = ModelBuilder("cpu", 30, 730, lambda: NOW)
        self._slots = {
            layer: LayerSlot(
                layer,
                [*LAYERS[layer].kinds],
                ReleaseLoader(
                    ReleaseResolver(lambda: store, [tenant]),
                    layer,
                    builder,
                    neighbours=beside.models if beside else tuple,
                ),
                fallback_score=LAYERS[layer].fallback_score,
                on_event=self.events.append,
            )
            for layer in LAYERS
        }

    def __getitem__(self, layer: str) -> LayerSlot:
        return self._slots[layer]

    def models(self) -> list[LoadedModel]:
        return [
            model
            for slot in self._slots.values()
            for release in slot.loaded
            for model in release.models.values()
        ]

    def refresh(self) -> None:
        for slot in self._slots.values():
            slot.refresh()

    def answers(self, release: str = "") -> dict[tuple[str, Kind], bytes]:
        """Everything but the name of the release that the layers say about some events."""
        found = {}
        for layer, slot in self._slots.items():
            for batch in (FLOWS, PROCESSES):
                said = slot.score(batch, release)
                opinion = said.status, said.version, said.reason, said.notes
                found[layer, batch.kind] = said.scores.tobytes() + repr(opinion).encode()
        return found
