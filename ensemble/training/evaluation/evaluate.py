"""Evaluation of the recipe: on later flows of the same days, and on unseen attack families.

Leaving a family out is *nested*: the layers, the calibration, the fusion and every choice among
them are made without it. This takes a fit without each family and a fit without each pair of
families. The fit without {A, B} is used for A and for B.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ensemble.fusion import Thresholds, layer_set
from ensemble.kernels.calibration import probability
from ensemble.layers.classifier import FlowClassifier
from ensemble.training.data.flow_table import BENIGN, FlowTable
from ensemble.training.metrics import Labelling, Separation, labelling, paired_bootstrap, separation
from ensemble.training.recipes.flow_ensemble import (
    LAYER_NAMES,
    FlowLayers,
    InnerFit,
    Progress,
    UnseenScores,
    fit_top,
    inner_scores,
    stretches,
)

__all__ = [
    "FUSED",
    "Evaluation",
    "FamilyOut",
    "evaluate_layers",
    "labelling_by_model",
    "leave_families_out",
]

FUSED = "fused"
TEST_SHARE = 0.3  # the last 30 % of each day's benign flows are for evaluation alone
BOOTSTRAP_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of some flows by every layer and by the fusion, in [0, 1].

    Attributes:
        scores: `anomaly`, `behavior`, `classifier`, `fused` -> float64 (n,).
        families: n labels.
        is_hostile: bool (n,).
        thresholds: of the fused score; None unless they were fitted on other flows than these.
        labellings: model of the classifier -> how well it names the families; empty if not
            measured.
    """

    scores: Mapping[str, NDArray[np.float64]]
    families: NDArray[np.str_]
    is_hostile: NDArray[np.bool_]
    thresholds: Thresholds | None = None
    labellings: Mapping[str, Labelling] = field(default_factory=dict)

    def overall(self) -> dict[str, Separation]:
        """Compute the figures of each score over all families."""
        return {
            name: separation(column[~self.is_hostile], column[self.is_hostile])
            for name, column in self.scores.items()
        }

    def by_family(self) -> dict[str, dict[str, Separation]]:
        """Compute the figures of each score by family, against all benign flows."""
        return {
            family: {
                name: separation(column[~self.is_hostile], column[self.families == family])
                for name, column in self.scores.items()
            }
            for family in sorted(set(self.families[self.is_hostile].tolist()))
        }


def evaluate_layers(layers: FlowLayers, table: FlowTable) -> Evaluation:
    """Score labelled flows with fitted layers and their fusion."""
    odds = layers.odds(table.features)
    columns = {name: probability(column) for name, column in odds.items()}
    scores = columns | {FUSED: probability(layers.fused(odds))}
    thresholds = layers.fusion.thresholds[layer_set(odds)] if layers.fusion else None
    return Evaluation(
        scores,
        table.families,
        table.is_hostile,
        thresholds,
        labelling_by_model(layers.classifier, table),
    )


def labelling_by_model(classifier: FlowClassifier | None, table: FlowTable) -> dict[str, Labelling]:
    """Measure how well each model of a classifier names the families; empty if there is none."""
    if classifier is None:
        return {}
    return {
        name: labelling(
            table.families, classifier.classify(table.features, name), classifier.labels
        )
        for name in classifier.names
    }


@dataclass(frozen=True, slots=True)
class FamilyOut:
    """Figures of each attack family, from an ensemble that was trained without that family.

    Attributes:
        families: family -> figures of each score.
        best_layer: measure -> the layer with the best mean.
        versus_best: measure -> fused minus the best layer: mean, low and high end of a 95 %
            interval.
    """

    families: Mapping[str, Mapping[str, Separation]]
    best_layer: Mapping[str, str]
    versus_best: Mapping[str, tuple[float, float, float]]

    def mean(self, name: str, measure: str, *, without: tuple[str, ...] = ()) -> float:
        """Average a measure over the families, with equal weights."""
        return float(
            np.mean(
                [
                    getattr(figures[name], measure)
                    for family, figures in self.families.items()
                    if family not in without
                ]
            )
        )


