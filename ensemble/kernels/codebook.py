"""Codebook: distance of an event from the nearest of a few hundred benign shapes.

The centres of k-means over benign rows are a code; the distance to the nearest one is the error of
writing the row in that code.
Fit for: combinations of ordinary values that never occur together, whatever direction they deviate
in.
Unfit for: shapes of benign traffic that training did not see. Cost: one matrix product of (n, d) by
(d, k).
It ships centres, each a mean of three flows at least, and no flow.

Source: vector quantisation as reconstruction: Gersho, Gray, "Vector Quantization and Signal
Compression", 1992;
distance to the nearest prototype as novelty: Pimentel et al., "A review of novelty detection",
Signal Processing 99, 2014, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible

__all__ = ["Codebook"]


@dataclass(frozen=True, slots=True)
class Codebook:
    """Centres of benign traffic.

    Attributes:
        centres: float64 (k, d), finite. Not float32: the distance is a difference of large
            numbers, and a row must
            score the same alone as in a batch.
    """

    centres: NDArray[np.float64]

    def __post_init__(self) -> None:
        # (k, d)  # noqa: ERA001
        if self.centres.ndim != 2 or not self.centres.size or not np.isfinite(self.centres).all():  # noqa: PLR2004
            raise ArtifactIncompatible(
                "codebook", "finite centres (k, d)", f"shape {self.centres.shape}"
            )

    def nearest(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Distance to the nearest centre, float64 (n,), and which one, int (n,).

        `rows` is (n, d).
        """
        wide = rows.astype(np.float64)
        squares = np.einsum("kd,kd->k", self.centres, self.centres) - 2.0 * (
            wide @ self.centres.T
        )  # (n, k), short of |row|^2
        which = squares.argmin(axis=1)
        return np.linalg.norm(wide - self.centres[which], axis=1), which
