"""Checks that every layer must pass, Axon's own and those of an operator.

The tests run them on every layer of the catalog; a recipe runs them before it publishes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ensemble.events import EventBatch
from ensemble.model import Model

__all__ = ["check_layer"]

TOLERANCE = 1e-6  # alone or in a batch, on a CPU; DESIGN, decision 12


def check_layer(load: Callable[[], Model], batch: EventBatch) -> None:
    """Check the model of a layer on a batch.

    The scores must be one finite float64 in [0, 1] for each event. They must not change when the
    batch is scored again, event by event, with an explanation, or after the model is loaded again.

    Args:
        load: loads the model from its files.
        batch: at least two events of the model's kind.

    Raises:
        ValueError: the first check that the model fails.
    """
    model = load()
    scores = model.score(batch).scores
    if scores.dtype != np.float64 or scores.shape != (len(batch),):
        raise ValueError(f"scores are {scores.dtype} {scores.shape}, not float64 ({len(batch)},)")
    if not ((scores >= 0.0) & (scores <= 1.0)).all():  # NaN fails both comparisons
        raise ValueError("a score is not a finite number in [0, 1]")
    again = {
        "for the same batch again": model.score(batch).scores,
        "with an explanation": model.score(batch, explain=True).scores,
        "after the model is loaded again": load().score(batch).scores,
    }
    for when, found in again.items():
        if not np.array_equal(found, scores):
            raise ValueError(f"a score differs {when}")
    alone = [model.score(batch.part(row, row + 1)).scores for row in range(len(batch))]
    if np.abs(np.concatenate(alone) - scores).max() > TOLERANCE:
        raise ValueError("a score differs alone and in a batch")
