"""`axon import`: the model files of an older Axon Engine, decoded in a sandbox and calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from deployments.cli import console
from deployments.cli.local_models import current_models
from deployments.cli.options import Promote, Publish, TenantOption
from deployments.cli.publish_target import PublishTarget
from deployments.cli.train_flows import benign_flows
from deployments.config import read_settings
from deployments.host import available_bytes
from ensemble.errors import ArtifactError, ArtifactMissing, TrainingError
from ensemble.events import Kind, ProcessEvent
from ensemble.fusion import Fusion
from ensemble.kernels.calibration import Calibration
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.legacy import (
    PAIRS,
    Limits,
    OldLayer,
    behavior_model,
    flow_model,
    process_model,
    read_old_models,
)
from ensemble.runtime import FusionResolver, ReleaseResolver
from ensemble.training.fit.fusion import RATES, with_thresholds
from ensemble.training.markdown import table
from ensemble.training.publish import Trained, digest_of, golden_flows, golden_of

__all__ = ["import_legacy"]

FlowModel = FlowAnomaly | DeepBehavior

FLOW_BUNDLES = {"anomaly": "anomaly-flow", "behavior": "behavior-flow"}
PROCESS_BUNDLE = "anomaly-process"
GOLDEN_PROGRAMS = 15  # and one program that the table does not contain
LIMITS = (
    "It was made by an older engine; its training data is not known here.\n"
    "- Its calibration and thresholds come from the benign flows given. No labelled attack has "
    "tested them here: `axon evaluate`.\n"
    "- Process counts have no user and no host: every event is compared with the whole fleet."
)


def import_legacy(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with the model files of an older engine, and checksums.txt."),
    ],
    *,
    benign: Annotated[
        Path | None,
        typer.Option(help="CSV of benign flows that the older models were not trained on."),
    ] = None,
    tenant: TenantOption = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Import the model files of an older Axon Engine.

    They are decoded in a sandbox. Without --benign they are only checked; with it they are
    calibrated, and with --publish they become a release. Exit code 1: a layer failed.
    """
    target = PublishTarget(tenant, None, publish=publish, promote=promote)
    if publish and benign is None:
        raise TrainingError(
            "nothing is published without --benign: the older models have no calibration, and "
            "thresholds need benign flows that they were not trained on"
        )
    layers, is_complete = _read(folder)
    if benign is None:
        console.out.print(
            "to publish them, give benign flows that they were not trained on: "
            "--benign FILE --publish"
        )
    else:
        _publish(layers, benign_flows(benign).features, target)
    if not is_complete:
        raise typer.Exit(1)


def _publish(
    layers: Mapping[str, OldLayer], flows: NDArray[np.float32], target: PublishTarget
) -> None:
    """Calibrate the imported layers on benign flows and publish them as one release."""
    models = _calibrated(layers, flows)
    files = {name: digest for layer in layers.values() for name, digest in layer.digests.items()}
    training = {
        "recipe": "import",
        "data_sha256": digest_of(flows),
        "seed": 0,
        "rows": len(flows),
        "files": files,
    }
    fusions = {Kind.FLOW: _flow_fusion(models, flows, target)}
    events = golden_flows(flows, np.zeros(len(flows), np.bool_))
    trained = [
        _bundle(FLOW_BUNDLES[layer], model, Kind.FLOW, events, training, fusions[Kind.FLOW])
        for layer, model in models.items()
    ]
    if "anomaly" in layers:
        processes, odds = process_model(layers["anomaly"], _current_rarity(target))
        fusions[Kind.PROCESS] = with_thresholds(
            Fusion({"anomaly": 1.0}, 1.0, {}), {"anomaly": odds}, RATES
        )
        trained.append(
            _bundle(
                PROCESS_BUNDLE,
                processes,
                Kind.PROCESS,
                _golden_programs(processes),
                training,
                fusions[Kind.PROCESS],
            )
        )
    for one in trained:
        console.out.print(one.card, markup=False, soft_wrap=True)
    target.publish(trained, fusions, f"axon import of {', '.join(sorted(files))}")


