"""The model of a layer: events in as columns, calibrated scores out, parts for a bundle.

A model scores one kind of event for one layer. Scoring never changes it. Its parts are plain arrays
and plain JSON, so that a bundle cannot run code and loads on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.events import EventBatch

__all__ = ["Model", "ModelScores", "Parts", "below"]


@dataclass(frozen=True, slots=True)
class Parts:
    """A model as plain data, for a bundle.

    Attributes:
        arrays: name -> array, numeric, C-contiguous; stored as safetensors.
        config: everything else, as JSON values.
    """

    arrays: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Select the arrays whose names begin with `prefix`, and remove it from the names."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True, slots=True)
class ModelScores:
    """Scores of a model for a batch.

    Attributes:
        scores: float64 (n,), calibrated, finite, each in [0, 1]; higher is worse.
        notes: row -> a remark for the reader of that row's score, e.g. `host_unknown`; rows without
            one are absent.
        details: column name -> n values of the explanation (family, sub-scores); empty unless it
            was requested.
        abstains: why the model has no opinion at all, because its data is too old; otherwise "".
        uninformed: row -> why the model knows nothing on which it could rate that event; its score
            is for display.
        flags: row -> remarks on the event itself, for its verdict.
    """

    scores: NDArray[np.float64]
    notes: Mapping[int, str] = field(default_factory=dict)
    details: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    abstains: str = ""
    uninformed: Mapping[int, str] = field(default_factory=dict)
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


class Model(Protocol):
    """A model of one layer for one kind of event.

    Models that are stored in a bundle also have `to_parts` and `from_parts`.
    """

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score each event, calibrated; an event scores the same alone as in any batch."""
        ...
