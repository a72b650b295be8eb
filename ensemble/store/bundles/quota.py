"""Quota of models, versions and bytes of one tenant, so that no tenant fills the disk for all."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ArtifactMissing, QuotaExceeded
from ensemble.store.files.safe_read import list_names, open_directory
from ensemble.store.layout import (
    Store,
    bundle_parts,
    quarantine_parts,
    serials_in,
    tenant_parts,
)
from ensemble.store.names import ModelName, Tenant

__all__ = ["Quota", "check_quota", "folder_bytes", "models_in_state"]


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a tenant in the state root; models shipped with Axon do not count.

    Attributes:
        versions_per_model: at least 1.
        models_per_tenant: models with at least one version, at least 1.
        bytes_per_tenant: of the files of all its versions and of its quarantine, at least 1.
    """

    versions_per_model: int
    models_per_tenant: int
    bytes_per_tenant: int = sys.maxsize

    def __post_init__(self) -> None:
        if min(self.versions_per_model, self.models_per_tenant, self.bytes_per_tenant) < 1:
            raise ValueError("a quota must be at least 1")


def check_quota(
    store: Store, tenant: Tenant, model: ModelName, quota: Quota, size_bytes: int
) -> None:
    """Refuse another version of `model` if it would exceed the quota.

    Args:
        store: where it would be published.
        tenant: its owner.
        model: its model.
        quota: of the tenant.
        size_bytes: of its files.

    Raises:
        QuotaExceeded: with the limit that is reached.
    """
    versions = len(serials_in(store.state, bundle_parts(tenant, model)))
    if versions >= quota.versions_per_model:
        raise QuotaExceeded(f"versions of {model}", quota.versions_per_model)
    # another publisher may have placed the first version of this model since
    others = set() if versions else {*models_in_state(store, tenant)} - {model}
    if len(others) >= quota.models_per_tenant:
        raise QuotaExceeded(f"models of tenant {tenant}", quota.models_per_tenant)
    if _stored_bytes(store, tenant) + size_bytes > quota.bytes_per_tenant:
        raise QuotaExceeded(f"bytes of models of tenant {tenant}", quota.bytes_per_tenant)


def models_in_state(store: Store, tenant: Tenant) -> tuple[ModelName, ...]:
    """List the models of a tenant that have a version in the state root, by name."""
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


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder, 0 if it is missing; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it is deleted at this moment
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118  # hot loop
    return total


def _stored_bytes(store: Store, tenant: Tenant) -> int:
    """Size of a tenant's versions in the state root, those in quarantine too."""
    homes = (*tenant_parts(tenant), "bundles"), quarantine_parts(tenant)
    return sum(folder_bytes(store.state.joinpath(*home)) for home in homes)
