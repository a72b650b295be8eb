"""Slots without models, and the resolver of a store."""

from __future__ import annotations

from collections.abc import Sequence

from ensemble.errors import ArtifactMissing
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import (
    LoadedRelease,
    LoadResult,
)
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.layout import Store
from tests.support.model_source import StaticSource

__all__ = ["broken_slot", "resolver_of"]


def resolver_of(store: Store) -> ReleaseResolver:
    """Make the resolver of the default tenant's releases in `store`."""
    return ReleaseResolver(lambda: store, ["default"])


def broken_slot(layer: str) -> LayerSlot:
    """Make a slot whose store is empty."""
    slot = LayerSlot(
        layer,
        [*LAYERS[layer].kinds],
        StaticSource(_find_nothing),
        fallback_score=LAYERS[layer].fallback_score,
    )
    slot.refresh()
    return slot


def _find_nothing(loaded: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
    del loaded, requested
    raise ArtifactMissing("its release")
