"""Classification trees as plain arrays: the leaf of each row in each tree, and its value.

Random forests, single trees and boosted trees of any library have the same form once fitted: cuts
and leaves. One table has the nodes of all trees, cuts first and then leaves; each cut refers to its
two children. In memory a leaf refers to itself, so that all (row, tree) pairs advance together and
one step is a handful of `take`s. Scoring needs no library, and no file can run code.

Fit for: trees of any shape, up to `MAX_DEPTH` cuts deep. Cost: depth x trees array accesses a row,
no Python loop over rows or trees.
Source: Breiman, "Random forests", Machine Learning 45, 2001 (averaged leaves); Friedman, "Greedy
function approximation: a gradient boosting machine", Annals of Statistics 29(5), 2001 (summed
leaves).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible

__all__ = ["MAX_DEPTH", "BoostedTrees", "ClassTrees", "Trees", "VotingTrees", "class_trees_of"]

# Cuts on one path. Axon's forests have a third of it; a longer path would only cost time.
MAX_DEPTH = 64
# (row, tree) pairs traversed together: the working set stays in the second-level cache.
PAIRS_AT_ONCE = 1 << 16
STEPS_A_CHECK = 4  # cuts between two checks of which pairs have reached their leaf
MANY_PAIRS = 4096  # with fewer, selecting the pairs in progress costs more than a step of all
_ARRAYS = ("feature", "threshold", "children", "roots")
Leaves = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Trees:
    """Structure of t trees: nodes 0 to i - 1 are cuts, i to i + l - 1 are leaves.

    Attributes:
        feature: int32 (i,), column that a cut compares.
        threshold: float32 (i,), a row goes to the first child if its value is <= this, else to the
            second.
        children: int32 (i, 2), node numbers; each is greater than its parent's.
        roots: int32 (t,), node numbers.
        n_features: columns of a row.
        depth: cuts on the longest path; derived.
    """

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    children: NDArray[np.int32]
    roots: NDArray[np.int32]
    n_features: int
    depth: int = field(init=False)
    # Of all nodes, leaves included: (i + l,).
    _column: NDArray[np.intp] = field(init=False, repr=False)
    _cut: NDArray[np.float32] = field(init=False, repr=False)
    # The two children of every node, for a leaf itself: (2 * (i + l),).
    _next: NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        cuts = self.feature.size
        if not (
            self.feature.shape == self.threshold.shape == (cuts,)
            and self.children.shape == (cuts, 2)
        ):
            raise _wrong(
                "one column, one threshold and two children a cut",
                f"shapes {self.feature.shape}, {self.children.shape}",
            )
        if self.roots.ndim != 1 or not self.roots.size:
            raise _wrong("one tree or more", f"roots {self.roots.shape}")
        if cuts and (self.feature.min() < 0 or self.feature.max() >= self.n_features):
            raise _wrong(
                f"columns 0 to {self.n_features - 1}",
                f"columns {self.feature.min()} to {self.feature.max()}",
            )
        if not np.isfinite(self.threshold).all():
            raise _wrong("finite thresholds", "NaN or infinity")
        nodes = cuts + self.leaves
        if not np.array_equal(
            np.sort(np.concatenate([self.children.ravel(), self.roots])), np.arange(nodes)
        ):
            raise _wrong("every node once, as a root or as a child", "a node twice, or none")
        if (self.children <= np.arange(cuts)[:, None]).any():
            raise _wrong(
                "children after their parent", "a child before it, which would be a circle"
            )
        leaves = np.arange(cuts, nodes)
        object.__setattr__(
            self,
            "_column",
            np.concatenate([self.feature.astype(np.intp), np.zeros(leaves.size, np.intp)]),
        )
        object.__setattr__(
            self, "_cut", np.concatenate([self.threshold, np.zeros(leaves.size, np.float32)])
        )
        object.__setattr__(
            self,
            "_next",
            np.concatenate([self.children.astype(np.intp).ravel(), np.repeat(leaves, 2)]),
        )
        object.__setattr__(self, "depth", self._longest_path())

    def _longest_path(self) -> int:
        level, depth = self.roots.astype(np.intp), 0
        while (level := level[level < self.feature.size]).size:
            depth += 1
            if depth > MAX_DEPTH:
                raise _wrong(f"trees of depth {MAX_DEPTH} or less", "a deeper one")
            # Every node has one parent, so that no level has more nodes than the trees.
            level = self.children[level].ravel().astype(np.intp)
        return depth

    @property
    def leaves(self) -> int:
        """Number of leaves in all trees: each tree has one more than it has cuts."""
        return self.feature.size + self.roots.size

    def leaves_of(self, rows: NDArray[np.float32]) -> Leaves:
        """Find the leaf of each row in each tree, int (n, t), 0 to l - 1.

        `rows` is float32 (n, d), finite.
        """
        node = np.tile(self.roots.astype(np.intp), len(rows))  # (n * t,)
        values = np.ascontiguousarray(rows).ravel()
        start = np.repeat(np.arange(len(rows)) * self.n_features, self.roots.size)
        for walked in range(0, self.depth, STEPS_A_CHECK):
            steps = min(STEPS_A_CHECK, self.depth - walked)
            if node.size < MANY_PAIRS:
                node = self._walk(values, start, node, steps)
                continue
            at_cut = np.flatnonzero(node < self.feature.size)
            node[at_cut] = self._walk(values, start[at_cut], node[at_cut], steps)
        return (node - self.feature.size).reshape(len(rows), self.roots.size)

    def _walk(
        self,
        values: NDArray[np.float32],
        start: NDArray[np.intp],
        node: NDArray[np.intp],
        steps: int,
    ) -> NDArray[np.intp]:
        for _ in range(steps):
            goes_second = values.take(start + self._column.take(node)) > self._cut.take(node)
            node = self._next.take(2 * node + goes_second)
        return node

    def path(
        self, rows: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]]:
        """Yield every step of all rows in all trees.

        A step is the node, the column compared there and the next node, each int (n, t); the next
        node of a leaf is itself.
        """
        node = np.tile(self.roots.astype(np.intp), (len(rows), 1))
        each = np.arange(len(rows))[:, None]
        for _ in range(self.depth):
            column = self._column[node]
            following = self._next[2 * node + (rows[each, column] > self._cut[node])]
            yield node, column, following
            node = following

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle."""
        return {
            "feature": self.feature,
            "threshold": self.threshold,
            "children": self.children,
            "roots": self.roots,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_features: int) -> Self:
        """Build the trees from a bundle.

        Raises:
            ArtifactIncompatible: an array is missing, of another shape, or has an impossible index
                or number.
        """
        if missing := [name for name in _ARRAYS if name not in arrays]:
            raise _wrong(", ".join(_ARRAYS), f"no {missing[0]}")
        feature, threshold, children, roots = (arrays[name] for name in _ARRAYS)
        if not all(one.dtype.kind in "iu" for one in (feature, children, roots)):
            raise _wrong("integers as columns and nodes", "others")
        return cls(
            feature.astype(np.int32),
            threshold.astype(np.float32),
            children.astype(np.int32),
            roots.astype(np.int32),
            n_features,
        )


