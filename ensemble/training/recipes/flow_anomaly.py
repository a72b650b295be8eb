"""Training recipe of the anomaly layer for flows: three detectors and their scales.

The scales of surprise need benign flows that were not used to fit the detectors. They come from
folds that are contiguous in time within each day: neighbours in time are alike, so that random
folds would give too good a result.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest

from ensemble.errors import TrainingError
from ensemble.features.flow_scaler import FlowScaler
from ensemble.kernels.calibration import Calibration, Surprise
from ensemble.kernels.codebook import Codebook
from ensemble.kernels.isolation_forest import Forest
from ensemble.layers.flow_anomaly import DETECTORS, BenignDetectors, FlowAnomaly, Subspace
from ensemble.training.fit.calibration import LEAST_BENIGN, fit_surprise

__all__ = ["WEIGHTS", "fit_detectors", "fit_surprises", "time_folds", "uncalibrated"]

LIMIT = 5.0  # spreads; scaled features are clipped here
LEAST_SPREAD = 1e-3
TREES, SAMPLES = 100, 256  # Liu et al., section 5: more of either changes little
CENTRES, FLOWS_A_CENTRE = 500, 5
FLOWS_OF_A_CENTRE, DRAWN = 3, 1 / 3  # no flow of the training data is published: see `_centres`
DIRECTIONS = 30
# Chosen with families and days left out; the forest alone is weak.
WEIGHTS = {"codebook": 0.75, "subspace": 0.20, "isolation": 0.05}
FOLDS = 4


def time_folds(times: NDArray[np.str_], groups: NDArray[np.str_], folds: int) -> NDArray[np.intp]:
    """Assign each row to a fold, int (n,), contiguous in time within each group.

    Rows without times stay in their order.
    """
    fold = np.zeros(times.size, np.intp)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        fold[rows[np.argsort(times[rows], kind="stable")]] = (
            np.arange(rows.size) * folds // rows.size
        )
    return fold


def fit_detectors(benign: NDArray[np.float32], seed: int) -> BenignDetectors:
    """Fit the three detectors on benign flows.

    Args:
        benign: float32 (n, 78), finite; a few hundred at least.
        seed: of the forest and the centres.

    Raises:
        TrainingError: too few flows.
    """
    if len(benign) < LEAST_BENIGN * FLOWS_A_CENTRE:
        raise TrainingError(
            f"{len(benign)} benign flows are too few to train on;"
            f" at least {LEAST_BENIGN * FLOWS_A_CENTRE} are needed"
        )
    scaler = FlowScaler.fit(benign, limit=LIMIT, least_spread=LEAST_SPREAD)
    rows = scaler.scale(benign)
    wide = rows.astype(np.float64)
    forest = IsolationForest(
        n_estimators=TREES, max_samples=min(SAMPLES, len(rows)), random_state=seed
    ).fit(rows)
    centre = wide.mean(axis=0)
    directions = np.linalg.svd(wide - centre, full_matrices=False)[2][:DIRECTIONS]
    return BenignDetectors(
        scaler,
        Forest.from_sklearn(forest),
        Subspace(centre, directions),
        Codebook(_centres(wide, seed)),
    )


def _centres(rows: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Compute centres of k-means over rows (n, d), float64 (k, d); none of them is a row.

    Rare shapes matter: without them an unseen benign flow of a rare shape scores like an attack.
    But a centre of one or two flows would be those flows, so it is moved a third of the way to its
    nearest neighbours.
    """
    count = max(1, min(CENTRES, len(rows) // FLOWS_A_CENTRE))
    fitted = KMeans(count, n_init=1, max_iter=20, random_state=seed).fit(rows)
    centres = np.array(fitted.cluster_centers_)
    members = np.bincount(fitted.labels_, minlength=count)
    for rare in np.flatnonzero(members < FLOWS_OF_A_CENTRE):
        nearest = np.argsort(((rows - centres[rare]) ** 2).sum(axis=1), kind="stable")
        others = rows[nearest[members[rare] : FLOWS_OF_A_CENTRE]].mean(axis=0)
        centres[rare] += DRAWN * (others - centres[rare])
    return centres


def fit_surprises(
    benign: NDArray[np.float32], folds: NDArray[np.intp], seed: int
) -> tuple[dict[str, Surprise], NDArray[np.float64]]:
    """Fit the scale of each detector on flows that it was not fitted on.

    Args:
        benign: float32 (n, 78).
        folds: int (n,), from `time_folds`.
        seed: of the detectors.

    Returns:
        detector -> scale, and the weighted surprise float64 (n,) of each flow by detectors fitted
        without it.
    """
    unseen = {name: np.zeros(len(benign)) for name in DETECTORS}
    for fold in np.unique(folds):
        out = folds == fold
        for name, scores in fit_detectors(benign[~out], seed).raw(benign[out]).items():
            unseen[name][out] = scores
    scales = {name: fit_surprise(scores) for name, scores in unseen.items()}
    return scales, sum(
        (WEIGHTS[name] * scales[name].of(unseen[name]) for name in DETECTORS), np.zeros(len(benign))
    )


def uncalibrated(
    benign: NDArray[np.float32], times: NDArray[np.str_], days: NDArray[np.str_], seed: int
) -> FlowAnomaly:
    """Fit the anomaly model on benign flows, with a unit calibration in place of a fitted one.

    One nat of surprise is one unit of log-odds.
    """
    scales, _ = fit_surprises(benign, time_folds(times, days, FOLDS), seed)
    unit = Calibration(np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    return FlowAnomaly(fit_detectors(benign, seed), scales, WEIGHTS, unit)
