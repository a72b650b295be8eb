"""Charts of a model card: ROC, reliability, and distribution of scores, each a PNG in memory."""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from ensemble.fusion import Thresholds

__all__ = ["reliability_picture", "roc_picture", "score_picture"]

COLOURS = {"anomaly": "#8a6d3b", "behavior": "#2f6f8f", "classifier": "#6b4c9a", "fused": "#b0272f"}
BENIGN_COLOUR, HOSTILE_COLOUR = "#4c7a4c", "#b0272f"
LEAST_RATE = 1e-4


def roc_picture(
    title: str, scores: Mapping[str, NDArray[np.float64]], is_hostile: NDArray[np.bool_]
) -> bytes:
    """Draw the ROC of every score on a logarithmic axis of false positives.

    Analysts work at the low false-positive rates, which a linear axis would hide.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, column in scores.items():
        false_positives, true_positives, _ = roc_curve(is_hostile, column)
        axes.step(
            np.maximum(false_positives, LEAST_RATE),
            true_positives,
            where="post",
            label=name,
            color=COLOURS.get(name),
        )
    axes.axvline(0.01, color="0.7", linewidth=0.8)
    axes.set(
        xscale="log",
        xlim=(LEAST_RATE, 1),
        ylim=(0, 1.01),
        xlabel="false-positive rate",
        ylabel="true-positive rate",
        title=title,
    )
    axes.legend(loc="lower right", frameon=False)
    return _png(figure)


def reliability_picture(
    title: str,
    score: NDArray[np.float64],
    is_hostile: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> bytes:
    """Draw the share of hostile events among events of similar score, at the reference prior.

    Larger dots represent more events.

    Args:
        title: title of the picture.
        score: float64 (n,) in (0, 1).
        is_hostile: bool (n,).
        weights: float64 (n,); with them 1 % of the events is hostile.
    """
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    odds = np.log(score) - np.log1p(-score)
    bins = np.round(odds).astype(int)  # one unit of log-odds each
    used, counts = np.unique(bins, return_counts=True)
    scored = [np.average(score[bins == b], weights=weights[bins == b]) for b in used]
    found = [np.average(is_hostile[bins == b], weights=weights[bins == b]) for b in used]
    low, high = LEAST_RATE, 1 - LEAST_RATE
    axes.plot([low, high], [low, high], color="0.7", linewidth=0.8)
    axes.plot(
        np.clip(np.array(scored), low, high),
        np.clip(np.array(found), low, high),
        color=COLOURS["fused"],
    )
    axes.scatter(
        np.clip(np.array(scored), low, high),
        np.clip(np.array(found), low, high),
        s=12 * np.log1p(counts),
        color=COLOURS["fused"],
    )
    axes.set(
        xscale="logit",
        yscale="logit",
        xlabel="score",
        ylabel="share hostile, at a prior of 1 %",
        title=title,
    )
    axes.minorticks_off()
    return _png(figure)


def score_picture(
    title: str, score: NDArray[np.float64], is_hostile: NDArray[np.bool_], thresholds: Thresholds
) -> bytes:
    """Draw the distribution of the scores of benign and hostile events, with the thresholds."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    odds = np.log(score) - np.log1p(-score)
    bins = np.linspace(odds.min(), odds.max(), 60).tolist()
    for name, rows, colour in (
        ("benign", ~is_hostile, BENIGN_COLOUR),
        ("hostile", is_hostile, HOSTILE_COLOUR),
    ):
        if rows.any():
            axes.hist(
                odds[rows],
                bins=bins,
                weights=np.full(rows.sum(), 1 / rows.sum()),
                alpha=0.6,
                label=name,
                color=colour,
            )
    for name, threshold in (
        ("suspicious", thresholds.suspicious),
        ("malicious", thresholds.malicious),
    ):
        at = float(np.log(threshold) - np.log1p(-threshold))
        axes.axvline(at, color="0.3", linewidth=0.8)
        axes.annotate(
            name,
            (at, 0.97),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            ha="right",
            fontsize=8,
            color="0.3",
        )
    axes.set(yscale="log", xlabel="log-odds of the score", ylabel="share of events", title=title)
    axes.legend(loc="upper center", frameon=False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # without metadata the same picture always has the same bytes
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return buffer.getvalue()
