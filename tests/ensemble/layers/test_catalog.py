"""Catalog: an operator's own layer is added by name, and none replaces a layer of Axon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from ensemble.events import Kind
from ensemble.fusion import Fusion, Thresholds, layer_set
from ensemble.layers import catalog
from ensemble.layers.catalog import FEATURE_SCHEMAS, LAYERS, add_layer, import_layer
from ensemble.model import Model, Parts
from ensemble.runtime import ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus


@dataclass
class OwnLayer:
    """A minimal layer."""

    name: str = "own"
    kinds: Mapping[Kind, tuple[str, ...]] = field(
        default_factory=lambda: {Kind.FLOW: ("own-flow",)}
    )
    fallback_score: float = 0.0

    def build(self, kind: Kind, parts: Sequence[Parts]) -> Model:
        raise NotImplementedError((kind, parts))


@pytest.fixture(autouse=True)
def clean_catalog() -> Iterator[None]:
    """Restore the catalog of the process."""
    layers, schemas = dict(catalog._layers), dict(catalog._feature_schemas)
    yield
    for known, before in ((catalog._layers, layers), (catalog._feature_schemas, schemas)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]


def test_an_operators_layer_is_listed_beside_axons() -> None:
    add_layer(OwnLayer())
    add_layer(OwnLayer())

    assert list(LAYERS)[-1] == "own"
    assert LAYERS["own"].is_optional
    assert FEATURE_SCHEMAS["own-flow"]() == FEATURE_SCHEMAS["anomaly-flow"]()


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (OwnLayer(name="anomaly"), "is a layer of Axon"),
        (OwnLayer(kinds={Kind.FLOW: ("behavior-flow",)}), "no other layer has"),
        (OwnLayer(kinds={}), "no other layer has"),
        (OwnLayer(fallback_score=float("nan")), "outside"),
    ],
    ids=["name of Axon's", "bundle of Axon's", "no bundle", "no score"],
)
def test_a_layer_that_would_replace_another_is_refused(layer: OwnLayer, why: str) -> None:
    before = dict(LAYERS)

    with pytest.raises(ValueError, match=why):
        add_layer(layer)

    assert dict(LAYERS) == before


@pytest.mark.parametrize(
    "path", ["no_such_module:Layer", "ensemble.events:Layer", "ensemble.events", "json:JSONDecoder"]
)
def test_a_path_that_is_not_a_layer_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=path.partition(":")[0]):
        import_layer(path)


# without a weight

FUSION = Fusion(
    {"anomaly": 0.3, "behavior": 0.7},
    1.7,
    {layer_set(["anomaly", "behavior"]): Thresholds(0.2, 0.5, 0.9)},
)
STATUSES = [LayerStatus.LIVE, LayerStatus.FALLBACK, LayerStatus.WARMING_UP, LayerStatus.TIMEOUT]


def opinion(layer: str, scores: Sequence[float], status: LayerStatus) -> LayerScores:
    version = "1" if status is LayerStatus.LIVE else ""
    return LayerScores(layer, status, version, "acme/1", np.array(scores))


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("source", ["fitted", "builtin"])
def test_a_layer_without_a_weight_is_shown_and_changes_no_score(
    status: LayerStatus, source: str
) -> None:
    """Equal to the bit, whether it speaks or not, also with the builtin fusion."""
    rules: dict[str, Any] = {"min_coverage": 0.5, "posture_bound": 1.0}
    fusions = {Kind.FLOW: FUSION} if source == "fitted" else {}
    others = [
        opinion("anomaly", [0.1, 0.8, 0.31], LayerStatus.LIVE),
        opinion("behavior", [0.2, 0.9, 0.77], LayerStatus.LIVE),
    ]
    (before,) = ReleaseFusion("acme/1", fusions).fuse(Kind.FLOW, others, **rules)
    add_layer(OwnLayer())

    own = opinion("own", [0.9, 0.1, 0.999], status)
    (after,) = ReleaseFusion("acme/1", fusions).fuse(Kind.FLOW, [*others, own], **rules)

    for name in ("score", "low", "high"):
        assert getattr(after, name).tobytes() == getattr(before, name).tobytes()
    assert (after.coverage, after.label, after.severity) == (
        before.coverage,
        before.label,
        before.severity,
    )
    assert after.layers[-1] is own
