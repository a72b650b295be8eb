"""Fit of a calibration: what it recovers from known distributions, and what it rejects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.errors import TrainingError
from ensemble.kernels.calibration import PRIOR_LOG_ODDS
from ensemble.training.data.flow_table import BENIGN
from ensemble.training.fit.calibration import (
    event_weights,
    family_weights,
    fit_calibration,
    fit_surprise,
    weighted_log_loss,
)

# of the hostile exponential; benign has 1, so the true log-odds are prior + log(RATE) + (1 - RATE)
# * raw
RATE = 0.25


def drawn(benign: int, hostile: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Raw scores with a known calibration: exponential, benign with mean 1, hostile with mean 4."""
    generator = np.random.default_rng(seed)
    return generator.exponential(1.0, benign), generator.exponential(1.0 / RATE, hostile)


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(13_500, id="87 % hostile"),
        pytest.param(2_000, id="half"),
        pytest.param(400, id="17 %"),
    ],
)
def test_the_reference_prior_is_recovered_whatever_the_share_of_attacks_in_the_data(
    hostile: int,
) -> None:
    """DESIGN: the reference is 1 % hostile, the data here 87 %.

    The true calibration is a straight line.
    """
    calibration = fit_calibration(*drawn(2_000, hostile))

    raw = np.array([0.5, 1.0, 2.0, 3.0, 5.0])
    assert calibration.to_log_odds(raw) == pytest.approx(
        PRIOR_LOG_ODDS + np.log(RATE) + (1 - RATE) * raw, abs=0.35
    )


def test_counting_every_attack_ten_times_changes_nothing() -> None:
    benign, hostile = drawn(500, 50)

    once, often = fit_calibration(benign, hostile), fit_calibration(benign, np.tile(hostile, 10))

    assert often.log_odds == pytest.approx(once.log_odds, abs=1e-3)


def test_a_layer_without_evidence_gives_the_prior() -> None:
    """Hostile events that look benign are no evidence, in either direction."""
    generator = np.random.default_rng(1)

    calibration = fit_calibration(generator.normal(size=2000), generator.normal(size=2000))

    assert calibration.to_log_odds(np.array([-1.0, 0.0, 1.0])) == pytest.approx(
        PRIOR_LOG_ODDS, abs=0.3
    )


def test_a_layer_with_the_wrong_direction_is_not_inverted() -> None:
    """Calibrations are monotone: such a layer gets a slope near 0."""
    calibration = fit_calibration(
        np.random.default_rng(2).normal(3, 1, 500), np.random.default_rng(3).normal(0, 1, 500)
    )

    assert (np.diff(calibration.log_odds) >= 0).all()
    assert np.ptp(calibration.to_log_odds(np.array([0.0, 5.0]))) < 1.0


def test_a_perfect_layer_stays_finite() -> None:
    calibration = fit_calibration(
        np.random.default_rng(4).normal(0, 1, 200), np.random.default_rng(5).normal(100, 1, 200)
    )

    assert np.isfinite(calibration.log_odds).all()
    assert calibration.to_log_odds(np.array([100.0]))[0] == 6.0


def test_surprise_is_the_log_of_the_share_that_scores_as_high() -> None:
    """For an exponential of mean 1 that share is exp(-raw), so surprise is the raw score."""
    surprise = fit_surprise(drawn(20_000, 1)[0])

    raw = np.array([0.1, 0.5, 1.0, 2.0, 4.0])
    assert surprise.of(raw) == pytest.approx(raw, abs=0.1)
    assert surprise.of(np.array([20.0]))[0] == pytest.approx(20.0, rel=0.25), (
        "beyond the data the tail goes straight on"
    )


