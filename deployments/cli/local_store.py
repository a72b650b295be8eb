"""The model store of this machine, the operator at the terminal, and the clock.

Imports nothing that is slow, because nearly every verb needs it.
"""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime

from deployments.config import Settings, Tenants, read_settings, read_signer, read_trust
from ensemble.layers import layers_by_model
from ensemble.store import Actor, ModelRegistry, Store, Tenant

__all__ = ["chosen_tenant", "now", "operator", "own_registry", "own_store"]


def own_store(settings: Settings | None = None) -> Store:
    """The store of this machine: the state folder of a running Axon, then what was shipped.

    Raises:
        pydantic.ValidationError: the trust list is wrong.
    """
    known = settings or read_settings()
    return Store(known.state, known.shipped, read_trust(known), operator())


def own_registry(tenant: Tenant) -> ModelRegistry:
    """The models of a tenant in the store of this machine, and those that it inherits.

    Raises:
        pydantic.ValidationError: the trust list is wrong.
    """
    settings = read_settings()
    return ModelRegistry(
        own_store(settings),
        tenant,
        read_signer,
        parents=Tenants(settings).lineage(tenant)[1:],
        layer_models=frozenset(layers_by_model()),
    )


def chosen_tenant(name: str | None) -> Tenant:
    """The tenant of that name; the configured one for None.

    Raises:
        MalformedEvent: it is not a valid name of a tenant.
    """
    return Tenant(name or read_settings().store.tenant)


def operator() -> Actor:
    """The user at this terminal, for the audit log."""
    return Actor(_user(), "terminal")


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def _user() -> str:
    """The user by the system's record, since environment variables can be set to anything."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a user id without a name
        return f"uid {os.getuid()}"
