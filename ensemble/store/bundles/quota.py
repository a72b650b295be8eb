"""How much one tenant may keep.

Without a limit, whoever may train can fill the disk for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

from ensemble.errors import ArtifactMissing, QuotaExceeded
from ensemble.store.files.safe_read import list_names, open_directory
from ensemble.store.layout import Store, bundle_parts, serials_in, tenant_parts
from ensemble.store.names import ModelName, Tenant

__all__ = ["Quota", "check_quota", "models_in_state"]


@dataclass(frozen=True, slots=True)
class Quota:
    """What a tenant may have in the state root; what was shipped does not count.

    Attributes:
        versions_per_model: of one model, at least 1.
        models_per_tenant: that have a version, at least 1.
    """

    versions_per_model: int
    models_per_tenant: int

    def __post_init__(self) -> None:
        if min(self.versions_per_model, self.models_per_tenant) < 1:
            raise ValueError("a quota of nothing lets nobody publish")


def check_quota(store: Store, tenant: Tenant, model: ModelName, quota: Quota) -> None:
    """Refuse one more version of `model` where it would be one too many.

    Raises:
        QuotaExceeded: with what is full, and its limit.
    """
    versions = len(serials_in(store.state, bundle_parts(tenant, model)))
    if versions >= quota.versions_per_model:
        raise QuotaExceeded(f"versions of {model}", quota.versions_per_model)
    if not versions and len(models_in_state(store, tenant)) >= quota.models_per_tenant:
        raise QuotaExceeded(f"models of tenant {tenant}", quota.models_per_tenant)


def models_in_state(store: Store, tenant: Tenant) -> tuple[ModelName, ...]:
    """The models of `tenant` that have a version in the state root, by name."""
    try:
        with open_directory(
            store.state, *tenant_parts(tenant), "bundles", what="bundles"
        ) as directory:
            names = sorted(
                ModelName(name)
                for name in list_names(directory, what="bundles")
                if ModelName.is_one(name)
            )
    except ArtifactMissing:
        return ()
    return tuple(name for name in names if serials_in(store.state, bundle_parts(tenant, name)))
