"""Flow scaler: order preserved, benign traffic centred, nothing out of bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import ArtifactIncompatible
from ensemble.features.flow import UNUSED
from ensemble.features.flow_scaler import FlowScaler, tame
from ensemble.training.data.flow_table import FlowTable

FLOAT32 = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture(scope="module")
def benign(make_flows: Callable[..., FlowTable]) -> np.ndarray:
    return make_flows(benign=400, families={}, seed=1).features


@pytest.fixture(scope="module")
def scaler(benign: np.ndarray) -> FlowScaler:
    return FlowScaler.fit(benign, limit=5.0, least_spread=1e-3)


@given(FLOAT32, FLOAT32)
def test_taming_keeps_order_and_sign(one: float, other: float) -> None:
    low, high = sorted([one, other])

    tamed = tame(np.array([low, high], np.float32))

    assert tamed[0] <= tamed[1]
    assert np.sign(tamed).tolist() == np.sign([low, high]).tolist()


def test_benign_traffic_is_centred_and_of_unit_spread(
    scaler: FlowScaler, benign: np.ndarray
) -> None:
    """Before clipping, every varying feature has mean 0 and spread 1 among the fitted flows."""
    scaled = replace(scaler, limit=1e6).scale(benign).astype(np.float64)
    varies = tame(benign[:, scaler.positions]).std(axis=0) >= 1e-3

    assert scaled.mean(axis=0) == pytest.approx(0.0, abs=1e-4)
    assert scaled.std(axis=0)[varies] == pytest.approx(1.0, abs=1e-3)


def test_a_constant_feature_is_not_divided(scaler: FlowScaler, benign: np.ndarray) -> None:
    """Divided by a spread of 0, the first different flow would be infinitely anomalous."""
    constant = tame(benign[:, scaler.positions]).std(axis=0) < 1e-3

    assert constant.any()
    assert (scaler.spread[constant] == 1.0).all()


@given(st.lists(FLOAT32, min_size=78, max_size=78))
def test_one_absurd_value_cannot_leave_the_bounds(scaler: FlowScaler, values: list[float]) -> None:
    scaled = scaler.scale(np.array([values], np.float32))

    assert scaled.shape == (1, 76)
    assert scaled.dtype == np.float32
    assert (np.abs(scaled) <= 5.0).all()


def test_features_that_shipped_models_do_not_read_change_nothing(
    scaler: FlowScaler, benign: np.ndarray
) -> None:
    moved = benign.copy()
    moved[:, [0, 55]] = 31337.0

    assert np.array_equal(scaler.scale(moved), scaler.scale(benign))
    assert not set(scaler.names) & set(UNUSED)


def test_a_flow_scales_the_same_alone_as_in_a_batch(scaler: FlowScaler, benign: np.ndarray) -> None:
    """P15."""
    together = scaler.scale(benign)

    assert all(np.array_equal(scaler.scale(benign[i : i + 1])[0], together[i]) for i in range(20))


def test_scaling_does_not_write_into_the_flows(scaler: FlowScaler, benign: np.ndarray) -> None:
    before = benign.copy()

    scaler.scale(benign)

    assert np.array_equal(benign, before)


def test_a_scaler_comes_back_from_its_arrays_equal(scaler: FlowScaler, benign: np.ndarray) -> None:
    again = FlowScaler.from_arrays(scaler.to_arrays(), scaler.limit)

    assert np.array_equal(again.scale(benign), scaler.scale(benign))


def _first(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][0] = value

    return change


HOSTILE = [
    pytest.param(lambda a: a.pop("scaler.centre"), 5.0, id="no centre"),
    pytest.param(
        lambda a: a.update({"scaler.centre": a["scaler.centre"][:-1]}), 5.0, id="a centre short"
    ),
    pytest.param(
        lambda a: a.update({"scaler.spread": a["scaler.spread"][:, None]}),
        5.0,
        id="spread of another shape",
    ),
    pytest.param(
        lambda a: a.update({name: a[name][:0] for name in list(a)}), 5.0, id="no feature at all"
    ),
    pytest.param(_first("scaler.positions", -1), 5.0, id="position below 0"),
    pytest.param(
        lambda a: a.update({"scaler.positions": a["scaler.positions"] + 2}), 5.0, id="position 79"
    ),
    pytest.param(
        lambda a: a.update({"scaler.positions": a["scaler.positions"][::-1]}),
        5.0,
        id="positions that fall",
    ),
    pytest.param(_first("scaler.spread", 0.0), 5.0, id="spread 0"),
    pytest.param(_first("scaler.spread", np.nan), 5.0, id="spread NaN"),
    pytest.param(_first("scaler.spread", np.inf), 5.0, id="spread infinite"),
    pytest.param(_first("scaler.centre", np.nan), 5.0, id="centre NaN"),
    pytest.param(lambda _: None, 0.0, id="limit 0"),
    pytest.param(lambda _: None, np.inf, id="no limit"),
    pytest.param(lambda _: None, np.nan, id="limit NaN"),
    pytest.param(lambda _: None, "5", id="limit in words"),
    pytest.param(lambda _: None, None, id="limit missing"),
]


@pytest.mark.parametrize(("spoil", "limit"), HOSTILE)
def test_an_invalid_scaler_is_rejected(
    scaler: FlowScaler, spoil: Callable[[dict[str, Any]], object], limit: object
) -> None:
    """A value of a hostile file must not become an index or a divisor."""
    arrays = dict(scaler.to_arrays())
    spoil(arrays)

    with pytest.raises(ArtifactIncompatible):
        FlowScaler.from_arrays(arrays, limit)


def test_positions_of_another_shape_are_refused(scaler: FlowScaler) -> None:
    """A 2 x 38 array has 76 positions too, but would give rows of matrices."""
    arrays = dict(scaler.to_arrays())
    arrays["scaler.positions"] = arrays["scaler.positions"].reshape(2, 38)

    with pytest.raises(ArtifactIncompatible):
        FlowScaler.from_arrays(arrays, 5.0)
