"""`axon import`.

The model files of the older Axon Engine in, decoded apart; calibrated bundles and a release out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from deployments.cli.local_models import current_models
from deployments.cli.publish_target import PublishTarget
from deployments.cli.train_flows import benign_flows
from deployments.config.settings import read_settings
from deployments.host.memory import available_bytes
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
from ensemble.runtime.release_fusion import FusionResolver
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.training.fit.fusion import RATES, with_thresholds
from ensemble.training.markdown import table
from ensemble.training.publish import Trained, digest_of, golden_flows, golden_of

__all__ = ["import_models"]

FlowModel = FlowAnomaly | DeepBehavior

FLOW_BUNDLES = {"anomaly": "anomaly-flow", "behavior": "behavior-flow"}
PROCESS_BUNDLE = "anomaly-process"
GOLDEN_PROGRAMS = 15  # and one that nobody ever ran
LIMITS = (
    "It was made by an older engine; what it was trained on is not known here.\n"
    "- Its calibration and thresholds are those of the benign flows given. No labelled attack has tested them here: `axon evaluate`.\n"
    "- Process counts know no user and no host: every event is rated against everyone."
)


def import_models(
    folder: Path,
    benign: Path | None,
    tenant: str | None,
    *,
    publish: bool,
    promote: bool,
    console: Console,
    err: Console,
) -> bool:
    """Read the older files of `folder`; calibrate, publish and promote what they hold where that was asked.

    Args:
        folder: holds some of the four files, and perhaps `checksums.txt`.
        benign: CSV of benign flows that these models were not trained on; None only looks
            whether the files are sound.
        tenant: whose; None for the configured one.
        publish: False only looks and calibrates.
        promote: also point the tenant to the new release.
        console: where the findings go.
        err: where warnings and refusals go.

    Returns:
        Whether every layer that has a file there could be imported.

    Raises:
        TrainingError: publishing without benign flows, or too few of them.
        ArtifactError: nothing could be imported.
    """
    target = PublishTarget(tenant, None, publish=publish, promote=promote)
    if publish and benign is None:
        raise TrainingError(
            "nothing is published without --benign: the older models do not say how likely their scores are, and without benign "
            "flows that they were not trained on there is no threshold to keep"
        )
    layers, is_complete = _read(folder, console, err)
    if benign is None:
        console.print(
            "to publish them, give benign flows that they were not trained on: --benign FILE --publish",
            highlight=False,
        )
        return is_complete
    flows = benign_flows(benign, err).features
    models = _calibrated(layers, flows)
    files = {name: digest for layer in layers.values() for name, digest in layer.digests.items()}
    training = {
        "recipe": "import",
        "data_sha256": digest_of(flows),
        "seed": 0,
        "rows": len(flows),
        "files": files,
    }
    fusions = {Kind.FLOW: _flow_fusion(models, flows, target, console)}
    events = golden_flows(flows, np.zeros(len(flows), np.bool_))
    trained = [
        _bundle(FLOW_BUNDLES[layer], model, Kind.FLOW, events, training, fusions[Kind.FLOW])
        for layer, model in models.items()
    ]
    if "anomaly" in layers:
        processes, odds = process_model(layers["anomaly"], _rarity_in_use(target))
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
        console.print(one.card, highlight=False, markup=False, soft_wrap=True)
    target.publish(trained, fusions, f"axon import of {', '.join(sorted(files))}", console)
    return is_complete


def _read(folder: Path, console: Console, err: Console) -> tuple[dict[str, OldLayer], bool]:
    """The layers that can be had, each told of; and whether none failed."""
    own = read_settings().legacy
    limits = Limits(
        own.max_file_bytes, own.decode_memory_bytes, own.decode_cpu_s, own.decode_wall_s
    )
    old = read_old_models(folder, limits, available_bytes=available_bytes())
    for layer, refusal in old.failures.items():
        err.print(
            f"the {layer} layer is not imported, neither of its files: {refusal}",
            highlight=False,
            markup=False,
        )
    for layer, found in old.layers.items():
        console.print(f"the {layer} layer is sound: {', '.join(PAIRS[layer])}", highlight=False)
        for warning in found.warnings:
            err.print(f"the {layer} layer: {warning}", highlight=False, markup=False)
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
    console: Console,
) -> Fusion:
    """Thresholds for the imported layers beside those in use.

    Shares of the fusion in use, or equal ones where there is none to keep.
    """
    models = _flow_models_in_use(target) | dict(imported)
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
        console.print(
            "no fusion of these layers is in use: they share the evidence equally, which nothing has validated",
            highlight=False,
        )
        base = Fusion(dict.fromkeys(sorted(models), 1.0 / len(models)), 1.0, {})
    return with_thresholds(base, odds, RATES)


def _flow_models_in_use(target: PublishTarget) -> dict[str, FlowModel]:
    models: dict[str, FlowModel] = {}
    for layer in FLOW_BUNDLES:
        model = _in_use(target, layer, Kind.FLOW)
        if isinstance(model, FlowAnomaly | DeepBehavior):
            models[layer] = model
    return models


def _rarity_in_use(target: PublishTarget) -> Calibration | None:
    model = _in_use(target, "anomaly", Kind.PROCESS)
    return model.rarity_calibration if isinstance(model, ProcessAnomaly) else None


def _in_use(target: PublishTarget, layer: str, kind: Kind) -> object:
    try:
        held = current_models(target.store, target.lineage, layer).models.get(kind)
    except ArtifactError:
        return None
    return None if held is None else held.model


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
            table(["speaking", "suspicious", "malicious", "critical"], rows),
            "## Limits",
            f"- {LIMITS}",
        ]
    )
    return Trained(name, model.to_parts(), golden_of(model, kind, events), training, card + "\n")


def _golden_programs(model: ProcessAnomaly) -> list[dict[str, Any]]:
    """Starts of some programs that the table knows, spread over it, and of one that it does not."""
    known = model.rarity.names
    picks = sorted({int(i) for i in np.linspace(0, len(known) - 1, GOLDEN_PROGRAMS)})
    names = [*(known[i] for i in picks), "golden-unknown-program"]
    return [{"kind": "process", **asdict(ProcessEvent(name))} for name in names]
