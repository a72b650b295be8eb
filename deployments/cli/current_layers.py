"""The flow layers of the current release, on which training and calibration build."""

from __future__ import annotations

from deployments.cli.local_models import current_models
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import TrainingError
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers import LAYERS
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.classifier import FlowClassifier
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.model import Model
from ensemble.runtime import FusionResolver, ReleaseResolver
from ensemble.training.recipes.flow_ensemble import LAYER_NAMES, FlowLayers

__all__ = ["current_layers", "fusion_of", "own_models"]


def current_layers(target: PublishTarget) -> FlowLayers:
    """Load the flow layers of the current release; the classifier only if the release names one.

    Raises:
        TrainingError: one of them cannot be loaded.
    """
    models = {}
    for layer in LAYER_NAMES:
        loaded = current_models(target.store, target.lineage, layer)
        if Kind.FLOW in loaded.unnamed and layer not in ("anomaly", "behavior"):
            continue
        if Kind.FLOW not in loaded.models:
            raise TrainingError(
                f"the {layer} layer of the current release cannot be loaded: "
                f"{loaded.failures[Kind.FLOW].message}"
            )
        models[layer] = loaded.models[Kind.FLOW].model
    anomaly, behavior, classifier = (models.get(layer) for layer in LAYER_NAMES)
    if (
        not isinstance(anomaly, FlowAnomaly)
        or not isinstance(behavior, DeepBehavior)
        or not isinstance(classifier, FlowClassifier | None)
    ):
        raise TrainingError("the current release has other layers than this Axon")
    fusion = (
        FusionResolver(ReleaseResolver(lambda: target.store, target.lineage))
        .load()
        .fusions.get(Kind.FLOW)
    )
    shares = fusion.shares if fusion else {}
    own = {layer: model for layer, model in own_models(target).items() if layer in shares}
    if gone := sorted(shares.keys() - models.keys() - own.keys()):
        raise TrainingError(f"the fusion has a layer that cannot be loaded: {', '.join(gone)}")
    return FlowLayers(anomaly, behavior, classifier, fusion, own)


def fusion_of(layers: FlowLayers) -> Fusion:
    """Return the fusion of the current layers.

    Raises:
        TrainingError: the release has none for flows.
    """
    if layers.fusion is None:
        raise TrainingError("the current release has no fusion for flows")
    return layers.fusion


def own_models(target: PublishTarget) -> dict[str, Model]:
    """Load the flow models of the operator's own layers; leave out a layer that has none."""
    models = {}
    for layer, spec in LAYERS.items():
        if spec.build is not None and Kind.FLOW in spec.kinds:
            loaded = current_models(target.store, target.lineage, layer)
            if Kind.FLOW in loaded.models:
                models[layer] = loaded.models[Kind.FLOW].model
    return models
