"""The model registry of the caller's tenant, used in a thread of the store under the caller's name.

Every route that reads or changes models or releases goes through here, so that the tenant, the
quota and the actor of the audit log are set in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from deployments.config import Settings, Tenants, read_signer
from deployments.management.request_parsing import tenant_of
from deployments.management.store_executor import StoreExecutor
from deployments.web import actor_of
from ensemble.layers import layers_by_model
from ensemble.store import ModelRegistry, Quota, Store

__all__ = ["CallerRegistry", "quota_of"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class CallerRegistry:
    """Runs work on the `ModelRegistry` of the tenant that a request's key stands for.

    Attributes:
        executor: runs work on the store.
        tenants: the parents whose models a tenant inherits.
        settings: how many models and versions a tenant may have.
    """

    executor: StoreExecutor
    tenants: Tenants
    settings: Settings

    async def run(self, request: Request, work: Callable[[ModelRegistry], Result]) -> Result:
        """Call `work` once, in a thread, with the registry of the caller's tenant.

        Raises:
            EnsembleError: what `work` raises, or an error of the store; see `with_timeout`.
        """

        def run_on(store: Store) -> Result:
            tenant, *parents = self.tenants.lineage(tenant_of(request))  # reads the tenants file
            return work(
                ModelRegistry(
                    store,
                    tenant,
                    read_signer,
                    parents=tuple(parents),
                    layer_models=frozenset(layers_by_model()),
                    quota=quota_of(self.settings),
                )
            )

        return await self.executor.run(actor_of(request), run_on)


def quota_of(settings: Settings) -> Quota:
    """The models, the versions of each, and the bytes that a tenant may have."""
    limits = settings.management
    return Quota(
        limits.versions_per_model, limits.models_per_tenant, limits.models_mb_per_tenant << 20
    )
