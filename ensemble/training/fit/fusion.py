"""Fit of the fusion and its thresholds on unseen events: unseen attack families and benign events.

A fusion fitted on the flows that the layers were trained on trusts the layer that memorised most.
One fitted on unseen families alone wastes what the layers do know: on later flows of known attacks
it fell behind its best layer. Both kinds occur in use, so a quarter of the hostile weight is that
of known families, by flows that were not used to fit the layers either.

Ten families are few, and shares that follow each of them closely follow chance. Two rules restrain
them. They are drawn towards equal shares, which are hard to beat with little data. And a layer that
recognises known attacks may not have more than a fifth: on flows of those it is the most certain,
and it mistakes a new attack for benign more often than the others do.

Source: equal weights: Smith, Wallis, "A simple explanation of the forecast combination puzzle",
Oxford Bulletin of Economics and Statistics 71(3), 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ensemble.errors import TrainingError
from ensemble.fusion import Fusion, Thresholds, layer_set
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, probability
from ensemble.training.data.flow_table import BENIGN
from ensemble.training.fit.calibration import event_weights, weighted_log_loss

__all__ = ["RATES", "add_layers", "fit_fusion", "fit_thresholds", "with_thresholds"]

# of the hostile weight; chosen on the tables of the card, where 0 and 0.5 each lose one of them
KNOWN_WEIGHT = 0.25
LEAST_SHARE = 0.10  # a layer of share 0 could break unnoticed
# of the others 1; without a limit its share was half, and unseen families lost
MOST_SHARE: Mapping[str, float] = {"classifier": 0.20}
# weight of the squared distance to equal shares beside the relative loss; from 0.02 to 0.5 the mean
# AUROC stays
EVENNESS = 0.10
# Of all layers that are added to a fitted fusion, together: they were not part of its validation.
MOST_NEW_SHARE = 0.20
LEAST_NEW_SHARE = 0.01  # a smaller share does not justify thresholds of its own
SHARPNESS_RANGE = (0.25, 4.0)
# false positives at `suspicious`, `malicious`, `critical`; DESIGN section 4
RATES = (0.01, 0.001, 0.0001)
HIGHEST_ODDS = 30.0  # above, a probability is 1 in float64; a threshold must stay inside (0, 1)
LEAST_BENIGN = 100  # 1 % of it is a single event


def fit_fusion(
    odds: Mapping[str, NDArray[np.float64]], families: NDArray[np.str_], is_known: NDArray[np.bool_]
) -> Fusion:
    """Fit shares and sharpness by log loss at the reference prior, and thresholds at default rates.

    Every attack family counts alike.

    Args:
        odds: layer -> calibrated log-odds (n,) of events that were not used to fit the layer.
        families: n labels, `BENIGN` for benign.
        is_known: bool (n,), attacks of families whose other flows were used to fit the layers.

    Returns:
        A fusion in which every layer has a share of at least a tenth, and at most its maximum.

    Raises:
        TrainingError: too few benign events for thresholds.
    """
    layers = sorted(odds)
    evidence = np.stack([odds[layer] - PRIOR_LOG_ODDS for layer in layers], axis=1)  # (n, layers)
    is_hostile = families != BENIGN
    weights = event_weights(families, is_known, KNOWN_WEIGHT)

    def loss(parameters: NDArray[np.float64]) -> float:
        shares, sharpness = parameters[:-1], np.exp(parameters[-1])
        unevenness = float(((shares - 1.0 / len(layers)) ** 2).sum())
        return (
            weighted_log_loss(PRIOR_LOG_ODDS + sharpness * (evidence @ shares), is_hostile, weights)
            / base
            + EVENNESS * unevenness
        )

    # The loss of the prior alone, which scales the search.
    base = weighted_log_loss(np.full(len(evidence), PRIOR_LOG_ODDS), is_hostile, weights)
    if len(layers) == 1:
        return with_thresholds(
            Fusion({layers[0]: 1.0}, 1.0, {}), {layers[0]: odds[layers[0]][~is_hostile]}, RATES
        )
    starts = [np.full(len(layers), 1.0 / len(layers))]
    starts += [
        np.where(np.arange(len(layers)) == i, 1.0 - LEAST_SHARE * (len(layers) - 1), LEAST_SHARE)
        for i in range(len(layers))
    ]
    most = np.array([MOST_SHARE.get(layer, 1.0) for layer in layers])
    bounds = [(LEAST_SHARE, float(share)) for share in most] + [tuple(np.log(SHARPNESS_RANGE))]
    together = {"type": "eq", "fun": lambda p: p[:-1].sum() - 1.0}
    found = [
        minimize(loss, np.r_[start, 0.0], method="SLSQP", bounds=bounds, constraints=together)
        for start in starts
    ]
    best = min(found, key=lambda one: float(one.fun))
    shares = np.clip(best.x[:-1], LEAST_SHARE, most)
    shares = dict(zip(layers, (shares / shares.sum()).tolist(), strict=True))
    fusion = Fusion(shares, float(np.exp(best.x[-1])), {})
    return with_thresholds(
        fusion, {layer: column[~is_hostile] for layer, column in odds.items()}, RATES
    )


def add_layers(
    fusion: Fusion, odds: Mapping[str, NDArray[np.float64]], families: NDArray[np.str_]
) -> Fusion:
    """Fit the shares of layers that have none; the proportions of the others are unchanged.

    The pooled log-odds are linear in the new shares, so the weighted log loss is convex in them. A
    share is never negative, so a higher score of any layer never lowers the result.

    Args:
        fusion: of the layers that have a share; shares, proportions and sharpness stay.
        odds: layer -> calibrated log-odds (n,), of the layers of `fusion` and of new ones, of
            events that none of them was fitted on.
        families: n labels, `BENIGN` for benign; both kinds must be there.

    Returns:
        A fusion with the new layers whose share is at least `LEAST_NEW_SHARE`, without thresholds.

    Raises:
        TrainingError: there are no benign or no hostile events.
    """
    is_hostile = families != BENIGN
    if is_hostile.all() or not is_hostile.any():
        raise TrainingError("a weight needs benign and hostile events, with their labels")
    new = sorted(odds.keys() - fusion.shares.keys())
    weights = event_weights(families)
    pooled = fusion.pooled({layer: odds[layer] for layer in fusion.shares}) - PRIOR_LOG_ODDS
    evidence = np.stack([odds[layer] - PRIOR_LOG_ODDS for layer in new], axis=1)

    def loss(shares: NDArray[np.float64]) -> float:
        mixed = (1.0 - shares.sum()) * pooled + fusion.sharpness * (evidence @ shares)
        return weighted_log_loss(PRIOR_LOG_ODDS + mixed, is_hostile, weights) / base

    base = weighted_log_loss(np.full(families.size, PRIOR_LOG_ODDS), is_hostile, weights)
    most = MOST_NEW_SHARE / len(new)
    start = np.full(len(new), most / 2.0)
    found = minimize(loss, start, method="SLSQP", bounds=[(0.0, most)] * len(new))
    fitted = {
        layer: float(share)
        for layer, share in zip(new, np.clip(found.x, 0.0, most).tolist(), strict=True)
        if share >= LEAST_NEW_SHARE
    }
    rest = 1.0 - sum(fitted.values())
    shares = {layer: share * rest for layer, share in fusion.shares.items()} | fitted
    return Fusion(shares, fusion.sharpness, {}, fusion.source)


def with_thresholds(
    fusion: Fusion, benign: Mapping[str, NDArray[np.float64]], rates: tuple[float, float, float]
) -> Fusion:
    """Add thresholds to `fusion` for every set of its layers that may be left speaking.

    Args:
        fusion: shares and sharpness stay.
        benign: layer -> calibrated log-odds (n,) of benign events not used to fit any layer.
        rates: share of benign events above `suspicious`, `malicious`, `critical`; falling.
    """
    thresholds = {}
    for count in range(1, len(fusion.shares) + 1):
        for layers in combinations(sorted(fusion.shares), count):
            thresholds[layer_set(layers)] = fit_thresholds(
                fusion.pooled({layer: benign[layer] for layer in layers}), rates
            )
    return Fusion(fusion.shares, fusion.sharpness, thresholds, fusion.source)


def fit_thresholds(benign: NDArray[np.float64], rates: tuple[float, float, float]) -> Thresholds:
    """Fit scores that at most the stated shares of benign events exceed.

    A rate that the events can show comes from their ranks. A smaller one is extrapolated along the
    tail, in log-odds, as steeply as the last tenth of the events falls.

    Args:
        benign: pooled log-odds (n,) of benign events not used to fit any layer.
        rates: falling, each in (0, 1).

    Raises:
        TrainingError: too few events.
    """
    if benign.size < LEAST_BENIGN:
        raise TrainingError(
            f"{benign.size} benign events cannot set a threshold at 1 %;"
            f" at least {LEAST_BENIGN} are needed"
        )
    falling = np.sort(benign)[::-1]
    start = falling[benign.size // 10]
    mean_excess = max(1e-3, float(np.mean(falling[: benign.size // 10] - start)))

    def threshold(rate: float) -> float:
        # a new event exceeds the k-th largest of n with probability k / (n + 1)
        rank = int(rate * (benign.size + 1)) - 1
        if rank >= 0:
            return float(falling[rank])
        return float(falling[0] + mean_excess * np.log(1.0 / (rate * (benign.size + 1))))

    odds = np.minimum(np.maximum.accumulate([threshold(rate) for rate in rates]), HIGHEST_ODDS)
    return Thresholds(*probability(odds).tolist())
