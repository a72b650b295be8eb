"""Isolation forest as arrays: the scores of scikit-learn, and invalid arrays are rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest

from ensemble.errors import ArtifactIncompatible
from ensemble.kernels import isolation_forest as forest_module
from ensemble.kernels.isolation_forest import Forest


def rows_of(count: int, seed: int, columns: int = 6) -> np.ndarray:
    """float32 rows with many equal values, like counts and flags."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, columns))
    rows[:, 0] = generator.integers(0, 3, count)
    return rows.astype(np.float32)


def sklearn_forest(**settings: Any) -> IsolationForest:
    return IsolationForest(**({"n_estimators": 15, "random_state": 7} | settings)).fit(
        rows_of(400, seed=1)
    )


def obvious_scores(fitted: IsolationForest, rows: np.ndarray) -> np.ndarray:
    """Equation 2 of the paper, one row, one tree and one cut at a time."""

    def expected_cuts(samples: int) -> float:
        if samples <= 1:
            return 0.0
        if samples == 2:
            return 1.0
        return 2.0 * (np.log(samples - 1.0) + np.euler_gamma) - 2.0 * (samples - 1.0) / samples

    scores = []
    for row in rows:
        cuts = 0.0
        for estimator, columns in zip(fitted.estimators_, fitted.estimators_features_, strict=True):
            tree, node = estimator.tree_, 0
            while tree.children_left[node] != -1:
                goes_left = float(row[columns[tree.feature[node]]]) <= tree.threshold[node]
                node = tree.children_left[node] if goes_left else tree.children_right[node]
                cuts += 1
            cuts += expected_cuts(int(tree.n_node_samples[node]))
        scores.append(2.0 ** (-cuts / len(fitted.estimators_) / expected_cuts(fitted.max_samples_)))
    return np.array(scores)


FITTED = [
    pytest.param({}, id="256 samples"),
    pytest.param({"max_samples": 2}, id="2 samples a tree"),
    pytest.param({"max_samples": 3}, id="3 samples a tree"),
    pytest.param({"max_samples": 17}, id="17 samples a tree"),
    pytest.param({"max_features": 0.5}, id="half of the columns a tree"),
    pytest.param({"n_estimators": 1}, id="one tree"),
    pytest.param({"bootstrap": True}, id="drawn with replacement"),
]


@pytest.mark.parametrize("settings", FITTED)
def test_scores_are_the_negative_of_scikit_learns(settings: dict[str, Any]) -> None:
    """STYLE: higher is worse. The tolerance is that of DESIGN, decision 12."""
    fitted, rows = sklearn_forest(**settings), rows_of(300, seed=2)

    found = Forest.from_sklearn(fitted).score_samples(rows)

    assert found == pytest.approx(-fitted.score_samples(rows), abs=1e-6)


def test_scores_are_those_of_the_oracle() -> None:
    """An oracle that does not depend on scikit-learn."""
    fitted, rows = sklearn_forest(), rows_of(40, seed=3)

    assert Forest.from_sklearn(fitted).score_samples(rows) == pytest.approx(
        obvious_scores(fitted, rows), abs=1e-9
    )


def test_a_value_exactly_on_a_cut_goes_the_same_way() -> None:
    """Cuts are float64 in scikit-learn and float32 here: they must be rounded down."""
    fitted = sklearn_forest()
    rows = rows_of(1, seed=4).repeat(600, axis=0)
    cuts = [
        (c[t.feature[n]], t.threshold[n])
        for t, c in _trees(fitted)
        for n in range(t.node_count)
        if t.children_left[n] != -1
    ][:200]
    for number, (column, cut) in enumerate(cuts):
        nearest = np.float32(cut)
        around = (
            nearest,
            np.nextafter(nearest, np.float32(np.inf)),
            np.nextafter(nearest, np.float32(-np.inf)),
        )
        rows[3 * number : 3 * number + 3, column] = around

    found = Forest.from_sklearn(fitted).score_samples(rows)

    assert found == pytest.approx(-fitted.score_samples(rows), abs=1e-6)


def test_trees_of_a_single_node_score_every_row_alike() -> None:
    """A forest over constant rows: no cut, and still a heap."""
    fitted = IsolationForest(n_estimators=5, random_state=0).fit(np.ones((300, 4), np.float32))

    found = Forest.from_sklearn(fitted).score_samples(rows_of(10, seed=5, columns=4))

    assert found == pytest.approx(-fitted.score_samples(rows_of(10, seed=5, columns=4)), abs=1e-6)


def test_no_row_is_no_error() -> None:
    assert Forest.from_sklearn(sklearn_forest()).score_samples(
        np.empty((0, 6), np.float32)
    ).shape == (0,)


