"""All pipelines, by tenant: one for each tenant that has models of its own, one for all others.

A tenant without a pointer of its own is served by its group's models or by the generic ones. It
shares their pipeline, so its events leave in the same calls. A tenant with a pointer gets a
pipeline at its first request. Until the layers have loaded its models, the generic models score,
and every verdict names the release that made it. The least recently used pipelines are closed
above a limit. Each pipeline follows its pointer in a task of its own, so one tenant's rollout
delays no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from deployments.config import Settings, Tenants, TrustedStore
from deployments.scoring.bulk_gate import BulkGate
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.pipeline import TenantPipeline
from deployments.scoring.release_watcher import ReleaseWatcher
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from ensemble.runtime import FusionResolver, ReleaseResolver
from ensemble.store import Tenant

__all__ = ["TenantPipelines"]

SERVING_CACHED_S = 2.0  # how long a serving tenant is cached; pointers are polled as often
RESOLVE_WITHIN_S = 1.0  # if the disk hangs longer, the generic models serve
TENANTS_CACHED = 4096  # tenants whose serving tenant is cached; about 100 bytes each


class TenantPipelines:
    """The pipelines, made when a tenant needs one.

    Args:
        settings: of the pipelines, and how many may be open at once.
        tenants: resolves the serving tenant.
        layers: all layers, under their guards.
        bulk: gate of the single events with a deadline of their own.
        switches: the rollback marks of all ingress replicas.
        spool: is offered every scored event.
        metrics: counts.
        has_many: whether callers of more than one tenant may call.
        clock: seconds that only rise.

    Attributes:
        watchers: serving tenant -> the task that follows its pointer.
    """

    def __init__(
        self,
        settings: Settings,
        tenants: Tenants,
        layers: LayerClient,
        bulk: BulkGate,
        switches: LayerSwitches,
        spool: RetroSpool,
        metrics: ScoringMetrics,
        *,
        has_many: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._tenants, self._clock = settings, tenants, clock
        self._has_many = has_many
        self._layers, self._bulk, self._switches = layers, bulk, switches
        self._spool, self._metrics = spool, metrics
        self._pipelines: OrderedDict[Tenant, TenantPipeline] = OrderedDict()  # by last use
        self.watchers: dict[Tenant, ReleaseWatcher] = {}
        self._lineages: dict[Tenant, tuple[Tenant, ...]] = {}  # of the open pipelines
        # tenant -> the lineage of its serving tenant, which is the first in it, and when that was
        # resolved
        self._serving: OrderedDict[str, tuple[tuple[Tenant, ...], float]] = OrderedDict()
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._first: TenantPipeline | None = None

    @property
    def default(self) -> TenantPipeline:
        """The pipeline of the generic tenant, for all tenants without models of their own."""
        if self._first is None:
            raise RuntimeError("the pipelines are not started")
        lineage, _ = self._serving[self._tenants.generic]
        return self._pipelines.get(lineage[0], self._first)

    @property
    def deadline_s(self) -> float:
        """Seconds from the arrival of a single event to its layer scores, by default."""
        return self._layers.deadline_s

    @property
    def is_ready(self) -> bool:
        """Whether the generic pointer was resolved once, successfully or not."""
        return self.watchers[Tenant(self.default.tenant)].has_polled

    @property
    def is_busy(self) -> bool:
        """Whether callers wait for a batch of events now."""
        return any(pipeline.in_flight for pipeline in self._pipelines.values())

    async def start(self) -> None:
        """Start following the generic pointer; wait for the first poll, but not for a slow disk."""
        generic = self._tenants.generic
        # the lineage of the generic tenant is in the settings, so it needs no disk
        lineage = await self._resolve(generic) or self._tenants.lineage(generic)
        self._first = self._make(lineage)
        self._serving[generic] = lineage, self._clock()
        await self.watchers[lineage[0]].start()

    async def stop(self) -> None:
        """Stop following all pointers."""
        for task in self._resolving.values():
            task.cancel()
        await asyncio.gather(
            *self._resolving.values(),
            *(watcher.stop() for watcher in self.watchers.values()),
            return_exceptions=True,
        )

    async def for_tenant(self, tenant: str = "") -> TenantPipeline:
        """The pipeline that serves `tenant`, or the generic tenant if it is ""."""
        tenant = tenant or self._tenants.generic
        known = self._serving.get(tenant)
        if known is None:
            await asyncio.shield(self._refresh(tenant))
            known = self._serving[tenant]
        elif self._clock() - known[1] >= SERVING_CACHED_S:
            self._refresh(tenant)  # the cached one serves until then
        lineage = known[0]
        pipeline = self._pipelines.get(lineage[0])
        if pipeline is None:
            return await self._open(lineage)  # it may be evicted before this returns
        self._pipelines.move_to_end(lineage[0])
        return pipeline

    def _refresh(self, tenant: str) -> asyncio.Task[None]:
        """Resolve the serving tenant of `tenant`, in one task at a time."""
        if tenant not in self._resolving:
            self._resolving[tenant] = asyncio.create_task(self._cache_serving(tenant))
        return self._resolving[tenant]

    async def _cache_serving(self, tenant: str) -> None:
        try:
            owner = Tenant(tenant)
            # if the tenant has a pipeline, its watcher handles a pointer that is gone
            found = self._lineages.get(owner) or await self._resolve(owner)
            known = self._serving.get(tenant)
            fallback = known[0] if known else self._lineages[Tenant(self.default.tenant)]
            self._serving[tenant] = found or fallback, self._clock()
            self._serving.move_to_end(tenant)
            while len(self._serving) > TENANTS_CACHED:
                in_use = (tenant, self._tenants.generic)
                del self._serving[next(one for one in self._serving if one not in in_use)]
        finally:
            del self._resolving[tenant]

    async def _resolve(self, tenant: Tenant) -> tuple[Tenant, ...] | None:
        """The lineage of the tenant whose models serve `tenant`.

        None if the disk does not respond in time.
        """

        def read() -> tuple[Tenant, ...]:
            return self._tenants.lineage(self._tenants.serving_tenant(tenant))

        try:
            return await asyncio.wait_for(asyncio.to_thread(read), RESOLVE_WITHIN_S)
        except TimeoutError:
            return None

    def _make(self, lineage: tuple[Tenant, ...]) -> TenantPipeline:
        """Make the pipeline of the first tenant of `lineage`, and the watcher of its pointer.

        The watcher is not started.
        """
        tenant = lineage[0]
        pipeline = self._pipelines[tenant] = TenantPipeline(
            tenant,
            self._layers,
            self._bulk,
            self._spool,
            self._metrics,
            self._settings,
            # the owner of a release decides for it; of those that share it, none alone
            decides_alone=lambda name: name in ("", tenant) or not self._has_many(),
        )
        self._lineages[tenant] = lineage
        releases = ReleaseResolver(TrustedStore(self._settings), lineage)
        self.watchers[tenant] = ReleaseWatcher(pipeline, FusionResolver(releases), self._switches)
        return pipeline

    async def _open(self, lineage: tuple[Tenant, ...]) -> TenantPipeline:
        """Open a pipeline; the generic release scores until the tenant's own is loaded."""
        pipeline = self._make(lineage)
        if self.default.release.name:
            pipeline.controller.switch_to(self.default.release, at_once=True)
        await self.watchers[lineage[0]].start(waits=False)
        while len(self._pipelines) > self._settings.store.tenants_at_once:
            in_use = (self._first, self.default, pipeline)
            oldest = next(one for one, made in self._pipelines.items() if made not in in_use)
            del self._pipelines[oldest], self._lineages[oldest]
            await self.watchers.pop(oldest).stop()
        return pipeline
