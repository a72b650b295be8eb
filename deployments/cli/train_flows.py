"""`axon train flows` and `axon calibrate`: flows in; bundles, a model card and a release out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from deployments.cli.evaluate import labelled
from deployments.cli.local_models import current_models
from deployments.cli.progress import progress_bars, report_to
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import TrainingError
from ensemble.events import Kind
from ensemble.fusion import Fusion, layer_set
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.classifier import FUSED_MODEL, FlowClassifier
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.runtime.release_fusion import FusionResolver
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.evaluation.charts import reliability_picture, roc_picture, score_picture
from ensemble.training.evaluation.evaluate import (
    FUSED,
    FamilyOut,
    Judged,
    judge,
    leave_families_out,
)
from ensemble.training.evaluation.model_card import flow_card
from ensemble.training.fit.calibration import event_weights
from ensemble.training.fit.fusion import with_thresholds
from ensemble.training.publish import Trained, digest_of, golden_flows, golden_of
from ensemble.training.recipes.flow_ensemble import (
    LAYER_NAMES,
    FlowLayers,
    Progress,
    fit_flows,
    fit_on_benign,
)

__all__ = ["benign_flows", "calibrate", "train_benign_flows", "train_flows"]

DETECTORS = (
    "an isolation forest, a principal subspace and a codebook, learnt from benign flows alone."
)
FIRST_SHARE = 0.7  # of each (day, label) by time: what the time split of the card fits on


def train_flows(
    data: Path,
    target: PublishTarget,
    *,
    seed: int,
    first: float | None,
    evaluate: bool,
    console: Console,
    err: Console,
) -> None:
    """Train the flow layers and their fusion on labelled flows.

    Args:
        data: labelled CSV, or a folder that holds `flows.csv.gz`.
        target: where they go.
        seed: of everything random.
        first: train on this first share of each (day, label) by time only, so that the rest can
            judge.
        evaluate: also measure the recipe for the card: by time, and with each attack family
            left out. Minutes.
        console: where the figures go.
        err: where progress goes.

    Raises:
        TrainingError, FeatureMismatch: the flows cannot teach it.
    """
    flows = labelled(data, err)
    if not flows.families.all():
        raise TrainingError(
            "some flows have no label: labelled training needs one on every line; for benign flows alone use --benign"
        )
    if (first is not None or evaluate) and not flows.times.all():
        raise TrainingError(
            "a split by time needs an ISO 8601 `timestamp` on every line; without one, use --no-evaluate and no --first"
        )
    if first is not None:
        flows = flows.select(flows.split_by_time(first)[0])
    jobs = os.cpu_count() or 1
    with progress_bars() as bars:
        report = report_to(bars)
        layers = fit_flows(flows, seed, report, jobs=jobs)
        later = _judge_later(flows, seed, report, jobs) if evaluate else None
        unseen = leave_families_out(flows, seed, report, jobs=jobs) if evaluate else None
    training = _training("flows", flows, seed) | {"first_share": first or 1.0}
    trained = _flow_bundles(layers, flows, training, later, unseen)
    console.print(trained[0].card, highlight=False, markup=False, soft_wrap=True)
    target.publish(trained, _fusions(layers), f"axon train flows, {len(flows):,} flows", console)


def train_benign_flows(
    file: Path, target: PublishTarget, *, seed: int, console: Console, err: Console
) -> None:
    """Train the anomaly layer on one's own benign flows, and set thresholds to match; no labels needed.

    Raises:
        TrainingError: too few flows, or no release to build on.
        ArtifactError: the current release cannot be read.
    """
    flows = benign_flows(file, err)
    layers = fit_on_benign(flows, _current_layers(target), seed)
    if layers.fusion is None:
        raise TrainingError("the current release has no fusion for flows")
    training = _training("flows-benign", flows, seed)
    about = f"What benign flows of this network look like: {DETECTORS}"
    card = flow_card(
        name="anomaly-flow",
        about=about,
        training=training,
        fusion=layers.fusion,
        later=None,
        unseen=None,
        own_traffic=True,
    )
    events = golden_flows(flows.features, np.zeros(len(flows), bool))
    trained = Trained(
        "anomaly-flow",
        layers.anomaly.to_parts(),
        golden_of(layers.anomaly, Kind.FLOW, events),
        training,
        card,
    )
    console.print(card, highlight=False, markup=False, soft_wrap=True)
    target.publish(
        [trained], _fusions(layers), f"axon train flows --benign, {len(flows):,} flows", console
    )


def calibrate(
    file: Path, target: PublishTarget, *, rate: float, console: Console, err: Console
) -> None:
    """New thresholds for the flows of one's own network, as a new release; the models stay.

    Args:
        file: CSV of benign flows that no model was trained on.
        target: where the release goes.
        rate: false positives at `malicious`; `suspicious` gets ten times as many, `critical` a
            tenth.
        console: where the figures go.
        err: where bad lines go.

    Raises:
        TrainingError: too few flows, a rate that cannot be, or no fusion to set thresholds for.
    """
    if not 0.0 < rate < 0.1:  # noqa: PLR2004  # `suspicious` would be everything
        raise TrainingError(
            "--fpr is a share between 0 and 0.1, e.g. 0.001 for one benign flow in a thousand"
        )
    flows = benign_flows(file, err)
    layers = _current_layers(target)
    if layers.fusion is None:
        raise TrainingError("the current release has no fusion for flows")
    odds = layers.odds(flows.features)
    fusion = with_thresholds(layers.fusion, odds, (rate * 10, rate, rate / 10))
    key = layer_set(fusion.shares)
    old, new = layers.fusion.thresholds.get(key), fusion.thresholds[key]
    fused = layers.fused(odds)
    if old is not None:
        share = float(np.mean(fused > np.log(old.malicious / (1 - old.malicious))))
        console.print(
            f"with the old thresholds {share:.2%} of these benign flows are called malicious",
            highlight=False,
        )
    console.print(
        f"suspicious above {new.suspicious:.4f}, malicious above {new.malicious:.4f}, critical above {new.critical:.4f}",
        highlight=False,
    )
    if rate * len(flows) < 1:
        console.print(
            f"{len(flows):,} flows cannot show a rate of {rate:g}: malicious is extrapolated along the tail",
            highlight=False,
        )
    target.publish(
        [], {Kind.FLOW: fusion}, f"axon calibrate --fpr {rate:g}, {len(flows):,} flows", console
    )


def benign_flows(file: Path, err: Console) -> FlowTable:
    """The flows of a file that is said to be benign; one that is labelled otherwise is refused."""
    flows = labelled(file, err)
    attacks = int((flows.is_hostile & (flows.families != "")).sum())
    if attacks:
        raise TrainingError(
            f"{attacks:,} of these {len(flows):,} flows are labelled as attacks; --benign wants benign flows only"
        )
    return flows


def _judge_later(flows: FlowTable, seed: int, report: Progress, jobs: int) -> Judged:
    early, late = flows.split_by_time(FIRST_SHARE)

    def earlier(what: str, done: int, total: int) -> None:
        report(f"{what}, first {FIRST_SHARE:.0%} by time", done, total)

    return judge(fit_flows(flows.select(early), seed, earlier, jobs=jobs), flows.select(late))


def _training(recipe: str, flows: FlowTable, seed: int) -> dict[str, Any]:
    families = {
        str(name): int(count)
        for name, count in zip(*np.unique(flows.families, return_counts=True), strict=True)
    }
    digest = digest_of(flows.features, flows.families)
    return {
        "recipe": recipe,
        "data_sha256": digest,
        "seed": seed,
        "rows": len(flows),
        "families": families,
    }


def _flow_bundles(
    layers: FlowLayers,
    flows: FlowTable,
    training: Mapping[str, Any],
    later: Judged | None,
    unseen: FamilyOut | None,
) -> list[Trained]:
    """A bundle for each layer.

    Each has the card of all, because they were fitted and judged together.
    """
    if layers.fusion is None:
        raise TrainingError("these layers have no fusion")
    events = golden_flows(flows.features, flows.is_hostile)
    pictures = _pictures(later) if later is not None and later.thresholds is not None else {}
    about = {
        "anomaly": f"How unlike benign traffic a flow is: {DETECTORS}",
        "behavior": "A small network over the flow features that tells benign flows from attack families and from made-up flows. "
        f"Its families: {', '.join(layers.behavior.classes[1:-1])}.",
    }
    if layers.classifier is not None:
        about["classifier"] = _about_classifier(layers.classifier)
    return [
        Trained(
            f"{layer}-flow",
            model.to_parts(),
            golden_of(model, Kind.FLOW, events),
            training,
            flow_card(
                name=f"{layer}-flow",
                about=about[layer],
                training=training,
                fusion=layers.fusion,
                later=later,
                unseen=unseen,
            ),
            pictures,
        )
        for layer, model in layers.models.items()
    ]


def _about_classifier(classifier: FlowClassifier) -> str:
    sizes = "; ".join(
        f"{name} {model.trees.roots.size} trees of {model.trees.leaves} leaves"
        for name, model in classifier.models.items()
    )
    return (
        f"Which attack family a flow looks like, if any. Models, all as plain arrays: {sizes}. Of these {FUSED_MODEL} has a say in the "
        f"verdict. Labels: {', '.join(classifier.labels)}; the last are made-up flows. "
        + " ".join(f"Not in it: {name}: {why}." for name, why in classifier.missing.items())
    ).rstrip()


def _pictures(later: Judged) -> dict[str, bytes]:
    if later.thresholds is None:
        raise TrainingError("scores without thresholds make no picture")
    fused = later.scores[FUSED]
    weights = event_weights(later.families)
    return {
        "roc.png": roc_picture("Later flows of the same days", later.scores, later.is_hostile),
        "reliability.png": reliability_picture(
            "Is the score a probability?", fused, later.is_hostile, weights
        ),
        "scores.png": score_picture("Fused score", fused, later.is_hostile, later.thresholds),
    }


def _current_layers(target: PublishTarget) -> FlowLayers:
    """The flow layers of the current release; one that was made without a classifier goes on without.

    Raises:
        TrainingError: one of them cannot be loaded.
    """
    models = {}
    for layer in LAYER_NAMES:
        held = current_models(target.store, target.lineage, layer)
        if Kind.FLOW in held.unnamed and layer not in ("anomaly", "behavior"):
            continue
        if Kind.FLOW not in held.models:
            raise TrainingError(
                f"the {layer} layer of the current release cannot be loaded: {held.failures[Kind.FLOW].message}"
            )
        models[layer] = held.models[Kind.FLOW].model
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
    return FlowLayers(anomaly, behavior, classifier, fusion)


def _fusions(layers: FlowLayers) -> Mapping[Kind, Fusion]:
    if layers.fusion is None:
        raise TrainingError("these layers have no fusion")
    return {Kind.FLOW: layers.fusion}
