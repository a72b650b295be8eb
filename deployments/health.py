"""The ensemble as its operators see it: one view, in a short form for probes and a long form for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ensemble.events import Kind
from ensemble.loading import LAYERS, ReleaseFusion
from ensemble.slot import KindState, SlotState
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus, system_status

__all__ = ["SystemView", "see_system"]

UNREACHABLE = "the layer did not answer"


@dataclass(frozen=True, slots=True)
class SystemView:
    """What every slot said of itself.

    Attributes:
        status: the word of S0-12 for the slots of anomaly and behavior.
        coverage: share of the validated evidence on flows whose layers speak, in [0, 1].
        release: name of the release that is fused with, "" for none.
        layers: layer -> kind -> how it stands.
        devices: layer -> where it computes.
    """

    status: SystemStatus
    coverage: float
    release: str
    layers: Mapping[str, Mapping[Kind, KindState]]
    devices: Mapping[str, str]

    def health(self) -> dict[str, Any]:
        """The body of GET /health: 200 as long as the process can answer."""
        loaded = [
            f"{layer}-{kind}@{state.version}"
            for layer, kinds in self.layers.items()
            for kind, state in kinds.items()
            if state.status in SPEAKING
        ]
        providers = {layer: _provider(kinds) for layer, kinds in self.layers.items()}
        is_whole = bool(self.release) and all(provider["status"] in SPEAKING for provider in providers.values())
        return {
            "status": "healthy" if is_whole else "degraded",
            "ml_status": self.status,
            "coverage": self.coverage,
            "models_loaded": len(loaded),
            "available_models": loaded,
            "providers": providers,
        }

    def detail(self) -> dict[str, Any]:
        """The health, and each layer by kind of event, for GET /v1/status."""
        return self.health() | {
            "release": self.release,
            "layers": [
                {
                    "layer": layer,
                    "device": self.devices.get(layer, ""),
                    "kinds": {kind: {"status": s.status, "version": s.version, "reason": s.reason} for kind, s in kinds.items()},
                }
                for layer, kinds in self.layers.items()
            ],
        }


def see_system(layers: Sequence[str], said: Mapping[str, tuple[SlotState, str]], release: ReleaseFusion) -> SystemView:
    """The view made of what the layers said; a layer that said nothing is in `timeout`."""
    seen: dict[str, Mapping[Kind, KindState]] = {}
    for layer in layers:
        silent = dict.fromkeys(LAYERS[layer].kinds, KindState(LayerStatus.TIMEOUT, reason=UNREACHABLE))
        seen[layer] = said[layer][0].kinds if layer in said else silent
    flow_status = {layer: kinds.get(Kind.FLOW, KindState(LayerStatus.NOT_APPLICABLE)).status for layer, kinds in seen.items()}
    return SystemView(
        status=system_status(status for layer, status in flow_status.items() if LAYERS[layer].is_evidence),
        coverage=release.of(Kind.FLOW).coverage(layer for layer, status in flow_status.items() if status in SPEAKING),
        release=release.name,
        layers=seen,
        devices={layer: device for layer, (_, device) in said.items()},
    )


def _provider(kinds: Mapping[Kind, KindState]) -> dict[str, str]:
    """One line for a layer: its first kind that does not speak, or else its first kind."""
    ordered = [kinds[kind] for kind in Kind if kind in kinds]
    worst = next((state for state in ordered if state.status not in SPEAKING), ordered[0])
    return {"status": worst.status, "version": worst.version or ordered[0].version, "reason": worst.reason}
