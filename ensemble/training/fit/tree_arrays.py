"""Fitted trees of scikit-learn and xgboost as plain arrays, with the same probabilities.

Cuts are float32, the type of the rows. For a library that compares with `<=` a float64 cut is
rounded down; for one that compares with `<` the cut becomes the next lower float32. For every
float32 row the path is then the same. Flow rows have no missing values and no categories; a model
with splits for them is rejected.

Every library is read through its own interface: no pickle is opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.kernels.decision_trees import BoostedTrees, Trees, VotingTrees

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier
    from xgboost import Booster

__all__ = ["from_forest", "from_hist_boosting", "from_tree", "from_xgboost"]

# no finite value is greater: a cut there sends every row to the first child
LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True, slots=True)
class _Tree:
    """One tree as its library has it: k nodes, node 0 the root, a parent before its children.

    Attributes:
        first: int (k,), the child of rows that are <= the cut.
        second: int (k,), the other one; equal to `first` at a leaf.
        feature: int (k,).
        cut: float32 (k,).
        value: float (k, w), the output of each node.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    feature: NDArray[np.int64]
    cut: NDArray[np.float32]
    value: NDArray[np.float64]


def from_forest(fitted: RandomForestClassifier, *, smoothing: float = 0.0) -> VotingTrees:
    """Convert a fitted forest.

    Args:
        fitted: of scikit-learn; the classes in its order.
        smoothing: flows added to every leaf, spread evenly over the classes: a small leaf is then
            less certain than a large one. 0 gives the library's own probabilities.
    """
    return _voting(
        [_of_sklearn(estimator.tree_, smoothing) for estimator in fitted.estimators_],
        int(fitted.n_features_in_),
    )


def from_tree(fitted: DecisionTreeClassifier, *, smoothing: float = 0.0) -> VotingTrees:
    """Convert a fitted single tree; arguments as for a forest."""
    return _voting([_of_sklearn(fitted.tree_, smoothing)], int(fitted.n_features_in_))


def from_hist_boosting(fitted: HistGradientBoostingClassifier) -> BoostedTrees:
    """Convert fitted histogram boosting of scikit-learn.

    Raises:
        TrainingError: a tree splits by categories.
    """
    trees = []
    # the library offers no other way to its trees
    for predictor in (one for rounds in fitted._predictors for one in rounds):  # noqa: SLF001
        nodes = predictor.nodes
        if nodes["is_categorical"].any():
            raise TrainingError("boosted trees that split by categories cannot be converted")
        is_leaf = nodes["is_leaf"].astype(bool)
        own = np.arange(nodes.size)
        first, second = (
            np.where(is_leaf, own, nodes[side].astype(np.int64)) for side in ("left", "right")
        )
        trees.append(
            _Tree(
                first,
                second,
                nodes["feature_idx"].astype(np.int64),
                _round_down(nodes["num_threshold"]),
                nodes["value"][:, None],
            )
        )
    base = np.asarray(fitted._baseline_prediction, np.float64).ravel()  # noqa: SLF001
    return _boosted(trees, base, int(fitted.n_features_in_))


def from_xgboost(fitted: Booster) -> BoostedTrees:
    """Convert a fitted multi-class booster of xgboost (`multi:softprob`), from its own JSON.

    Raises:
        TrainingError: another objective, another booster, or a tree that splits by categories.
    """
    learner = json.loads(bytes(fitted.save_raw("json")))["learner"]
    objective, booster = learner["objective"]["name"], learner["gradient_booster"]["name"]
    if objective != "multi:softprob" or booster != "gbtree":
        raise TrainingError(
            f"only gbtree with multi:softprob can be converted, not {booster} with {objective}"
        )
    model, shape = learner["gradient_booster"]["model"], learner["learner_model_param"]
    classes = int(shape["num_class"])
    if [int(one) for one in model["tree_info"]] != [
        number % classes for number in range(len(model["trees"]))
    ]:
        raise TrainingError("the booster has not one tree for each class in each round")
    starts = json.loads(shape["base_score"])  # a number, or from release 3.1 on one for each class
    base = np.broadcast_to(np.asarray(starts, np.float64).ravel(), classes)
    return _boosted(
        [_of_xgboost(tree) for tree in model["trees"]], base.copy(), int(shape["num_feature"])
    )


