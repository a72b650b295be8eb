"""Tabular anomalies: how unlike its training rows is a row of declared numbers?

This is the detector that a tenant can train itself (S4-08): a standard scaler and an isolation
forest, as in the source system, and the range of training. A forest cuts only inside the values it
was trained on, so that a value a billion times too large scores like the largest of training
(measured in C-23). The distance of a row outside the range of training, in widths of that range, is
therefore added to the score of the forest.

Fit for: rows with single values far out. Unfit for: combinations of ordinary values, and rows of
another origin than the training rows.
Score: the share of held-out rows that were less anomalous, in [0, 1]; beyond the most anomalous of
them, the surprise continues in a straight line.
Threat levels follow from the score: `medium` for the most anomalous tenth of held-out rows, `high`
for a hundredth, `critical` for a thousandth.
Cost: as the forest.

Source: Liu, Ting, Zhou, "Isolation Forest", ICDM 2008.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible, FeatureMismatch
from ensemble.features.tabular import ROWS_AT_ONCE, declared
from ensemble.kernels.calibration import Surprise
from ensemble.kernels.isolation_forest import Forest
from ensemble.model import Parts, below

__all__ = [
    "RATES",
    "MeasuredRange",
    "TabularDetector",
    "TabularScores",
    "ThreatLevel",
    "raw_scores",
]

# Scaled values are cut here, so that they stay finite as float32 in the forest.
LIMIT = float(np.finfo(np.float32).max)


class ThreatLevel(StrEnum):
    """Threat level, with the terms of the source system."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


# Shares of the held-out rows; a tenth is the contamination of 0.1 of the source system.
RATES: Final[Mapping[ThreatLevel, float]] = {
    ThreatLevel.MEDIUM: 0.1,
    ThreatLevel.HIGH: 0.01,
    ThreatLevel.CRITICAL: 0.001,
}
_LEVELS = np.array([str(level) for level in ThreatLevel])
_FLOORS = -np.log(list(RATES.values()))  # surprise in nats at which each level begins


@dataclass(frozen=True, slots=True)
class MeasuredRange:
    """Scale and range of every feature in training.

    Attributes:
        centre: float64 (d,), the mean.
        spread: float64 (d,), the standard deviation, > 0; 1 for a constant feature.
        low: float64 (d,), the least scaled value.
        high: float64 (d,), the greatest, >= low.
    """

    centre: NDArray[np.float64]
    spread: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        d = self.centre.shape
        if len(d) != 1 or not d == self.spread.shape == self.low.shape == self.high.shape:
            raise ArtifactIncompatible(
                "range",
                "four numbers a feature",
                f"shapes {d}, {self.spread.shape}, {self.low.shape}",
            )
        if (
            not np.isfinite([self.centre, self.spread, self.low, self.high]).all()
            or not (self.spread > 0).all()
        ):
            raise ArtifactIncompatible("range", "finite numbers and positive spreads", "others")
        if (self.low > self.high).any():
            raise ArtifactIncompatible("range", "a least below the greatest", "one above it")

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Self:
        """Measure rows (n, d); the result is not finite if their sums are not."""
        centre = values.mean(axis=0)
        spread = values.std(axis=0)
        # Only rounding differs; the rule of scikit-learn.
        is_flat = spread <= np.finfo(np.float64).eps * np.abs(centre) * 10
        spread = np.where(is_flat, 1.0, spread)
        scaled = (values - centre) / spread
        return cls(centre, spread, scaled.min(axis=0), scaled.max(axis=0))

    def scale(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale rows (n, d), finite, and limit the result to the range of float32."""
        with np.errstate(over="ignore"):  # infinity is clipped
            return np.clip((values - self.centre) / self.spread, -LIMIT, LIMIT)

    def beyond(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance of each scaled row outside its worst feature's range, in widths; 0 inside."""
        width = self.high - self.low
        outside = np.maximum(np.maximum(self.low - scaled, scaled - self.high), 0.0)
        return np.asarray((outside / np.where(width > 0, width, 1.0)).max(axis=1))


@dataclass(frozen=True, slots=True)
class TabularScores:
    """Scores of n rows, as columns.

    Attributes:
        anomaly_score: float64 (n,), each in [0, 1]; higher is more anomalous.
        threat_level: n values of `ThreatLevel`.
        is_anomaly: bool (n,), whether the level is at least `medium`.
    """

    anomaly_score: NDArray[np.float64]
    threat_level: NDArray[np.str_]
    is_anomaly: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TabularDetector:
    """A fitted detector.

    Attributes:
        features: names of its columns, in order.
        range: scales rows for the forest.
        forest: reads scaled rows.
        surprise: raw score -> its rarity among held-out rows.
    """

    features: tuple[str, ...]
    range: MeasuredRange
    forest: Forest
    surprise: Surprise

    def __post_init__(self) -> None:
        d = {len(self.features), self.range.centre.size, self.forest.n_features}
        if len(d) > 1:
            raise ArtifactIncompatible(
                "tabular detector", f"{len(self.features)} features everywhere", f"{sorted(d)}"
            )

    def raw(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw score of each row, float64 (n,), higher is more anomalous.

        The score of the forest, plus log(1 + the distance outside the range of training).
        """
        parts = [
            raw_scores(self.range, self.forest, values[start : start + ROWS_AT_ONCE])
            for start in range(0, max(len(values), 1), ROWS_AT_ONCE)
        ]
        return np.concatenate(parts)

    def score(self, values: NDArray[np.float64]) -> TabularScores:
        """Score rows (n, d), finite, in the order of `features`; a row scores the same alone.

        Raises:
            FeatureMismatch: another number of columns, or a value that is not finite.
        """
        if values.ndim != 2 or values.shape[1] != len(self.features):  # noqa: PLR2004  # (n, d)
            raise FeatureMismatch("rows", f"must have {len(self.features)} columns")
        if not np.isfinite(values).all():
            raise FeatureMismatch("rows", "must be finite")
        nats = self.surprise.of(self.raw(values))
        level = np.searchsorted(_FLOORS, nats, side="right")
        return TabularScores(-np.expm1(-nats), _LEVELS[level], level > 0)

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal detector."""
        own = self.range
        arrays = {
            "range.centre": own.centre,
            "range.spread": own.spread,
            "range.low": own.low,
            "range.high": own.high,
            **{f"forest.{name}": array for name, array in self.forest.to_arrays().items()},
        }
        return Parts(
            arrays, {"features": list(self.features), "surprise": self.surprise.to_config()}
        )

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the detector from a bundle.

        Raises:
            ArtifactIncompatible: a part is missing, of another shape, or has an impossible value.
        """
        arrays, config = parts.arrays, parts.config
        try:
            features = declared(config["features"])
            measured = MeasuredRange(
                *(
                    arrays[f"range.{name}"].astype(np.float64)
                    for name in ("centre", "spread", "low", "high")
                )
            )
            forest = Forest.from_arrays(below("forest.", arrays), len(features))
            surprise = Surprise.from_config(config["surprise"])
        except (KeyError, AttributeError, TypeError, ValueError, FeatureMismatch) as problem:
            raise ArtifactIncompatible(
                "tabular detector", "features, range, forest, scale", type(problem).__name__
            ) from None
        return cls(features, measured, forest, surprise)


def raw_scores(
    measured: MeasuredRange, forest: Forest, values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Compute `TabularDetector.raw` during training, before the surprise is fitted."""
    scaled = measured.scale(values)
    return forest.score_samples(scaled.astype(np.float32)) + np.log1p(measured.beyond(scaled))
