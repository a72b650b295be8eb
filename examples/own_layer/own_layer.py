"""A detector of your own: how far a flow's rate, packets and duration lie from benign traffic.

Fit for: floods, beacons and transfers of an unusual size. Unfit for: an attack at a normal rate.
Score: the largest robust z-score of three features, calibrated on benign flows. Cost: three
columns, microseconds a flow.
Source: median and median absolute deviation instead of mean and standard deviation: Iglewicz,
Hoaglin, "How to Detect and Handle Outliers", ASQC 1993.

This file and one line of the settings are all that Axon needs to serve it:

    layers: {extremes: {import: "examples.own_layer.own_layer:Layer"}}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.features.flow import FEATURE_NAMES
from ensemble.kernels.calibration import Calibration
from ensemble.model import ModelScores, Parts

FEATURES = ("Flow Duration", "Total Fwd Packets", "Flow Packets/s")
COLUMNS = [FEATURE_NAMES.index(name) for name in FEATURES]
LEAST_SPREAD = 1e-3  # of a logarithm: a constant feature would rate every change as extreme


@dataclass(frozen=True, slots=True)
class Extremes:
    """The model: location and spread of three features in benign traffic.

    Attributes:
        centre: float64 (3,), median of the logarithm of each feature.
        spread: float64 (3,), its median absolute deviation, scaled to a standard deviation; > 0.
        calibration: largest z-score -> log-odds of hostile.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    calibration: Calibration

    @classmethod
    def fit(cls, benign: NDArray[np.float32], calibration: Calibration) -> Self:
        """Learn from benign flows, float32 (n, 78)."""
        rows = _logarithms(benign)
        centre = np.median(rows, axis=0)
        deviation = 1.4826 * np.median(np.abs(rows - centre), axis=0)  # as a normal's spread
        return cls(centre, np.maximum(deviation, LEAST_SPREAD), calibration)

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The largest z-score of each flow, float64 (n,), >= 0; higher is more unusual."""
        return np.abs((_logarithms(features) - self.centre) / self.spread).max(axis=1)

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Calibrated score of each flow; with `explain` the feature that stands out most."""
        if not isinstance(batch, FlowBatch):
            raise TypeError("this layer rates flows")
        details = {}
        if explain:
            z = np.abs((_logarithms(batch.features) - self.centre) / self.spread)
            details = {"stands_out": np.array(FEATURES)[z.argmax(axis=1)]}
        return ModelScores(self.calibration.apply(self.raw(batch.features)), {}, details)

    def to_parts(self) -> Parts:
        """Arrays and JSON, for a bundle."""
        arrays = {"centre": self.centre, "spread": self.spread}
        return Parts(arrays, {"calibration": self.calibration.to_config()})


class Layer:
    """What the settings name: the layer's name, its bundle, and how the model is built from it."""

    name = "extremes"
    kinds = MappingProxyType({Kind.FLOW: ("extremes-flow",)})
    fallback_score = 0.0

    def build(self, kind: Kind, parts: Sequence[Parts]) -> Extremes:
        """Build the model from the parts of its bundle.

        Raises:
            ArtifactIncompatible: the bundle holds something else.
        """
        del kind  # this layer rates flows alone
        (bundle,) = parts
        try:
            centre = bundle.arrays["centre"].astype(np.float64)
            spread = bundle.arrays["spread"].astype(np.float64)
            calibration = Calibration.from_config(bundle.config["calibration"])
        except (KeyError, TypeError) as error:
            found = type(error).__name__
            raise ArtifactIncompatible(self.name, "centre, spread, calibration", found) from None
        if (
            centre.shape != (len(FEATURES),)
            or spread.shape != centre.shape
            or not (spread > 0).all()
        ):
            raise ArtifactIncompatible(self.name, "three features", f"{centre.shape}")
        return Extremes(centre, spread, calibration)


def _logarithms(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """The three features on a logarithmic scale, float64 (n, 3); negative values count as 0."""
    return np.log1p(np.maximum(features[:, COLUMNS].astype(np.float64), 0.0))
