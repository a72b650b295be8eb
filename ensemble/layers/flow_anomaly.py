"""Anomaly of network flows: how unlike benign traffic is this flow? Trained on benign flows alone.

Three detectors complement each other: an isolation forest (single values far out), a principal
subspace (values that do not go together), and a codebook (shapes that benign traffic does not
take). Each gives a surprise, the negative log of the share of benign flows with at least the same
raw score. The weighted sum is the raw score of the layer, calibrated once.

Fit for: attacks without labels. Unfit for: attacks that copy benign traffic, and benign traffic of
a network that was not in the training data: train on your own (`axon train flows --benign FILE`).
Source: Fisher, "Statistical Methods for Research Workers", 1925, section 21.1 (sums of log tail
probabilities); Shyu et al., "A novel anomaly detection scheme based on principal component
classifier", ICDM 2003 (subspace residual).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import EventBatch, FlowBatch
from ensemble.features.sklearn_scalers import Scaler, scaler_of
from ensemble.kernels.calibration import Calibration, Surprise
from ensemble.kernels.codebook import Codebook
from ensemble.kernels.isolation_forest import Forest
from ensemble.model import ModelScores, Parts, below

__all__ = ["DETECTORS", "BenignDetectors", "FlowAnomaly", "Subspace"]

# Added to a distance before its logarithm: distances below it make hardly a difference.
NEAR = 0.03
DETECTORS = ("isolation", "subspace", "codebook")


@dataclass(frozen=True, slots=True)
class Subspace:
    """Principal directions in which benign flows vary.

    Attributes:
        centre: float64 (d,), mean of the scaled benign rows.
        directions: float64 (k, d), orthonormal rows.
    """

    centre: NDArray[np.float64]
    directions: NDArray[np.float64]

    def __post_init__(self) -> None:
        if (
            self.directions.ndim != 2  # noqa: PLR2004  # (k, d)
            or self.directions.shape[1:] != self.centre.shape
            or not self.directions.size
        ):
            raise ArtifactIncompatible(
                "subspace",
                "directions (k, d)",
                f"{self.directions.shape} around {self.centre.shape}",
            )
        if not np.isfinite(self.centre).all():
            raise ArtifactIncompatible("subspace", "a finite centre", "NaN or infinity")
        gram = self.directions @ self.directions.T
        if not np.allclose(gram, np.eye(len(gram)), atol=1e-4):  # NaN and infinity fail too
            raise ArtifactIncompatible("subspace", "orthonormal directions", "others")

    def residual(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Part of each row that the directions do not explain, float64 (n, d)."""
        away = rows.astype(np.float64) - self.centre
        return away - (away @ self.directions.T) @ self.directions


