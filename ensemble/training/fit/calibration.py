"""Fit of a layer's calibration on events that were not used to fit the layer.

`fit_calibration` has two steps, each with few parameters, because benign validation events are few
(hundreds, not millions):

1. raw score -> surprise, the negative log of the share of benign events that score at least as
   high. It is interpolated between benign quantiles; beyond the last quantile the tail continues as
   a straight line, so that a rarer event always scores higher.
2. surprise -> log-odds of hostile by logistic regression with a non-negative slope, at the
   reference prior: benign events weigh 99 % together, hostile ones 1 %, every attack family alike.

`tail_calibration` does without hostile events. An event as rare as the rarest share p of the benign
ones gets the likelihood ratio 0.5 / sqrt(p). Under benign events this is 1 on average whatever
their distribution, so its error is bounded; one event in a thousand earns 16 : 1.

Sources: surprise of a benign tail as common scale: Rubin-Delanchy, Heard, Lawson, "Meta-analysis of
mid-p-values", 2019; the prior by weights: King, Zeng, "Logistic regression in rare events data",
Political Analysis 2001, section 4.2; p to e calibrator: Vovk, Wang, "E-values: calibration,
combination and applications", Annals of Statistics 49(3), 2021, section 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ensemble.errors import TrainingError
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, REFERENCE_PRIOR, Calibration, Surprise
from ensemble.training.data.flow_table import BENIGN

__all__ = [
    "event_weights",
    "family_weights",
    "fit_calibration",
    "fit_surprise",
    "tail_calibration",
    "weighted_log_loss",
]

LEAST_BENIGN = 20  # fewer events do not determine the quantiles
# benign quantiles at the knots
BODY = np.r_[0.0, np.linspace(0.02, 0.9, 23), 0.925, 0.95, 0.97, 0.98, 0.99]
LAST_KNOT_LEAVES = 2.5  # benign events beyond the last knot: one outlier must not set the scale
LEAST_GAP = 1e-6
TAIL_FROM = 0.95  # the straight tail takes its slope from here to the last knot
FIT_LIMIT = 15.0  # nats; the surprise is clipped here to fit the logistic regression
LEAST_SLOPE = 0.05
E_VALUE_POWER = 0.5  # of p; Vovk and Wang's calibrator is power * p ** (power - 1)


def fit_surprise(benign: NDArray[np.float64], tail: Sequence[float] = ()) -> Surprise:
    """Fit the common scale of rarity on benign events.

    Args:
        benign: float (n,), raw scores of benign events that the detector was not fitted on;
            n >= 20.
        tail: rising quantiles above 0.99 at which to place more knots if there are enough events.

    Raises:
        TrainingError: too few events, or too many with the same score.
    """
    if benign.size < LEAST_BENIGN:
        raise TrainingError(
            f"{benign.size} benign events cannot calibrate a layer;"
            f" at least {LEAST_BENIGN} are needed"
        )
    share = np.unique(np.minimum(np.r_[BODY, tail, 1.0], 1.0 - LAST_KNOT_LEAVES / benign.size))
    quantiles = np.quantile(benign.astype(np.float64), share)
    # knots that differ by rounding alone are one knot
    gap = LEAST_GAP * max(np.abs(quantiles).max(), quantiles[-1] - quantiles[0])
    first = [0]
    for knot in range(1, quantiles.size):
        if quantiles[knot] - quantiles[first[-1]] > gap:
            first.append(knot)
    raw, nats = quantiles[first], -np.log1p(-share[first])
    if raw.size < 3:  # noqa: PLR2004  # a body and a tail
        raise TrainingError(
            "nearly all benign events have the same raw score: nothing to calibrate against"
        )
    body = min(int(np.searchsorted(nats, -np.log1p(-TAIL_FROM))), raw.size - 2)
    slope = (nats[-1] - nats[body]) / (raw[-1] - raw[body])
    # the last knot is one nat farther and continues the straight tail
    return Surprise(np.append(raw, raw[-1] + 1.0 / slope), np.append(nats, nats[-1] + 1.0))


def family_weights(families: NDArray[np.str_]) -> NDArray[np.float64]:
    """Weigh every family alike; weights float64 (n,) that sum to 1."""
    _, of_row, counts = np.unique(families, return_inverse=True, return_counts=True)
    return 1.0 / (counts[of_row] * counts.size)


def event_weights(
    families: NDArray[np.str_], is_known: NDArray[np.bool_] | None = None, known_weight: float = 0.0
) -> NDArray[np.float64]:
    """Weigh events by the reference prior: benign 99 % together, hostile 1 %, families alike.

    Args:
        families: n labels, `BENIGN` for benign.
        is_known: bool (n,), hostile events that share `known_weight` of the hostile weight;
            None for no such split.
        known_weight: in [0, 1]; without any known event the others share all of it.

    Returns:
        float64 (n,).
    """
    is_benign = families == BENIGN
    known = np.zeros(families.size, bool) if is_known is None else is_known & ~is_benign
    new = ~is_benign & ~known
    share = known_weight if known.any() and new.any() else float(known.any())
    weights = np.full(families.size, (1.0 - REFERENCE_PRIOR) / max(1, int(is_benign.sum())))
    for rows, part in ((known, share), (new, 1.0 - share)):
        weights[rows] = REFERENCE_PRIOR * part * family_weights(families[rows])
    return weights


def weighted_log_loss(
    log_odds: NDArray[np.float64], is_hostile: NDArray[np.bool_], weights: NDArray[np.float64]
) -> float:
    """Compute the weighted logarithmic loss of log-odds (n,), in nats."""
    return float(weights @ (np.logaddexp(0.0, log_odds) - is_hostile * log_odds))


def fit_calibration(
    benign: NDArray[np.float64],
    hostile: NDArray[np.float64],
    hostile_weights: NDArray[np.float64] | None = None,
) -> Calibration:
    """Fit a layer's calibration on raw scores of events that it was not fitted on.

    Args:
        benign: float (n,), raw scores of benign events, higher is worse.
        hostile: float (m,), raw scores of hostile events.
        hostile_weights: float (m,), e.g. `family_weights`; None counts every event alike.

    Returns:
        A calibration at the reference prior of 1 %.

    Raises:
        TrainingError: too few events on either side.
    """
    if hostile.size == 0:
        raise TrainingError("no hostile events to calibrate on")
    surprise = fit_surprise(benign)
    nats = np.minimum(surprise.of(np.r_[benign, hostile]), FIT_LIMIT)
    is_hostile = np.r_[np.zeros(benign.size, bool), np.ones(hostile.size, bool)]
    shares = np.ones(hostile.size) if hostile_weights is None else hostile_weights
    weights = np.r_[
        np.full(benign.size, (1.0 - REFERENCE_PRIOR) / benign.size),
        REFERENCE_PRIOR * shares / shares.sum(),
    ]

    def loss(parameters: NDArray[np.float64]) -> float:
        intercept, slope = parameters.tolist()
        ridge = 1e-6 * float(slope) ** 2  # bounds the slope of a layer that separates perfectly
        return weighted_log_loss(intercept + slope * nats, is_hostile, weights) + ridge

    start = np.array([PRIOR_LOG_ODDS, 1.0])
    fitted = minimize(
        loss,
        start,
        method="Nelder-Mead",
        bounds=[(None, None), (LEAST_SLOPE, None)],
        options={"xatol": 1e-6, "fatol": 1e-12},
    )
    intercept, slope = fitted.x
    return Calibration(surprise.raw, intercept + slope * surprise.nats)


def tail_calibration(benign: NDArray[np.float64]) -> Calibration:
    """Fit a calibration on benign events alone: likelihood ratio 0.5 / sqrt(p) at tail share p.

    Args:
        benign: float (n,), raw scores of events that the layer was not fitted on; n >= 20.

    Raises:
        TrainingError: too few events, or all with the same score.
    """
    surprise = fit_surprise(benign)
    return Calibration(
        surprise.raw,
        PRIOR_LOG_ODDS + math.log(E_VALUE_POWER) + (1.0 - E_VALUE_POWER) * surprise.nats,
    )
