"""The model of a layer: events in as columns, calibrated scores out, parts for a bundle.

A model is one layer's knowledge of one kind of event. It is frozen once built: scoring never
changes it.
Its parts are plain arrays and plain JSON, so that a bundle cannot run code and loads anywhere.
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
    """A model taken apart.

    Attributes:
        arrays: name -> array, numeric, C-contiguous; stored as safetensors.
        config: everything else, as JSON values.
    """

    arrays: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]


def below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of one part of a model: those whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


@dataclass(frozen=True, slots=True)
class ModelScores:
    """What a model says of a batch.

    Attributes:
        scores: float64 (n,), calibrated, finite, each in [0, 1]; higher is worse.
        notes: row -> what a reader of that row's score should know, e.g. `host_unknown`; rows
            without one are absent.
        details: column name -> n values for the explanation (family, sub-scores); empty unless
            asked for.
        abstains: why the model has no opinion of anything now, because all it knows is too old;
            "" while it has.
    """

    scores: NDArray[np.float64]
    notes: Mapping[int, str] = field(default_factory=dict)
    details: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    abstains: str = ""


class Model(Protocol):
    """One layer's knowledge of one kind of event.

    Those that a bundle holds have `to_parts` and `from_parts` too.
    """

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Calibrated score of each event; the same event scores the same alone as in a batch."""
        ...
