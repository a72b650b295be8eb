"""Training recipe of the flow ensemble: three layers, their calibrations, fusion and thresholds.

Everything that is fitted on scores (calibration, fusion, thresholds) needs scores of events that
were not used to fit the layers. For each attack family, one *inner* set of layers is fitted without
that family and without one stretch of time of all other flows. Its scores on these two are used to
fit the rest. The layers that serve are then fitted on all flows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.events import FlowBatch
from ensemble.fusion import Fusion
from ensemble.kernels.calibration import Calibration, log_odds
from ensemble.layers.behavior import DeepBehavior
from ensemble.layers.classifier import FUSED_MODEL, KNOWN_MODELS, FlowClassifier
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.model import Model
from ensemble.training.data.flow_table import BENIGN, FlowTable
from ensemble.training.fit.calibration import family_weights, fit_calibration
from ensemble.training.fit.fusion import RATES, fit_fusion, with_thresholds
from ensemble.training.recipes.behavior import fit_behavior
from ensemble.training.recipes.classifier import fit_classifier
from ensemble.training.recipes.flow_anomaly import (
    FOLDS,
    WEIGHTS,
    fit_detectors,
    fit_surprises,
    time_folds,
    uncalibrated,
)

__all__ = [
    "LAYER_NAMES",
    "FlowLayers",
    "FlowModel",
    "InnerFit",
    "Progress",
    "UnseenScores",
    "fit_flows",
    "fit_layers",
    "fit_on_benign",
    "fit_top",
    "flow_odds",
    "inner_scores",
    "stretches",
]

LAYER_NAMES = ("anomaly", "behavior", "classifier")
FlowModel = FlowAnomaly | DeepBehavior | FlowClassifier
Progress = Callable[[str, int, int], None]  # name of the step, number done, total


def _silent(_what: str, _done: int, _total: int) -> None:
    """Discard progress."""


@dataclass(frozen=True, slots=True)
class FlowLayers:
    """The layers of one fit, and the fusion once it is fitted.

    Attributes:
        anomaly: always present.
        behavior: always present.
        classifier: None in a release older than the classifier, or imported from older files.
        fusion: None until it is fitted.
        own: layers of the operator's own that have a share in the fusion.
    """

    anomaly: FlowAnomaly
    behavior: DeepBehavior
    classifier: FlowClassifier | None
    fusion: Fusion | None = None
    own: Mapping[str, Model] = field(default_factory=dict)

    @property
    def models(self) -> Mapping[str, FlowModel]:
        """Layer -> its model, in the order of `LAYER_NAMES`."""
        own: dict[str, FlowModel] = {"anomaly": self.anomaly, "behavior": self.behavior}
        return own if self.classifier is None else {**own, "classifier": self.classifier}

    def raw(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Layer -> raw score (n,)."""
        return {layer: model.raw(features) for layer, model in self.models.items()}

    def odds(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
        """Layer -> calibrated log-odds (n,)."""
        odds = {
            layer: model.calibration.to_log_odds(model.raw(features))
            for layer, model in self.models.items()
        }
        return odds | {layer: flow_odds(model, features) for layer, model in self.own.items()}

    def fused(self, odds: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Pooled log-odds (n,)."""
        if self.fusion is None:
            raise TrainingError("these layers have no fusion yet")
        return self.fusion.pooled(odds)


def flow_odds(model: Model, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-odds (n,) of any layer's model, as the fusion reads its scores."""
    nameless = ("",) * len(features)
    return log_odds(model.score(FlowBatch(nameless, nameless, features)).scores)


@dataclass(frozen=True, slots=True)
class UnseenScores:
    """Raw scores of events that the scoring layers had not been fitted on.

    Attributes:
        raw: layer -> float64 (n,).
        families: n labels.
        is_known: bool (n,), the layers had been fitted on other flows of the same attack family.
    """

    raw: Mapping[str, NDArray[np.float64]]
    families: NDArray[np.str_]
    is_known: NDArray[np.bool_]

    @classmethod
    def gather(cls, some: Sequence[UnseenScores]) -> UnseenScores:
        """Concatenate scores."""
        raw = {layer: np.concatenate([one.raw[layer] for one in some]) for layer in some[0].raw}
        return cls(
            raw,
            np.concatenate([one.families for one in some]),
            np.concatenate([one.is_known for one in some]),
        )

    def select(self, rows: NDArray[np.bool_]) -> UnseenScores:
        """Select the scores of some rows."""
        return UnseenScores(
            {layer: column[rows] for layer, column in self.raw.items()},
            self.families[rows],
            self.is_known[rows],
        )


@dataclass(frozen=True, slots=True)
class InnerFit:
    """One fit of the layers without some families and some flows; those are scored afterwards.

    Attributes:
        without: families left out entirely.
        left_out: bool (n,), flows left out, whatever their family.
    """

    without: tuple[str, ...]
    left_out: NDArray[np.bool_]


def fit_layers(
    table: FlowTable, fit: InnerFit, seed: int, *, classifiers: Collection[str] = (FUSED_MODEL,)
) -> FlowLayers:
    """Fit the layers, not calibrated, on everything but what `fit` leaves out.

    Args:
        table: labelled flows.
        fit: what is left out.
        seed: of everything that is random.
        classifiers: models that the classifier has; only one of them takes part in the verdict.
    """
    rest = table.select(~np.isin(table.families, fit.without) & ~fit.left_out)
    benign = rest.select(~rest.is_hostile)
    return FlowLayers(
        uncalibrated(benign.features, benign.times, benign.days, seed),
        fit_behavior(rest.features, rest.families, seed),
        fit_classifier(rest.features, rest.families, seed, models=classifiers),
    )


def inner_scores(
    table: FlowTable,
    fits: Sequence[InnerFit],
    seed: int,
    progress: Progress,
    what: str,
    *,
    jobs: int,
) -> list[UnseenScores]:
    """Score what each inner fit left out; `jobs` processes at a time."""
    work: Iterable[UnseenScores] = Parallel(n_jobs=jobs, return_as="generator")(
        delayed(_score_left_out)(table, fit, seed) for fit in fits
    )
    done = []
    progress(what, 0, len(fits))
    for scores in work:
        done.append(scores)
        progress(what, len(done), len(fits))
    return done


def _score_left_out(table: FlowTable, fit: InnerFit, seed: int) -> UnseenScores:
    import torch  # noqa: PLC0415  # in the worker process: one core each

    torch.set_num_threads(1)
    out = table.select(np.isin(table.families, fit.without) | fit.left_out)
    is_known = out.is_hostile & ~np.isin(out.families, fit.without)
    return UnseenScores(fit_layers(table, fit, seed).raw(out.features), out.families, is_known)


def fit_top(unseen: UnseenScores) -> tuple[dict[str, Calibration], Fusion]:
    """Fit the calibration of each layer, and the fusion with its thresholds, on unseen events.

    The calibration is that of unseen families: a layer must not be overconfident on unknown
    attacks.
    """
    is_hostile = unseen.families != BENIGN
    is_new = is_hostile & ~unseen.is_known
    weights = family_weights(unseen.families[is_new])
    fitted = {
        layer: fit_calibration(raw[~is_hostile], raw[is_new], weights)
        for layer, raw in unseen.raw.items()
    }
    odds = {layer: fitted[layer].to_log_odds(raw) for layer, raw in unseen.raw.items()}
    return fitted, fit_fusion(odds, unseen.families, unseen.is_known)


def fit_flows(
    table: FlowTable, seed: int, progress: Progress = _silent, *, jobs: int = 1
) -> FlowLayers:
    """Fit the flow ensemble on labelled flows.

    Args:
        table: benign flows and at least two attack families.
        seed: of everything that is random.
        progress: called at each inner fit.
        jobs: processes at a time.

    Raises:
        TrainingError: the flows do not suffice.
    """
    families = sorted(set(table.families[table.is_hostile].tolist()))
    if len(families) < 2:  # noqa: PLR2004  # one to train on while the other is unseen
        raise TrainingError(
            f"labelled training needs at least two attack families, found {len(families)};"
            " for benign flows alone use --benign"
        )
    fold = stretches(table, len(families))
    fits = [InnerFit((family,), fold == number) for number, family in enumerate(families)]
    unseen = UnseenScores.gather(
        inner_scores(table, fits, seed, progress, "families left out", jobs=jobs)
    )
    progress("layers on all flows", 0, 1)
    layers = fit_layers(
        table, InnerFit((), np.zeros(len(table), bool)), seed, classifiers=KNOWN_MODELS
    )
    progress("layers on all flows", 1, 1)
    calibrations, fusion = fit_top(unseen)
    return FlowLayers(
        replace(layers.anomaly, calibration=calibrations["anomaly"]),
        replace(layers.behavior, calibration=calibrations["behavior"]),
        layers.classifier and replace(layers.classifier, calibration=calibrations["classifier"]),
        fusion,
    )


def stretches(table: FlowTable, count: int) -> NDArray[np.intp]:
    """Assign each flow to a stretch of time, int (n,), 0 to count - 1.

    Contiguous within each (day, label).
    """
    groups = np.char.add(np.char.add(table.days, "\x00"), table.families)
    return time_folds(table.times, groups, count)


def fit_on_benign(table: FlowTable, base: FlowLayers, seed: int) -> FlowLayers:
    """Fit a new anomaly layer and thresholds on an operator's own traffic.

    The other layers, the calibration and the shares stay. The detectors' sum of surprise means the
    same on any network (rarity among its own benign flows), so the calibration fitted on labelled
    attacks carries over. The thresholds do not, and are fitted again on scores of unseen flows.

    Args:
        table: benign flows of the operator's network; labels are not read.
        base: the current ensemble.
        seed: of the detectors.

    Raises:
        TrainingError: too few flows.
    """
    if base.fusion is None:
        raise TrainingError("there is no fusion to carry over: train on labelled flows first")
    folds = time_folds(table.times, table.days, FOLDS)
    scales, unseen = fit_surprises(table.features, folds, seed)
    calibration = base.anomaly.calibration
    anomaly = FlowAnomaly(fit_detectors(table.features, seed), scales, WEIGHTS, calibration)
    odds = base.odds(table.features) | {"anomaly": calibration.to_log_odds(unseen)}
    return replace(base, anomaly=anomaly, fusion=with_thresholds(base.fusion, odds, RATES))