def _read(folder: Path) -> tuple[dict[str, OldLayer], bool]:
    """Decode and report the layers in a folder; return the valid ones, and if all are valid."""
    own = read_settings().legacy
    limits = Limits(
        own.max_file_bytes, own.decode_memory_bytes, own.decode_cpu_s, own.decode_wall_s
    )
    old = read_old_models(folder, limits, available_bytes=available_bytes())
    for layer, refusal in old.failures.items():
        console.err.print(
            f"the {layer} layer is not imported, neither of its files: {refusal}",
            markup=False,
        )
    for layer, found in old.layers.items():
        console.out.print(f"the {layer} layer is sound: {', '.join(PAIRS[layer])}")
        for warning in found.warnings:
            console.err.print(f"the {layer} layer: {warning}", markup=False)
    if not old.layers and old.failures:
        raise next(iter(old.failures.values()))
    if not old.layers:
        raise ArtifactMissing(" or ".join(name for pair in PAIRS.values() for name in pair))
    return dict(old.layers), not old.failures


def _calibrated(
    layers: Mapping[str, OldLayer], benign: NDArray[np.float32]
) -> dict[str, FlowModel]:
    models: dict[str, FlowModel] = {}
    if "anomaly" in layers:
        models["anomaly"] = flow_model(layers["anomaly"], benign)
    if "behavior" in layers:
        models["behavior"] = behavior_model(layers["behavior"], benign)
    return models


def _flow_fusion(
    imported: Mapping[str, FlowModel],
    benign: NDArray[np.float32],
    target: PublishTarget,
) -> Fusion:
    """Fit thresholds for the imported layers and the current ones.

    Shares come from the current fusion if it has the same layers; otherwise they are equal.
    """
    models = _current_flow_models(target) | dict(imported)
    odds = {
        layer: model.calibration.to_log_odds(model.raw(benign)) for layer, model in models.items()
    }
    try:
        base = (
            FusionResolver(ReleaseResolver(lambda: target.store, target.lineage))
            .load()
            .fusions.get(Kind.FLOW)
        )
    except ArtifactError:
        base = None
    if base is None or set(base.shares) != set(models):
        console.out.print(
            "no current fusion has exactly these layers: they get equal shares, which no data has "
            "validated",
        )
        base = Fusion(dict.fromkeys(sorted(models), 1.0 / len(models)), 1.0, {})
    return with_thresholds(base, odds, RATES)


def _current_flow_models(target: PublishTarget) -> dict[str, FlowModel]:
    models: dict[str, FlowModel] = {}
    for layer in FLOW_BUNDLES:
        model = _current_model(target, layer, Kind.FLOW)
        if isinstance(model, FlowAnomaly | DeepBehavior):
            models[layer] = model
    return models


def _current_rarity(target: PublishTarget) -> Calibration | None:
    model = _current_model(target, "anomaly", Kind.PROCESS)
    return model.rarity_calibration if isinstance(model, ProcessAnomaly) else None


def _current_model(target: PublishTarget, layer: str, kind: Kind) -> object:
    try:
        loaded = current_models(target.store, target.lineage, layer).models.get(kind)
    except ArtifactError:
        return None
    return None if loaded is None else loaded.model


def _bundle(
    name: str,
    model: FlowModel | ProcessAnomaly,
    kind: Kind,
    events: list[dict[str, Any]],
    training: Mapping[str, Any],
    fusion: Fusion,
) -> Trained:
    rows = [
        [layers, f"{t.suspicious:.4f}", f"{t.malicious:.4f}", f"{t.critical:.4f}"]
        for layers, t in fusion.thresholds.items()
    ]
    card = "\n\n".join(
        [
            f"# {name}",
            "Imported from the model files of an older Axon Engine.",
            "## Files and calibration",
            table(["what", "value"], [[key, value] for key, value in training.items()]),
            "## Thresholds",
            table(["contributing", "suspicious", "malicious", "critical"], rows),
            "## Limits",
            f"- {LIMITS}",
        ]
    )
    return Trained(name, model.to_parts(), golden_of(model, kind, events), training, card + "\n")


def _golden_programs(model: ProcessAnomaly) -> list[dict[str, Any]]:
    """Make process starts of programs spread over the table, and of an unknown program."""
    known = model.rarity.names
    picks = sorted({int(i) for i in np.linspace(0, len(known) - 1, GOLDEN_PROGRAMS)})
    names = [*(known[i] for i in picks), "golden-unknown-program"]
    return [{"kind": "process", **asdict(ProcessEvent(name))} for name in names]
