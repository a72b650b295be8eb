"""Flow features on one scale: heavy tails tamed, benign traffic centred, outliers held in bounds.

Byte counts and durations span nine decades. `sign(x) * log(1 + |x|)` keeps the order and the sign
and makes decades steps; then
each feature is centred and divided by its spread among benign flows; then it is cut, so that one
absurd value is strange
but cannot drown the other 75.
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
    """What a layer needs to put flows on its scale.

    Attributes:
        positions: int (d,), which of the 78 features are read, rising.
        centre: float32 (d,), of the tamed features among benign flows.
        spread: float32 (d,), likewise, > 0.
        limit: scaled values are cut at +-limit.
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
        """A scaler for the features that shipped models read.

        Args:
            benign: float32 (n, 78).
            limit: where scaled values are cut.
            least_spread: in tamed units; a feature that varies less in training counts as
                constant and keeps its own unit.
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
        """Names of the features read, in order."""
        return tuple(FEATURE_NAMES[i] for i in self.positions)

    def scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled features, float32 (n, d), each in [-limit, limit].

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
        """The scaler of a bundle.

        Raises:
            ArtifactIncompatible: an array is missing or cannot be.
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
