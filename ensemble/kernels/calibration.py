"""Calibration: raw score of a layer to log-odds of hostile, monotone, at one reference prior.

Every layer measures in its own unit (isolation depth, reconstruction error, logit). A calibration
turns it into evidence that can be pooled: log-odds of hostile, as if 1 % of all events were
hostile, clipped at +-6 so that no layer dominates the others. It is a monotone line through knots,
extended in a straight line beyond the last knots until it is clipped.

Fit for: scores with a few hundred out-of-sample benign events. Unfit for: learning a shape from ten
rows.
Source: Niculescu-Mizil, Caruana, "Predicting good probabilities with supervised learning", ICML
2005 (why to calibrate); Elkan, "The foundations of cost-sensitive learning", IJCAI 2001 (theorem 2:
changing the prior).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible

__all__ = ["LOG_ODDS_LIMIT", "PRIOR_LOG_ODDS", "Calibration", "Surprise", "log_odds", "probability"]

REFERENCE_PRIOR = (
    0.01  # DESIGN section 4: 87 % of the training data is hostile, unlike live traffic
)
PRIOR_LOG_ODDS = float(np.log(REFERENCE_PRIOR / (1 - REFERENCE_PRIOR)))  # -4.595
STEEPEST = 1e12  # log-odds for one unit of raw score; above it, rounding would decide
LOG_ODDS_LIMIT = 6.0  # DESIGN section 4: p in [0.0025, 0.9975]


def probability(log_odds_of_hostile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert log-odds to probabilities, elementwise; without overflow for any finite input."""
    logistic: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * log_odds_of_hostile))
    return logistic


def log_odds(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Convert probabilities to log-odds, elementwise, clipped at +-6."""
    edge = probability(np.array([LOG_ODDS_LIMIT]))[0]
    inside = np.clip(scores, 1.0 - edge, edge)
    odds: NDArray[np.float64] = np.clip(
        np.log(inside) - np.log1p(-inside), -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT
    )
    return odds


@dataclass(frozen=True, slots=True)
class Calibration:
    """Monotone line through knots, from raw scores to log-odds.

    Attributes:
        raw: float64 (k,), strictly rising, k >= 2; raw scores of a layer, higher is worse.
        log_odds: float64 (k,), non-decreasing; log-odds of hostile at the reference prior.
    """

    raw: NDArray[np.float64]
    log_odds: NDArray[np.float64]

    def __post_init__(self) -> None:
        _require_rising("calibration", self.raw, self.log_odds)

    def apply(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate raw scores.

        Args:
            raw: float (n,), finite.

        Returns:
            float64 (n,), each in [0.0025, 0.9975], non-decreasing in `raw`.
        """
        return probability(self.to_log_odds(raw))

    def to_log_odds(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-odds of each raw score, float64 (n,), clipped at +-6."""
        return np.clip(_line(self.raw, self.log_odds, raw), -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)

    def to_config(self) -> dict[str, Any]:
        """JSON values for a bundle."""
        return {"raw": self.raw.tolist(), "log_odds": self.log_odds.tolist()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the calibration from a bundle.

        Raises:
            ArtifactIncompatible: it is not monotone and finite.
        """
        return cls(*_knots("calibration", config, "raw", "log_odds"))


@dataclass(frozen=True, slots=True)
class Surprise:
    """Rarity of a raw score among benign events: -log of the share that scores at least as high.

    It is the common scale of different detectors in one layer. Beyond the most anomalous benign
    event it continues in a straight line.

    Attributes:
        raw: float64 (k,), strictly rising, k >= 2.
        nats: float64 (k,), non-decreasing, from about 0.
    """

    raw: NDArray[np.float64]
    nats: NDArray[np.float64]

    def __post_init__(self) -> None:
        _require_rising("surprise", self.raw, self.nats)

    def of(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """Surprise of each raw score, nats, float64 (n,), at least 0."""
        return np.maximum(_line(self.raw, self.nats, raw), 0.0)

    def to_config(self) -> dict[str, Any]:
        """JSON values for a bundle."""
        return {"raw": self.raw.tolist(), "nats": self.nats.tolist()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the scale from a bundle.

        Raises:
            ArtifactIncompatible: it is not monotone and finite.
        """
        return cls(*_knots("surprise", config, "raw", "nats"))


def _line(
    x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate the knots (x, y) at `at`, with straight lines beyond the first and the last."""
    below = np.minimum(at - x[0], 0.0) * ((y[1] - y[0]) / (x[1] - x[0]))
    above = np.maximum(at - x[-1], 0.0) * ((y[-1] - y[-2]) / (x[-1] - x[-2]))
    return np.asarray(np.interp(at, x, y) + below + above)


def _require_rising(what: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    if x.ndim != 1 or x.shape != y.shape or x.size < 2:  # noqa: PLR2004  # a line needs two points
        raise ArtifactIncompatible(what, "two or more knots", f"shapes {x.shape} and {y.shape}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ArtifactIncompatible(what, "finite knots", "NaN or infinity")
    if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
        raise ArtifactIncompatible(what, "rising knots", "knots that fall")
    if (np.diff(y) >= STEEPEST * np.diff(x)).any():  # an infinite slope times 0 would be NaN
        raise ArtifactIncompatible(what, "separate knots", "knots at the same place")


def _knots(
    what: str, config: Mapping[str, Any], x: str, y: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    try:
        return np.array(config[x], np.float64), np.array(config[y], np.float64)
    except (KeyError, TypeError, ValueError):
        raise ArtifactIncompatible(what, "two lists of numbers", "something else") from None
