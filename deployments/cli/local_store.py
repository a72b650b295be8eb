"""The model store of this machine, the operator at the terminal, and the clock.

Nearly every verb imports this module, so it imports nothing slow.
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
    """Return the store of this machine: the state folder, then the shipped artifacts.

    Raises:
        pydantic.ValidationError: the trust list is wrong.
    """
    known = settings or read_settings()
    return Store(known.state, known.shipped, read_trust(known), operator())


def own_registry(tenant: Tenant) -> ModelRegistry:
    """Return the registry of a tenant in the store of this machine, with inherited models.

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
    """Return the tenant with this name; the configured tenant for None.

    Raises:
        MalformedEvent: the name is not valid.
    """
    return Tenant(name or read_settings().store.tenant)


def operator() -> Actor:
    """Return the user at this terminal, for the audit log."""
    return Actor(_user(), "terminal")


def now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)


def _user() -> str:
    """Return the user from the user database; environment variables can be forged."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a user id without a name
        return f"uid {os.getuid()}"