@given(st.integers(1, 40))
def test_the_size_of_the_working_set_changes_nothing(pairs: int) -> None:
    """P15: rows are traversed in parts; their boundaries must not matter."""
    forest, rows = Forest.from_sklearn(sklearn_forest(n_estimators=5)), rows_of(20, seed=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forest_module, "PAIRS_AT_ONCE", pairs)
        chunked = forest.score_samples(rows)

    assert np.array_equal(chunked, forest.score_samples(rows))


def test_a_row_scores_the_same_alone_and_from_a_strided_array() -> None:
    forest, rows = Forest.from_sklearn(sklearn_forest()), rows_of(30, seed=7)
    together = forest.score_samples(rows)

    assert [forest.score_samples(row[None])[0] for row in rows] == pytest.approx(
        together.tolist(), abs=1e-12
    )
    assert np.array_equal(forest.score_samples(np.asfortranarray(rows)), together)


def test_scores_lie_above_0_and_up_to_1() -> None:
    scores = Forest.from_sklearn(sklearn_forest()).score_samples(rows_of(300, seed=8) * 1e3)

    assert ((scores > 0.0) & (scores <= 1.0)).all()


def test_a_forest_comes_back_from_its_arrays_equal() -> None:
    forest, rows = Forest.from_sklearn(sklearn_forest()), rows_of(30, seed=9)

    again = Forest.from_arrays(forest.to_arrays(), 6)

    assert np.array_equal(again.score_samples(rows), forest.score_samples(rows))


def test_a_forest_deeper_than_a_heap_may_be_is_refused() -> None:
    """A complete heap doubles with every level: a degenerate tree would need terabytes."""
    with pytest.raises(ArtifactIncompatible, match="depth"):
        Forest.from_sklearn(
            IsolationForest(n_estimators=1, max_samples=1.0, random_state=0).fit(
                rows_of(9000, seed=10)
            )
        )


def _put(name: str, value: float) -> Callable[[dict[str, Any]], object]:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name].flat[-1] = value

    return change


HOSTILE = [
    pytest.param(lambda a: a.pop("threshold"), id="an array is missing"),
    pytest.param(_put("feature", 6), id="column past the end"),
    pytest.param(_put("feature", -1), id="column below 0"),
    pytest.param(_put("feature", 2**31 - 1), id="column far outside"),
    pytest.param(_put("threshold", np.nan), id="cut of NaN"),
    pytest.param(_put("path_length", np.nan), id="length of NaN"),
    pytest.param(_put("path_length", np.inf), id="length infinite"),
    pytest.param(_put("normaliser", 0.0), id="divisor 0"),
    pytest.param(_put("normaliser", -1.0), id="divisor below 0"),
    pytest.param(_put("normaliser", np.nan), id="divisor NaN"),
    pytest.param(lambda a: a.update(normaliser=np.empty(0)), id="no divisor"),
    pytest.param(lambda a: a.update(normaliser=np.array(1.0)), id="divisor of no dimension"),
    pytest.param(lambda a: a.update(threshold=a["threshold"][:, :-1]), id="a cut short"),
    pytest.param(lambda a: a.update(feature=a["feature"][:-1]), id="a tree short"),
    pytest.param(lambda a: a.update(path_length=a["path_length"][:, :-1]), id="no complete heap"),
    pytest.param(lambda a: a.update(path_length=a["path_length"].ravel()), id="one dimension"),
    pytest.param(
        lambda a: a.update({k: a[k][:0] for k in ("feature", "threshold", "path_length")}),
        id="no tree",
    ),
    pytest.param(
        lambda a: a.update(
            feature=np.zeros((1, 0), np.int32),
            threshold=np.zeros((1, 0), np.float32),
            path_length=np.zeros((1, 1)),
        ),
        id="trees without a cut",
    ),
    pytest.param(
        lambda a: a.update(
            feature=np.zeros((1, 8191), np.int32),
            threshold=np.zeros((1, 8191), np.float32),
            path_length=np.zeros((1, 8192)),
        ),
        id="deeper than allowed",
    ),
]


@pytest.mark.parametrize("spoil", HOSTILE)
def test_an_invalid_forest_is_rejected(spoil: Callable[[dict[str, Any]], object]) -> None:
    """Arrays hold indices: an unchecked one would read another row's memory."""
    arrays = dict(Forest.from_sklearn(sklearn_forest()).to_arrays())
    spoil(arrays)

    with pytest.raises(ArtifactIncompatible):
        Forest.from_arrays(arrays, 6)


def _trees(fitted: IsolationForest) -> list[tuple[Any, np.ndarray]]:
    return [
        (estimator.tree_, columns)
        for estimator, columns in zip(fitted.estimators_, fitted.estimators_features_, strict=True)
    ]
