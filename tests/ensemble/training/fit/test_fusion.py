"""Fit of the fusion and its thresholds: each layer has a share; rates hold on unseen events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations

import numpy as np
import pytest
from scipy.stats import binom

from ensemble.errors import TrainingError
from ensemble.fusion import Fusion, layer_set
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, log_odds
from ensemble.training.data.flow_table import BENIGN
from ensemble.training.fit.fusion import (
    LEAST_SHARE,
    RATES,
    fit_fusion,
    fit_thresholds,
    with_thresholds,
)

# chance that an honest threshold fails its test; the seeds are fixed, so it does so never or always
ONE_IN_A_MILLION = 1e-6

DISTRIBUTIONS = [
    pytest.param(lambda g, n: g.normal(-5, 1, n), id="normal"),
    pytest.param(lambda g, n: -6 + g.exponential(0.5, n), id="exponential"),
    pytest.param(lambda g, n: -5 + g.standard_t(4, n), id="heavy tail"),
]


def unseen(
    seed: int = 0, benign: int = 600, hostile: int = 100
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Log-odds of a good, a weak and a useless layer, on benign events and two families."""
    generator = np.random.default_rng(seed)
    families = np.repeat([BENIGN, "Flood", "Scan"], [benign, hostile, hostile])
    is_hostile = families != BENIGN
    sees = {"anomaly": 4.0, "behavior": 1.5, "logs": 0.0}
    odds = {
        layer: np.clip(
            PRIOR_LOG_ODDS + generator.normal(0, 1, families.size) + gain * is_hostile, -6, 6
        )
        for layer, gain in sees.items()
    }
    return odds, families, np.zeros(families.size, bool)


@pytest.fixture(scope="module")
def fitted() -> Fusion:
    return fit_fusion(*unseen())


def test_every_layer_has_a_share(fitted: Fusion) -> None:
    """A layer of share 0 could break unnoticed."""
    assert min(fitted.shares.values()) >= LEAST_SHARE - 1e-9
    assert sum(fitted.shares.values()) == pytest.approx(1.0)
    assert fitted.source == "fitted"


def test_the_best_layer_has_the_largest_share(fitted: Fusion) -> None:
    assert fitted.shares["anomaly"] > fitted.shares["behavior"] >= fitted.shares["logs"]


def test_there_are_thresholds_for_every_set_of_layers_that_may_be_left_speaking(
    fitted: Fusion,
) -> None:
    """P12: a set without thresholds could only answer `indeterminate`."""
    subsets = chain.from_iterable(combinations(fitted.shares, k) for k in (1, 2, 3))

    assert set(fitted.thresholds) == {layer_set(subset) for subset in subsets}


def test_the_same_scores_give_the_same_fusion(fitted: Fusion) -> None:
    assert fit_fusion(*unseen()) == fitted


def test_one_layer_alone_has_all_of_it() -> None:
    odds, families, is_known = unseen()

    fusion = fit_fusion({"anomaly": odds["anomaly"]}, families, is_known)

    assert fusion.shares == {"anomaly": 1.0}
    assert set(fusion.thresholds) == {"anomaly"}


def test_the_fitted_fusion_finds_most_attacks_and_few_others_on_fresh_events(
    fitted: Fusion,
) -> None:
    odds, families, _ = unseen(seed=9)
    above = (
        fitted.pooled(odds) > log_odds(np.array([fitted.thresholds[layer_set(odds)].suspicious]))[0]
    )

    assert above[families != BENIGN].mean() > 0.5
    assert above[families == BENIGN].mean() < 0.05


