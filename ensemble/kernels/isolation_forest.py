"""Isolation forest as plain arrays: how few random cuts isolate an event?

Fit for: events far from the bulk in a few features. Unfit for: unusual combinations of ordinary
values.
Score: in (0, 1], higher is more anomalous; about 0.5 is the average depth. Cost: depth x trees
array accesses, no Python loop over events or trees.

Every tree is stored as a complete binary heap of the forest's depth: node k has the children 2k+1
and 2k+2. A branch that ends early continues with cuts that always lead left. All rows therefore
make the same number of steps, and one step is a handful of `take`s over all (row, tree) pairs.
Scoring needs no scikit-learn, and no file can run code.

Source: Liu, Ting, Zhou, "Isolation Forest", ICDM 2008, equation 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

__all__ = ["ALWAYS_LEFT", "MAX_DEPTH", "FittedTree", "Forest", "expected_length"]

# (row, tree) pairs traversed together: the working set stays in the second-level cache.
PAIRS_AT_ONCE = 1 << 16
ALWAYS_LEFT = np.finfo(np.float32).max  # no finite value is greater
MAX_DEPTH = 12  # a complete heap doubles with each level; 256 samples need 8


class FittedTree(Protocol):
    """Tree in the form of scikit-learn: k nodes, node 0 the root, both children of a leaf equal."""

    @property
    def max_depth(self) -> int:
        """Cuts on the longest path."""
        ...

    @property
    def children_left(self) -> NDArray[np.int64]:
        """Int (k,)."""
        ...

    @property
    def children_right(self) -> NDArray[np.int64]:
        """Int (k,)."""
        ...

    @property
    def feature(self) -> NDArray[np.int64]:
        """Int (k,)."""
        ...

    @property
    def threshold(self) -> NDArray[np.float64]:
        """Float (k,): left is <=."""
        ...

    @property
    def n_node_samples(self) -> NDArray[np.int64]:
        """Int (k,), training rows in each node."""
        ...


@dataclass(frozen=True, slots=True)
class Forest:
    """Fitted isolation forest of t trees, each a complete heap of depth D.

    Attributes:
        feature: int32 (t, 2**D - 1), column compared at each node.
        threshold: float32 (t, 2**D - 1), a row goes left if its value is <= this; the largest
            float32 after the end of a branch.
        path_length: float64 (t, 2**D), expected cuts to isolate a row that reaches this leaf.
        normaliser: expected cuts of an unsuccessful search among the training samples, times t;
            > 0.
        n_features: columns of a row.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    path_length: NDArray[np.float64]
    normaliser: float
    n_features: int

    def __post_init__(self) -> None:
        is_matrix = self.path_length.ndim == 2  # noqa: PLR2004  # (t, leaves)
        trees, leaves = self.path_length.shape if is_matrix else (0, 0)
        is_heap = leaves > 1 and leaves & (leaves - 1) == 0 and leaves <= 1 << MAX_DEPTH
        if not (
            trees and is_heap and self.feature.shape == self.threshold.shape == (trees, leaves - 1)
        ):
            raise ArtifactIncompatible(
                "forest",
                "complete heaps of one depth",
                f"shapes {self.feature.shape}, {self.path_length.shape}",
            )
        if self.feature.min() < 0 or self.feature.max() >= self.n_features:
            raise ArtifactIncompatible(
                "forest", f"columns 0 to {self.n_features - 1}", f"column {self.feature.max()}"
            )
        if (
            not np.isfinite(self.threshold).all()
            or not np.isfinite(self.path_length).all()
            or not 0.0 < self.normaliser < np.inf
        ):
            raise ArtifactIncompatible("forest", "finite cuts and lengths", "NaN or infinity")

    @property
    def depth(self) -> int:
        """Cuts from root to leaf, the same for every row."""
        return int(self.path_length.shape[1]).bit_length() - 1

    def score_samples(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Score how easily each row is isolated.

        Args:
            rows: float32 (n, d), finite; d is `n_features`.

        Returns:
            float64 (n,), each in (0, 1], the negative of scikit-learn's `score_samples`.
        """
        trees = self.path_length.shape[0]
        step = max(1, PAIRS_AT_ONCE // trees)
        lengths = np.concatenate(
            [self._total_length(rows[i : i + step]) for i in range(0, len(rows), step)]
            or [np.empty(0)]
        )
        return np.exp2(-lengths / self.normaliser)

    def _total_length(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        trees, nodes = self.feature.shape
        values = np.ascontiguousarray(rows).ravel()
        row_start = (np.arange(len(rows)) * self.n_features)[:, None]  # (n, 1)
        tree_start = (np.arange(trees) * nodes)[None, :]  # (1, t)
        node = np.zeros((len(rows), trees), np.int64)  # position in the heap, the root is 0
        for _ in range(self.depth):
            at = node + tree_start
            goes_right = values.take(
                row_start + self.feature.ravel().take(at)
            ) > self.threshold.ravel().take(at)
            node += node
            node += 1
            node += goes_right
        leaf = node - nodes + tree_start + np.arange(trees)  # leaves per tree are nodes + 1
        total: NDArray[np.float64] = self.path_length.ravel().take(leaf).sum(axis=1)
        return total

    @classmethod
    def from_sklearn(cls, fitted: IsolationForest) -> Self:
        """Convert a forest of scikit-learn; scores are equal within float64 rounding."""
        trees = [estimator.tree_ for estimator in fitted.estimators_]
        return cls.from_trees(
            trees,
            fitted.estimators_features_,
            max_samples=fitted.max_samples_,
            n_features=int(fitted.n_features_in_),
        )

    @classmethod
    def from_trees(
        cls,
        trees: Sequence[FittedTree],
        columns: Sequence[NDArray[np.int64]],
        *,
        max_samples: int,
        n_features: int,
    ) -> Self:
        """Build a forest from trees.

        Args:
            trees: at least one; each is a valid tree with a correct `max_depth`.
            columns: for each tree, the column of each of its features.
            max_samples: number of training rows of each tree.
            n_features: columns of a row.

        Raises:
            ArtifactIncompatible: a tree is too deep for a heap, or a number is NaN or infinite.
        """
        depth = max(1, *(tree.max_depth for tree in trees))
        if depth > MAX_DEPTH:
            raise ArtifactIncompatible(
                "forest", f"trees of depth {MAX_DEPTH} or less", f"depth {depth}"
            )
        nodes = (1 << depth) - 1
        feature = np.zeros((len(trees), nodes), np.int32)
        threshold = np.full((len(trees), nodes), ALWAYS_LEFT)
        path_length = np.zeros((len(trees), nodes + 1), np.float64)
        for number, (tree, own) in enumerate(zip(trees, columns, strict=True)):
            _lay_out(tree, own, depth, feature[number], threshold[number], path_length[number])
        normaliser = len(trees) * float(expected_length(np.array([max_samples]))[0])
        return cls(feature, threshold, path_length, normaliser, n_features)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle; `from_arrays` builds an equal forest."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "path_length": self.path_length,
            "normaliser": np.array([self.normaliser]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Self:
        """Build the forest from a bundle.

        Raises:
            ArtifactIncompatible: an array is missing, of another shape, or has an impossible index
                or number.
        """
        try:
            feature, threshold, path_length = (
                arrays["feature"],
                arrays["threshold"],
                arrays["path_length"],
            )
            normaliser = float(arrays["normaliser"][0])
        except (KeyError, IndexError) as missing:
            raise ArtifactIncompatible(
                "forest", "feature, threshold, path_length, normaliser", f"no {missing}"
            ) from None
        return cls(
            feature.astype(np.int32),
            threshold.astype(np.float32),
            path_length.astype(np.float64),
            normaliser,
            n_features,
        )


def _lay_out(
    tree: FittedTree,
    columns: NDArray[np.int64],
    depth: int,
    feature: NDArray[np.int32],
    threshold: NDArray[np.float32],
    path_length: NDArray[np.float64],
) -> None:
    """Write a tree into its heap, the last three arguments."""
    cuts = _round_down(tree.threshold)
    ends = expected_length(tree.n_node_samples)
    todo = [(0, 0, 0)]  # node of the tree, position in the heap, depth
    while todo:
        node, position, level = todo.pop()
        left, right = int(tree.children_left[node]), int(tree.children_right[node])
        if left == right:  # a leaf: all paths below it in the heap go left, to this place
            path_length[((position + 1) << (depth - level)) - (1 << depth)] = level + ends[node]
            continue
        feature[position], threshold[position] = columns[tree.feature[node]], cuts[node]
        todo += [(left, 2 * position + 1, level + 1), (right, 2 * position + 2, level + 1)]


def _round_down(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round float64 cuts down to float32, so that `v <= cut` is unchanged for a float32 `v`."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest > thresholds, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def expected_length(samples: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected cuts of an unsuccessful search among `samples` points (equation 1 of the paper)."""
    n = samples.astype(np.float64)
    many = np.maximum(n, 3.0)
    is_pair = n == 2  # noqa: PLR2004  # one cut separates two points
    return np.where(
        n <= 1,
        0.0,
        np.where(
            is_pair, 1.0, 2.0 * (np.log(many - 1.0) + np.euler_gamma) - 2.0 * (many - 1.0) / many
        ),
    )
