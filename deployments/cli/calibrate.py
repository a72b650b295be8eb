"""`axon calibrate`: thresholds for the operator's network, weights for the operator's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from deployments.cli import console
from deployments.cli.current_layers import current_layers, fusion_of, own_models
from deployments.cli.errors import CommandFailed
from deployments.cli.evaluate import labelled
from deployments.cli.options import Promote, Publish, StoreOption, TenantOption
from deployments.cli.publish_target import PublishTarget
from deployments.cli.train_flows import benign_flows
from ensemble.errors import TrainingError
from ensemble.events import Kind
from ensemble.fusion import Fusion, layer_set
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.fit.fusion import add_layers, with_thresholds
from ensemble.training.recipes.flow_ensemble import flow_odds

__all__ = ["calibrate"]


def calibrate(
    *,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="CSV of benign flows of your own network that no model was trained on: fits the "
            "thresholds."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Labelled CSV of flows that no model was trained on: fits the weights of layers "
            "of your own that have none, then the thresholds. Repeat it after "
            "`axon train flows --data`, whose release has no weights for them."
        ),
    ] = None,
    fpr: Annotated[
        float,
        typer.Option(
            help="Share of benign flows above `malicious`; `suspicious` gets ten times as many, "
            "`critical` a tenth."
        ),
    ] = 0.001,
    tenant: TenantOption = None,
    store: StoreOption = None,
    publish: Publish = True,
    promote: Promote = True,
) -> None:
    """Fit the thresholds to your own network, or the weights of your own layers.

    The result is a new release; the models stay as they are.
    """
    target = PublishTarget(tenant, store, publish=publish, promote=promote)
    if not 0.0 < fpr < 0.1:  # noqa: PLR2004  # from 0.1 on, every flow would be `suspicious`
        raise TrainingError(
            "--fpr is a share between 0 and 0.1, e.g. 0.001 for one benign flow in a thousand"
        )
    rates = (fpr * 10, fpr, fpr / 10)
    if data is not None and benign is None:
        _calibrate_weights(labelled(data), target, rates)
    elif benign is not None and data is None:
        _calibrate_thresholds(benign_flows(benign), target, rates)
    else:
        raise CommandFailed("give either --benign (your own flows) or --data (labelled flows)")


def _calibrate_thresholds(
    flows: FlowTable, target: PublishTarget, rates: tuple[float, float, float]
) -> None:
    layers = current_layers(target)
    current = fusion_of(layers)
    odds = layers.odds(flows.features)
    fusion = with_thresholds(current, odds, rates)
    old = current.thresholds.get(layer_set(fusion.shares))
    fused = layers.fused(odds)
    if old is not None:
        share = float(np.mean(fused > np.log(old.malicious / (1 - old.malicious))))
        console.out.print(
            f"with the old thresholds {share:.2%} of these benign flows are called malicious",
        )
    _report_thresholds(fusion, rates[1], len(flows))
    notes = f"axon calibrate --fpr {rates[1]:g}, {len(flows):,} flows"
    target.publish([], {Kind.FLOW: fusion}, notes)


def _calibrate_weights(
    flows: FlowTable, target: PublishTarget, rates: tuple[float, float, float]
) -> None:
    """Fit the weights of the operator's layers that have none; publish if a layer gains a weight.

    Raises:
        TrainingError: every layer has a weight already, or the flows are not suitable.
    """
    if not flows.families.all():
        raise TrainingError("some flows have no label: a weight needs one on every line")
    layers = current_layers(target)
    current = fusion_of(layers)
    new = {
        layer: flow_odds(model, flows.features)
        for layer, model in own_models(target).items()
        if layer not in layers.own
    }
    if not new:
        raise TrainingError("the current release has no layer without a weight")
    odds = layers.odds(flows.features) | new
    fusion = add_layers(current, odds, flows.families)
    for layer in new:
        weight = fusion.shares.get(layer, 0.0)
        gain = "" if weight else ": it adds nothing on these flows"
        console.out.print(f"weight of {layer}: {weight:.3f}{gain}")
    if fusion.shares.keys() == current.shares.keys():
        return
    is_benign = ~flows.is_hostile
    fusion = with_thresholds(fusion, {one: odds[one][is_benign] for one in fusion.shares}, rates)
    _report_thresholds(fusion, rates[1], int(is_benign.sum()))
    notes = f"axon calibrate --data, {len(flows):,} flows"
    target.publish([], {Kind.FLOW: fusion}, notes)


def _report_thresholds(fusion: Fusion, fpr: float, benign: int) -> None:
    new = fusion.thresholds[layer_set(fusion.shares)]
    console.out.print(
        f"suspicious above {new.suspicious:.4f}, malicious above {new.malicious:.4f}, "
        f"critical above {new.critical:.4f}",
    )
    if fpr * benign < 1:
        console.out.print(
            f"{benign:,} flows cannot show a rate of {fpr:g}: "
            "malicious is extrapolated along the tail",
        )
