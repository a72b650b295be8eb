"""Metrics of separation, compared with scikit-learn, scipy and simple counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, roc_auc_score

from ensemble.training.metrics import (
    _auroc,
    false_positive_interval,
    paired_bootstrap,
    separation,
    tpr_at_fpr,
)

SCORES = st.lists(st.integers(0, 12).map(lambda i: i / 12), min_size=1, max_size=60).map(
    np.array
)  # many ties


@given(SCORES, SCORES, st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5]))
def test_the_true_positive_rate_is_that_of_the_best_allowed_threshold(
    benign: np.ndarray, hostile: np.ndarray, rate: float
) -> None:
    """Of all thresholds that at most `rate` of the benign events exceed, the best one."""
    allowed = [t for t in [*np.unique(benign), -1.0] if np.mean(benign > t) <= rate]

    assert tpr_at_fpr(benign, hostile, rate) == max(np.mean(hostile > t) for t in allowed)


@given(SCORES, SCORES)
def test_the_areas_are_those_of_scikit_learn(benign: np.ndarray, hostile: np.ndarray) -> None:
    truth, scores = np.repeat([0, 1], [benign.size, hostile.size]), np.r_[benign, hostile]

    figures = separation(benign, hostile)

    assert figures.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert figures.auprc == pytest.approx(average_precision_score(truth, scores))
    assert (figures.benign, figures.hostile) == (benign.size, hostile.size)
    assert _auroc(benign, hostile) == pytest.approx(figures.auroc)


def test_the_area_counts_pairs_and_ties_by_half() -> None:
    """The count of Mann and Whitney, by hand."""
    benign, hostile = np.array([0.1, 0.4, 0.4]), np.array([0.4, 0.9])

    assert _auroc(benign, hostile) == pytest.approx((2 + 2 * 0.5 - 1 + 3 - 1 + 1) / 6)


@given(
    st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.8, 0.95, 0.99]),
)
def test_the_interval_of_a_rate_is_wilsons(counts: tuple[int, int], level: float) -> None:
    wilson = binomtest(*counts).proportion_ci(level, method="wilson")

    assert false_positive_interval(*counts, level=level) == pytest.approx(
        (wilson.low, wilson.high), abs=1e-9
    )


def two_families(
    gap: float,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Scores of 80 benign and 40 hostile events a family; the first separates by `gap` more."""
    generator = np.random.default_rng(0)
    benign, hostile = {}, {}
    for family in ("Flood", "Scan"):
        calm, loud = generator.normal(size=80), generator.normal(1.0, size=40)
        benign[family], hostile[family] = (calm, calm), (loud + gap, loud)
    return benign, hostile


def test_a_score_is_no_better_than_itself() -> None:
    """Both scores use the same draw; otherwise the interval around 0 would have a width."""
    found = paired_bootstrap(*two_families(0.0), rounds=30, seed=1)

    assert found == {"auroc": (0.0, 0.0, 0.0), "tpr_at_1_fpr": (0.0, 0.0, 0.0)}


def test_a_better_score_has_an_interval_above_zero() -> None:
    mean, low, high = paired_bootstrap(*two_families(1.0), rounds=200, seed=1)["auroc"]

    assert 0.0 < low <= mean <= high


def test_the_mean_difference_is_that_of_the_data_as_they_are() -> None:
    benign, hostile = two_families(1.0)
    expected = np.mean(
        [
            separation(benign[f][0], hostile[f][0]).auroc
            - separation(benign[f][1], hostile[f][1]).auroc
            for f in hostile
        ]
    )

    assert paired_bootstrap(benign, hostile, rounds=5, seed=1)["auroc"][0] == pytest.approx(
        expected
    )


def test_the_same_seed_gives_the_same_interval() -> None:
    assert paired_bootstrap(*two_families(0.3), rounds=20, seed=4) == paired_bootstrap(
        *two_families(0.3), rounds=20, seed=4
    )
    assert paired_bootstrap(*two_families(0.3), rounds=20, seed=4) != paired_bootstrap(
        *two_families(0.3), rounds=20, seed=5
    )
