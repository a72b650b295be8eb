"""The models of a tenant's current release in this process.

What the terminal scores with and trains on from.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rich.console import Console

from deployments.cli.local_store import own_store
from deployments.config.settings import read_settings
from deployments.config.tenants import Tenants
from ensemble.errors import ArtifactCorrupt
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import LoadedRelease
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store import Store, Tenant
from ensemble.verdicts import SPEAKING

__all__ = ["current_models", "local_ensemble"]


def local_ensemble(tenant: str | None = None) -> LocalEnsemble:
    """The current release of a tenant, in this process.

    Raises:
        ArtifactError: there is none that can be read.
    """
    settings = read_settings()
    store = own_store(settings)
    logging.getLogger("ray.serve").addHandler(
        logging.NullHandler()
    )  # what fails is told below, in words
    ensemble = LocalEnsemble(
        ReleaseResolver(
            lambda: store, Tenants(settings).lineage(Tenant(tenant or settings.store.tenant))
        ),
        min_coverage=settings.fusion.min_coverage,
        posture_bound=settings.fusion.posture_bound,
        stale_after_days=settings.posture.stale_after_days,
        expired_after_days=settings.posture.expired_after_days,
    )
    for layer, slot in ensemble.slots.items():
        for kind, state in slot.state().kinds.items():
            if state.status not in SPEAKING:
                Console(stderr=True).print(
                    f"{layer} does not speak of {kind} events: {state.reason}", highlight=False
                )
    return ensemble


def current_models(store: Store, lineage: Sequence[Tenant], layer: str) -> LoadedRelease:
    """One layer's models of the release that a tenant's pointer names, and of no other in its place: training goes on from it.

    A tenant without a pointer goes on from what its nearest parent's names.

    Raises:
        ArtifactError: it cannot be had.
    """
    posture = read_settings().posture
    builder = ModelBuilder("cpu", posture.stale_after_days, posture.expired_after_days)
    loaded = ReleaseLoader(ReleaseResolver(lambda: store, lineage), layer, builder).load(
        [], frozenset()
    )
    if loaded.releases[0].name != loaded.wanted:
        raise ArtifactCorrupt(
            f"release {loaded.wanted}",
            "cannot be had: " + "; ".join({why.message for why in loaded.trouble.values()}),
        )
    return loaded.releases[0]
