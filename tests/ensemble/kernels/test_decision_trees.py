"""Decision trees as arrays: the same paths as in their library, and no circles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from ensemble.errors import ArtifactIncompatible, TrainingError
from ensemble.kernels import decision_trees as pages
from ensemble.kernels.decision_trees import (
    MAX_DEPTH,
    BoostedTrees,
    ClassTrees,
    Trees,
    VotingTrees,
    class_trees_of,
)
from ensemble.training.fit.tree_arrays import (
    from_forest,
    from_hist_boosting,
    from_tree,
    from_xgboost,
)

D = 6
CLASSES = [pytest.param(2, id="two classes"), pytest.param(5, id="five classes")]


def training_rows(classes: int, size: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows on a coarse grid, many exactly on a cut, and classes that need several features."""
    generator = np.random.default_rng(seed)
    rows = np.round(generator.normal(size=(size, D)) * 3, 1).astype(np.float32)
    labels = np.abs(rows[:, 0]) + rows[:, 1] * rows[:, 2] + generator.normal(size=size)
    return rows, labels.round().astype(int) % classes


def query_rows() -> np.ndarray:
    """Training rows, other rows, and rows far outside."""
    return np.concatenate(
        [
            training_rows(2, seed=9)[0],
            training_rows(2)[0][:100],
            np.full((1, D), 1e30, np.float32),
            np.full((1, D), -1e30, np.float32),
        ]
    )


def forest(classes: int = 3) -> RandomForestClassifier:
    return RandomForestClassifier(12, random_state=1).fit(*training_rows(classes))


@pytest.fixture(scope="module")
def voting() -> VotingTrees:
    return from_forest(forest(), smoothing=1.0)


@pytest.fixture(scope="module")
def boosted() -> BoostedTrees:
    return from_hist_boosting(
        HistGradientBoostingClassifier(max_iter=5, random_state=1).fit(*training_rows(3))
    )


# the same probabilities as the library


@pytest.mark.parametrize("classes", CLASSES)
def test_a_forest_of_scikit_learn_gives_the_same_probabilities(classes: int) -> None:
    fitted = forest(classes)

    assert from_forest(fitted).probabilities(query_rows()) == pytest.approx(
        fitted.predict_proba(query_rows()), abs=1e-6
    )


@pytest.mark.parametrize("classes", CLASSES)
def test_a_decision_tree_of_scikit_learn_gives_the_same_probabilities(classes: int) -> None:
    fitted = DecisionTreeClassifier(min_samples_leaf=4, random_state=1).fit(*training_rows(classes))

    assert from_tree(fitted).probabilities(query_rows()) == pytest.approx(
        fitted.predict_proba(query_rows()), abs=1e-6
    )


@pytest.mark.parametrize("classes", CLASSES)
def test_histogram_boosting_of_scikit_learn_gives_the_same_probabilities(classes: int) -> None:
    """Its cuts are float64 between bins; for two classes it has one tree a round."""
    fitted = HistGradientBoostingClassifier(max_iter=20, random_state=1).fit(
        *training_rows(classes)
    )

    assert from_hist_boosting(fitted).probabilities(query_rows()) == pytest.approx(
        fitted.predict_proba(query_rows()), abs=1e-6
    )


@pytest.mark.parametrize("classes", CLASSES)
def test_a_booster_of_xgboost_gives_the_same_probabilities(classes: int) -> None:
    """It compares with `<` and the others with `<=`: rows on a cut take another path."""
    xgboost = pytest.importorskip("xgboost", reason="the extra `xgboost` is not installed")
    rows, labels = training_rows(classes)
    rules = {"objective": "multi:softprob", "num_class": classes, "nthread": 1, "verbosity": 0}
    fitted = xgboost.train(rules, xgboost.DMatrix(rows, label=labels), 20)

    assert from_xgboost(fitted).probabilities(query_rows()) == pytest.approx(
        fitted.predict(xgboost.DMatrix(query_rows())), abs=1e-6
    )


def test_a_booster_of_another_kind_is_refused() -> None:
    xgboost = pytest.importorskip("xgboost", reason="the extra `xgboost` is not installed")
    rows, labels = training_rows(2)
    fitted = xgboost.train(
        {"objective": "binary:logistic", "verbosity": 0}, xgboost.DMatrix(rows, label=labels), 2
    )

    with pytest.raises(TrainingError, match="multi:softprob"):
        from_xgboost(fitted)


def test_trees_with_splits_by_category_are_rejected() -> None:
    """Flow features are numbers; a split by categories would be evaluated wrongly."""
    rows, labels = training_rows(2)
    rows[:, 0] = np.abs(rows[:, 0]).round() % 5
    fitted = HistGradientBoostingClassifier(
        max_iter=3, categorical_features=[0], random_state=1
    ).fit(rows, labels)

    with pytest.raises(TrainingError, match="categories"):
        from_hist_boosting(fitted)