def _of_xgboost(tree: dict[str, Any]) -> _Tree:
    if tree["categories"]:
        raise TrainingError("boosted trees that split by categories cannot be converted")
    left, right = (
        np.array(tree["left_children"], np.int64),
        np.array(tree["right_children"], np.int64),
    )
    is_leaf = left < 0
    own = np.arange(left.size)
    numbers = np.array(tree["split_conditions"], np.float32)  # cuts, and at leaves their steps
    below = np.nextafter(numbers, np.float32(-np.inf))
    value = np.where(is_leaf, numbers, np.float32(0.0)).astype(np.float64)[:, None]
    return _Tree(
        np.where(is_leaf, own, left),
        np.where(is_leaf, own, right),
        np.array(tree["split_indices"], np.int64),
        below,
        value,
    )


# sklearn.tree._tree.Tree, which has no types
def _of_sklearn(tree: Any, smoothing: float) -> _Tree:  # noqa: ANN401
    own = np.arange(tree.node_count)
    is_leaf = tree.children_left == tree.children_right
    first, second = (
        np.where(is_leaf, own, side) for side in (tree.children_left, tree.children_right)
    )
    chances = tree.value[:, 0, :] / tree.value[:, 0, :].sum(axis=1, keepdims=True)
    flows = tree.weighted_n_node_samples[:, None]
    value = (chances * flows + smoothing / chances.shape[1]) / (flows + smoothing)
    return _Tree(
        first, second, np.where(is_leaf, 0, tree.feature), _round_down(tree.threshold), value
    )


def _round_down(cuts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round float64 cuts down to finite float32.

    For a float32 value, `v <= cut` then means the same as before.
    """
    nearest = np.clip(cuts, -LARGEST, LARGEST).astype(np.float32)
    return np.where(nearest > cuts, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def _voting(trees: Sequence[_Tree], n_features: int) -> VotingTrees:
    shape, leaves, cuts = _laid_out(trees, n_features)
    return VotingTrees(shape, leaves.astype(np.float32), cuts[:, 0].astype(np.float32))


def _boosted(trees: Sequence[_Tree], base: NDArray[np.float64], n_features: int) -> BoostedTrees:
    shape, leaves, _ = _laid_out(trees, n_features)
    return BoostedTrees(shape, leaves[:, 0].astype(np.float32), base)


def _laid_out(
    trees: Sequence[_Tree], n_features: int
) -> tuple[Trees, NDArray[np.float64], NDArray[np.float64]]:
    """Join all trees in one table, cuts first.

    Returns:
        The table, and the values of leaves (l, w) and of cuts (i, w).
    """
    are_leaves = [tree.first == tree.second for tree in trees]
    cuts = sum(int((~is_leaf).sum()) for is_leaf in are_leaves)
    next_cut, next_leaf = 0, cuts
    features, thresholds, children, roots, leaf_values, cut_values = [], [], [], [], [], []
    for tree, is_leaf in zip(trees, are_leaves, strict=True):
        number = np.where(
            is_leaf, next_leaf + np.cumsum(is_leaf) - 1, next_cut + np.cumsum(~is_leaf) - 1
        )
        roots.append(number[0])
        features.append(tree.feature[~is_leaf])
        thresholds.append(tree.cut[~is_leaf])
        children.append(
            np.stack([number[tree.first[~is_leaf]], number[tree.second[~is_leaf]]], axis=1)
        )
        leaf_values.append(tree.value[is_leaf])
        cut_values.append(tree.value[~is_leaf])
        next_cut, next_leaf = next_cut + int((~is_leaf).sum()), next_leaf + int(is_leaf.sum())
    shape = Trees(
        np.concatenate(features).astype(np.int32),
        np.concatenate(thresholds),
        np.concatenate(children).astype(np.int32),
        np.array(roots, np.int32),
        n_features,
    )
    return shape, np.concatenate(leaf_values), np.concatenate(cut_values)
