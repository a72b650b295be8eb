"""Training recipe of a tenant's own tabular detector: a calibrated isolation forest (S4-08).

The scale needs rows on which the forest was not trained. Five forests are therefore trained first,
each without a fifth of the rows, and score that fifth; the forest that serves is trained on all
rows. Rows are assigned to the fifths at random: they have no time, and the end of a sorted table
would otherwise be scored by forests without similar rows. The rates hold for new rows that are like
those of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest

from ensemble.errors import TrainingError
from ensemble.features.tabular import NETWORK_FEATURES, Missing
from ensemble.kernels.isolation_forest import Forest
from ensemble.layers.tabular import RATES, MeasuredRange, TabularDetector, ThreatLevel, raw_scores
from ensemble.store import Golden, Metadata
from ensemble.training.data.tabular_rows import (
    DEFAULT_NAME,
    Step,
    TrainingTable,
    require_trainable,
    training_table,
)
from ensemble.training.fit.calibration import fit_surprise
from ensemble.training.markdown import table
from ensemble.training.publish import Trained, digest_of

__all__ = ["fit_steps", "fit_tabular"]

RECIPE: Final = "tabular-detector"
CONTAMINATION: Final = RATES[ThreatLevel.MEDIUM]
TREES: Final = 100
FOLDS = 5
# with enough rows, the level of a thousandth comes from quantiles, not from the straight tail
TAIL = (0.995, 0.998, 0.999, 0.9995)
GOLDEN_ROWS = 16
FARTHEST = 10.0  # widths of the range that one golden row lies outside


def fit_steps(
    rows: TrainingTable,
    *,
    name: str = DEFAULT_NAME,
    seed: int = 42,
    metadata: Metadata | None = None,
) -> Iterator[Step | Trained]:
    """Fit a detector in steps; the last item is the detector, ready to be published.

    Args:
        rows: from `training_table`.
        name: of the model.
        seed: of the forests and of the folds.
        metadata: label and user_metadata of its user; the recipe adds the rest.

    Raises:
        TrainingError: the rows cannot train a detector.
    """
    require_trainable(rows)
    values, count = rows.values, len(rows.values)
    fold = np.random.default_rng(seed).permutation(count) % FOLDS
    unseen = np.zeros(count)
    for one in range(FOLDS):
        out = fold == one
        unseen[out] = raw_scores(*_grow(values[~out], seed), values[out])
        yield Step(f"forest {one + 1} of {FOLDS + 1}", (one + 1) / (FOLDS + 1))
    measured, forest = _grow(values, seed)
    try:
        surprise = fit_surprise(unseen, TAIL)
    except TrainingError:
        raise TrainingError(
            "nearly all rows are equal: a detector cannot be fitted on them"
        ) from None
    detector = TabularDetector(rows.features, measured, forest, surprise)
    unseen_rates = np.array(
        [(surprise.of(unseen) >= -np.log(rate)).mean() for rate in RATES.values()]
    )
    yield _trained(detector, rows, unseen_rates, name, seed, metadata or Metadata())


def fit_tabular(
    rows: Sequence[Mapping[str, Any]],
    features: Sequence[str] = NETWORK_FEATURES,
    *,
    name: str = DEFAULT_NAME,
    seed: int = 42,
    missing: Missing = Missing.REFUSE,
    metadata: Metadata | None = None,
) -> Trained:
    """Fit a detector at once; arguments and errors as in `training_table` and `fit_steps`."""
    *_, last = fit_steps(
        training_table(rows, features, missing=missing), name=name, seed=seed, metadata=metadata
    )
    if not isinstance(last, Trained):
        raise TypeError("the last item of a fit is the trained detector")
    return last


def _grow(values: NDArray[np.float64], seed: int) -> tuple[MeasuredRange, Forest]:
    measured = MeasuredRange.of(values)
    grown = IsolationForest(
        n_estimators=TREES, max_samples="auto", contamination=CONTAMINATION, random_state=seed
    )
    return measured, Forest.from_sklearn(grown.fit(measured.scale(values).astype(np.float32)))


def _trained(
    detector: TabularDetector,
    rows: TrainingTable,
    unseen_rates: NDArray[np.float64],
    name: str,
    seed: int,
    metadata: Metadata,
) -> Trained:
    golden = _golden_rows(rows.values)
    scores = detector.score(golden).anomaly_score.tolist()
    events = [
        {"features": dict(zip(detector.features, row, strict=True))} for row in golden.tolist()
    ]
    recorded = replace(
        metadata,
        model_type=TabularDetector.__name__,
        model_module=TabularDetector.__module__,
        model_params={
            "n_estimators": TREES,
            "max_samples": "auto",
            "contamination": CONTAMINATION,
            "random_state": seed,
        },
        feature_names=detector.features,
    )
    training = {
        "recipe": RECIPE,
        "data_sha256": digest_of(rows.values),
        "seed": seed,
        "rows": len(rows.values),
        "training_samples": len(rows.values),  # S4-08's name of the same
        "feature_count": len(detector.features),
        "missing_filled_with_zero": rows.filled,
        "held_out_rates": dict(zip(map(str, RATES), unseen_rates.tolist(), strict=True)),
        **recorded.in_training(),
    }
    return Trained(
        name,
        detector.to_parts(),
        Golden(tuple(events), tuple(scores)),
        training,
        _card(name, detector, training),
    )


def _golden_rows(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make rows to test a detector with, float64 (k, d).

    They are means of two rows far apart in the table, and one row far outside of it.
    """
    picks = np.linspace(0, len(values) - 1, GOLDEN_ROWS).astype(int)
    half = GOLDEN_ROWS // 2
    means = values[picks[:half]] / 2 + values[picks[half:]] / 2
    low, high = values.min(axis=0) / 2, values.max(axis=0) / 2
    with np.errstate(over="ignore"):
        far = np.clip(
            high + (high - low) * 2 * FARTHEST, -np.finfo(np.float64).max, np.finfo(np.float64).max
        )
    return np.vstack([means, far])


def _card(name: str, detector: TabularDetector, training: Mapping[str, Any]) -> str:
    about = (
        f"Isolation forest over {len(detector.features)} declared features,"
        f" fitted on {training['rows']:,} rows. Its score is how unlike those rows a row is;"
        " it knows no attack. Attacks among the training rows score as normal."
    )
    own = zip(detector.features, detector.range.centre, detector.range.spread, strict=True)
    features = [
        [one.replace("|", "/"), f"{centre:.6g}", f"{spread:.6g}"] for one, centre, spread in own
    ]
    rates = [
        [level, f"{rate:.1%}", f"{training['held_out_rates'][level]:.2%}"]
        for level, rate in RATES.items()
    ]
    filled = training["missing_filled_with_zero"]
    notes = (
        [
            (
                f"{filled:,} values were missing and count as 0:"
                " a row without a feature is scored as if it were 0."
            )
        ]
        if filled
        else []
    )
    tables = [
        table(["feature", "mean", "deviation"], features),
        table(["threat level", "intended share of rows", "share of held-out rows"], rates),
    ]
    return "\n\n".join([f"# {name}", about, *tables, *notes]) + "\n"
