"""Scaler of flow features: logarithm, centring on benign traffic, and a limit for outliers.

Byte counts and durations span nine decades. `sign(x) * log(1 + |x|)` preserves order and sign and
turns decades into equal steps. Each feature is then centred and divided by its spread among benign
flows, and clipped, so that one absurd value is anomalous but does not dominate the other 75.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES, used_positions

__all__ = ["FlowScaler"]


@dataclass(frozen=True, slots=True)
class FlowScaler:
    """Scaler of flows, fitted on benign traffic.

    Attributes:
        positions: int (d,), positions of the used features among the 78, rising.
        centre: float32 (d,), mean of the `tame` features of benign flows.
        spread: float32 (d,), their standard deviation, > 0.
        limit: scaled values are clipped at +-limit.
    """

    positions: NDArray[np.intp]
    centre: NDArray[np.float32]
    spread: NDArray[np.float32]
    limit: float

    def __post_init__(self) -> None:
        d = self.positions.size if self.positions.ndim == 1 else 0
        if self.centre.shape != (d,) or self.spread.shape != (d,) or not d:
            raise ArtifactIncompatible(
                "scaler",
                "one centre and spread a feature",
                f"{d}, {self.centre.shape}, {self.spread.shape}",
            )
        if (
            self.positions.min() < 0
            or self.positions.max() >= len(FEATURE_NAMES)
            or (np.diff(self.positions) <= 0).any()
        ):
            raise ArtifactIncompatible(
                "scaler",
                "rising positions of the 78 features",
                f"{self.positions.min()} to {self.positions.max()}",
            )
        if (
            not np.isfinite(self.centre).all()
            or not ((self.spread > 0) & np.isfinite(self.spread)).all()
            or not 0 < self.limit < np.inf
        ):
            raise ArtifactIncompatible(
                "scaler", "finite centres, positive spreads", "something else"
            )

    @classmethod
    def fit(cls, benign: NDArray[np.float32], *, limit: float, least_spread: float) -> Self:
        """Fit a scaler of the features that shipped models read.

        Args:
            benign: float32 (n, 78).
            limit: scaled values are clipped at +-limit.
            least_spread: after `tame`; a feature with less spread counts as constant and is not
                divided.
        """
        positions = used_positions()
        tamed = tame(benign[:, positions]).astype(np.float64)
        spread = tamed.std(axis=0)
        spread = np.where(spread < least_spread, 1.0, spread)
        return cls(
            positions, tamed.mean(axis=0).astype(np.float32), spread.astype(np.float32), limit
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the used features, in order."""
        return tuple(FEATURE_NAMES[i] for i in self.positions)

    def scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale features: float32 (n, d), each in [-limit, limit].

        `features` is float32 (n, 78), finite.
        """
        scaled = tame(features.take(self.positions, axis=1))
        scaled -= self.centre
        scaled /= self.spread
        return np.clip(scaled, -self.limit, self.limit, out=scaled)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle."""
        return {
            "scaler.positions": self.positions.astype(np.int32),
            "scaler.centre": self.centre,
            "scaler.spread": self.spread,
        }

    def to_config(self) -> dict[str, Any]:
        """JSON values for a bundle."""
        return {"limit": self.limit}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], limit: object) -> Self:
        """Build the scaler from a bundle.

        Raises:
            ArtifactIncompatible: an array is missing or impossible.
        """
        try:
            positions, centre, spread = (
                arrays[f"scaler.{name}"] for name in ("positions", "centre", "spread")
            )
        except KeyError as missing:
            raise ArtifactIncompatible(
                "scaler", "positions, centre and spread", f"no {missing}"
            ) from None
        if not isinstance(limit, int | float):
            raise ArtifactIncompatible("scaler", "a number as limit", type(limit).__name__)
        return cls(
            positions.astype(np.intp),
            centre.astype(np.float32),
            spread.astype(np.float32),
            float(limit),
        )


def tame(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """`sign(x) * log(1 + |x|)`, elementwise."""
    return np.copysign(np.log1p(np.abs(features)), features)
