"""Tenants: the group of each, the tenant whose models serve it, and its rate limit.

The file is optional. A tenant that it does not name has no group: it lives on its own models, or on
the generic ones. The file is read again when it changes; one that is wrong is refused whole, and
what was read before goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from deployments.config.settings import Settings, TenantName
from deployments.observability import log_event
from ensemble.store import Store, Tenant, Trust, has_pointer
from ensemble.store.files import file_fingerprint

__all__ = ["Limit", "TenantEntry", "Tenants", "TenantsFile", "read_tenants"]


LIMIT_BYTES = 4 << 20  # some fifty thousand tenants


def _nothing_is_empty(value: Any) -> Any:  # noqa: ANN401  # whatever YAML has there
    """`tenants:` with nothing below it is an empty mapping to people, and None to YAML."""
    return {} if value is None else value


class TenantEntry(BaseModel):
    """What is said of one tenant.

    Attributes:
        group: the tenant on whose models it lives before the generic ones; None for no group.
        requests_per_s: what it may ask of one ingress replica; None for what everybody may
            (`auth.requests_per_s`).
        burst: what it may ask at once after a quiet time; None for what everybody may.
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
        BeforeValidator(_nothing_is_empty),
        Field(default_factory=dict),
    ]


def read_tenants(path: Path) -> TenantsFile:
    """The tenants in `path`, strictly; none where there is no such file.

    Raises:
        pydantic.ValidationError: it cannot be read, is no YAML, or is wrong; every mistake is
            named.
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
        found = f"{path.name} is no YAML that can be read"
    return TenantsFile.model_validate({} if found is None else found)


class Tenants:
    """The tenants as the file lies on the disk now, and whose pointer is in charge of each.

    Args:
        settings: where the file is, and who the generic tenant and its parents are.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.tenants
        self._store = Store(
            settings.state, settings.shipped, Trust({}, frozenset())
        )  # only looked at; nothing is believed
        self._generic = tuple(
            Tenant(name) for name in (settings.store.tenant, *settings.store.parents)
        )
        self._file = TenantsFile(tenants={})
        self._fingerprint: Hashable = None

    @property
    def generic(self) -> Tenant:
        """The tenant on whose models everybody lives who has none."""
        return self._generic[0]

    def lineage(self, tenant: Tenant) -> tuple[Tenant, ...]:
        """Whose releases may serve a tenant, the nearest first.

        Its own, its group's, the generic ones; each once.
        """
        if (
            tenant in self._generic
        ):  # the generic tenants know no group, and none lives on its own children
            return self._generic[self._generic.index(tenant) :]
        self._reload()
        entry = self._file.tenants.get(tenant)
        group = () if entry is None or entry.group is None else (Tenant(entry.group),)
        return tuple(dict.fromkeys((tenant, *group, *self._generic)))

    def charge(self, tenant: Tenant) -> Tenant:
        """The nearest of its lineage that has a pointer.

        The generic tenant where none has. Looks at the disk, so it may block.
        """
        return next(
            (one for one in self.lineage(tenant) if has_pointer(self._store, one)), self.generic
        )

    def limit(self, tenant: Tenant) -> Limit | None:
        """What is said of how much a tenant may ask, as the file was looked at last.

        Does not look at the disk.
        """
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
    """What one tenant may ask; None for what everybody may."""

    requests_per_s: float | None = None
    burst: float | None = None
