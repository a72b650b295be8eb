"""Training rows of a tabular detector, and the progress of its fit.

Arrays, so that a process that requests a fit does not import scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.features.tabular import NETWORK_FEATURES, Missing, admit_rows, declared

__all__ = [
    "DEFAULT_NAME",
    "LEAST_ROWS",
    "Step",
    "TrainingTable",
    "require_trainable",
    "training_table",
]

DEFAULT_NAME: Final = "isolation_forest_anomaly_detector"  # S4-08
ROWS_AT_ONCE = 1000  # rows that are decoded at a time are objects, of twenty times their text
LEAST_ROWS: Final = 100  # 1 % of it is one row; with fewer rows, a rate of 1 % cannot be measured


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """The rows that a detector is fitted on; arrays, so that it can be sent between processes.

    Attributes:
        features: names of the columns, in order.
        values: float64 (n, d), finite.
        filled: values that were missing and count as 0.
    """

    features: tuple[str, ...]
    values: NDArray[np.float64]
    filled: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Progress of a fit.

    Attributes:
        what: description of the step.
        done: share of the work, in [0, 1].
    """

    what: str
    done: float


def training_table(
    rows: Sequence[Mapping[str, Any]],
    features: Sequence[str] = NETWORK_FEATURES,
    *,
    missing: Missing = Missing.REFUSE,
) -> TrainingTable:
    """Convert `rows` to a table that a detector can be trained on.

    Args:
        rows: feature -> value.
        features: names to read, in order; none is guessed from the rows (C-27).
        missing: how a missing value is treated; `zero` is recorded in the model (S4-09's fillna).

    Raises:
        FeatureMismatch: an invalid name, or the first value that is missing, not finite or not a
            number, with its row.
        TrainingError: too few rows, or all alike.
    """
    names = declared(features)
    parts = []
    for first in range(0, max(len(rows), 1), ROWS_AT_ONCE):
        part = admit_rows(rows[first : first + ROWS_AT_ONCE], names, missing, first=first)
        for problem in part.refused.values():
            raise problem
        parts.append(part)
    values = np.concatenate([part.values for part in parts])
    found = TrainingTable(names, values, sum(part.filled for part in parts))
    require_trainable(found)
    return found


def require_trainable(rows: TrainingTable) -> None:
    """Check that a detector can be trained on the rows, before anything is computed.

    Raises:
        TrainingError: too few rows, fewer than two distinct ones, or numbers whose sums overflow.
    """
    count = len(rows.values)
    if count < LEAST_ROWS:
        raise TrainingError(
            f"{count} rows are too few to train on; at least {LEAST_ROWS} are needed"
        )
    if not np.isfinite(rows.values).all():
        raise TrainingError("a value is not finite")
    if (rows.values == rows.values[0]).all():
        raise TrainingError("all rows are alike: there is nothing to distinguish")
    with np.errstate(over="ignore", invalid="ignore"):
        spread = rows.values.std(axis=0)
    if not np.isfinite(spread).all():
        raise TrainingError(
            f"the values of {rows.features[int(np.argmin(np.isfinite(spread)))]}"
            " are too large to be averaged"
        )
