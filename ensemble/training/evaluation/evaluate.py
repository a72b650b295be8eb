"""Evaluation of the recipe: on later flows of the same days, and on unseen attack families.

Leaving a family out is *nested*: the family is left out of the layers, the calibration, the fusion
and every choice among them. For ten families that takes fits without each one and without each
pair; a fit without {A, B} serves A and B alike.
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

__all__ = ["FUSED", "FamilyOut", "Judged", "judge", "leave_families_out", "named_by"]

FUSED = "fused"
JUDGED_SHARE = 0.3  # the last 30 % of each day's benign flows are for evaluation alone
BOOTSTRAP_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of some flows by every layer and by the fusion, in [0, 1].

    Attributes:
        scores: `anomaly`, `behavior`, `classifier`, `fused` -> float64 (n,).
        families: n labels.
        is_hostile: bool (n,).
        thresholds: of the fused score, if they were fitted apart from these flows.
        named: model of the classifier -> how well it names the families; empty if not measured.
    """

    scores: Mapping[str, NDArray[np.float64]]
    families: NDArray[np.str_]
    is_hostile: NDArray[np.bool_]
    thresholds: Thresholds | None = None
    named: Mapping[str, Labelling] = field(default_factory=dict)

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


def judge(layers: FlowLayers, table: FlowTable) -> Judged:
    """Score labelled flows with fitted layers and their fusion."""
    odds = layers.odds(table.features)
    columns = {name: probability(column) for name, column in odds.items()}
    scores = columns | {FUSED: probability(layers.fused(odds))}
    thresholds = layers.fusion.thresholds[layer_set(odds)] if layers.fusion else None
    return Judged(
        scores, table.families, table.is_hostile, thresholds, named_by(layers.classifier, table)
    )


def named_by(classifier: FlowClassifier | None, table: FlowTable) -> dict[str, Labelling]:
    """Measure how well each model of a classifier names the families; empty without one."""
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
    """Figures of each family, by an ensemble that was trained without it.

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
        """Average a measure over the families, each counting alike."""
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
    """Evaluate the recipe on each family of `table`, unseen."""
    families = sorted(set(table.families[table.is_hostile].tolist()))
    early, late = table.select(~table.is_hostile).split_by_time(1.0 - JUDGED_SHARE)
    benign_rows = np.flatnonzero(~table.is_hostile)
    attack_rows = np.flatnonzero(table.is_hostile)
    own = table.select(np.r_[benign_rows[early], attack_rows])
    judging = table.select(benign_rows[late])
    everything = table.select(np.r_[benign_rows[early], attack_rows, benign_rows[late]])
    is_judge = np.r_[np.zeros(len(own), bool), np.ones(len(judging), bool)]

    pairs = list(combinations(families, 2))
    colour, rounds = _rounds(len(families))
    stretch = np.r_[stretches(own, rounds), np.full(len(judging), -1)]
    pair_fits = [
        InnerFit(
            pair, is_judge | (stretch == colour[families.index(pair[0]), families.index(pair[1])])
        )
        for pair in pairs
    ]
    single_fits = [InnerFit((family,), is_judge) for family in families]
    scores = inner_scores(
        everything,
        pair_fits + single_fits,
        seed,
        progress,
        "families left out, in pairs and alone",
        jobs=jobs,
    )

    judged: dict[str, Judged] = {}
    for number, family in enumerate(families):
        unseen = []
        for pair, fit, left_out in zip(pairs, pair_fits, scores, strict=False):
            if family in pair:
                out = np.isin(everything.families, fit.without) | fit.left_out
                unseen.append(left_out.select(~is_judge[out] & (left_out.families != family)))
        judged[family] = _judge_raw(UnseenScores.gather(unseen), scores[len(pairs) + number])
    figures = {family: one.by_family()[family] for family, one in judged.items()}
    return _compare(figures, judged, seed)


def _rounds(teams: int) -> tuple[NDArray[np.intp], int]:
    """Schedule a round-robin tournament: colour[a, b] is the round of a pair; count the rounds.

    No team meets two others in one round. Families are teams and stretches of time are rounds: the
    pairs of one family then leave out stretches that are all different.
    """
    even = teams + teams % 2
    colour = np.zeros((even, even), np.intp)
    for a in range(even - 1):
        for b in range(even - 1):
            colour[a, b] = (a + b) % (even - 1)
        colour[a, even - 1] = colour[even - 1, a] = 2 * a % (even - 1)
    return colour, even - 1


def _judge_raw(unseen: UnseenScores, test: UnseenScores) -> Judged:
    """Calibrate and fuse by `unseen`, then score `test`, both given as raw scores."""
    calibrations, fusion = fit_top(unseen)
    odds = {layer: calibrations[layer].to_log_odds(raw) for layer, raw in test.raw.items()}
    columns = {layer: probability(column) for layer, column in odds.items()}
    return Judged(
        columns | {FUSED: probability(fusion.pooled(odds))}, test.families, test.families != BENIGN
    )


def _compare(
    figures: Mapping[str, Mapping[str, Separation]], judged: Mapping[str, Judged], seed: int
) -> FamilyOut:
    out = FamilyOut(figures, {}, {})
    best_layer, versus_best = {}, {}
    for measure in ("auroc", "tpr_at_1_fpr"):
        best = max(LAYER_NAMES, key=lambda layer: out.mean(layer, measure))
        benign = {
            f: (j.scores[FUSED][~j.is_hostile], j.scores[best][~j.is_hostile])
            for f, j in judged.items()
        }
        hostile = {
            f: (j.scores[FUSED][j.is_hostile], j.scores[best][j.is_hostile])
            for f, j in judged.items()
        }
        best_layer[measure] = best
        versus_best[measure] = paired_bootstrap(
            benign, hostile, rounds=BOOTSTRAP_ROUNDS, seed=seed
        )[measure]
    return FamilyOut(figures, best_layer, versus_best)
