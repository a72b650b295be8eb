"""Catalog of the layers: their names, their bundles, and the kinds of event they score.

An operator adds their own detector by one line of the settings, the import path of a `Layer`.
`add_layer` puts it into the catalog of the process, from which every part of Axon reads the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Protocol, cast

from ensemble.events import Kind
from ensemble.features import flow, process
from ensemble.model import Model, Parts

__all__ = [
    "FEATURE_SCHEMAS",
    "LAYERS",
    "Layer",
    "LayerSpec",
    "add_layer",
    "import_layer",
    "layers_by_model",
]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Specification of a layer.

    Attributes:
        kinds: kind of event -> the bundles from which its model is built.
        fallback_score: displayed while there is no model, with weight 0. S0 gives 0.0 for anomaly
            and 0.1 for behavior, and no others.
        is_evidence: False for the posture of the host, which shifts a score but is no evidence.
        is_stateless: whether a call may be repeated, because the model learns nothing from it.
        is_optional: whether a release is complete without it, e.g. one older than the layer.
        build: builds the model of an operator's own layer from the parts of its bundles; None for
            Axon's layers, which `ModelBuilder` builds.
    """

    kinds: Mapping[Kind, tuple[str, ...]]
    fallback_score: float
    is_evidence: bool = True
    is_stateless: bool = True
    is_optional: bool = False
    build: Callable[[Kind, Sequence[Parts]], Model] | None = None


class Layer(Protocol):
    """Protocol of an operator's own detector, for the catalog.

    It appears under `layers` of a verdict once a release contains its bundles. Its weight is 0
    until `axon calibrate --data` has fitted it on labelled events.

    Attributes:
        name: of the layer, the key under `layers` in the settings.
        kinds: kind of event -> the bundles from which its model is built, e.g.
            `{Kind.FLOW: ("beacon-flow",)}`.
        fallback_score: displayed while there is no model, with weight 0; in [0, 1].
    """

    name: str
    kinds: Mapping[Kind, tuple[str, ...]]
    fallback_score: float

    def build(self, kind: Kind, parts: Sequence[Parts]) -> Model:
        """Build the model for `kind` from the parts of its bundles, in the order of `kinds`.

        Raises:
            ArtifactIncompatible: the parts are not those of a model of this layer.
        """
        ...


_POSTURE = ("posture-knowledge", "posture-inventory")
_SCHEMAS = {Kind.FLOW: flow.schema_sha256, Kind.PROCESS: process.schema_sha256}
_layers: dict[str, LayerSpec] = {
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
_feature_schemas: dict[str, Callable[[], str]] = {
    "anomaly-flow": flow.schema_sha256,
    "behavior-flow": flow.schema_sha256,
    "classifier-flow": flow.schema_sha256,
    "anomaly-process": process.schema_sha256,
}
LAYERS: Mapping[str, LayerSpec] = MappingProxyType(_layers)
FEATURE_SCHEMAS: Mapping[str, Callable[[], str]] = MappingProxyType(_feature_schemas)


def layers_by_model() -> dict[str, tuple[str, ...]]:
    """Map the name of each bundle to the layers that are built from it."""
    found: dict[str, tuple[str, ...]] = {}
    for layer, spec in LAYERS.items():
        for model in {name for names in spec.kinds.values() for name in names}:
            found[model] = (*found.get(model, ()), layer)
    return found


def import_layer(path: str) -> Layer:
    """Import a layer by its path, `module:Class`, and create an instance.

    The operator chooses the path, as with the import path of a Serve application. Its code runs in
    every process of Axon.

    Raises:
        ValueError: the path does not name a layer; the message gives the reason.
    """
    module, _, name = path.partition(":")
    try:
        made = getattr(import_module(module), name)()
    except Exception as error:  # importing may raise any error
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    missing = [
        field for field in ("name", "kinds", "fallback_score", "build") if not hasattr(made, field)
    ]
    if missing:
        raise ValueError(f"{path} is not a layer: it has no {', '.join(missing)}")
    return cast("Layer", made)


def add_layer(layer: Layer) -> None:
    """Add a layer to the catalog of this process. Idempotent.

    Raises:
        ValueError: it has the name or a bundle of another layer, or an invalid fallback score.
    """
    known = _layers.get(layer.name)
    if known is not None and known.build is None:
        raise ValueError(f"{layer.name} is a layer of Axon; a layer of your own needs another name")
    bundles = {name for names in layer.kinds.values() for name in names}
    users = layers_by_model()
    if not bundles or any(users.get(name, (layer.name,)) != (layer.name,) for name in bundles):
        raise ValueError(f"layer {layer.name} needs bundles that no other layer has")
    if not 0.0 <= layer.fallback_score <= 1.0:
        raise ValueError(
            f"layer {layer.name}: fallback score {layer.fallback_score} is outside [0, 1]"
        )
    _layers[layer.name] = LayerSpec(
        layer.kinds, layer.fallback_score, is_optional=True, build=layer.build
    )
    for kind, names in layer.kinds.items():
        _feature_schemas.update(dict.fromkeys(names, _SCHEMAS[kind]))