@pytest.mark.parametrize("draw", DISTRIBUTIONS)
def test_thresholds_hold_their_rates_on_unseen_events(
    draw: Callable[[np.random.Generator, int], np.ndarray],
) -> None:
    """1 % and 0.1 % of fresh benign events, within the chance of both samples."""
    size, judged = 4000, 200_000
    limits = fit_thresholds(draw(np.random.default_rng(1), size), RATES)
    fresh = 1 / (1 + np.exp(-draw(np.random.default_rng(2), judged)))

    for threshold, rate in zip((limits.suspicious, limits.malicious), RATES, strict=False):
        highest = (
            binom.isf(ONE_IN_A_MILLION, size, rate) / size
        )  # the rate that the small sample may have mistaken for `rate`
        lowest = binom.ppf(ONE_IN_A_MILLION, size, rate) / size
        assert lowest <= np.mean(fresh > threshold) <= highest + 1e-3 * rate


@pytest.mark.parametrize("size", [100, 101, 999, 1000, 1001, 12_345])
def test_at_most_the_stated_share_of_the_validation_events_exceeds_a_threshold(size: int) -> None:
    """The threshold is the k-th largest of n events, with k / (n + 1) within the rate."""
    benign = np.random.default_rng(size).normal(size=size) - 5
    limits = fit_thresholds(benign, RATES)
    scores = 1 / (1 + np.exp(-benign))

    for threshold, rate in zip(
        (limits.suspicious, limits.malicious, limits.critical), RATES, strict=True
    ):
        above = np.sum(scores > threshold * (1 + 1e-12))
        assert above <= rate * size
        assert above == max(0, int(rate * (size + 1)) - 1)


def test_a_new_benign_event_exceeds_a_threshold_no_more_often_than_promised() -> None:
    """On average over many samples of 200: one rank less would be 1.5 % instead of 1 %."""
    generator = np.random.default_rng(4)
    exceeded = []
    for _ in range(400):
        chances = generator.uniform(
            size=200
        )  # scores that are uniform: a threshold t is exceeded by 1 - t
        exceeded.append(1 - fit_thresholds(np.log(chances) - np.log1p(-chances), RATES).suspicious)

    assert np.mean(exceeded) == pytest.approx(2 / 201, abs=0.0015)


def test_the_threshold_of_a_small_rate_is_beyond_all_events() -> None:
    """One in ten thousand of 500 flows is extrapolated from the tail, above the highest flow."""
    benign = np.random.default_rng(3).normal(size=500) - 5
    limits = fit_thresholds(benign, RATES)
    highest = 1 / (1 + np.exp(-benign.max()))

    assert highest < limits.malicious < limits.critical < 1.0


def test_many_equal_scores_make_equal_thresholds_and_no_error() -> None:
    limits = fit_thresholds(np.full(1000, -6.0), RATES)

    assert limits.suspicious <= limits.malicious <= limits.critical


@pytest.mark.parametrize(
    "loudest",
    [
        pytest.param(37.8, id="sharpness 4, both layers at the top"),
        pytest.param(35.0, id="tail beyond the top"),
    ],
)
def test_benign_events_at_the_very_top_set_thresholds_below_1(loudest: float) -> None:
    """A network may have a few flows that every layer calls hostile; training must succeed."""
    limits = fit_thresholds(np.r_[np.full(290, -6.0), np.full(10, loudest)], RATES)

    assert limits.suspicious <= limits.malicious <= limits.critical < 1.0


def test_too_few_benign_events_set_no_threshold() -> None:
    """1 % of 99 events is none."""
    with pytest.raises(TrainingError, match="99 benign"):
        fit_thresholds(np.zeros(99), RATES)


def test_new_thresholds_change_nothing_else_of_the_fusion(fitted: Fusion) -> None:
    """`axon calibrate` changes the thresholds, not the shares."""
    odds, families, _ = unseen(seed=5)
    louder = {layer: column[families == BENIGN] + 2 for layer, column in odds.items()}

    moved = with_thresholds(fitted, louder, RATES)

    assert (moved.shares, moved.sharpness, moved.source) == (
        fitted.shares,
        fitted.sharpness,
        fitted.source,
    )
    assert all(
        moved.thresholds[key].suspicious > fitted.thresholds[key].suspicious
        for key in fitted.thresholds
    )
