"""The scalers of scikit-learn as plain arrays, for imported models of flows.

    scaled = (power(x) - centre) / spread,  clipped at +-limit

Standard, min-max and robust scaling have no power. The power transform is that of Yeo and Johnson,
which is continuous through 0. `scaler_of` reads the scaler of a bundle, of either kind.
Cost: a few array passes, all in float64.

Source: Yeo, Johnson, "A new family of power transformations to improve normality or symmetry",
Biometrika 87(4), 2000, equation 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES
from ensemble.features.flow_scaler import FlowScaler

__all__ = ["PlainScaler", "Scaler", "scaler_of", "yeo_johnson"]

PLAIN = "plain"
_ARRAYS = ("positions", "centre", "spread", "powers")


@dataclass(frozen=True, slots=True)
class PlainScaler:
    """Scaler that was fitted by scikit-learn.

    Attributes:
        positions: int (d,), positions of the used features among the 78, each once, in the order of
            the model.
        centre: float64 (d,).
        spread: float64 (d,), > 0.
        powers: float64 (d,), lambda of Yeo and Johnson; 1 leaves a feature as it is.
        limit: scaled values are clipped at +-limit, so that later float32 arithmetic stays finite.
    """

    positions: NDArray[np.intp]
    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    powers: NDArray[np.float64]
    limit: float

    def __post_init__(self) -> None:
        d = self.positions.size if self.positions.ndim == 1 else 0
        if not d or not self.centre.shape == self.spread.shape == self.powers.shape == (d,):
            raise _wrong(
                "one centre, spread and power a feature",
                f"{d}, {self.centre.shape}, {self.spread.shape}, {self.powers.shape}",
            )
        if (
            self.positions.min() < 0
            or self.positions.max() >= len(FEATURE_NAMES)
            or np.unique(self.positions).size != d
        ):
            raise _wrong(
                "positions among the 78 features, each once",
                f"{self.positions.min()} to {self.positions.max()}",
            )
        if (
            not np.isfinite([self.centre, self.powers]).all()
            or not ((self.spread > 0) & np.isfinite(self.spread)).all()
        ):
            raise _wrong("finite centres and powers, positive spreads", "something else")
        if not 0 < self.limit <= float(np.finfo(np.float32).max):
            raise _wrong("a limit that float32 can hold", "another")

    @classmethod
    def identity(cls, positions: NDArray[np.intp]) -> Self:
        """Make a scaler that changes nothing, for a model that reads raw features."""
        d = positions.size
        return cls(positions, np.zeros(d), np.ones(d), np.ones(d), float(np.finfo(np.float32).max))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the used features, in the order of the model."""
        return tuple(FEATURE_NAMES[i] for i in self.positions)

    def scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scale features: float32 (n, d), each in [-limit, limit].

        `features` is float32 (n, 78), finite.
        """
        wide = features.take(self.positions, axis=1).astype(np.float64)
        bent = np.flatnonzero(self.powers != 1.0)
        if bent.size:
            wide[:, bent] = yeo_johnson(wide[:, bent], self.powers[bent])
        wide -= self.centre
        wide /= self.spread
        return np.clip(wide, -self.limit, self.limit).astype(np.float32)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle."""
        return {
            "scaler.positions": self.positions.astype(np.int32),
            "scaler.centre": self.centre,
            "scaler.spread": self.spread,
            "scaler.powers": self.powers,
        }

    def to_config(self) -> dict[str, Any]:
        """JSON values for a bundle."""
        return {"scaling": PLAIN, "limit": self.limit}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], limit: object) -> Self:
        """Build the scaler from a bundle.

        Raises:
            ArtifactIncompatible: an array is missing or impossible.
        """
        if missing := [name for name in _ARRAYS if f"scaler.{name}" not in arrays]:
            raise _wrong("positions, centre, spread and powers", f"no {missing[0]}")
        positions, *others = (arrays[f"scaler.{name}"] for name in _ARRAYS)
        if not isinstance(limit, int | float):
            raise _wrong("a number as limit", type(limit).__name__)
        centre, spread, powers = (one.astype(np.float64) for one in others)
        return cls(positions.astype(np.intp), centre, spread, powers, float(limit))


Scaler = FlowScaler | PlainScaler


def scaler_of(arrays: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> Scaler:
    """Build the scaler from a bundle: Axon's own, unless the configuration names the plain one.

    Raises:
        ArtifactIncompatible: an array is missing or impossible.
    """
    kind = PlainScaler if config.get("scaling") == PLAIN else FlowScaler
    return kind.from_arrays(arrays, config.get("limit"))


def yeo_johnson(values: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the power transform to each column.

    `values` is (n, d), finite, `powers` is (d,). Infinite where float64 overflows.
    """
    steps = np.log1p(np.abs(values))
    with np.errstate(over="ignore"):
        return np.where(values >= 0, _grown(steps, powers), -_grown(steps, 2.0 - powers))


def _grown(steps: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """`((1 + |x|) ** power - 1) / power`, given log(1 + |x|); its limit, the logarithm, at 0."""
    safe = np.where(powers == 0, 1.0, powers)
    return np.where(powers == 0, steps, np.expm1(steps * safe) / safe)


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("scaler", expected, found)