@dataclass(frozen=True, slots=True)
class VotingTrees:
    """Forest or single tree: leaves have class probabilities, and the trees are averaged.

    Attributes:
        trees: structure with l leaves.
        votes: float32 (l, k), class probabilities of each leaf, rows sum to 1.
        first_share: float32 (i,), probability of the first class at each cut, for the explanation.
    """

    trees: Trees
    votes: NDArray[np.float32]
    first_share: NDArray[np.float32]
    # Probability of the first class in each leaf: (l,).
    _first: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if (
            self.votes.ndim != 2  # noqa: PLR2004  # (l, k)
            or len(self.votes) != self.trees.leaves
            or self.first_share.shape != self.trees.feature.shape
        ):
            raise _wrong(
                f"votes of {self.trees.leaves} leaves",
                f"shapes {self.votes.shape}, {self.first_share.shape}",
            )
        if (
            not ((self.votes >= 0.0) & (self.votes <= 1.0)).all()
            or not ((self.first_share >= 0.0) & (self.first_share <= 1.0)).all()
        ):
            raise _wrong("chances in [0, 1]", "others")  # NaN fails too
        if not np.allclose(self.votes.sum(axis=1, dtype=np.float64), 1.0, atol=1e-5):
            raise _wrong("chances that sum to 1", "others")
        object.__setattr__(self, "_first", self.votes[:, 0].astype(np.float64))

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.votes.shape[1])

    def probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, float64 (n, k), rows sum to 1.

        `rows` is float32 (n, d), finite.
        """
        mean = np.concatenate([self._mean(part) for part in _parts(rows, self.trees)])
        # float32 leaves sum to 1 only within rounding.
        chances: NDArray[np.float64] = mean / mean.sum(axis=1, keepdims=True)
        return chances

    def _mean(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self.votes.take(self.trees.leaves_of(rows), axis=0).mean(
            axis=1, dtype=np.float64
        )
        return mean

    def not_first(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds that a row is not of the first class, float64 (n,).

        Infinite if all leaves of a row are certain.
        """
        first = np.concatenate(
            [
                self._first.take(self.trees.leaves_of(part)).mean(axis=1)
                for part in _parts(rows, self.trees)
            ]
        )
        odds: NDArray[np.float64] = np.log1p(-first) - np.log(first)
        return odds

    def moved_by(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Contribution of each column against the first class, float64 (n, d).

        It is the sum of the changes of the probability along the paths. The contributions of a row
        and the mean probability of another class at the roots sum to the row's probability of
        another class.

        Source: Palczewska et al., "Interpreting random forest classification models using a feature
        contribution method", 2014.
        """
        chance = 1.0 - np.concatenate([self.first_share, self._first])
        moved = np.zeros((len(rows), self.trees.n_features))
        each = np.arange(len(rows))[:, None]
        for node, column, following in self.trees.path(rows):
            np.add.at(moved, (each, column), chance[following] - chance[node])
        return moved / self.trees.roots.size

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle."""
        return {**self.trees.to_arrays(), "votes": self.votes, "first_share": self.first_share}


@dataclass(frozen=True, slots=True)
class BoostedTrees:
    """Boosted trees: each leaf has a step of the logit of one class, and the steps are summed.

    Attributes:
        trees: in the order of rounds; each round has one tree for each logit, in order.
        steps: float32 (l,), step of each leaf.
        base: float64 (g,), logit of each class before the first round; for two classes g is 1, the
            logit of the second.
    """

    trees: Trees
    steps: NDArray[np.float32]
    base: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.steps.shape != (self.trees.leaves,):
            raise _wrong(f"steps of {self.trees.leaves} leaves", f"shape {self.steps.shape}")
        if self.base.ndim != 1 or not self.base.size or self.trees.roots.size % self.base.size:
            raise _wrong(
                "a tree for each logit in each round",
                f"{self.trees.roots.size} trees, base {self.base.shape}",
            )
        if not np.isfinite(self.steps).all() or not np.isfinite(self.base).all():
            raise _wrong("finite steps", "NaN or infinity")

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return max(2, int(self.base.size))

    def probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities, float64 (n, k), rows sum to 1.

        `rows` is float32 (n, d), finite.
        """
        logits = np.concatenate([self._logits(part) for part in _parts(rows, self.trees)])
        if logits.shape[1] == 1:
            logits = np.hstack([np.zeros_like(logits), logits])
        grown = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances: NDArray[np.float64] = grown / grown.sum(axis=1, keepdims=True)
        return chances

    def _logits(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        rounds = self.trees.roots.size // self.base.size
        steps = self.steps.take(self.trees.leaves_of(rows)).reshape(
            len(rows), rounds, self.base.size
        )
        logits: NDArray[np.float64] = self.base + steps.sum(axis=1, dtype=np.float64)
        return logits

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle."""
        return {**self.trees.to_arrays(), "steps": self.steps, "base": self.base}


ClassTrees = VotingTrees | BoostedTrees


def class_trees_of(arrays: Mapping[str, NDArray[Any]], n_features: int) -> ClassTrees:
    """Build the trees of a bundle with the values of their leaves, votes or steps.

    Raises:
        ArtifactIncompatible: an array is missing, of another shape, or has an impossible value.
    """
    trees = Trees.from_arrays(arrays, n_features)
    try:
        if "votes" in arrays:
            return VotingTrees(
                trees, arrays["votes"].astype(np.float32), arrays["first_share"].astype(np.float32)
            )
        return BoostedTrees(
            trees, arrays["steps"].astype(np.float32), arrays["base"].astype(np.float64)
        )
    except KeyError as missing:
        raise _wrong("votes with shares, or steps with a base", f"no {missing}") from None


def _parts(rows: NDArray[np.float32], trees: Trees) -> Iterator[NDArray[np.float32]]:
    """Split rows into parts of `PAIRS_AT_ONCE` pairs; at least one part, which may be empty."""
    step = max(1, PAIRS_AT_ONCE // trees.roots.size)
    for start in range(0, max(1, len(rows)), step):
        yield rows[start : start + step]


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("trees", expected, found)
