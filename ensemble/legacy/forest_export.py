"""Export of Axon's isolation forest as one of scikit-learn over the raw 78 features.

Cuts, depths and scores are the same. Axon's forest reads scaled features; the older engine had no
scaler before its forest. Scaling is non-decreasing, so each cut of a scaled feature corresponds to
a cut of the raw one: the greatest float32 whose scaled value is still at most the cut, found by
bisection over the float32 numbers. The trees are written into a forest that scikit-learn itself
fitted on noise, by the same `__setstate__` that unpickling uses.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length
from sklearn.tree._tree import Tree

from ensemble.errors import ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES
from ensemble.features.sklearn_scalers import Scaler
from ensemble.kernels.isolation_forest import ALWAYS_LEFT, Forest, expected_length
from ensemble.legacy.files import FOREST

__all__ = ["raw_cuts", "sklearn_forest"]

MOST_SAMPLES = 1 << 16  # of a tree: the length of the table of path lengths
CLOSE = 1e-9  # largest distance of a length from that of an integer number of samples
LEAF, NO_FEATURE, NO_THRESHOLD = -1, -2, -2.0  # markers of scikit-learn
_SIGN, _NUMBER = np.int64(1) << 31, (np.int64(1) << 31) - 1


def sklearn_forest(forest: Forest, scaler: Scaler) -> IsolationForest:
    """Make a fitted IsolationForest over the 78 raw features with the same scores.

    Its `score_samples` is the negative of this forest's, within 1e-6.

    Raises:
        ArtifactIncompatible: a length is not that of an integer number of samples.
    """
    trees = forest.path_length.shape[0]
    samples = int(_samples(np.array([forest.normaliser / trees]))[0])
    d = len(FEATURE_NAMES)
    noise = np.random.default_rng(0).normal(size=(samples, d)).astype(np.float32)
    fitted = IsolationForest(n_estimators=trees, max_samples=samples, random_state=0).fit(noise)
    cuts = raw_cuts(forest, scaler)
    features = scaler.positions[forest.feature]
    for number, estimator in enumerate(fitted.estimators_):
        nodes = _nodes(
            forest,
            number,
            features[number],
            cuts[number],
            estimator.tree_.__getstate__()["nodes"].dtype,
        )
        tree = Tree(d, np.ones(1, np.intp), 1)
        state = {
            "max_depth": forest.depth,
            "node_count": len(nodes),
            "nodes": nodes,
            "values": np.zeros((len(nodes), 1, 1)),
        }
        tree.__setstate__(state)
        estimator.tree_ = tree
    # Repeats what `fit` of scikit-learn computes from the trees; there is no public way to set it.
    fitted._average_path_length_per_tree, fitted._decision_path_lengths = zip(  # noqa: SLF001
        *[
            (_average_path_length(one.tree_.n_node_samples), one.tree_.compute_node_depths())
            for one in fitted.estimators_
        ],
        strict=True,
    )
    return fitted


def raw_cuts(forest: Forest, scaler: Scaler) -> NDArray[np.float32]:
    """Find the greatest raw float32 that goes left at each cut, in the shape of `forest.threshold`.

    Ended branches have `ALWAYS_LEFT`.
    """
    is_cut = forest.threshold != ALWAYS_LEFT
    column, threshold = forest.feature[is_cut], forest.threshold[is_cut]
    rows = np.zeros((len(column), len(FEATURE_NAMES)), np.float32)
    at, positions = np.arange(len(column)), scaler.positions[column]
    # The greatest float32 marks ended branches, so that a cut is at most the next lower one.
    most = _key(np.array([np.finfo(np.float32).max], np.float32))[0] - 1
    # Invariant: `low` goes left, or is the least value.
    low, high = np.full(len(column), -most), np.full(len(column), most)
    while (low < high).any():
        middle = -((-low - high) // 2)  # rounded up, so that `low` moves
        rows[at, positions] = _float(middle)
        goes_left = scaler.scale(rows)[at, column] <= threshold
        low, high = np.where(goes_left, middle, low), np.where(goes_left, high, middle - 1)
    cuts = np.full_like(forest.threshold, ALWAYS_LEFT)
    cuts[is_cut] = _float(low)
    return cuts


def _key(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Map float32 values to integers in the same order."""
    bits = values.view(np.uint32).astype(np.int64)
    return np.where(bits & _SIGN, -(bits & _NUMBER), bits)


def _float(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    """Map integers to float32 values, the inverse of `_key`."""
    return np.where(keys < 0, -keys | _SIGN, keys).astype(np.uint32).view(np.float32)


def _nodes(
    forest: Forest,
    number: int,
    features: NDArray[np.intp],
    cuts: NDArray[np.float32],
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Convert a tree to scikit-learn's array of nodes: root first, parents before children."""
    depth, lengths = forest.depth, forest.path_length[number]
    is_cut = forest.threshold[number] != ALWAYS_LEFT
    rows: list[list[float]] = []
    # Position in the heap, level, row of the parent, 0 left or 1 right.
    todo: list[tuple[int, int, int, int]] = [(0, 0, -1, 0)]
    while todo:
        place, level, parent, side = todo.pop()
        if parent >= 0:
            rows[parent][side] = len(rows)
        if level < depth and is_cut[place]:
            todo += [
                (2 * place + 2, level + 1, len(rows), 1),
                (2 * place + 1, level + 1, len(rows), 0),
            ]
            rows.append([LEAF, LEAF, features[place], float(cuts[place]), 0.0])
        else:
            end = ((place + 1) << (depth - level)) - (1 << depth)
            rows.append([LEAF, LEAF, NO_FEATURE, NO_THRESHOLD, lengths[end] - level])
    nodes = np.zeros(len(rows), dtype)
    for column, name in enumerate(("left_child", "right_child", "feature", "threshold")):
        nodes[name] = [row[column] for row in rows]
    samples = np.where(nodes["left_child"] == LEAF, _samples(np.array([row[4] for row in rows])), 0)
    for row in range(len(rows) - 1, -1, -1):  # children come after their parent
        if nodes["left_child"][row] != LEAF:
            samples[row] = samples[nodes["left_child"][row]] + samples[nodes["right_child"][row]]
    nodes["n_node_samples"], nodes["weighted_n_node_samples"] = samples, samples
    return nodes


def _samples(lengths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Find the number of samples with each expected length, int (n,); 1 for a length of 0."""
    counts = np.arange(1, MOST_SAMPLES)
    table = expected_length(counts)
    found = np.minimum(np.searchsorted(table, lengths - CLOSE), counts.size - 1)
    if not (np.abs(table[found] - lengths) <= CLOSE).all():
        raise ArtifactIncompatible(FOREST, "leaves of integer numbers of samples", "other lengths")
    return counts[found]
