"""`axon train flows`: the layers for flows, or the anomaly layer alone, as a new release."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deployments.cli import console
from deployments.cli.current_layers import current_layers, fusion_of
from deployments.cli.errors import CommandFailed
from deployments.cli.evaluate import labelled
from deployments.cli.options import Promote, Publish, Seed, StoreOption, TenantOption
from deployments.cli.progress import progress_bars, report_to
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import TrainingError
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers.classifier import FUSED_MODEL, FlowClassifier
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.evaluation.charts import reliability_picture, roc_picture, score_picture
from ensemble.training.evaluation.evaluate import (
    FUSED,
    Evaluation,
    FamilyOut,
    evaluate_layers,
    leave_families_out,
)
from ensemble.training.evaluation.model_card import flow_card
from ensemble.training.fit.calibration import event_weights
from ensemble.training.publish import Trained, digest_of, golden_flows, golden_of
from ensemble.training.recipes.flow_ensemble import (
    FlowLayers,
    Progress,
    fit_flows,
    fit_on_benign,
)

__all__ = ["benign_flows", "train_flows"]

DETECTORS = (
    "an isolation forest, a principal subspace and a codebook, learnt from benign flows alone."
)
FIRST_SHARE = 0.7  # of each (day, label) by time; the card's figures are from the rest


def train_flows(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled CSV of flows, or a folder with flows.csv.gz: trains Axon's flow layers "
            "and the fusion. A layer of your own then weighs 0 until `axon calibrate --data`."
        ),
    ] = None,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="CSV of your own benign flows: trains the anomaly layer alone; no labels needed."
        ),
    ] = None,
    first: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=0.95,
            help="Train only on this first share of the flows of each day and label, by time.",
        ),
    ] = None,
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate/--no-evaluate",
            help="Also measure the recipe for the card, by time and with families left out "
            "(minutes).",
        ),
    ] = True,
    seed: Seed = 0,
    tenant: TenantOption = None,
    store: StoreOption = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Train the flow layers, on labelled or on benign flows.

    Give either --data, labelled flows for all layers, or --benign, your own benign flows for the
    anomaly layer alone.
    """
    target = PublishTarget(tenant, store, publish=publish, promote=promote)
    if data is not None and benign is None:
        _train_labelled(data, target, seed=seed, first=first, evaluate=evaluate)
    elif benign is not None and data is None:
        _train_benign(benign, target, seed=seed)
    else:
        raise CommandFailed("give either --data (labelled flows) or --benign (your own flows)")


def _train_labelled(
    data: Path, target: PublishTarget, *, seed: int, first: float | None, evaluate: bool
) -> None:
    """Train the flow layers and their fusion on labelled flows.

    Args:
        data: labelled CSV, or a folder that holds `flows.csv.gz`.
        target: where the models are published.
        seed: random seed.
        first: train on this first share of each (day, label) by time only, so that the rest can
            be used to evaluate.
        evaluate: also measure the recipe for the card.

    Raises:
        TrainingError, FeatureMismatch: the flows are not suitable for training.
    """
    flows = labelled(data)
    if not flows.families.all():
        raise TrainingError(
            "some flows have no label: labelled training needs one on every line; "
            "for benign flows alone use --benign"
        )
    if (first is not None or evaluate) and not flows.times.all():
        raise TrainingError(
            "a split by time needs an ISO 8601 `timestamp` on every line; "
            "without one, use --no-evaluate and no --first"
        )
    if first is not None:
        flows = flows.select(flows.split_by_time(first)[0])
    jobs = os.cpu_count() or 1
    with progress_bars() as bars:
        report = report_to(bars)
        layers = fit_flows(flows, seed, report, jobs=jobs)
        later = _evaluate_later(flows, seed, report, jobs) if evaluate else None
        unseen = leave_families_out(flows, seed, report, jobs=jobs) if evaluate else None
    training = _training("flows", flows, seed) | {"first_share": first or 1.0}
    trained = _flow_bundles(layers, flows, training, later, unseen)
    console.out.print(trained[0].card, markup=False, soft_wrap=True)
    target.publish(trained, _fusions(layers), f"axon train flows, {len(flows):,} flows")


def _train_benign(file: Path, target: PublishTarget, *, seed: int) -> None:
    """Train the anomaly layer on benign flows of one network and fit the thresholds to it.

    Raises:
        TrainingError: too few flows, or no release to build on.
        ArtifactError: the current release cannot be read.
    """
    flows = benign_flows(file)
    layers = fit_on_benign(flows, current_layers(target), seed)
    fusion = fusion_of(layers)
    training = _training("flows-benign", flows, seed)
    about = f"What benign flows of this network look like: {DETECTORS}"
    card = flow_card(
        name="anomaly-flow",
        about=about,
        training=training,
        fusion=fusion,
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
    console.out.print(card, markup=False, soft_wrap=True)
    target.publish([trained], _fusions(layers), f"axon train flows --benign, {len(flows):,} flows")


def benign_flows(file: Path) -> FlowTable:
    """Read a file of benign flows; refuse one with a flow that is labelled as an attack."""
    flows = labelled(file)
    attacks = int((flows.is_hostile & (flows.families != "")).sum())
    if attacks:
        raise TrainingError(
            f"{attacks:,} of these {len(flows):,} flows are labelled as attacks; "
            "--benign needs benign flows only"
        )
    return flows


def _evaluate_later(flows: FlowTable, seed: int, report: Progress, jobs: int) -> Evaluation:
    """Fit on the first part of each day and label by time, and evaluate on the rest."""
    early, late = flows.split_by_time(FIRST_SHARE)

    def earlier(task: str, done: int, total: int) -> None:
        report(f"{task}, first {FIRST_SHARE:.0%} by time", done, total)

    layers = fit_flows(flows.select(early), seed, earlier, jobs=jobs)
    return evaluate_layers(layers, flows.select(late))


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
    later: Evaluation | None,
    unseen: FamilyOut | None,
) -> list[Trained]:
    """Make a bundle for each layer; the cards share their figures, which were measured together."""
    if layers.fusion is None:
        raise TrainingError("these layers have no fusion")
    events = golden_flows(flows.features, flows.is_hostile)
    pictures = _pictures(later) if later is not None and later.thresholds is not None else {}
    about = {
        "anomaly": f"How unlike benign traffic a flow is: {DETECTORS}",
        "behavior": "A small network over the flow features that separates benign flows from "
        "attack families and from made-up flows. "
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
        f"The attack family that a flow resembles, if any. Models, all as plain arrays: {sizes}. "
        f"Of these only {FUSED_MODEL} contributes to the verdict. "
        f"Labels: {', '.join(classifier.labels)}; the last are made-up flows. "
        + " ".join(f"Not in it: {name}: {why}." for name, why in classifier.missing.items())
    ).rstrip()


def _pictures(later: Evaluation) -> dict[str, bytes]:
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


def _fusions(layers: FlowLayers) -> Mapping[Kind, Fusion]:
    if layers.fusion is None:
        raise TrainingError("these layers have no fusion")
    return {Kind.FLOW: layers.fusion}
