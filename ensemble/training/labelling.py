"""How well a model names the family of a flow: macro-F1 and accuracy over the labels that were judged.

Both depend on the share of each family in the data, which is artificial in labelled sets; they say how families are told apart, and
nothing about false alarms. For those see `separation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

__all__ = ["Labelling", "labelling"]


@dataclass(frozen=True, slots=True)
class Labelling:
    """How often labels are right.

    Attributes:
        macro_f1: mean of the F1 of each label that occurs, each counting alike.
        accuracy: share of the flows that get their own label.
        by_label: label -> F1.
    """

    macro_f1: float
    accuracy: float
    by_label: dict[str, float]


def labelling(truth: NDArray[np.str_], chances: NDArray[np.float64], labels: Sequence[str]) -> Labelling:
    """Figures of the likeliest labels.

    Args:
        truth: n labels.
        chances: float64 (n, k), of each of `labels`.
        labels: k labels; one that `truth` has and these have not is always missed.
    """
    said = np.array(labels)[chances.argmax(axis=1)]
    occurring = sorted(set(truth.tolist()))
    f1 = f1_score(truth, said, labels=occurring, average=None, zero_division=0.0)
    return Labelling(float(np.mean(f1)), float(np.mean(truth == said)), dict(zip(occurring, f1.tolist(), strict=True)))
