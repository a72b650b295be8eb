"""The pre-flight check: a model that would not fit is refused before it is read (S1-11)."""

from __future__ import annotations

import tracemalloc

import pytest

from deployments.config.settings import ROOT
from deployments.config.trust import read_trust_file
from ensemble.errors import InsufficientMemory
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import MEMORY_FACTOR, check_memory
from ensemble.store.layout import Store
from ensemble.store.names import Tenant

LOADED = [
    (layer, sorted({name for names in plan.kinds.values() for name in names}))
    for layer, plan in LAYERS.items()
]


@pytest.mark.parametrize(
    ("left", "fits"), [(MEMORY_FACTOR * 100, True), (MEMORY_FACTOR * 100 - 1, False), (0, False)]
)
def test_a_load_needs_a_multiple_of_its_files(left: int, *, fits: bool) -> None:
    if fits:
        check_memory(100, left)
        return

    with pytest.raises(InsufficientMemory, match="Insufficient memory") as refused:
        check_memory(100, left)
    assert (refused.value.needed_bytes, refused.value.available_bytes) == (
        MEMORY_FACTOR * 100,
        left,
    )


@pytest.mark.parametrize(("layer", "names"), LOADED, ids=[layer for layer, _ in LOADED])
def test_the_multiple_is_enough_for_every_shipped_layer(layer: str, names: list[str]) -> None:
    """The factor covers the measured peak of Python's and numpy's memory, without libraries."""
    shipped = Store(
        ROOT / "artifacts", None, read_trust_file(ROOT / "configs" / "trust.yaml").trust()
    )
    loader = ReleaseLoader(
        ReleaseResolver(lambda: shipped, ["default"]), layer, ModelBuilder("cpu", 30, 730)
    )
    assert not loader.load(loader.resolve(), [], frozenset()).problems  # imports what it needs
    size = sum(
        line.size_bytes
        for line in list_bundles(shipped, Tenant("default"))
        if line.ref.model in names
    )

    tracemalloc.start()
    try:
        loader.load(loader.resolve(), [], frozenset())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak <= MEMORY_FACTOR * size
