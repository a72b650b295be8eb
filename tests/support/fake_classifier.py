"""A classifier with predictable classes, in a real slot.

The destination port decides the class.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.events import EventBatch, Kind
from ensemble.features.flow import FEATURE_NAMES
from ensemble.model import ModelScores
from ensemble.runtime.classification import Classification
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import (
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
)
from tests.support.model_source import StaticSource

__all__ = ["NOT_INSTALLED", "FakeClassifier", "FakeReleases", "classifier_slot", "flow", "hang"]

NOT_INSTALLED = "it was not installed where this classifier was trained"
PORT = 0  # position of the feature that decides the class


@dataclass
class FakeClassifier:
    """A classifier in which port 0 is benign, 1 a flood and 2 a scan.

    Port 666 makes it raise. The tree gives the class a probability of 1.0, the others 0.8.
    """

    labels: tuple[str, ...] = ("BENIGN", "Flood", "Scan")
    names: tuple[str, ...] = ("random_forest", "decision_tree", "hist_gradient_boosting")
    missing: Mapping[str, str] = field(default_factory=lambda: {"xgboost": NOT_INSTALLED})
    instead: Callable[[NDArray[np.float32]], NDArray[np.float64]] | None = None
    batches: list[tuple[int, str]] = field(default_factory=list)

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        self.batches.append((len(features), name))
        if (features[:, PORT] == 666).any():
            raise RuntimeError("/srv/secret/model.py says hunter2")
        if self.instead is not None:
            return self.instead(features)
        sure = 1.0 if name == "decision_tree" else 0.8
        rest = (1.0 - sure) / (len(self.labels) - 1)
        classes = features[:, PORT].astype(int) % len(self.labels)
        return np.where(np.arange(len(self.labels)) == classes[:, None], sure, rest)

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        del explain
        return ModelScores(np.full(len(batch), 0.5))


@dataclass
class FakeReleases:
    """A source with `model` in every requested release.

    With a `failure` every load fails that way. Without both it has nothing yet.
    """

    model: FakeClassifier | None
    failure: LoadFailure | None = None
    names: frozenset[str] = frozenset()

    def find(self, loaded: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
        self.names |= requested | {one.name for one in loaded}
        failures = {Kind.FLOW: self.failure} if self.failure else {}
        models: dict[Kind, Any] = (
            {Kind.FLOW: LoadedModel(self.model, "7")} if self.model and not self.failure else {}
        )
        releases = tuple(LoadedRelease(name, models, failures) for name in sorted(self.names))
        return LoadResult(next(iter(sorted(self.names)), ""), releases)


def classifier_slot(source: FakeReleases) -> LayerSlot:
    """A slot that refreshes as soon as a call needs it."""
    slot = LayerSlot("classifier", [Kind.FLOW], StaticSource(source.find), fallback_score=0.0)
    if source.model is not None or source.failure is not None:
        slot.wake = slot.refresh
    return slot


def flow(port: float = 0.0, **other: float) -> list[float]:
    values = dict.fromkeys(FEATURE_NAMES, 1.0) | {"Destination Port": port} | other
    return [values[name] for name in FEATURE_NAMES]


async def hang(*_: object) -> Classification:
    await asyncio.get_running_loop().create_future()
    raise AssertionError
