"""Checks of every layer in the catalog, with the shipped models.

A layer that is added to the catalog is checked here without further code. An operator's own layer
runs the same function before it is published (examples/own_layer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from deployments.config.settings import ROOT
from deployments.config.trust import read_trust_file
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.layers.catalog import LAYERS
from ensemble.layers.checks import check_layer
from ensemble.model import Model, ModelScores
from ensemble.runtime import ModelBuilder, ReleaseLoader, ReleaseResolver
from ensemble.store import Store
from ensemble.training.data.flow_table import FlowTable

RATED = [
    pytest.param(layer, kind, id=f"{layer}-{kind}")
    for layer, spec in LAYERS.items()
    for kind in spec.kinds
]


@pytest.fixture
def batches(fresh: FlowTable) -> dict[Kind, EventBatch]:
    """Unseen events of each kind."""
    starts = [
        ProcessEvent("cmd.exe"),
        ProcessEvent("excel.exe", "explorer.exe", "-x", "amy", "ws-1"),
    ]
    return {
        Kind.FLOW: fresh.select(np.arange(40)).batch(),
        Kind.PROCESS: ProcessBatch.of([*starts, ProcessEvent("never-seen.exe")]),
    }


@pytest.mark.parametrize(("layer", "kind"), RATED)
def test_a_layer_passes_the_common_checks(
    layer: str, kind: Kind, batches: dict[Kind, EventBatch]
) -> None:
    """Deterministic, shape, range, finite, alone as in a batch, and the same after a reload."""
    trust = read_trust_file(ROOT / "configs" / "trust.yaml").trust()
    shipped = Store(ROOT / "artifacts", None, trust)
    builder = ModelBuilder("cpu", 30, 730, lambda: 1.7e9)
    loader = ReleaseLoader(ReleaseResolver(lambda: shipped, ["default"]), layer, builder)

    def load() -> Model:
        return loader.load(loader.resolve(), [], frozenset()).releases[0].models[kind].model

    check_layer(load, batches[kind])


@dataclass
class Broken:
    """Model that gives these scores."""

    scores: Callable[[int], np.ndarray]

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        del explain
        return ModelScores(self.scores(len(batch)))


@pytest.mark.parametrize(
    ("scores", "why"),
    [
        pytest.param(lambda n: np.full(n + 1, 0.5), "not float64", id="shape"),
        pytest.param(lambda n: np.full(n, 0.5, np.float32), "not float64", id="type"),
        pytest.param(lambda n: np.full(n, 1.5), "in \\[0, 1\\]", id="range"),
        pytest.param(lambda n: np.full(n, np.nan), "in \\[0, 1\\]", id="not a number"),
        pytest.param(lambda n: np.random.default_rng().random(n), "again", id="chance"),
        pytest.param(lambda n: np.full(n, 1.0 / n), "alone", id="depends on the batch"),
    ],
)
def test_a_layer_that_violates_a_rule_is_rejected(
    scores: Callable[[int], np.ndarray], why: str
) -> None:
    batch = FlowBatch(("",) * 3, ("",) * 3, np.zeros((3, 78), np.float32))

    with pytest.raises(ValueError, match=why):
        check_layer(lambda: Broken(scores), batch)
