"""Validation of a tree from an untrusted forest.

scikit-learn traverses a tree in C without checks: a child index outside its array, or back up,
crashes the process or never ends (its documentation warns of it). Every index is therefore checked
here before any traversal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.kernels.isolation_forest import MAX_DEPTH

__all__ = ["CheckedTree"]

LEAF = -1
_FIELDS = ("left_child", "right_child", "feature", "threshold", "n_node_samples")


@dataclass(frozen=True, slots=True)
class CheckedTree:
    """Valid tree of k nodes: node 0 is the root, every other node has exactly one parent.

    Attributes:
        children_left: int64 (k,), -1 at a leaf.
        children_right: int64 (k,), likewise.
        feature: int64 (k,), in range at every cut.
        threshold: float64 (k,), finite as float32; 0 at a leaf.
        n_node_samples: int64 (k,), each at least 1.
        max_depth: cuts on the longest path; counted here, not read from the file.
    """

    children_left: NDArray[np.int64]
    children_right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    n_node_samples: NDArray[np.int64]
    max_depth: int

    @classmethod
    def of(cls, nodes: Any, n_features: int, what: str) -> Self:  # noqa: ANN401  # untrusted
        """Read the tree from scikit-learn's array of nodes.

        Args:
            nodes: should be a structured array (k,).
            n_features: number of columns that a cut may compare.
            what: file name, for errors.

        Raises:
            ArtifactIncompatible: it is not such an array, or not a tree.
        """
        if (
            not isinstance(nodes, np.ndarray)
            or nodes.ndim != 1
            or not nodes.size
            or not set(_FIELDS) <= set(nodes.dtype.names or ())
        ):
            raise ArtifactIncompatible(what, "trees as arrays of nodes", "another layout")
        left, right, feature, samples = (
            _integers(nodes[name], what)
            for name in ("left_child", "right_child", "feature", "n_node_samples")
        )
        threshold = nodes["threshold"]
        if threshold.dtype.kind != "f":
            raise ArtifactIncompatible(what, "thresholds that are numbers", str(threshold.dtype))
        cuts = left != LEAF
        if (cuts != (right != LEAF)).any():
            raise ArtifactIncompatible(what, "nodes with two children or none", "a node with one")
        if ((feature[cuts] < 0) | (feature[cuts] >= n_features)).any():
            raise ArtifactIncompatible(
                what, f"cuts of features 0 to {n_features - 1}", "a cut of another feature"
            )
        if not (np.abs(threshold[cuts]) < np.finfo(np.float32).max).all():  # NaN fails too
            raise ArtifactIncompatible(
                what,
                "thresholds that are finite as float32",
                "NaN, infinity, or a number beyond it",
            )
        if (samples < 1).any():
            raise ArtifactIncompatible(
                what, "a training row or more in every node", "a node without any"
            )
        threshold = np.where(cuts, threshold, 0.0)  # the value at a leaf has no meaning
        return cls(left, right, feature, threshold, samples, _depth(left, right, cuts, what))


def _integers(column: NDArray[Any], what: str) -> NDArray[np.int64]:
    if column.dtype.kind != "i":
        raise ArtifactIncompatible(what, "indices that are integers", str(column.dtype))
    return column.astype(np.int64)


def _depth(
    left: NDArray[np.int64], right: NDArray[np.int64], cuts: NDArray[np.bool_], what: str
) -> int:
    """Compute the depth, level by level.

    Raises:
        ArtifactIncompatible: a node is reached twice or never, or is out of bounds.
    """
    level, depth = np.zeros(1, np.int64), 0
    is_met = np.zeros(left.size, np.bool_)
    is_met[0] = True
    while (inner := level[cuts[level]]).size:
        level = np.concatenate([left[inner], right[inner]])
        depth += 1
        if (
            (level < 0).any()
            or (level >= left.size).any()
            or is_met[level].any()
            or np.bincount(level).max() > 1
        ):
            raise ArtifactIncompatible(
                what,
                "trees whose nodes are the child of one other",
                "a circle, or a child that is not there",
            )
        is_met[level] = True
        if depth > MAX_DEPTH:
            raise ArtifactIncompatible(what, f"trees of depth {MAX_DEPTH} or less", "a deeper one")
    if not is_met.all():
        raise ArtifactIncompatible(
            what, "trees whose nodes are the child of one other", "a node without a parent"
        )
    return depth
