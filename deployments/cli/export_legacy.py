"""`axon export`.

The current release out as the four model files of the older Axon Engine, and a word on what they
cannot hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from deployments.cli.local_models import current_models
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
from ensemble.runtime.model_state import LoadedRelease
from ensemble.store.files import write_new

__all__ = ["export_models"]

WHAT = "the folder to export into"


def export_models(folder: Path, tenant: str | None, *, console: Console, err: Console) -> bool:
    """Write what the older files can hold of the current release, with `checksums.txt`, and say what they cannot.

    Args:
        folder: made where it is not there; nothing in it is replaced.
        tenant: whose release; None for the configured one.
        console: where it is said what was written and what was left out.
        err: where it is said which layer could not be written.

    Returns:
        Whether both layers were written.

    Raises:
        ArtifactUnreadable: one of the files is there already, or the folder cannot be written to.
        ArtifactError: there is no release, or nothing of it can be written.
    """
    target = PublishTarget(tenant, None, publish=False, promote=False)
    files: dict[str, bytes] = {}
    is_complete = True
    for layer in PAIRS:
        try:
            exported = _exported(layer, current_models(target.store, target.lineage, layer))
        except ArtifactError as refusal:
            err.print(
                f"the {layer} layer is not exported: {refusal}", highlight=False, markup=False
            )
            is_complete = False
            continue
        files |= exported.files
        for left in exported.left_out:
            console.print(f"left out of the {layer} layer: {left}", highlight=False)
    if not files:
        raise ArtifactMissing("a model that the older files could hold")
    files[CHECKSUMS] = checksums(files)
    _write(folder, files)
    for name, data in files.items():
        console.print(f"wrote {name}, {len(data):,} bytes", highlight=False)
    return is_complete


def _exported(layer: str, held: LoadedRelease) -> Exported:
    models = {kind: one.model for kind, one in held.models.items()}
    flows, processes = models.get(Kind.FLOW), models.get(Kind.PROCESS)
    if (
        layer == "anomaly"
        and isinstance(flows, FlowAnomaly)
        and isinstance(processes, ProcessAnomaly)
    ):
        return export_anomaly(flows, processes)
    if layer == "behavior" and isinstance(flows, DeepBehavior):
        return export_behavior(flows)
    said = "; ".join(failure.message for failure in held.failures.values())
    raise ArtifactMissing(f"a whole model of the {layer} layer{f' ({said})' if said else ''}")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := [name for name in files if (folder / name).exists()]:
            raise ArtifactUnreadable(WHAT, f"{there[0]} is there already, and nothing is replaced")
        for name, data in files.items():
            write_new(folder, name, data, mode=0o644)  # S1-13
    except OSError as problem:
        raise ArtifactUnreadable(WHAT, f"cannot be written to ({problem.strerror})") from None
