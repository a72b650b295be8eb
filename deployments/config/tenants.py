"""Tenants: the group of each, the tenant whose models serve it, and its rate limit.

The file is optional. A tenant that it does not list has no group: its own models serve it, or the
generic ones. The file is read again when it changes. If it has a mistake, the content read before
stays in effect.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deployments.config.settings import EMPTY_IF_NONE, Settings, TenantName
from deployments.observability import log_event
from ensemble.store import NO_TRUST, Store, Tenant, has_pointer
from ensemble.store.files import file_fingerprint

__all__ = ["Limit", "TenantEntry", "Tenants", "TenantsFile", "read_tenants"]


LIMIT_BYTES = 4 << 20  # some fifty thousand tenants


class TenantEntry(BaseModel):
    """Entry of one tenant.

    Attributes:
        group: tenant whose models serve it before the generic ones; None for no group.
        requests_per_s: average rate on one ingress replica; None for `auth.requests_per_s`.
        burst: requests at once after a pause; None for `auth.burst`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    group: TenantName | None = None
    requests_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None


class TenantsFile(BaseModel):
    """Content of configs/tenants.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tenants: Annotated[
        dict[TenantName, TenantEntry],
        EMPTY_IF_NONE,
        Field(default_factory=dict),
    ]


def read_tenants(path: Path) -> TenantsFile:
    """Read the tenants file strictly; a missing file has no tenants.

    Raises:
        pydantic.ValidationError: the file cannot be read, is not YAML, or has mistakes; all are
            listed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
        found = (
            yaml.safe_load(data.decode())
            if len(data) <= LIMIT_BYTES
            else f"{path.name} is longer than {LIMIT_BYTES:,} bytes"
        )
    except FileNotFoundError:
        found = None
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError):
        found = f"{path.name} is not readable YAML"
    return TenantsFile.model_validate({} if found is None else found)


class Tenants:
    """The tenants of the file as it is now, and the tenant whose release serves each.

    Args:
        settings: path of the file, the generic tenant and its parents.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.tenants
        # only asked which tenants have a pointer, so it needs no trusted key
        self._store = Store(settings.state, settings.shipped, NO_TRUST)
        self._generic = tuple(
            Tenant(name) for name in (settings.store.tenant, *settings.store.parents)
        )
        self._file = TenantsFile(tenants={})
        self._fingerprint: Hashable = None

    @property
    def generic(self) -> Tenant:
        """The tenant whose models serve every tenant without its own."""
        return self._generic[0]

    def lineage(self, tenant: Tenant) -> tuple[Tenant, ...]:
        """Tenants whose releases may serve `tenant`: itself, its group, then the generic ones.

        Reads the file if it changed.
        """
        # a generic tenant has no group, and never inherits from its own children
        if tenant in self._generic:
            return self._generic[self._generic.index(tenant) :]
        self._reload()
        entry = self._file.tenants.get(tenant)
        group = () if entry is None or entry.group is None else (Tenant(entry.group),)
        return tuple(dict.fromkeys((tenant, *group, *self._generic)))

    def serving_tenant(self, tenant: Tenant) -> Tenant:
        """The first tenant of the lineage that has a pointer, else the generic tenant.

        Reads the disk, so it may block.
        """
        return next(
            (one for one in self.lineage(tenant) if has_pointer(self._store, one)), self.generic
        )

    def limit(self, tenant: Tenant) -> Limit | None:
        """Limit of a tenant in the file as it was read last; does not read the disk."""
        entry = self._file.tenants.get(tenant)
        return None if entry is None else Limit(entry.requests_per_s, entry.burst)

    def _reload(self) -> None:
        fingerprint = file_fingerprint(self._path)
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        try:
            self._file = read_tenants(self._path)
        except ValidationError as refused:
            log_event(
                logging.ERROR,
                "tenants_file_refused",
                {"mistakes": [error["msg"] for error in refused.errors()]},
            )


@dataclass(frozen=True, slots=True)
class Limit:
    """Rate limit of one tenant; None for the value in the settings."""

    requests_per_s: float | None = None
    burst: float | None = None
