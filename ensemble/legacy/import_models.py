"""Import of the four older files as models that serve: each layer alone, both files or nothing.

The outputs of the older models are preserved to the last bit of float32: the depth of the forest,
the logit of the network, its scaler. A calibration is added, so that their scores can be pooled
with others. It is fitted on benign flows on which the models were not trained, as the negative log
of the share that scores at least as hostile. Without such flows the scores have no probability, and
nothing is published.

The process counts need no flows, because they are launches of benign programs. A program that was
launched once is rated like one that was never launched (Good, "The population frequencies of
species", Biometrika 40, 1953).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactError, ArtifactIncompatible, InsufficientMemory
from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.features.sklearn_scalers import PlainScaler
from ensemble.kernels.calibration import Calibration
from ensemble.kernels.isolation_forest import Forest
from ensemble.layers.attack_classes import BENIGN_CLASS
from ensemble.layers.flow_anomaly import BenignDetectors, FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.layers.rarity import RarityTable
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, PAIRS, SCALER, present, read_pair
from ensemble.legacy.networks import our_network
from ensemble.legacy.sandbox import Limits, decode_apart
from ensemble.model import Parts, below
from ensemble.training.fit.calibration import fit_surprise, tail_calibration

if TYPE_CHECKING:
    from ensemble.layers.behavior import DeepBehavior

__all__ = [
    "OldLayer",
    "OldModels",
    "behavior_model",
    "flow_model",
    "process_model",
    "read_old_models",
]

HOSTILE_CLASS = "hostile"  # the older network has no families
WIDEST = 1e6  # spreads; scaled values are clipped here, so that float32 stays finite
LAUNCHES_SHOWN = 20_000  # launches to calibrate by, at most


@dataclass(frozen=True, slots=True)
class OldLayer:
    """Both files of one layer, decoded.

    Attributes:
        parts: file name -> plain values.
        digests: file name -> SHA-256 of its bytes.
        warnings: notes for the operator.
    """

    parts: Mapping[str, Parts]
    digests: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OldModels:
    """Layers imported from a folder; a failure of one does not affect the other (S0-01).

    Attributes:
        layers: layer -> its two files.
        failures: layer -> error.
        absent: layers of which both files are missing.
    """

    layers: Mapping[str, OldLayer] = field(default_factory=dict)
    failures: Mapping[str, ArtifactError] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def read_old_models(folder: Path, limits: Limits, *, available_bytes: int) -> OldModels:
    """Import every layer of `folder` whose two files are both valid (S0-07).

    Args:
        folder: has some of the four files, and perhaps `checksums.txt`.
        limits: of reading and decoding one file.
        available_bytes: free memory of the machine.

    Raises:
        ArtifactError: the folder cannot be read.
        InsufficientMemory: less memory is free than the limit of a child.
    """
    if available_bytes < limits.memory_bytes:
        raise InsufficientMemory(limits.memory_bytes, available_bytes)
    found = present(folder)
    layers: dict[str, OldLayer] = {}
    failures: dict[str, ArtifactError] = {}
    for layer in (layer for layer, names in found.items() if names):
        try:
            layers[layer] = _read_layer(folder, layer, limits)
        except ArtifactError as refusal:
            failures[layer] = refusal
    return OldModels(layers, failures, tuple(layer for layer, names in found.items() if not names))


def _read_layer(folder: Path, layer: str, limits: Limits) -> OldLayer:
    files = read_pair(folder, layer, limit_bytes=limits.file_bytes)
    parts = {name: decode_apart(name, files.data[name], limits) for name in PAIRS[layer]}
    own = OldLayer(
        parts,
        {name: hashlib.sha256(data).hexdigest() for name, data in files.data.items()},
        files.warnings,
    )
    _MEMBERS[layer](own)  # files that do not fit each other fail now, not after minutes of fitting
    return own


def flow_model(old: OldLayer, benign: NDArray[np.float32]) -> FlowAnomaly:
    """Build an anomaly model from the older forest, and calibrate it.

    Args:
        old: layer 1.
        benign: float32 (n, 78), flows that the forest was not fitted on; at least a hundred.

    Raises:
        TrainingError: too few flows, or all with the same score.
    """
    detectors = _detectors(old)
    scale = fit_surprise(detectors.raw(benign)["isolation"])
    odds = tail_calibration(scale.of(detectors.raw(benign)["isolation"]))
    return FlowAnomaly(detectors, {"isolation": scale}, {"isolation": 1.0}, odds)


def process_model(
    old: OldLayer, base: Calibration | None
) -> tuple[ProcessAnomaly, NDArray[np.float64]]:
    """Build a process model from the older counts: a rarity table without users and hosts.

    Args:
        old: layer 1.
        base: calibration of the current rarity, which remains valid because rarity is a likelihood
            ratio; None fits one to the counts.

    Returns:
        The model, and log-odds float64 (m,) of the counted launches, for thresholds.

    Raises:
        TrainingError: too few programs.
    """
    launches: Mapping[str, int] = old.parts[FREQUENCIES].config["launches"]
    table = RarityTable.of_everyone(launches)
    known = table.launches()
    shares = np.array(list(known.values()), np.float64) / sum(known.values())
    times = np.maximum(1, np.round(shares * min(LAUNCHES_SHOWN, sum(known.values())))).astype(
        np.int64
    )
    unseen = "\x00"  # not a program: no name has this character
    shown = [unseen if count == 1 else name for name, count in known.items()]
    raw = np.repeat(table.rate(ProcessBatch.of([ProcessEvent(name) for name in shown])).raw, times)
    calibration = tail_calibration(raw) if base is None else base
    model = ProcessAnomaly(table, calibration)
    return model, calibration.to_log_odds(raw)


def behavior_model(old: OldLayer, benign: NDArray[np.float32]) -> DeepBehavior:
    """Build a behavior model from the older network; arguments and errors as of `flow_model`."""
    from ensemble.layers.behavior import DeepBehavior  # noqa: PLC0415  # it imports torch

    scaler = _network_scaler(old)
    network = our_network(old.parts[CLASSIFIER].arrays, scaler.positions.size)
    arrays = {f"network.{name}": array for name, array in network.items()} | scaler.to_arrays()
    unit = Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    config = {
        "classes": [BENIGN_CLASS, HOSTILE_CLASS],
        "calibration": unit.to_config(),
        **scaler.to_config(),
    }
    logits = DeepBehavior.from_parts(Parts(arrays, config))
    calibration = tail_calibration(logits.raw(benign))
    return DeepBehavior(scaler, logits.network, logits.classes, calibration)


def _detectors(old: OldLayer) -> BenignDetectors:
    arrays = old.parts[FOREST].arrays
    positions = arrays["positions"].astype(np.intp)
    return BenignDetectors(
        PlainScaler.identity(positions),
        Forest.from_arrays(below("forest.", arrays), positions.size),
    )


def _network_scaler(old: OldLayer) -> PlainScaler:
    arrays = {f"scaler.{name}": array for name, array in old.parts[SCALER].arrays.items()}
    return PlainScaler.from_arrays(arrays, WIDEST)


def _anomaly_members(old: OldLayer) -> None:
    _detectors(old)
    if not old.parts[FREQUENCIES].config.get("launches"):
        raise ArtifactIncompatible(FREQUENCIES, "a count of each program", "none")


def _behavior_members(old: OldLayer) -> None:
    our_network(old.parts[CLASSIFIER].arrays, _network_scaler(old).positions.size)


_MEMBERS = {"anomaly": _anomaly_members, "behavior": _behavior_members}
