"""One thin Serve deployment per layer. Knows Ray, knows no detection: batches in, opinions out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deployments.config.settings import Settings
from deployments.config.tenants import Tenants
from deployments.config.trusted_store import TrustedStore
from deployments.host.memory import available_bytes
from deployments.layers.polled_slot import PolledSlot
from deployments.layers.router import routing_stats
from deployments.layers.telemetry import LayerTelemetry
from deployments.observability.metrics import RayMeter
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.layers.catalog import LAYERS
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
    """The Ray shell of one layer.

    Args:
        layer: its name.
        settings: as JSON values, so that what travels between processes is data.
        gpus: the share of a GPU this replica was scheduled with; enforced here, because Ray
            only schedules it.
    """

    def __init__(self, layer: str, settings: Mapping[str, Any], gpus: float) -> None:
        self._settings = Settings.model_validate(settings)
        self._layer, self._device, self._meter = layer, _device(gpus), RayMeter()
        self._telemetry = LayerTelemetry(layer, self._meter)
        posture = self._settings.posture
        self._builder = ModelBuilder(
            self._device, posture.stale_after_days, posture.expired_after_days
        )
        self._tenancy = Tenants(self._settings)
        self._trial: asyncio.Task[Mapping[Kind, LoadCheck]] | None = None
        generic = self._tenancy.generic
        self.shelf = TenantSlots(
            self._keep,
            home=self._tenancy.charge(
                generic
            ),  # a look for a name; what it is worth is found out beside
            pinned=self._tenancy.lineage(generic),
            most=self._settings.store.tenants_at_once,
        )
        self.shelf.of(
            self.shelf.home
        )  # loads beside: a constructor that raises or waits would take the whole application down

    # Serve passes arguments through
    async def score(self, batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
        """This layer's opinion of a batch, by the models of `release`."""
        return self.shelf.of_release(release).score(batch, release, explain=explain)

    async def classify(self, batch: FlowBatch, release: str, model_name: str) -> Classification:
        """What one named model of `release` says of a batch.

        The classifier's layer alone is asked this.
        """
        return classify(self.shelf.of_release(release), batch, release, model_name)

    async def state(self, wanted: str) -> tuple[SlotState, str]:
        """How the slot stands with release `wanted`, and the device it computes on.

        Makes the slot look for a release it has not.
        """
        return self.shelf.of_release(wanted).state(wanted), self._device

    async def test(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, beside the serving one, and report (S1-05).

        Changes nothing.

        One at a time, for it takes memory: who asks meanwhile, also through another ingress, hears
        how the same one went.
        """
        if self._trial is None or self._trial.done():
            self._trial = asyncio.create_task(
                asyncio.to_thread(self.shelf.of(self.shelf.home).slot.trial)
            )
        return await asyncio.shield(self._trial)

    async def load(self, tenant: str) -> SlotState:
        """Refresh a tenant's pointer and files now and report the state (S4-13).

        Earlier failures are forgotten.
        """
        return await asyncio.to_thread(self._load, Tenant(tenant))

    async def check_health(self) -> None:
        """Raises where a restart would help, and only there.

        That it is answered at all shows that the loop turns.
        """
        for kept in self.shelf:
            kept.slot.check_health()

    async def record_routing_stats(self) -> dict[str, float]:
        """What the router wants to know of this replica; Serve asks every second or so."""
        states = {kept.tenant: kept.slot.state() for kept in self.shelf}
        return routing_stats(states[self.shelf.home], states)

    def _keep(self, tenant: str) -> PolledSlot:
        plan = LAYERS[self._layer]
        lineage = ReleaseResolver(
            TrustedStore(self._settings), [tenant]
        )  # a parent's releases are in the parent's slot
        loader = ReleaseLoader(
            lineage, self._layer, self._builder, available_bytes, neighbours=self.shelf.models
        )
        is_generic = tenant in self._tenancy.lineage(self._tenancy.generic)
        telemetry = (
            self._telemetry
            if is_generic
            else LayerTelemetry(self._layer, self._meter, tenant=tenant)
        )
        slot = LayerSlot(
            self._layer, [*plan.kinds], loader, fallback_score=plan.fallback_score, tell=telemetry
        )
        return PolledSlot(tenant, self._layer, slot, self._settings, self._looked)

    def _looked(self) -> None:
        """The gauges.

        Whether the generic tenant's files are there, and the size of everybody's models.
        """
        home = next(
            (kept.slot.state() for kept in self.shelf if kept.tenant == self.shelf.home), None
        )
        if home is not None:
            sizes = {id(model.model): model.size_bytes for model in self.shelf.models()}
            self._telemetry.looked(replace(home, size_bytes=sum(sizes.values())))

    def _load(self, tenant: Tenant) -> SlotState:
        kept = self.shelf.of(self._tenancy.charge(tenant))
        kept.slot.reset()
        kept.look()
        return kept.slot.state()


def _device(gpus: float) -> str:
    """Where to compute; the scheduled share becomes a limit on the memory of the GPU."""
    if not gpus:
        return "cpu"
    import torch  # noqa: PLC0415  # 160 MB that a layer on the CPU may do without

    if not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_per_process_memory_fraction(min(1.0, gpus))
    return "cuda"
