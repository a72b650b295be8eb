"""Training recipe of the classifier layer: forest, boosted trees and a single tree, as arrays.

All models are fitted on the same rows: benign flows, at most `MOST_OF_A_FAMILY` flows of each
attack family, evenly over time (thousands of flows of one flood are near copies of one another),
and synthetic flows around the benign ones under the label `unknown`. Without these a forest
assigns a new attack to the nearest class, which is often benign.

The forest is fitted for every inner fit, because it takes part in the verdict; the others only for
the layer that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from ensemble.errors import TrainingError
from ensemble.features.flow_scaler import FlowScaler
from ensemble.kernels.calibration import Calibration
from ensemble.kernels.decision_trees import ClassTrees
from ensemble.layers.attack_classes import BENIGN_CLASS, UNKNOWN_CLASS
from ensemble.layers.classifier import FUSED_MODEL, KNOWN_MODELS, FlowClassifier
from ensemble.training.fit.tree_arrays import (
    from_forest,
    from_hist_boosting,
    from_tree,
    from_xgboost,
)
from ensemble.training.recipes.behavior import synthetic_flows
from ensemble.training.recipes.flow_anomaly import LEAST_SPREAD, LIMIT

__all__ = ["NEEDS_XGBOOST", "fit_classifier"]

TREES, DEPTH, LEAST_OF_A_LEAF = 100, 20, 2
FEATURES_A_CUT = 3
MOST_OF_A_FAMILY = 1000
SYNTHETIC_A_BENIGN = 3  # synthetic flows for each benign one
SMOOTHING = 1.0
TREE_LEAST_OF_A_LEAF = 5
ROUNDS, LEAVES, STEP = 40, 15, 0.2
# L2 on the steps of a leaf; without it, a class of few flows gets such large steps that all classes
# are predicted wrongly
SHRINKAGE = 1.0
NEEDS_XGBOOST = (
    "the package xgboost was not installed when this model was trained:"
    " pip install 'axon[xgboost]', then train again;"
    " hist_gradient_boosting is the boosted model meanwhile"
)
NOT_REQUESTED = "it was not requested"


@dataclass(frozen=True, slots=True)
class _TrainingRows:
    """The rows that every model is fitted on.

    Attributes:
        rows: float32 (n, d), scaled.
        classes: int (n,), position in the labels.
        count: of labels.
        seed: of everything that is random.
    """

    rows: NDArray[np.float32]
    classes: NDArray[np.intp]
    count: int
    seed: int


def fit_classifier(
    features: NDArray[np.float32],
    families: NDArray[np.str_],
    seed: int,
    *,
    models: Collection[str] = (FUSED_MODEL,),
) -> FlowClassifier:
    """Fit the classifier, with a unit calibration: its scores are raw log-odds.

    Args:
        features: float32 (n, 78), finite, in the order of time.
        families: n labels, `BENIGN` for benign.
        seed: of the synthetic flows and the models.
        models: names of those to fit, `FUSED_MODEL` among them; xgboost is left out if the package
            is not installed.

    Raises:
        TrainingError: no benign flow, or no hostile one.
    """
    is_benign = families == BENIGN_CLASS
    if not is_benign.any() or is_benign.all():
        raise TrainingError(
            "the classifier is trained on benign flows and attacks: one of the two is missing"
        )
    scaler = FlowScaler.fit(features[is_benign], limit=LIMIT, least_spread=LEAST_SPREAD)
    labels = (BENIGN_CLASS, *sorted(set(families[~is_benign].tolist())), UNKNOWN_CLASS)
    training = _training_rows(scaler.scale(features), families, labels, seed)
    fitted: dict[str, ClassTrees] = {}
    missing = {name: NOT_REQUESTED for name in KNOWN_MODELS if name not in models}
    for name in (name for name in KNOWN_MODELS if name in models):
        model = _FITS[name](training)
        if model is None:
            missing[name] = NEEDS_XGBOOST
        else:
            fitted[name] = model
    unit = Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    return FlowClassifier(scaler, labels, fitted, missing, unit)


def _training_rows(
    rows: NDArray[np.float32], families: NDArray[np.str_], labels: tuple[str, ...], seed: int
) -> _TrainingRows:
    chosen_rows = [_some(np.flatnonzero(families == label), label) for label in labels[:-1]]
    classes = np.repeat(np.arange(len(chosen_rows)), [one.size for one in chosen_rows])
    real = rows[np.concatenate(chosen_rows)]
    is_benign = classes == 0
    generator = torch.Generator().manual_seed(seed)
    count = SYNTHETIC_A_BENIGN * int(is_benign.sum())
    odd = synthetic_flows(
        torch.from_numpy(real[is_benign]), torch.from_numpy(real[~is_benign]), count, generator
    ).numpy()
    return _TrainingRows(
        np.r_[real, odd], np.r_[classes, np.full(len(odd), len(chosen_rows))], len(labels), seed
    )


def _some(rows: NDArray[np.intp], label: str) -> NDArray[np.intp]:
    """Select all benign flows, and a bounded number of a family, evenly spread."""
    most = rows.size if label == BENIGN_CLASS else min(rows.size, MOST_OF_A_FAMILY)
    chosen: NDArray[np.intp] = rows[np.linspace(0, rows.size - 1, most).astype(int)]
    return chosen


def _forest(training: _TrainingRows) -> ClassTrees:
    forest = RandomForestClassifier(
        TREES,
        max_depth=DEPTH,
        min_samples_leaf=LEAST_OF_A_LEAF,
        max_features=FEATURES_A_CUT,
        random_state=training.seed,
    )
    return from_forest(forest.fit(training.rows, training.classes), smoothing=SMOOTHING)


def _tree(training: _TrainingRows) -> ClassTrees:
    tree = DecisionTreeClassifier(
        max_depth=DEPTH, min_samples_leaf=TREE_LEAST_OF_A_LEAF, random_state=training.seed
    )
    return from_tree(tree.fit(training.rows, training.classes))


def _hist_boosting(training: _TrainingRows) -> ClassTrees:
    boosting = HistGradientBoostingClassifier(
        learning_rate=STEP,
        max_iter=ROUNDS,
        max_leaf_nodes=LEAVES,
        l2_regularization=SHRINKAGE,
        early_stopping=False,
        random_state=training.seed,
    )
    return from_hist_boosting(boosting.fit(training.rows, training.classes))


def _xgboost(training: _TrainingRows) -> ClassTrees | None:
    """Fit boosted trees of xgboost; None if the package is not installed.

    It is an extra, and its GPU build weighs gigabytes.
    """
    try:
        import xgboost  # noqa: PLC0415  # an extra
    except ImportError:
        return None
    rules = {
        "objective": "multi:softprob",
        "num_class": training.count,
        "eta": STEP,
        "tree_method": "hist",
        "grow_policy": "lossguide",
        "max_leaves": LEAVES,
        "max_depth": 0,
        "reg_lambda": SHRINKAGE,
        "seed": training.seed,
        "verbosity": 0,
    }
    return from_xgboost(
        xgboost.train(rules, xgboost.DMatrix(training.rows, label=training.classes), ROUNDS)
    )


_FITS: Mapping[str, Callable[[_TrainingRows], ClassTrees | None]] = {
    "random_forest": _forest,
    "xgboost": _xgboost,
    "decision_tree": _tree,
    "hist_gradient_boosting": _hist_boosting,
}
