"""One thin Serve deployment per layer: batches in, layer scores out. It contains no detection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deployments.config import Settings, Tenants, TrustedStore
from deployments.host import available_bytes
from deployments.layers.polled_slot import PolledSlot
from deployments.layers.router import routing_stats
from deployments.layers.telemetry import LayerTelemetry
from deployments.observability import RayMeter
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.layers import LAYERS
from ensemble.runtime import (
    Classification,
    LayerSlot,
    LoadCheck,
    ModelBuilder,
    ReleaseLoader,
    ReleaseResolver,
    SlotState,
    TenantSlots,
    classify,
)
from ensemble.store import Tenant
from ensemble.verdicts import LayerScores

__all__ = ["LayerDeployment"]


class LayerDeployment:
    """Ray shell of one layer.

    Args:
        layer: its name.
        settings: as JSON values, because only data may travel between processes.
        gpus: share of a GPU that Ray scheduled. The replica enforces it; Ray does not.
    """

    def __init__(self, layer: str, settings: Mapping[str, Any], gpus: float) -> None:
        self._settings = Settings.model_validate(settings)
        self._layer, self._device, self._meter = layer, _device(gpus), RayMeter()
        self._telemetry = LayerTelemetry(layer, self._meter)
        posture = self._settings.posture
        self._builder = ModelBuilder(
            self._device, posture.stale_after_days, posture.expired_after_days
        )
        self._tenants = Tenants(self._settings)
        self._load_check: asyncio.Task[Mapping[Kind, LoadCheck]] | None = None
        generic = self._tenants.generic
        self.slots: TenantSlots[PolledSlot] = TenantSlots(
            self._make_slot,
            default=self._tenants.serving_tenant(generic),
            pinned=self._tenants.lineage(generic),
            most=self._settings.store.tenants_at_once,
        )
        # It loads in the background: a constructor that raises or waits would stop the application.
        self.slots.of(self.slots.default)

    async def score(self, batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001  # Serve passes it by position
        """Score a batch by the models of `release`."""
        return self.slots.of_release(release).score(batch, release, explain=explain)

    async def classify(self, batch: FlowBatch, release: str, model_name: str) -> Classification:
        """Classify a batch by one named model of `release`; only the layer `classifier` can."""
        return classify(self.slots.of_release(release), batch, release, model_name)

    async def state(self, wanted: str) -> tuple[SlotState, str]:
        """State of the slot for release `wanted`, and the device; requests a missing release."""
        return self.slots.of_release(wanted).state(wanted), self._device

    async def test(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch beside the serving one; changes nothing (S1-05).

        Concurrent callers share one check, because it needs memory.
        """
        if self._load_check is None or self._load_check.done():
            slot = self.slots.of(self.slots.default).slot
            self._load_check = asyncio.create_task(asyncio.to_thread(slot.check_load))
        return await asyncio.shield(self._load_check)

    async def load(self, tenant: str) -> SlotState:
        """Poll a tenant's pointer and files now, despite earlier failures (S4-13)."""
        return await asyncio.to_thread(self._load, Tenant(tenant))

    async def check_health(self) -> None:
        """Raise only if a restart would help; returning at all proves that the event loop runs."""
        for polled in self.slots:
            polled.slot.check_health()

    async def record_routing_stats(self) -> dict[str, float]:
        """Statistics of this replica for the router; Serve calls it about every second."""
        states = {polled.tenant: polled.slot.state() for polled in self.slots}
        return routing_stats(states[self.slots.default], states)

    def _make_slot(self, tenant: str) -> PolledSlot:
        spec = LAYERS[self._layer]
        # the tenant alone: the releases of a parent are in the slot of the parent
        releases = ReleaseResolver(TrustedStore(self._settings), [tenant])
        loader = ReleaseLoader(
            releases, self._layer, self._builder, available_bytes, neighbours=self.slots.models
        )
        telemetry = self._telemetry
        if tenant not in self._tenants.lineage(self._tenants.generic):
            telemetry = LayerTelemetry(self._layer, self._meter, tenant=tenant)
        slot = LayerSlot(
            self._layer,
            [*spec.kinds],
            loader,
            fallback_score=spec.fallback_score,
            on_event=telemetry.on_slot_event,
        )
        return PolledSlot(tenant, slot, self._settings, self._set_gauges)

    def _set_gauges(self) -> None:
        """Set the gauges: presence of the generic tenant's files, and size of all models."""
        default = next(
            (one.slot.state() for one in self.slots if one.tenant == self.slots.default), None
        )
        if default is not None:
            sizes = {id(model.model): model.size_bytes for model in self.slots.models()}
            self._telemetry.set_gauges(replace(default, size_bytes=sum(sizes.values())))

    def _load(self, tenant: Tenant) -> SlotState:
        polled = self.slots.of(self._tenants.serving_tenant(tenant))
        polled.slot.reset()
        polled.poll()
        return polled.slot.state()


def _device(gpus: float) -> str:
    """Select the device; the scheduled share becomes a limit on the GPU's memory."""
    if not gpus:
        return "cpu"
    import torch  # noqa: PLC0415  # 160 MB, not needed on the CPU

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    return "cuda"