@pytest.mark.parametrize("cut", [0.1, 1 / 3, -2.7, 1e-30, -1e-30, 16_777_217.0, 1e300])
def test_a_row_at_the_edge_of_a_cut_goes_the_same_way_in_float32(cut: float) -> None:
    """A cut rounded to the nearest float32 would move rows between the two to the other side."""
    tree = DecisionTreeClassifier(max_depth=1).fit(np.array([[0.0], [1.0]]), [0, 1])
    tree.tree_.threshold[0] = cut
    nearest = np.float32(np.clip(cut, -3e38, 3e38))
    edge = np.array(
        [[np.nextafter(nearest, np.float32(side))] for side in (-np.inf, np.inf)] + [[nearest]],
        np.float32,
    )

    assert np.array_equal(
        from_tree(tree).probabilities(edge)[:, 0] == 1.0, edge[:, 0].astype(np.float64) <= cut
    )


def test_with_smoothing_no_leaf_is_certain_and_a_large_one_counts_more() -> None:
    tree = DecisionTreeClassifier().fit(np.array([[0.0]] * 8 + [[1.0]] * 2), [0] * 8 + [1] * 2)

    votes = from_tree(tree, smoothing=1.0).votes

    assert votes == pytest.approx(np.array([[8.5 / 9, 0.5 / 9], [0.5 / 3, 2.5 / 3]]))


# what every kind of trees promises

BOTH = [pytest.param("voting", id="voting"), pytest.param("boosted", id="boosted")]


@pytest.fixture
def model(request: pytest.FixtureRequest) -> ClassTrees:
    found: ClassTrees = request.getfixturevalue(request.param)
    return found


each = pytest.mark.parametrize("model", BOTH, indirect=True)


@each
def test_probabilities_are_probabilities(model: ClassTrees) -> None:
    chances = model.probabilities(query_rows())

    assert (chances.shape, chances.dtype) == ((len(query_rows()), model.n_classes), np.float64)
    assert (chances >= 0.0).all()
    assert chances.sum(axis=1) == pytest.approx(1.0, abs=1e-9)


@each
def test_a_row_gets_the_same_probabilities_alone_as_in_a_batch(model: ClassTrees) -> None:
    """P15."""
    together = model.probabilities(query_rows())

    assert all(
        np.array_equal(model.probabilities(query_rows()[row : row + 1])[0], together[row])
        for row in range(0, len(query_rows()), 7)
    )


