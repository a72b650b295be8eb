"""`axon export`: the current release, written as the four model files of an older Axon Engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli import console
from deployments.cli.local_models import current_models
from deployments.cli.options import TenantOption
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import ArtifactError, ArtifactMissing, ArtifactUnreadable
from ensemble.events import Kind
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.legacy import (
    CHECKSUMS,
    PAIRS,
    Exported,
    checksums,
    export_anomaly,
    export_behavior,
)
from ensemble.runtime import LoadedRelease
from ensemble.store.files import write_new

__all__ = ["export_legacy"]

DESTINATION = "the folder to export into"


def export_legacy(
    folder: Annotated[
        Path, typer.Argument(help="Folder to write to; it is made if it does not exist.")
    ],
    *,
    tenant: TenantOption = None,
) -> None:
    """Write the current models as files of an older Axon Engine.

    Writes `checksums.txt` beside them, and reports what the older format cannot hold. An existing
    file is not replaced. Exit code 1: a layer could not be exported.
    """
    target = PublishTarget(tenant, None, publish=False, promote=False)
    files: dict[str, bytes] = {}
    is_complete = True
    for layer in PAIRS:
        try:
            exported = _exported(layer, current_models(target.store, target.lineage, layer))
        except ArtifactError as refusal:
            console.err.print(f"the {layer} layer is not exported: {refusal}", markup=False)
            is_complete = False
            continue
        files |= exported.files
        for left in exported.left_out:
            console.out.print(f"left out of the {layer} layer: {left}")
    if not files:
        raise ArtifactMissing("a model that the older files could hold")
    files[CHECKSUMS] = checksums(files)
    _write(folder, files)
    for name, data in files.items():
        console.out.print(f"wrote {name}, {len(data):,} bytes")
    if not is_complete:
        raise typer.Exit(1)


def _exported(layer: str, loaded: LoadedRelease) -> Exported:
    models = {kind: one.model for kind, one in loaded.models.items()}
    flows, processes = models.get(Kind.FLOW), models.get(Kind.PROCESS)
    if (
        layer == "anomaly"
        and isinstance(flows, FlowAnomaly)
        and isinstance(processes, ProcessAnomaly)
    ):
        return export_anomaly(flows, processes)
    if layer == "behavior" and isinstance(flows, DeepBehavior):
        return export_behavior(flows)
    problems = "; ".join(failure.message for failure in loaded.failures.values())
    raise ArtifactMissing(
        f"a complete model of the {layer} layer{f' ({problems})' if problems else ''}"
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if existing := [name for name in files if (folder / name).exists()]:
            raise ArtifactUnreadable(
                DESTINATION, f"{existing[0]} exists already, and nothing is replaced"
            )
        for name, data in files.items():
            write_new(folder, name, data, mode=0o644)  # S1-13
    except OSError as problem:
        raise ArtifactUnreadable(
            DESTINATION, f"cannot be written to ({problem.strerror})"
        ) from None