@dataclass(frozen=True, slots=True)
class BenignDetectors:
    """Detectors that share one scaler, trained on benign flows alone.

    Attributes:
        scaler: scales flows for the detectors.
        forest: reads scaled rows.
        subspace: likewise; None if the model was imported from older files, as a forest alone.
        codebook: as `subspace`.
    """

    scaler: Scaler
    forest: Forest
    subspace: Subspace | None = None
    codebook: Codebook | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the present detectors, in the order of `DETECTORS`."""
        own = (self.forest, self.subspace, self.codebook)
        return tuple(name for name, one in zip(DETECTORS, own, strict=True) if one is not None)

    def raw(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Raw scores by detector, float64 (n,) each, higher is more anomalous.

        `features` is float32 (n, 78).
        """
        rows = self.scaler.scale(features)
        raw = {"isolation": self.forest.score_samples(rows)}
        if self.subspace is not None:
            raw["subspace"] = np.log(np.linalg.norm(self.subspace.residual(rows), axis=1) + NEAR)
        if self.codebook is not None:
            raw["codebook"] = np.log(self.codebook.nearest(rows)[0] + NEAR)
        return raw

    def strangeness(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Signed distances of flows from their nearest benign shape, float64 (n,) by feature.

        Empty without a codebook.
        """
        if self.codebook is None:
            return {}
        rows = self.scaler.scale(features)
        _, which = self.codebook.nearest(rows)
        off = rows - self.codebook.centres[which]
        return {name: off[:, column] for column, name in enumerate(self.scaler.names)}


@dataclass(frozen=True, slots=True)
class FlowAnomaly:
    """Model of flow anomalies: the weighted surprises of the detectors, summed and calibrated.

    Attributes:
        detectors: fitted on benign flows.
        surprises: detector -> its raw score to surprise; only for present detectors.
        weights: detector -> its weight in the sum, >= 0; only for present detectors.
        calibration: sum -> log-odds at the reference prior.
    """

    detectors: BenignDetectors
    surprises: Mapping[str, Surprise]
    weights: Mapping[str, float]
    calibration: Calibration

    def __post_init__(self) -> None:
        if not set(self.surprises) == set(self.weights) == set(self.detectors.names):
            raise ArtifactIncompatible(
                "anomaly", "a scale and a weight for each detector", f"{sorted(self.weights)}"
            )
        if not all(0.0 <= weight < np.inf for weight in self.weights.values()) or not sum(
            self.weights.values()
        ):
            raise ArtifactIncompatible(
                "anomaly", "weights >= 0, not all 0", f"{dict(self.weights)}"
            )

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weighted surprise of each flow, float64 (n,); `features` is float32 (n, 78)."""
        return weighted_surprise(self.detectors.raw(features), self.surprises, self.weights)

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score each flow, calibrated; explained by each feature's distance from benign."""
        if not isinstance(batch, FlowBatch):
            raise TypeError(f"{batch.kind} events have no flow features")
        raw = self.detectors.raw(batch.features)
        scores = self.calibration.apply(weighted_surprise(raw, self.surprises, self.weights))
        return ModelScores(
            scores, details=self.detectors.strangeness(batch.features) if explain else {}
        )

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal model."""
        own = self.detectors
        arrays = {
            **own.scaler.to_arrays(),
            **{f"forest.{name}": array for name, array in own.forest.to_arrays().items()},
        }
        if own.subspace is not None:
            arrays |= {
                "subspace.centre": own.subspace.centre,
                "subspace.directions": own.subspace.directions,
            }
        if own.codebook is not None:
            arrays["codebook.centres"] = own.codebook.centres
        config = {
            **own.scaler.to_config(),
            "surprises": {name: scale.to_config() for name, scale in self.surprises.items()},
            "weights": dict(self.weights),
            "calibration": self.calibration.to_config(),
        }
        return Parts(arrays, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the model from a bundle.

        Raises:
            ArtifactIncompatible: a part is missing, of another shape, or has an impossible value.
        """
        arrays, config = parts.arrays, parts.config
        try:
            scaler = scaler_of(arrays, config)
            detectors = BenignDetectors(
                scaler,
                Forest.from_arrays(below("forest.", arrays), scaler.positions.size),
                _subspace(arrays) if "subspace" in config["weights"] else None,
                Codebook(arrays["codebook.centres"].astype(np.float64))
                if "codebook" in config["weights"]
                else None,
            )
            surprises = {
                name: Surprise.from_config(scale) for name, scale in config["surprises"].items()
            }
            weights = {name: float(weight) for name, weight in config["weights"].items()}
            calibration = Calibration.from_config(config["calibration"])
        except (KeyError, AttributeError, TypeError, ValueError) as problem:
            raise ArtifactIncompatible(
                "anomaly", "scaler, detectors, scales, weights", f"{type(problem).__name__}"
            ) from None
        d = {scaler.positions.size}
        d |= set() if detectors.subspace is None else {detectors.subspace.centre.size}
        d |= set() if detectors.codebook is None else {detectors.codebook.centres.shape[1]}
        if len(d) > 1:
            raise ArtifactIncompatible(
                "anomaly", f"detectors of {scaler.positions.size} features", f"{sorted(d)}"
            )
        return cls(detectors, surprises, weights, calibration)


def _subspace(arrays: Mapping[str, NDArray[Any]]) -> Subspace:
    return Subspace(
        arrays["subspace.centre"].astype(np.float64),
        arrays["subspace.directions"].astype(np.float64),
    )


def weighted_surprise(
    raw: Mapping[str, NDArray[np.float64]],
    surprises: Mapping[str, Surprise],
    weights: Mapping[str, float],
) -> NDArray[np.float64]:
    """Weighted sum of the surprises, float64 (n,), always in the same order of summation."""
    first, *others = (name for name in DETECTORS if name in weights)
    total = weights[first] * surprises[first].of(raw[first])
    for name in others:
        total += weights[name] * surprises[name].of(raw[name])
    return total