@each
def test_a_batch_in_parts_gives_the_same_as_at_once(
    model: ClassTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large batches are traversed in parts, without the pairs that reached a leaf."""
    at_once = model.probabilities(query_rows())

    monkeypatch.setattr(pages, "PAIRS_AT_ONCE", 40)
    cut_up = model.probabilities(query_rows())
    monkeypatch.setattr(pages, "MANY_PAIRS", 1)
    sorted_out = model.probabilities(query_rows())

    assert np.array_equal(cut_up, at_once)
    assert np.array_equal(sorted_out, at_once)


@each
def test_no_row_is_no_error(model: ClassTrees) -> None:
    assert model.probabilities(query_rows()[:0]).shape == (0, model.n_classes)


@each
def test_trees_come_back_from_their_arrays_equal(model: ClassTrees) -> None:
    again = class_trees_of(model.to_arrays(), D)

    assert np.array_equal(again.probabilities(query_rows()), model.probabilities(query_rows()))


def test_a_tree_of_one_leaf_gives_its_value_to_every_row() -> None:
    lone = from_tree(DecisionTreeClassifier().fit(np.zeros((4, D)), [0, 0, 0, 0]), smoothing=1.0)

    assert (lone.trees.depth, lone.trees.leaves) == (0, 1)
    assert lone.probabilities(query_rows()) == pytest.approx(1.0)


def test_the_log_odds_are_those_of_the_probabilities(voting: VotingTrees) -> None:
    first = voting.probabilities(query_rows())[:, 0]

    assert voting.not_first(query_rows()) == pytest.approx(np.log((1 - first) / first), abs=1e-5)


def test_the_contributions_sum_to_the_change_of_probability(voting: VotingTrees) -> None:
    """From the mean probability at the roots to that of the row."""
    at_roots = np.mean([1.0 - voting.first_share[root] for root in voting.trees.roots])

    moved = voting.moved_by(query_rows())

    assert moved.shape == (len(query_rows()), D)
    assert at_roots + moved.sum(axis=1) == pytest.approx(
        1.0 - voting.probabilities(query_rows())[:, 0], abs=1e-6
    )


# hostile arrays


def one_tree(depth: int) -> dict[str, np.ndarray]:
    """A chain: each cut has a leaf and the next cut; two classes."""
    cuts = np.arange(depth)
    children = (
        np.stack([np.r_[cuts[1:], depth], depth + 1 + cuts], axis=1)
        if depth
        else np.empty((0, 2), np.int64)
    )
    votes = np.tile(np.array([[0.25, 0.75]], np.float32), (depth + 1, 1))
    return {
        "feature": np.zeros(depth, np.int32),
        "threshold": np.zeros(depth, np.float32),
        "children": children.astype(np.int32),
        "roots": np.zeros(1, np.int32),
        "votes": votes,
        "first_share": np.full(depth, 0.25, np.float32),
    }


def _set(name: str, place: Any, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def spoil(arrays: dict[str, np.ndarray]) -> None:
        arrays[name] = arrays[name].copy()
        arrays[name][place] = value

    return spoil


def _made(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays.update({name: change(arrays[name])})


HOSTILE = [
    pytest.param(lambda arrays: arrays.pop("feature"), id="no features"),
    pytest.param(lambda arrays: arrays.pop("threshold"), id="no thresholds"),
    pytest.param(lambda arrays: arrays.pop("children"), id="no children"),
    pytest.param(lambda arrays: arrays.pop("roots"), id="no roots"),
    pytest.param(lambda arrays: arrays.pop("votes"), id="leaves that say nothing"),
    pytest.param(lambda arrays: arrays.pop("first_share"), id="no shares"),
    pytest.param(_set("children", (2, 0), 0), id="a way back to the root"),
    pytest.param(_set("children", (2, 0), 2), id="a cut that leads to itself"),
    pytest.param(_set("children", (0, 0), 2), id="a node that two cuts lead to"),
    pytest.param(_set("children", (3, 1), 9), id="a child past the end"),
    pytest.param(_set("children", (3, 1), -1), id="a child before the beginning"),
    pytest.param(_set("roots", 0, 1), id="a root that a cut leads to"),
    pytest.param(_set("roots", 0, -1), id="a root before the beginning"),
    pytest.param(_set("feature", 1, D), id="a column past the end"),
    pytest.param(_set("feature", 1, -1), id="a column before the beginning"),
    pytest.param(_set("threshold", 1, np.nan), id="a cut of NaN"),
    pytest.param(_set("threshold", 1, np.inf), id="a cut of infinity"),
    pytest.param(_set("votes", (1, 0), np.nan), id="a vote of NaN"),
    pytest.param(_set("votes", (1, 0), -0.5), id="a vote below 0"),
    pytest.param(_set("votes", (1, 0), 0.9), id="votes that sum to more than 1"),
    pytest.param(_set("first_share", 1, np.nan), id="a share of NaN"),
    pytest.param(_made("children", lambda a: a.ravel()), id="children in one row"),
    pytest.param(_made("children", lambda a: a[:-1]), id="a cut without children"),
    pytest.param(
        _made("children", lambda a: a.astype(np.float32)), id="children that are no whole numbers"
    ),
    pytest.param(_made("threshold", lambda a: a[:-1]), id="a threshold short"),
    pytest.param(_made("votes", lambda a: a[:-1]), id="a leaf short"),
    pytest.param(_made("votes", lambda a: a.ravel()), id="votes in one row"),
    pytest.param(_made("first_share", lambda a: a[:-1]), id="a share short"),
    pytest.param(_made("roots", lambda a: a[:0]), id="no tree"),
    pytest.param(_made("roots", lambda a: a.reshape(1, 1)), id="roots of two dimensions"),
]


@pytest.mark.parametrize("spoil", HOSTILE)
def test_arrays_that_are_no_trees_are_refused(
    spoil: Callable[[dict[str, np.ndarray]], object],
) -> None:
    """P19: an endless path would hang the layer; an index past the end would read other memory."""
    arrays = one_tree(4)
    class_trees_of(arrays, D)
    spoil(arrays)

    with pytest.raises(ArtifactIncompatible):
        class_trees_of(arrays, D)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(_made("steps", lambda a: a[:-1]), id="a step short"),
        pytest.param(_set("steps", 0, np.nan), id="a step of NaN"),
        pytest.param(_set("base", 0, np.inf), id="a base of infinity"),
        pytest.param(_made("base", lambda a: a[:2]), id="trees that are no whole rounds"),
        pytest.param(_made("base", lambda a: a[:0]), id="no base"),
        pytest.param(lambda arrays: arrays.pop("base"), id="base missing"),
    ],
)
def test_arrays_that_are_no_boosted_trees_are_refused(
    boosted: BoostedTrees, spoil: Callable[[dict[str, np.ndarray]], object]
) -> None:
    arrays = boosted.to_arrays()
    spoil(arrays)

    with pytest.raises(ArtifactIncompatible):
        class_trees_of(arrays, D)


def test_the_depth_of_a_tree_is_limited() -> None:
    """A chain of a million cuts would cost a million steps for every event."""
    assert class_trees_of(one_tree(MAX_DEPTH), D).trees.depth == MAX_DEPTH

    with pytest.raises(ArtifactIncompatible, match="depth"):
        class_trees_of(one_tree(MAX_DEPTH + 1), D)


def test_the_structure_of_trees_is_separate_from_their_leaf_values(voting: VotingTrees) -> None:
    shape = Trees.from_arrays(voting.to_arrays(), D)

    assert np.array_equal(shape.leaves_of(query_rows()), voting.trees.leaves_of(query_rows()))
