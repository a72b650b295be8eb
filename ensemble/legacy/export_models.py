"""Export of current models as the four files of the older engine: pickles and a state dict.

The files are written and never read back here. What the older formats cannot hold is listed by
name, so that the caller can report it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import joblib

from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, SCALER
from ensemble.legacy.forest_export import sklearn_forest

if TYPE_CHECKING:
    from ensemble.layers.behavior import DeepBehavior

__all__ = ["Exported", "checksums", "export_anomaly", "export_behavior"]

COMPRESS = 3  # of joblib; the older engine reads either
CALIBRATION = "the calibration and the thresholds: the older engine reads raw scores"


@dataclass(frozen=True, slots=True)
class Exported:
    """Both files of one layer, and what they cannot express.

    Attributes:
        files: file name -> bytes.
        left_out: parts of Axon's model that the files lack, a phrase each.
    """

    files: Mapping[str, bytes]
    left_out: tuple[str, ...]


def export_anomaly(flows: FlowAnomaly, processes: ProcessAnomaly) -> Exported:
    """Export layer 1: the forest over raw features, and the launches by everyone.

    Raises:
        ArtifactIncompatible: scikit-learn could not have fitted this forest.
    """
    own = flows.detectors
    left_out = [CALIBRATION]
    others = [name for name in own.names if name != "isolation"]
    if others:
        share = sum(flows.weights[name] for name in others) / sum(flows.weights.values())
        left_out.append(
            f"the detectors {' and '.join(others)}, which hold {share:.0%} of this layer's score;"
            " the forest alone is weak"
        )
    rarity = processes.rarity
    if rarity.users or rarity.hosts:
        left_out.append(
            f"what {len(rarity.users)} users and {len(rarity.hosts)} hosts run:"
            " the files have only the launches of all together"
        )
    if processes.command_lines is not None:
        left_out.append("the forest over command lines")
    files = {
        FOREST: _pickled(sklearn_forest(own.forest, own.scaler)),
        FREQUENCIES: _pickled(rarity.launches()),
    }
    return Exported(files, tuple(left_out))


def export_behavior(model: DeepBehavior) -> Exported:
    """Export layer 2: a network with one logit, and its scaler."""
    import torch  # noqa: PLC0415  # for this layer alone

    from ensemble.legacy.network_export import older_network, older_scaler  # noqa: PLC0415  # torch

    arrays, error = older_network(model)
    saved = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, saved)
    left_out = [CALIBRATION]
    families = model.classes[1:]
    if len(families) > 1:
        left_out.append(
            f"which of {len(families)} families it is: the older network gives only hostile or"
            f" not, within {error:.4f} log-odds of Axon's"
        )
    return Exported(
        {CLASSIFIER: saved.getvalue(), SCALER: _pickled(older_scaler(model.scaler))},
        tuple(left_out),
    )


def checksums(files: Mapping[str, bytes]) -> bytes:
    """Make the `checksums.txt` of files, in the format of sha256sum."""
    return "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    ).encode()


def _pickled(model: object) -> bytes:
    saved = io.BytesIO()
    joblib.dump(model, saved, compress=COMPRESS)
    return saved.getvalue()
