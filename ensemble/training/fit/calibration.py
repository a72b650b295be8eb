"""Fit a layer's calibration on events that the layer had not seen.

Two steps, each with few parameters, because benign validation events are few (hundreds, not
millions):

1. raw score -> surprise, the negative log of the share of benign events that score at least as
high. Read off the benign
   quantiles; beyond the last of them the tail goes on as a straight line, so that stranger stays
   stranger.
2. surprise -> log-odds of hostile by logistic regression with a non-negative slope, at the
reference prior: benign events
   weigh 99 % together, hostile ones 1 %, every attack family alike.

Source: surprise of a benign tail as common scale: Rubin-Delanchy, Heard, Lawson, "Meta-analysis of
mid-p-values", 2019;
the prior by weights: King, Zeng, "Logistic regression in rare events data", Political Analysis
2001, section 4.2.
"""

from __future__ import annotations

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
    "weighted_log_loss",
]

LEAST_BENIGN = 20  # below this a quantile is an anecdote
BODY = np.r_[
    0.0, np.linspace(0.02, 0.9, 23), 0.925, 0.95, 0.97, 0.98, 0.99
]  # benign quantiles at the knots
LAST_KNOT_LEAVES = 2.5  # benign events beyond the last knot: one lucky flow does not set the scale
LEAST_GAP = 1e-6
TAIL_FROM = 0.95  # the straight tail takes its slope from here to the last knot
TEACHING_LIMIT = 15.0  # nats; farther tails teach the logistic regression nothing about its slope
LEAST_SLOPE = 0.05


def fit_surprise(benign: NDArray[np.float64], tail: Sequence[float] = ()) -> Surprise:
    """The common scale of rarity, read off benign events.

    Args:
        benign: float (n,), raw scores of benign events that the detector was not fitted on; n
            >= 20.
        tail: rising quantiles above 0.99 at which there are knots too, where there are events
            enough.

    Raises:
        TrainingError: too few events, or too many with the same score.
    """
    if benign.size < LEAST_BENIGN:
        raise TrainingError(
            f"{benign.size} benign events cannot calibrate a layer; {LEAST_BENIGN} are the least"
        )
    share = np.unique(np.minimum(np.r_[BODY, tail, 1.0], 1.0 - LAST_KNOT_LEAVES / benign.size))
    quantiles = np.quantile(benign.astype(np.float64), share)
    apart = LEAST_GAP * max(
        np.abs(quantiles).max(), quantiles[-1] - quantiles[0]
    )  # knots that rounding alone tells apart are one knot
    first = [0]
    for knot in range(1, quantiles.size):
        if quantiles[knot] - quantiles[first[-1]] > apart:
            first.append(knot)
    raw, nats = quantiles[first], -np.log1p(-share[first])
    if raw.size < 3:  # noqa: PLR2004  # a body and a tail
        raise TrainingError(
            "nearly all benign events have the same raw score: nothing to calibrate against"
        )
    body = min(int(np.searchsorted(nats, -np.log1p(-TAIL_FROM))), raw.size - 2)
    slope = (nats[-1] - nats[body]) / (raw[-1] - raw[body])
    return Surprise(
        np.append(raw, raw[-1] + 1.0 / slope), np.append(nats, nats[-1] + 1.0)
    )  # one nat farther, and straight on


def family_weights(families: NDArray[np.str_]) -> NDArray[np.float64]:
    """Weights float64 (n,) under which every family counts alike; they sum to 1."""
    _, of_row, counts = np.unique(families, return_inverse=True, return_counts=True)
    return 1.0 / (counts[of_row] * counts.size)


def event_weights(
    families: NDArray[np.str_], is_known: NDArray[np.bool_] | None = None, known_weight: float = 0.0
) -> NDArray[np.float64]:
    """Weights float64 (n,) of the reference prior: benign 99 % together, hostile 1 %, families alike.

    Args:
        families: n labels, `BENIGN` for benign.
        is_known: bool (n,), hostile events that share `known_weight` of the hostile weight;
            None for no such split.
        known_weight: in [0, 1]; without any known event the others have it all.
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
    """Mean logarithmic loss of log-odds (n,), in nats."""
    return float(weights @ (np.logaddexp(0.0, log_odds) - is_hostile * log_odds))


def fit_calibration(
    benign: NDArray[np.float64],
    hostile: NDArray[np.float64],
    hostile_weights: NDArray[np.float64] | None = None,
) -> Calibration:
    """Calibration of a layer from raw scores of events it was not fitted on.

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
    nats = np.minimum(surprise.of(np.r_[benign, hostile]), TEACHING_LIMIT)
    is_hostile = np.r_[np.zeros(benign.size, bool), np.ones(hostile.size, bool)]
    shares = np.ones(hostile.size) if hostile_weights is None else hostile_weights
    weights = np.r_[
        np.full(benign.size, (1.0 - REFERENCE_PRIOR) / benign.size),
        REFERENCE_PRIOR * shares / shares.sum(),
    ]

    def loss(parameters: NDArray[np.float64]) -> float:
        intercept, slope = parameters.tolist()
        return (
            weighted_log_loss(intercept + slope * nats, is_hostile, weights)
            + 1e-6 * float(slope) ** 2
        )  # keeps a perfect layer finite

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
