"""The models of a tenant's current release, loaded into this process for scoring or training."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from deployments.cli import console
from deployments.cli.local_store import own_store
from deployments.config import Tenants, read_settings
from ensemble.errors import ArtifactCorrupt
from ensemble.runtime import (
    LoadedRelease,
    LocalEnsemble,
    ModelBuilder,
    ReleaseLoader,
    ReleaseResolver,
)
from ensemble.store import Store, Tenant
from ensemble.verdicts import SPEAKING

__all__ = ["current_models", "local_ensemble"]


def local_ensemble(tenant: str | None = None) -> LocalEnsemble:
    """Load the current release of a tenant into this process.

    Raises:
        ArtifactError: no release can be read.
    """
    settings = read_settings()
    store = own_store(settings)
    # failures are printed below
    logging.getLogger("ray.serve").addHandler(logging.NullHandler())
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
                console.err.print(f"{layer} does not score {kind} events: {state.reason}")
    return ensemble


def current_models(store: Store, lineage: Sequence[Tenant], layer: str) -> LoadedRelease:
    """Load the models of one layer from the release that the tenant's pointer names.

    Training builds on them, so no fallback release is loaded instead. For a tenant without a
    pointer, the release of its nearest parent is loaded.

    Raises:
        ArtifactError: it cannot be loaded.
    """
    posture = read_settings().posture
    builder = ModelBuilder("cpu", posture.stale_after_days, posture.expired_after_days)
    loader = ReleaseLoader(ReleaseResolver(lambda: store, lineage), layer, builder)
    loaded = loader.load(loader.resolve(), [], frozenset())
    if loaded.releases[0].name != loaded.wanted:
        raise ArtifactCorrupt(
            f"release {loaded.wanted}",
            "cannot be loaded: " + "; ".join({why.message for why in loaded.problems.values()}),
        )
    return loaded.releases[0]
