"""The layers of the ensemble: which there are, of which bundles, for which kinds of event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ensemble.events import Kind
from ensemble.features import flow, process

__all__ = ["FEATURE_SCHEMAS", "LAYERS", "LayerSpec"]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What a layer is made of.

    Attributes:
        kinds: kind of event -> the bundles its model is built from.
        fallback_score: shown while there is no model; weighs nothing. S0 names 0.0 for anomaly
            and 0.1 for behavior; it names no others.
        is_evidence: False for the host's posture, which shifts a score and is none itself.
        is_stateless: the same call may be made twice, because nothing is learnt from it.
        is_optional: a release may be published without it and lacks nothing then, e.g. one that
            is older than the layer.
    """

    kinds: Mapping[Kind, tuple[str, ...]]
    fallback_score: float
    is_evidence: bool = True
    is_stateless: bool = True
    is_optional: bool = False


_POSTURE = ("posture-knowledge", "posture-inventory")
LAYERS: Mapping[str, LayerSpec] = {
    "anomaly": LayerSpec(
        {Kind.FLOW: ("anomaly-flow",), Kind.PROCESS: ("anomaly-process",)}, fallback_score=0.0
    ),
    "behavior": LayerSpec({Kind.FLOW: ("behavior-flow",)}, fallback_score=0.1),
    "classifier": LayerSpec(
        {Kind.FLOW: ("classifier-flow",)}, fallback_score=0.0, is_optional=True
    ),
    "resilience": LayerSpec(
        {Kind.FLOW: _POSTURE, Kind.PROCESS: _POSTURE}, fallback_score=0.5, is_evidence=False
    ),
}
FEATURE_SCHEMAS: Mapping[str, Callable[[], str]] = {
    "anomaly-flow": flow.schema_sha256,
    "behavior-flow": flow.schema_sha256,
    "classifier-flow": flow.schema_sha256,
    "anomaly-process": process.schema_sha256,
}