def leave_families_out(table: FlowTable, seed: int, progress: Progress, *, jobs: int) -> FamilyOut:
    """Evaluate the recipe on each attack family of `table`, trained without that family."""
    families = sorted(set(table.families[table.is_hostile].tolist()))
    early, late = table.select(~table.is_hostile).split_by_time(1.0 - TEST_SHARE)
    benign_rows = np.flatnonzero(~table.is_hostile)
    attack_rows = np.flatnonzero(table.is_hostile)
    own = table.select(np.r_[benign_rows[early], attack_rows])
    test = table.select(benign_rows[late])
    everything = table.select(np.r_[benign_rows[early], attack_rows, benign_rows[late]])
    is_test = np.r_[np.zeros(len(own), bool), np.ones(len(test), bool)]

    pairs = list(combinations(families, 2))
    colour, rounds = _rounds(len(families))
    stretch = np.r_[stretches(own, rounds), np.full(len(test), -1)]
    pair_fits = [
        InnerFit(
            pair,
            is_test | (stretch == colour[families.index(pair[0]), families.index(pair[1])]),
        )
        for pair in pairs
    ]
    single_fits = [InnerFit((family,), is_test) for family in families]
    scores = inner_scores(
        everything,
        pair_fits + single_fits,
        seed,
        progress,
        "families left out, in pairs and alone",
        jobs=jobs,
    )

    evaluations: dict[str, Evaluation] = {}
    for number, family in enumerate(families):
        unseen = []
        for pair, fit, left_out in zip(pairs, pair_fits, scores, strict=False):
            if family in pair:
                out = np.isin(everything.families, fit.without) | fit.left_out
                unseen.append(left_out.select(~is_test[out] & (left_out.families != family)))
        evaluations[family] = _evaluate_raw(
            UnseenScores.gather(unseen), scores[len(pairs) + number]
        )
    figures = {family: one.by_family()[family] for family, one in evaluations.items()}
    return _compare(figures, evaluations, seed)


def _rounds(teams: int) -> tuple[NDArray[np.intp], int]:
    """Schedule a round-robin tournament: the round of each pair (colour[a, b]), and how many.

    No team meets two others in one round. Families are teams, stretches of time are rounds. So the
    pairs that share a family leave out different stretches.
    """
    even = teams + teams % 2
    colour = np.zeros((even, even), np.intp)
    for a in range(even - 1):
        for b in range(even - 1):
            colour[a, b] = (a + b) % (even - 1)
        colour[a, even - 1] = colour[even - 1, a] = 2 * a % (even - 1)
    return colour, even - 1


def _evaluate_raw(unseen: UnseenScores, test: UnseenScores) -> Evaluation:
    """Fit calibration and fusion on `unseen`, then score `test`; both hold raw scores."""
    calibrations, fusion = fit_top(unseen)
    odds = {layer: calibrations[layer].to_log_odds(raw) for layer, raw in test.raw.items()}
    columns = {layer: probability(column) for layer, column in odds.items()}
    return Evaluation(
        columns | {FUSED: probability(fusion.pooled(odds))}, test.families, test.families != BENIGN
    )


def _compare(
    figures: Mapping[str, Mapping[str, Separation]],
    evaluations: Mapping[str, Evaluation],
    seed: int,
) -> FamilyOut:
    """Find the best layer by each measure, and compare the fused score with it."""
    out = FamilyOut(figures, {}, {})
    best_layer, versus_best = {}, {}
    for measure in ("auroc", "tpr_at_1_fpr"):
        best = max(LAYER_NAMES, key=lambda layer: out.mean(layer, measure))
        benign = {
            family: (one.scores[FUSED][~one.is_hostile], one.scores[best][~one.is_hostile])
            for family, one in evaluations.items()
        }
        hostile = {
            family: (one.scores[FUSED][one.is_hostile], one.scores[best][one.is_hostile])
            for family, one in evaluations.items()
        }
        best_layer[measure] = best
        versus_best[measure] = paired_bootstrap(
            benign, hostile, rounds=BOOTSTRAP_ROUNDS, seed=seed
        )[measure]
    return FamilyOut(figures, best_layer, versus_best)
