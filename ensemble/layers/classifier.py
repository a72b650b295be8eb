"""Known attacks: which attack family does a flow look like?

Several models answer; one of them counts in the verdict.

A random forest, boosted trees and a single tree learnt the same flows, under one scaler and one
list of labels. Whoever asks by name gets any of them (`classify`); the layer's score is that of the
random forest alone. The forest also learnt `unknown`: made-up flows around and between real ones,
so that only what is near benign flows is called benign.

Fit for: the families it was trained on; the surest of all layers on those. Unfit for: an unseen
attack that copies benign flows.
Raw score: log-odds that the flow is not benign, by the averaged leaves of the forest. Leaves are
smoothed, so that none is sure.
Cost: one look-up for each tree and cut, in numpy; the explanation walks once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import EventBatch, FlowBatch
from ensemble.features.sklearn_scalers import Scaler, scaler_of
from ensemble.kernels.calibration import Calibration
from ensemble.kernels.decision_trees import ClassTrees, VotingTrees, class_trees_of
from ensemble.layers.attack_classes import read_classes
from ensemble.model import ModelScores, Parts, below

__all__ = ["FUSED_MODEL", "KNOWN_MODELS", "FlowClassifier"]

KNOWN_MODELS = ("random_forest", "xgboost", "decision_tree", "hist_gradient_boosting")
FUSED_MODEL = "random_forest"


@dataclass(frozen=True, slots=True)
class FlowClassifier:
    """The models with scaler, labels and calibration: flows in, scores or probabilities out.

    Attributes:
        scaler: puts flows on the scale of all models.
        labels: classes in the order of all models, benign first.
        models: name -> fitted model; `FUSED_MODEL` is always there.
        missing: name of another known model -> why it is not there, and what to do.
        calibration: log-odds of not benign by the forest -> log-odds at the reference prior.
    """

    scaler: Scaler
    labels: tuple[str, ...]
    models: Mapping[str, ClassTrees]
    missing: Mapping[str, str]
    calibration: Calibration

    def __post_init__(self) -> None:
        named = [*self.models, *self.missing]
        if sorted(named) != sorted(KNOWN_MODELS):
            raise _wrong(
                f"each of {', '.join(KNOWN_MODELS)} once, there or missing", ", ".join(named)
            )
        shapes = {
            name: (model.trees.n_features, model.n_classes) for name, model in self.models.items()
        }
        if set(shapes.values()) - {(self.scaler.positions.size, len(self.labels))}:
            raise _wrong(
                f"models of {self.scaler.positions.size} features and {len(self.labels)} classes",
                f"{shapes}",
            )
        forest = self.models.get(FUSED_MODEL)
        if (
            not isinstance(forest, VotingTrees)
            or not ((forest.votes[:, 0] > 0.0) & (forest.votes[:, 0] < 1.0)).all()
        ):
            raise _wrong(
                "a forest of which no leaf is sure", "none, or one whose log-odds would be infinite"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are there, in the order of `KNOWN_MODELS`."""
        return tuple(name for name in KNOWN_MODELS if name in self.models)

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        """Chances of each class of `labels`, by one model.

        Args:
            features: float32 (n, 78), finite.
            name: one of `names`.

        Returns:
            float64 (n, k), each in [0, 1], rows sum to 1.

        Raises:
            KeyError: the model is not there; `missing` says why.
        """
        return self.models[name].probabilities(self.scaler.scale(features))

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds of not benign of each flow, float64 (n,); `features` is float32 (n, 78)."""
        return self._forest.not_first(self.scaler.scale(features))

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Calibrated score of each flow.

        Explained by the likeliest family and by the features that led the forest away from benign.
        """
        if not isinstance(batch, FlowBatch):
            raise TypeError(f"{batch.kind} events have no flow features")
        scores = self.calibration.apply(self.raw(batch.features))
        return ModelScores(scores, details=self._details(batch.features) if explain else {})

    @property
    def _forest(self) -> VotingTrees:
        forest = self.models[FUSED_MODEL]
        assert isinstance(forest, VotingTrees)  # noqa: S101  # `__post_init__` saw to it
        return forest

    def _details(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        rows = self.scaler.scale(features)
        family = self._forest.probabilities(rows)[:, 1:].argmax(axis=1) + 1
        moved = self._forest.moved_by(rows)
        facts: dict[str, NDArray[np.generic]] = {"family": np.array(self.labels)[family]}
        return facts | {name: moved[:, column] for column, name in enumerate(self.scaler.names)}

    def to_parts(self) -> Parts:
        """Arrays of the scaler and of each model.

        Labels, what is missing and the calibration as JSON.
        """
        arrays: dict[str, NDArray[Any]] = dict(self.scaler.to_arrays())
        for name in self.names:
            arrays |= {
                f"{name}.{array}": values for array, values in self.models[name].to_arrays().items()
            }
        config = {
            **self.scaler.to_config(),
            "labels": list(self.labels),
            "models": list(self.names),
            "missing": dict(self.missing),
            "calibration": self.calibration.to_config(),
        }
        return Parts(arrays, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """The model of a bundle.

        Raises:
            ArtifactIncompatible: a part is missing, of another shape, or holds what cannot be.
        """
        arrays, config = parts.arrays, parts.config
        scaler = scaler_of(arrays, config)
        labels = read_classes(config.get("labels"), "classifier")
        named, missing = config.get("models"), config.get("missing")
        if not isinstance(named, list | tuple) or not isinstance(missing, Mapping):
            raise _wrong(
                "names of models, and why others are missing",
                f"{type(named).__name__}, {type(missing).__name__}",
            )
        models = {
            str(name): class_trees_of(below(f"{name}.", arrays), scaler.positions.size)
            for name in named
        }
        calibration = Calibration.from_config(config.get("calibration", {}))
        return cls(
            scaler,
            labels,
            models,
            {str(name): str(why) for name, why in missing.items()},
            calibration,
        )


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("classifier", expected, found)
