"""Import of the four older files as models that serve: each layer by itself, each pair or nothing.

The outputs of the older models are preserved to the last bit that float32 has: the forest's depth,
the network's logit, the scaler in front of it. A calibration is added, so that their scores can be
pooled with others. It is fitted on benign flows that they were not trained on, as the negative log
of the share that scores at least as hostile. Without such flows no score of these models could be
called likely or unlikely, and nothing is published.

The process counts need no flows: they are launches of benign programs themselves. A program that
was launched once is rated as one that was never launched (Good, "The population frequencies of
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

HOSTILE_CLASS = "hostile"  # the older network knows no families
WIDEST = 1e6  # spreads; farther off nothing is told apart, and float32 stays finite behind it
LAUNCHES_SHOWN = 20_000  # to calibrate by, however many were counted


@dataclass(frozen=True, slots=True)
class OldLayer:
    """Both files of one layer, decoded.

    Attributes:
        parts: file name -> plain values.
        digests: file name -> SHA-256 of its bytes.
        warnings: what an operator should know.
    """

    parts: Mapping[str, Parts]
    digests: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OldModels:
    """What a folder gave, layer by layer: one that fails never touches the other (S0-01).

    Attributes:
        layers: layer -> its files, both of them.
        failures: layer -> why it gave nothing.
        absent: layers of which neither file is there.
    """

    layers: Mapping[str, OldLayer] = field(default_factory=dict)
    failures: Mapping[str, ArtifactError] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


def read_old_models(folder: Path, limits: Limits, *, available_bytes: int) -> OldModels:
    """Import every layer of `folder` whose two files are both sound (S0-07).

    Args:
        folder: holds some of the four files, and perhaps `checksums.txt`.
        limits: of reading and decoding one file.
        available_bytes: memory that the machine has left.

    Raises:
        ArtifactError: the folder itself cannot be read.
        InsufficientMemory: a child might not get what it may use.
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
    _MEMBERS[layer](
        own
    )  # members that do not fit each other are found now, not after minutes of calibrating
    return own


def flow_model(old: OldLayer, benign: NDArray[np.float32]) -> FlowAnomaly:
    """The older forest as an anomaly layer, calibrated.

    Args:
        old: layer 1.
        benign: float32 (n, 78), flows that the forest was not fitted on; a hundred at least.

    Raises:
        TrainingError: too few flows, or all alike to the forest.
    """
    detectors = _detectors(old)
    scale = fit_surprise(detectors.raw(benign)["isolation"])
    odds = tail_calibration(scale.of(detectors.raw(benign)["isolation"]))
    return FlowAnomaly(detectors, {"isolation": scale}, {"isolation": 1.0}, odds)


def process_model(
    old: OldLayer, base: Calibration | None
) -> tuple[ProcessAnomaly, NDArray[np.float64]]:
    """The older counts as a rarity table that knows no user and no host.

    Args:
        old: layer 1.
        base: calibration of the rarity in use, which carries over because rarity is a
            likelihood ratio; None reads one off the counts.

    Returns:
        The model, and log-odds float64 (m,) of launches as benign as the counts, for thresholds.

    Raises:
        TrainingError: too few programs to tell common from rare.
    """
    launches: Mapping[str, int] = old.parts[FREQUENCIES].config["launches"]
    table = RarityTable.of_everyone(launches)
    known = table.launches()
    shares = np.array(list(known.values()), np.float64) / sum(known.values())
    times = np.maximum(1, np.round(shares * min(LAUNCHES_SHOWN, sum(known.values())))).astype(
        np.int64
    )
    unseen = "\x00"  # no program: names have no such letter
    shown = [unseen if count == 1 else name for name, count in known.items()]
    raw = np.repeat(table.rate(ProcessBatch.of([ProcessEvent(name) for name in shown])).raw, times)
    calibration = tail_calibration(raw) if base is None else base
    model = ProcessAnomaly(table, calibration)
    return model, calibration.to_log_odds(raw)


def behavior_model(old: OldLayer, benign: NDArray[np.float32]) -> DeepBehavior:
    """The older network as a behavior layer, calibrated; arguments and errors as `flow_model`."""
    # torch, for this layer alone
    from ensemble.layers.behavior import DeepBehavior  # noqa: PLC0415

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
