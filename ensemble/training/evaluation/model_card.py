"""Model cards: training data, figures and weaknesses of a model, as Markdown beside the model.

Source: Mitchell et al., "Model cards for model reporting", FAT* 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensemble.fusion import Fusion
from ensemble.training.evaluation.evaluate import FUSED, Evaluation, FamilyOut
from ensemble.training.markdown import table
from ensemble.training.metrics import Labelling, Separation, false_positive_interval

__all__ = ["family_table", "flow_card", "label_table", "separation_table"]

WEAK_TPR = 0.5  # a family is weak if a lower share is found at 1 % false positives
SMALL_FAMILY = 20  # flows; in a smaller family one flow is more than 5 %


def separation_table(figures: Mapping[str, Separation]) -> str:
    """Format the figures of the scores as a table: one line for each score."""
    head = ["score", "AUROC", "AUPRC", "TPR at 1 % FPR", "TPR at 0.1 % FPR", "benign", "hostile"]
    return table(
        head,
        [
            [
                n,
                f"{s.auroc:.4f}",
                f"{s.auprc:.4f}",
                f"{s.tpr_at_1_fpr:.3f}",
                f"{s.tpr_at_01_fpr:.3f}",
                s.benign,
                s.hostile,
            ]
            for n, s in figures.items()
        ],
    )


def family_table(
    families: Mapping[str, Mapping[str, Separation]],
    means: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> str:
    """Format AUROC / TPR at 1 % FPR as a table: one line for each family, then the means."""
    names = list(next(iter(families.values())))
    rows: list[list[object]] = [
        [
            family,
            next(iter(figures.values())).hostile,
            *(f"{figures[n].auroc:.3f} / {figures[n].tpr_at_1_fpr:.3f}" for n in names),
        ]
        for family, figures in families.items()
    ]
    for title, mean in (means or {}).items():
        rows.append(
            [f"**{title}**", "", *(f"**{mean[n][0]:.3f} / {mean[n][1]:.3f}**" for n in names)]
        )
    return table(["family", "flows", *names], rows)


def label_table(named: Mapping[str, Labelling]) -> str:
    """Format macro-F1, accuracy and F1 by label: one line for each model of the classifier."""
    labels = list(next(iter(named.values())).by_label)
    rows = [
        [
            name,
            f"{one.macro_f1:.3f}",
            f"{one.accuracy:.4f}",
            *(f"{one.by_label[label]:.3f}" for label in labels),
        ]
        for name, one in named.items()
    ]
    return table(["model", "macro-F1", "accuracy", *labels], rows)


def flow_card(
    *,
    name: str,
    about: str,
    training: Mapping[str, Any],
    fusion: Fusion,
    later: Evaluation | None,
    unseen: FamilyOut | None,
    own_traffic: bool = False,
) -> str:
    """Write the card of a flow model.

    Args:
        name: name of the bundle.
        about: description of the model, a sentence or two.
        training: facts about the training, as in the manifest.
        fusion: fitted to this model.
        later: figures on the later part of each day, from a fit on the earlier part; None if not
            measured.
        unseen: figures of attack families that were left out; None if not measured.
        own_traffic: True if trained on benign flows of the operator's own network.
    """
    parts = [
        f"# {name}",
        about,
        "## Training",
        table(["what", "value"], [[key, value] for key, value in training.items()]),
        "## Fusion",
        _fusion_text(fusion),
    ]
    if later is not None:
        parts += ["## Later flows of the same days", _later_text(later)]
    if unseen is not None:
        parts += ["## Attack families that no layer was trained on", _unseen_text(unseen)]
    parts += ["## Limits", _limits(own_traffic=own_traffic)]
    return "\n\n".join(parts) + "\n"


def _fusion_text(fusion: Fusion) -> str:
    shares = ", ".join(f"{layer} {share:.2f}" for layer, share in fusion.shares.items())
    rows = [
        [layers, f"{t.suspicious:.4f}", f"{t.malicious:.4f}", f"{t.critical:.4f}"]
        for layers, t in fusion.thresholds.items()
    ]
    return (
        f"Shares of the evidence: {shares}; sharpness {fusion.sharpness:.2f}."
        " Thresholds by the layers that contribute:\n\n"
        + table(["contributing", "suspicious", "malicious", "critical"], rows)
        + "\n\nThey were set on benign validation flows that no layer was trained on,"
        " for false-positive rates of 1 %, 0.1 % and 0.01 % unless stated otherwise above."
        " The validation flows are few: 0.1 % of them is a handful, and 0.01 % is an extrapolation."
    )


def _later_text(later: Evaluation) -> str:
    counted = ""
    if later.thresholds is not None:
        benign = later.scores[FUSED][~later.is_hostile]
        false_positives = int((benign > later.thresholds.suspicious).sum())
        low, high = false_positive_interval(false_positives, benign.size)
        counted = (
            "\n\nBenign flows above the `suspicious` threshold of that fit:"
            f" {false_positives} of {benign.size} "
            f"({false_positives / benign.size:.2%}, 95 % interval {low:.2%} to {high:.2%})."
        )
    return (
        "Everything (layers, calibration, fusion, thresholds) was fitted on the first 70 %"
        " by time of each (day, label), and evaluated on the rest.\n\n"
        + separation_table(later.overall())
        + counted
        + "\n\n"
        + family_table(later.by_family())
        + _label_text(later.labellings)
        + "\n\n![ROC](roc.png) ![Reliability](reliability.png) ![Scores](scores.png)"
    )


def _label_text(named: Mapping[str, Labelling]) -> str:
    if not named:
        return ""
    return (
        "\n\nHow well each model of the classifier names the family"
        " (F1 by label; `unknown` is always wrong here):\n\n" + label_table(named)
    )


def _unseen_text(unseen: FamilyOut) -> str:
    names = list(next(iter(unseen.families.values())))
    measures = ("auroc", "tpr_at_1_fpr")
    small = tuple(
        family
        for family, figures in unseen.families.items()
        if figures[FUSED].hostile < SMALL_FAMILY
    )
    means = {"mean": {n: (unseen.mean(n, measures[0]), unseen.mean(n, measures[1])) for n in names}}
    if small and len(small) < len(unseen.families):
        means[f"mean without {', '.join(small)}"] = {
            n: (
                unseen.mean(n, measures[0], without=small),
                unseen.mean(n, measures[1], without=small),
            )
            for n in names
        }
    weak = [
        f"{family} ({figures[FUSED].tpr_at_1_fpr:.2f})"
        for family, figures in unseen.families.items()
        if figures[FUSED].tpr_at_1_fpr < WEAK_TPR
    ]
    versus = "; ".join(
        f"{measure}: {unseen.versus_best[measure][0]:+.4f} over {unseen.best_layer[measure]} "
        f"(95 % interval {unseen.versus_best[measure][1]:+.4f}"
        f" to {unseen.versus_best[measure][2]:+.4f})"
        for measure in measures
    )
    return (
        "Each family was left out of the layers, the calibration, the fusion and its thresholds,"
        " then evaluated against the last 30 % of each day's benign flows,"
        " on which nothing was fitted either."
        " Cells: AUROC / true-positive rate at 1 % false positives.\n\n"
        + family_table(unseen.families, means)
        + f"\n\nFused against the best single layer, paired bootstrap over flows: {versus}.\n\n"
        + (
            "**Weak when unseen** (less than half is found at 1 % false positives):"
            f" {', '.join(weak)}."
            if weak
            else "No family is weak when unseen."
        )
    )


def _limits(*, own_traffic: bool) -> str:
    network = (
        "The anomaly layer and the thresholds are those of the network"
        " whose benign flows were given."
        if own_traffic
        else "Trained on CICIDS2017, one network in one week of 2017."
        " On any other network its thresholds raise far too many alarms:"
        " train the anomaly layer on your own benign flows (`axon train flows --benign FILE`)"
        " and set thresholds (`axon calibrate`)."
    )
    choices = (
        ""
        if own_traffic
        else "- Detector weights, network size and the weight of known families were chosen"
        " by tables like these, so the figures are a little too good."
        " The bootstrap treats flows as independent, which many are not.\n"
    )
    return (
        f"- {network}\n{choices}"
        "- Not used: addresses, source port, time, and `Destination Port`,"
        " which reveals the label.\n"
        "- The scores are probabilities at a prior of 1 % hostile, not at yours.\n"
        "- An attack that imitates benign flows is not detected;"
        " neither is one that never becomes a flow."
    )
