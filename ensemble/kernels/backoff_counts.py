"""Backed-off counts: the probability of a name in a place with few observations.

A place with few observations backs off to the wider place around it, and that to everyone. The
share of the wider place follows from the counts: with t different names in n observations it is
t / (n + t). A place where every start was a new program expects new programs; one that ran the same
three for years does not.

    P(name | everyone) = (c + t / (V + 1)) / (n + t)    V names, and one slot for all unknown names
    P(name | place)    = (c + t * P(name | wider place)) / (n + t)

Fit for: categories with a long tail. Unfit for: order, or time. Cost: one binary search a level,
over entire columns.
Source: Witten, Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4),
1991, method C; as interpolation: Chen, Goodman, "An empirical study of smoothing techniques for
language modeling", 1998, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible

__all__ = ["EVERYONE", "BackedOffCounts"]

EVERYONE = 0  # the place around all others
MAX_COUNT = 1 << 40  # sums of counts stay exact in float64 and far from overflow


@dataclass(frozen=True, slots=True)
class BackedOffCounts:
    """Counts of V names in k places.

    Place 0 is everyone; other places back off to it, directly or through one other place. The id V
    stands for any unknown name. The arrays become read-only.

    Attributes:
        wider: int64 (k,), the place around each place, always a smaller id; 0 for place 0.
        keys: int64 (m,), strictly rising, place * (V + 1) + name; only observed pairs.
        counts: int64 (m,), observations of each pair, at least 1.
        n_names: V.
        observations: float64 (k,), sum of the counts of each place; derived.
        different: float64 (k,), number of different names in each place; derived.
    """

    wider: NDArray[np.int64]
    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    n_names: int
    observations: NDArray[np.float64] = field(init=False, repr=False)
    different: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places, stride = self.wider.size, self.n_names + 1
        if (
            self.wider.ndim != 1
            or not places
            or self.wider[EVERYONE] != EVERYONE
            or (self.wider < 0).any()
        ):
            raise _wrong("a place 0 around all places", "none")
        if (self.wider[1:] >= np.arange(1, places)).any() or self.wider[self.wider].any():
            raise _wrong(
                "at most one place between any place and everyone", "a longer or circular chain"
            )
        if self.keys.ndim != 1 or self.keys.shape != self.counts.shape or not self.keys.size:
            raise _wrong(
                "one count for each key, at least one",
                f"shapes {self.keys.shape} and {self.counts.shape}",
            )
        if self.keys[0] < 0 or (np.diff(self.keys) <= 0).any() or self.keys[-1] >= places * stride:
            raise _wrong(f"rising keys below {places * stride}", "others")
        if (self.keys % stride == self.n_names).any():
            raise _wrong("no count of the unknown name", "one")
        if self.counts.min() < 1 or self.counts.max() > MAX_COUNT:
            raise _wrong(
                f"counts from 1 to {MAX_COUNT}", f"{self.counts.min()} to {self.counts.max()}"
            )
        place = self.keys // stride
        observations = np.bincount(place, weights=self.counts, minlength=places)
        different = np.bincount(place, minlength=places).astype(np.float64)
        if not different.all():
            raise _wrong("an observation in every place", "a place without any")
        object.__setattr__(self, "observations", observations)
        object.__setattr__(self, "different", different)
        for array in (self.wider, self.keys, self.counts, observations, different):
            array.flags.writeable = False

    @classmethod
    def of(
        cls,
        wider: NDArray[np.int64],
        places: NDArray[np.int64],
        names: NDArray[np.int64],
        n_names: int,
    ) -> Self:
        """Count observations.

        Args:
            wider: as the attribute.
            places: int (r,), place of each observation; a start is one observation in each of its
                places.
            names: int (r,), name of each observation, below `n_names`.
            n_names: V.
        """
        keys, counts = np.unique(
            places.astype(np.int64) * (n_names + 1) + names, return_counts=True
        )
        return cls(wider, keys, counts.astype(np.int64), n_names)

    def count(self, places: NDArray[np.int64], names: NDArray[np.int64]) -> NDArray[np.float64]:
        """Observations of each (place, name), float64 (n,); 0 for an unobserved pair."""
        wanted = places * (self.n_names + 1) + names
        at = np.minimum(np.searchsorted(self.keys, wanted), self.keys.size - 1)
        return np.where(self.keys[at] == wanted, self.counts[at], 0).astype(np.float64)

    def probability(
        self, places: NDArray[np.int64], names: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """P(name | place) of each pair, float64 (n,), in (0, 1); it sums to 1 over V + 1 names.

        Args:
            places: int (n,), each in [0, k).
            names: int (n,), each in [0, V]; V is any unknown name.
        """
        everyone = np.zeros_like(places)
        uniform = self.different[EVERYONE] / (self.n_names + 1)
        chance: NDArray[np.float64] = (self.count(everyone, names) + uniform) / (
            self.observations[EVERYONE] + self.different[EVERYONE]
        )
        for level in (self.wider[places], places):
            backed_off, observed = self.different[level], self.count(level, names)
            chance = np.where(
                level == EVERYONE,
                chance,
                (observed + backed_off * chance) / (self.observations[level] + backed_off),
            )
        return chance

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays for a bundle; `from_arrays` builds equal counts."""
        return {"wider": self.wider, "keys": self.keys, "counts": self.counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_names: int) -> Self:
        """Build the counts from a bundle.

        Raises:
            ArtifactIncompatible: an array is missing or not of integers, or has impossible ids or
                counts.
        """
        missing = {"wider", "keys", "counts"} - arrays.keys()
        if missing:
            raise _wrong("wider, keys and counts", f"no {min(missing)}")
        wider, keys, counts = (
            np.ascontiguousarray(arrays[name]) for name in ("wider", "keys", "counts")
        )
        if not all(array.dtype == np.int64 for array in (wider, keys, counts)):
            raise _wrong("int64 arrays", f"{wider.dtype}, {keys.dtype} and {counts.dtype}")
        return cls(wider, keys, counts, n_names)


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("counts", expected, found)
