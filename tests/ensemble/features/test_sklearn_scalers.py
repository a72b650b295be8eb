"""Scalers of scikit-learn: equal results as arrays, and invalid ones are rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import yeojohnson

from ensemble.errors import ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES
from ensemble.features.flow_scaler import FlowScaler
from ensemble.features.sklearn_scalers import PlainScaler, scaler_of, yeo_johnson


@pytest.fixture
def scaler() -> PlainScaler:
    return PlainScaler(
        np.array([5, 1, 77]),
        np.array([1.0, -2.0, 0.0]),
        np.array([2.0, 0.5, 1e-9]),
        np.array([1.0, 0.0, 1.5]),
        1e6,
    )


@pytest.mark.parametrize("power", [-1.0, 0.0, 1e-7, 0.5, 1.0, 2.0, 2.0 - 1e-7, 3.0])
def test_the_power_transform_is_that_of_yeo_and_johnson(power: float) -> None:
    values = np.array([-40.0, -1.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1e6])

    ours = yeo_johnson(values[:, None], np.array([power]))[:, 0]

    assert np.allclose(ours, yeojohnson(values, lmbda=power), rtol=1e-9, atol=1e-12)


def test_features_are_read_in_the_order_of_the_model(scaler: PlainScaler) -> None:
    rows = np.arange(78, dtype=np.float32)[None]

    assert scaler.names == (FEATURE_NAMES[5], FEATURE_NAMES[1], FEATURE_NAMES[77])
    assert scaler.scale(rows)[0, 0] == pytest.approx((5 - 1) / 2)
    assert scaler.scale(rows)[0, 1] == pytest.approx((np.log(2) + 2) / 0.5)


def test_values_beyond_float32_are_clipped(scaler: PlainScaler) -> None:
    """Infinity less infinity would be NaN two layers later."""
    rows = np.full((1, 78), np.finfo(np.float32).max, np.float32)

    assert (np.abs(scaler.scale(rows)) <= 1e6).all()
    assert (np.abs(scaler.scale(-rows)) <= 1e6).all()


def test_a_scaler_has_the_same_kind_after_a_bundle(scaler: PlainScaler) -> None:
    rows = np.random.default_rng(0).normal(size=(9, 78)).astype(np.float32)
    shipped = FlowScaler.fit(rows, limit=5.0, least_spread=1e-3)

    for one in (scaler, shipped, PlainScaler.identity(np.arange(78))):
        again = scaler_of(one.to_arrays(), one.to_config())
        assert type(again) is type(one)
        assert (again.scale(rows) == one.scale(rows)).all()


SPOILT: list[Any] = [
    pytest.param("positions", np.array([1, 1, 2]), id="a feature twice"),
    pytest.param("positions", np.array([1, 2, 78]), id="a feature too many"),
    pytest.param("positions", np.array([[1, 2, 3]]), id="another shape"),
    pytest.param("centre", np.array([0.0, np.nan, 0.0]), id="a centre that is no number"),
    pytest.param("centre", np.zeros(2), id="a centre too few"),
    pytest.param("spread", np.array([1.0, 0.0, 1.0]), id="a spread of 0"),
    pytest.param("spread", np.array([1.0, np.inf, 1.0]), id="an infinite spread"),
    pytest.param("powers", np.array([1.0, np.inf, 1.0]), id="an infinite power"),
]


@pytest.mark.parametrize(("name", "value"), SPOILT)
def test_an_invalid_scaler_is_rejected(scaler: PlainScaler, name: str, value: np.ndarray) -> None:
    arrays = scaler.to_arrays() | {f"scaler.{name}": value}

    with pytest.raises(ArtifactIncompatible):
        PlainScaler.from_arrays(arrays, 1e6)


def test_a_scaler_without_one_of_its_arrays_is_refused(scaler: PlainScaler) -> None:
    for name in scaler.to_arrays():
        with pytest.raises(ArtifactIncompatible):
            PlainScaler.from_arrays(
                {key: value for key, value in scaler.to_arrays().items() if key != name}, 1e6
            )


@pytest.mark.parametrize("limit", [None, "1", 0.0, -1.0, float("inf"), float("nan"), 1e39])
def test_a_limit_beyond_float32_is_rejected(scaler: PlainScaler, limit: object) -> None:
    with pytest.raises(ArtifactIncompatible):
        PlainScaler.from_arrays(scaler.to_arrays(), limit)
