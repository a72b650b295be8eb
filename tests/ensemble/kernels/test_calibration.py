"""Calibration: raw scores to log-odds, monotone and bounded for any raw score (promise 11)."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import ArtifactIncompatible
from ensemble.kernels.calibration import (
    LOG_ODDS_LIMIT,
    PRIOR_LOG_ODDS,
    Calibration,
    Surprise,
    log_odds,
    probability,
)

RAW = st.floats(-1e12, 1e12)


@st.composite
def knots(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Strictly rising x and never falling y, two to nine of them."""
    steps = draw(st.lists(st.tuples(st.floats(1e-3, 10), st.floats(0, 10)), min_size=1, max_size=8))
    start = draw(st.tuples(st.floats(-100, 100), st.floats(-20, 20)))
    x, y = np.cumsum([start, *steps], axis=0).T
    return x, y


CALIBRATIONS = knots().map(lambda k: Calibration(*k))
SURPRISES = knots().map(lambda k: Surprise(*k))


@given(CALIBRATIONS, st.lists(RAW, min_size=2, max_size=20))
def test_a_calibrated_score_never_falls_when_the_raw_score_rises(
    calibration: Calibration, raw: list[float]
) -> None:
    """P11."""
    scores = calibration.apply(np.sort(raw))

    assert (np.diff(scores) >= -1e-12).all()


@given(CALIBRATIONS, st.lists(RAW, min_size=1, max_size=20))
def test_a_calibrated_score_is_finite_and_clipped(
    calibration: Calibration, raw: list[float]
) -> None:
    """P11; DESIGN: log-odds clipped at +-6, so p is in [0.0025, 0.9975]."""
    odds, scores = calibration.to_log_odds(np.array(raw)), calibration.apply(np.array(raw))

    assert (np.abs(odds) <= LOG_ODDS_LIMIT).all()
    assert ((scores >= 0.00247) & (scores <= 0.99753)).all()


@given(CALIBRATIONS)
def test_the_line_goes_through_its_knots(calibration: Calibration) -> None:
    inside = np.abs(calibration.log_odds) <= LOG_ODDS_LIMIT

    assert calibration.to_log_odds(calibration.raw)[inside] == pytest.approx(
        calibration.log_odds[inside], abs=1e-9
    )


def test_beyond_the_last_knots_the_line_is_straight() -> None:
    """With a flat end, the most anomalous events would all have one score."""
    calibration = Calibration(np.array([0.0, 1.0, 2.0]), np.array([-4.0, -3.5, -2.5]))

    assert calibration.to_log_odds(np.array([-1.0, 4.0])).tolist() == pytest.approx([-4.5, -0.5])


@given(CALIBRATIONS, st.lists(RAW, min_size=1, max_size=20))
def test_a_score_does_not_depend_on_what_it_is_scored_with(
    calibration: Calibration, raw: list[float]
) -> None:
    """P15: bit-equal, because nothing is summed."""
    together = calibration.apply(np.array(raw))

    assert [calibration.apply(np.array([one]))[0] for one in raw] == together.tolist()


@given(CALIBRATIONS, SURPRISES)
def test_calibration_and_surprise_come_back_from_json_equal(
    calibration: Calibration, surprise: Surprise
) -> None:
    again = Calibration.from_config(json.loads(json.dumps(calibration.to_config())))
    scale = Surprise.from_config(json.loads(json.dumps(surprise.to_config())))

    assert np.array_equal(again.raw, calibration.raw)
    assert np.array_equal(again.log_odds, calibration.log_odds)
    assert np.array_equal(scale.raw, surprise.raw)
    assert np.array_equal(scale.nats, surprise.nats)


@given(SURPRISES, st.lists(RAW, min_size=2, max_size=20))
def test_surprise_never_falls_and_is_never_below_0(surprise: Surprise, raw: list[float]) -> None:
    nats = surprise.of(np.sort(raw))

    assert (nats >= 0.0).all()
    assert (np.diff(nats) >= -1e-9 * np.abs(nats[1:])).all()


@given(st.lists(st.floats(-LOG_ODDS_LIMIT, LOG_ODDS_LIMIT), min_size=1))
def test_log_odds_and_probability_undo_each_other(odds: list[float]) -> None:
    assert log_odds(probability(np.array(odds))) == pytest.approx(np.array(odds), abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1))
def test_log_odds_of_any_score_are_finite(scores: list[float]) -> None:
    """A fallback that displays 0.0 must not become minus infinity."""
    assert (np.abs(log_odds(np.array(scores))) <= LOG_ODDS_LIMIT).all()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_probability_of_any_finite_log_odds_is_one(odds: float) -> None:
    assert 0.0 <= probability(np.array([odds]))[0] <= 1.0


def test_the_reference_prior_is_one_in_a_hundred() -> None:
    assert probability(np.array([PRIOR_LOG_ODDS]))[0] == pytest.approx(0.01)


REFUSED = [
    pytest.param([0.0], [0.0], id="one knot"),
    pytest.param([], [], id="no knot"),
    pytest.param([0.0, 1.0], [0.0], id="a value short"),
    pytest.param([[0.0, 1.0]], [[0.0, 1.0]], id="two dimensions"),
    pytest.param([0.0, 0.0], [0.0, 1.0], id="two values at one place"),
    pytest.param([1.0, 0.0], [0.0, 1.0], id="places that fall"),
    pytest.param([0.0, 1.0], [1.0, 0.0], id="values that fall"),
    pytest.param([0.0, np.nan], [0.0, 1.0], id="a place of NaN"),
    pytest.param([0.0, 1.0], [0.0, np.nan], id="a value of NaN"),
    pytest.param([0.0, np.inf], [0.0, 1.0], id="an infinite place"),
    pytest.param(["a", "b"], [0.0, 1.0], id="words"),
    pytest.param(None, [0.0, 1.0], id="nothing"),
    pytest.param([[0.0], [1.0, 2.0]], [0.0, 1.0], id="ragged"),
]


@pytest.mark.parametrize(("x", "y"), REFUSED)
def test_knots_that_do_not_rise_are_rejected(x: object, y: object) -> None:
    """A falling calibration would call the worst events benign."""
    with pytest.raises(ArtifactIncompatible):
        Calibration.from_config({"raw": x, "log_odds": y})
    with pytest.raises(ArtifactIncompatible):
        Surprise.from_config({"raw": x, "nats": y})


def test_a_calibration_without_its_knots_is_refused() -> None:
    with pytest.raises(ArtifactIncompatible):
        Calibration.from_config({})


def test_knots_too_close_for_a_finite_slope_are_refused() -> None:
    """An infinite slope times 0 is NaN: one hostile knot would spoil all scores of the layer."""
    with np.errstate(all="ignore"), pytest.raises(ArtifactIncompatible):
        Calibration.from_config({"raw": [0.0, 5e-324, 1.0], "log_odds": [0.0, 1.0, 2.0]})