@given(
    arrays(
        np.float64,
        st.integers(20, 200),
        elements=st.integers(-(10**9), 10**9).map(lambda i: i / 1000),
        unique=True,
    )
)
def test_the_scale_rises_and_is_finite_for_any_benign_scores(benign: np.ndarray) -> None:
    surprise = fit_surprise(benign)

    assert (np.diff(surprise.raw) > 0).all()
    assert np.isfinite(surprise.of(np.array([benign.min() - 1, benign.max() + 1]))).all()


def test_rounding_of_the_raw_score_is_no_surprise() -> None:
    """P15: alone or in a batch, raw scores differ by 1e-13, which must not become visible."""
    generator = np.random.default_rng(6)
    benign = np.where(
        generator.random(300) < 0.7,
        -3.5 + generator.normal(0, 1e-14, 300),
        generator.normal(-3, 0.2, 300),
    )
    surprise = fit_surprise(benign)

    assert surprise.of(benign + 1e-13) == pytest.approx(surprise.of(benign), abs=1e-6)


def test_one_outlier_does_not_set_the_scale() -> None:
    """The highest benign score is chance.

    It is in the straight tail, beyond the last knot of the data.
    """
    benign = drawn(400, 1)[0]
    extreme = benign.copy()
    extreme[benign.argmax()] = 1e6

    assert fit_surprise(extreme).of(np.array([1.0, 3.0])) == pytest.approx(
        fit_surprise(benign).of(np.array([1.0, 3.0]))
    )


@pytest.mark.parametrize(
    ("benign", "hostile", "message"),
    [
        pytest.param(np.arange(19.0), np.ones(5), "19 benign events", id="too few benign"),
        pytest.param(np.arange(100.0), np.empty(0), "no hostile", id="no hostile"),
        pytest.param(np.ones(100), np.ones(5), "same raw score", id="all alike"),
    ],
)
def test_scores_that_do_not_suffice_are_rejected(
    benign: np.ndarray, hostile: np.ndarray, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        fit_calibration(benign, hostile)


def test_every_family_counts_alike() -> None:
    """A flood of ten thousand flows must not outweigh six flows of Heartbleed."""
    weights = family_weights(np.array(["Flood"] * 98 + ["Heartbleed"] * 2))

    assert weights[:98].sum() == pytest.approx(0.5)
    assert weights[98:].sum() == pytest.approx(0.5)


@given(
    st.lists(st.sampled_from([BENIGN, "Flood", "Scan"]), min_size=2).filter(
        lambda f: BENIGN in f and set(f) != {BENIGN}
    )
)
def test_benign_events_weigh_99_percent_together(families: list[str]) -> None:
    labels = np.array(families)
    weights = event_weights(labels)

    assert weights[labels == BENIGN].sum() == pytest.approx(0.99)
    assert weights[labels != BENIGN].sum() == pytest.approx(0.01)


KNOWN = [
    pytest.param([False, False, True, True], 0.25, id="both kinds"),
    pytest.param([False, False, False, False], 0.0, id="none known"),
    pytest.param([False, True, True, True], 1.0, id="all known"),
]


@pytest.mark.parametrize(("is_known", "share"), KNOWN)
def test_known_families_have_their_stated_share_of_the_hostile_weight(
    is_known: list[bool], share: float
) -> None:
    weights = event_weights(np.array([BENIGN, "Flood", "Scan", "Scan"]), np.array(is_known), 0.25)

    assert weights[np.array(is_known)].sum() == pytest.approx(0.01 * share)
    assert weights.sum() == pytest.approx(1.0)


@given(st.lists(st.tuples(st.floats(-6, 6), st.booleans()), min_size=1))
def test_the_loss_is_the_logarithmic_one(events: list[tuple[float, bool]]) -> None:
    odds, truth = (np.array(column) for column in zip(*events, strict=True))
    chance = 1 / (1 + np.exp(-odds))
    weights = np.full(odds.size, 1 / odds.size)

    assert weighted_log_loss(odds, truth.astype(bool), weights) == pytest.approx(
        -np.log(np.where(truth, chance, 1 - chance)).mean()
    )
