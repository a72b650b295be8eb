"""Codebook: distance of an event from the nearest of a few hundred benign shapes.

The centres of k-means over benign rows are a code; the distance to the nearest one is the error of
encoding the row.

Fit for: combinations of ordinary values that never occur together, in any direction. Unfit for:
benign traffic unlike that of training. Cost: one matrix product of (n, d) by (d, k).
Privacy: a bundle contains centres, each the mean of at least three flows, and no flow.
Source: vector quantisation as reconstruction: Gersho, Gray, "Vector Quantization and Signal
Compression", 1992; distance to the nearest prototype as novelty: Pimentel et al., "A review of
novelty detection", Signal Processing 99, 2014, section 4.
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
            numbers, and a row must score the same alone as in a batch.
    """

    centres: NDArray[np.float64]

    def __post_init__(self) -> None:
        is_matrix = self.centres.ndim == 2  # noqa: PLR2004  # (k, d)
        if not is_matrix or not self.centres.size or not np.isfinite(self.centres).all():
            raise ArtifactIncompatible(
                "codebook", "finite centres (k, d)", f"shape {self.centres.shape}"
            )

    def nearest(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Nearest centre of each row: distance float64 (n,), index int (n,); `rows` is (n, d)."""
        wide = rows.astype(np.float64)
        # (n, k), less |row|^2, which is the same for all centres
        squares = np.einsum("kd,kd->k", self.centres, self.centres) - 2.0 * (wide @ self.centres.T)
        which = squares.argmin(axis=1)
        return np.linalg.norm(wide - self.centres[which], axis=1), which
