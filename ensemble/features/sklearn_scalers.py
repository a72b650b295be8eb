"""Flow features on the scale of somebody else's model: what scikit-learn's scalers do, as arrays.

    scaled = (power(x) - centre) / spread,  cut at +-limit

Standard, min-max and robust scaling are this without a power; a power transform is this with one
(Yeo-Johnson's, which goes on through 0).
`scaler_of` gives whichever scaler the arrays of a bundle hold. Cost: a few array passes, all in
float64.

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
    """A scaler that was fitted elsewhere.

    Attributes:
        positions: int (d,), which of the 78 features are read, each once, in the order of the
            model.
        centre: float64 (d,).
        spread: float64 (d,), > 0.
        powers: float64 (d,), lambda of Yeo and Johnson; 1 leaves a feature as it is.
        limit: scaled values are cut at +-limit, so that float32 arithmetic behind it stays finite.
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
        """Nothing is scaled: the model reads the features as they are."""
        d = positions.size
        return cls(positions, np.zeros(d), np.ones(d), np.ones(d), float(np.finfo(np.float32).max))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features read, in the order of the model."""
        return tuple(FEATURE_NAMES[i] for i in self.positions)

    def scale(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled features, float32 (n, d), each in [-limit, limit].

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
        """The scaler of a bundle.

        Raises:
            ArtifactIncompatible: an array is missing or cannot be.
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
    """The scaler of a bundle: ours, unless its configuration says that it came from elsewhere.

    Raises:
        ArtifactIncompatible: an array is missing or cannot be.
    """
    kind = PlainScaler if config.get("scaling") == PLAIN else FlowScaler
    return kind.from_arrays(arrays, config.get("limit"))


def yeo_johnson(values: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Power transform of each column.

    `values` is (n, d), finite, `powers` is (d,). Infinite where float64 overflows.
    """
    steps = np.log1p(np.abs(values))
    with np.errstate(over="ignore"):
        return np.where(values >= 0, _grown(steps, powers), -_grown(steps, 2.0 - powers))


def _grown(steps: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    """`((1 + |x|) ** power - 1) / power` of log(1 + |x|).

    Its limit, the logarithm, where the power is 0.
    """
    safe = np.where(powers == 0, 1.0, powers)
    return np.where(powers == 0, steps, np.expm1(steps * safe) / safe)


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("scaler", expected, found)
