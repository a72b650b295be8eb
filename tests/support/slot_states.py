"""States of the layers' slots, as `build_status` receives them."""

from __future__ import annotations

from collections.abc import Mapping
from unittest.mock import Mock

from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers.catalog import LAYERS, LayerSpec
from ensemble.runtime.model_state import KindState, LoadCheck, LoadFailure, SlotState
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerStatus

__all__ = ["DOWN", "FAILURE", "FUSIONS", "LIVE", "NOW", "OWN_LAYER", "load_check", "slots"]

NOW = 1_795_000_000.0
FAILURE = LoadFailure("ARTIFACT_CORRUPT", "/srv/models/model.safetensors: torn", "files")
FUSIONS = ReleaseFusion(
    "default/1",
    {
        Kind.FLOW: Fusion({"anomaly": 0.6, "behavior": 0.4}, 1.0, {}),
        Kind.PROCESS: Fusion({"anomaly": 1.0}, 1.0, {}),
    },
)
LIVE = KindState(LayerStatus.LIVE, "1", since=NOW - 60)
OWN_LAYER = LayerSpec({Kind.FLOW: ("extremes-flow",)}, fallback_score=0.0, build=Mock())
"""An operator's own detector; `FUSIONS` gives it no share."""
DOWN = KindState(LayerStatus.FALLBACK, reason="ARTIFACT_CORRUPT", since=NOW - 60, problem=FAILURE)


def slots(**states: KindState) -> Mapping[str, tuple[SlotState, str]]:
    """Map each layer to the state of its slot and its device; it is live unless in `states`."""
    return {
        layer: (
            SlotState(
                layer,
                "default/1",
                dict.fromkeys(LAYERS[layer].kinds, states.get(layer, LIVE)),
                size_bytes=100,
            ),
            "cpu",
        )
        for layer in LAYERS
    }


def load_check(*, ok: bool, version: str = "", code: str = "", message: str = "") -> LoadCheck:
    """Make the result of `LayerSlot.test` for a kind of event."""
    return LoadCheck(ok=ok, version=version, code=code, message=message, elapsed_ms=12.3456)
