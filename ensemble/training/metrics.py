"""Metrics: how well scores separate hostile from benign events, with uncertainty.

The share of attacks in labelled data is artificial, so nothing here depends on it: areas, and
true-positive rates at a stated false-positive rate. Accuracy and F1 are left out on purpose;
`labelling` has them, for the names of families.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

__all__ = [
    "Labelling",
    "Separation",
    "false_positive_interval",
    "labelling",
    "paired_bootstrap",
    "separation",
    "tpr_at_fpr",
]


Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Separation:
    """How well one score separates.

    Attributes:
        auroc: area under the ROC curve.
        auprc: area under the precision-recall curve; depends on the share of attacks in the data.
        tpr_at_1_fpr: share of attacks above all but 1 % of benign events.
        tpr_at_01_fpr: above all but 0.1 %.
        benign: number of benign events.
        hostile: number of hostile events.
    """

    auroc: float
    auprc: float
    tpr_at_1_fpr: float
    tpr_at_01_fpr: float
    benign: int
    hostile: int


def tpr_at_fpr(benign: Scores, hostile: Scores, rate: float) -> float:
    """Compute the share of `hostile` above the score that at most `rate` of `benign` exceed."""
    allowed = int(np.floor(rate * benign.size))
    threshold = np.sort(benign)[benign.size - 1 - allowed]
    return float(np.mean(hostile > threshold))


def separation(benign: Scores, hostile: Scores) -> Separation:
    """Compute the figures of a score on labelled events; both sides need at least one."""
    truth = np.r_[np.zeros(benign.size), np.ones(hostile.size)]
    scores = np.r_[benign, hostile]
    return Separation(
        auroc=float(roc_auc_score(truth, scores)),
        auprc=float(average_precision_score(truth, scores)),
        tpr_at_1_fpr=tpr_at_fpr(benign, hostile, 0.01),
        tpr_at_01_fpr=tpr_at_fpr(benign, hostile, 0.001),
        benign=benign.size,
        hostile=hostile.size,
    )


def false_positive_interval(
    false_positives: int, benign: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Compute the Wilson interval of a false-positive rate that was measured on few flows.

    Source: Wilson, "Probable inference", JASA 22, 1927.
    """
    from scipy.stats import norm  # noqa: PLC0415  # a second of import that only reports need

    z = float(norm.ppf(0.5 + level / 2))
    rate, n = false_positives / benign, benign
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def paired_bootstrap(
    benign: Mapping[str, tuple[Scores, Scores]],
    hostile: Mapping[str, tuple[Scores, Scores]],
    *,
    rounds: int,
    seed: int,
) -> dict[str, tuple[float, float, float]]:
    """Average the difference of two scores over families, with a 95 % bootstrap interval.

    Each round draws events again, with replacement: the benign ones once for all families, which
    share them, and each family's own; the same draw for both scores.

    Args:
        benign: family -> (first score, second score) of the benign events it is compared with,
            the same events for every family.
        hostile: family -> (first score, second score) of its own events.
        rounds: of the bootstrap.
        seed: of the draws.

    Returns:
        `auroc` and `tpr_at_1_fpr` -> mean difference first - second, its 2.5 % and its 97.5 %
        quantile.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    generator = np.random.default_rng(seed)
    differences = np.zeros((rounds + 1, 2))
    for number in range(rounds + 1):
        per_family = []
        shared = next(iter(benign.values()))[0].size
        calm = generator.integers(0, shared, shared)
        for family, scores in hostile.items():
            b, h = np.array(benign[family]), np.array(scores)  # (2, n), (2, m)
            if number:  # round 0 is the data as they are
                b, h = b[:, calm], h[:, generator.integers(0, h.shape[1], h.shape[1])]
            per_family.append(
                [
                    _auroc(b[0], h[0]) - _auroc(b[1], h[1]),
                    tpr_at_fpr(b[0], h[0], 0.01) - tpr_at_fpr(b[1], h[1], 0.01),
                ]
            )
        differences[number] = np.mean(per_family, axis=0)
    low, high = np.quantile(differences[1:], [0.025, 0.975], axis=0)
    return {
        name: (float(differences[0, i]), float(low[i]), float(high[i]))
        for i, name in enumerate(("auroc", "tpr_at_1_fpr"))
    }


def _auroc(benign: Scores, hostile: Scores) -> float:
    """Area under the ROC curve by ranks: ties count half. Mann, Whitney 1947."""
    ordered = np.sort(benign)
    below = np.searchsorted(ordered, hostile, side="left") + np.searchsorted(
        ordered, hostile, side="right"
    )
    return float(below.mean() / (2.0 * benign.size))


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


def labelling(
    truth: NDArray[np.str_], chances: NDArray[np.float64], labels: Sequence[str]
) -> Labelling:
    """Compute the figures of the likeliest labels.

    Args:
        truth: n labels.
        chances: float64 (n, k), of each of `labels`.
        labels: k labels; a label of `truth` that is not among them is always missed.
    """
    predicted = np.array(labels)[chances.argmax(axis=1)]
    occurring = sorted(set(truth.tolist()))
    f1 = f1_score(truth, predicted, labels=occurring, average=None, zero_division=0.0)
    return Labelling(
        float(np.mean(f1)),
        float(np.mean(truth == predicted)),
        dict(zip(occurring, f1.tolist(), strict=True)),
    )
