"""Known attacks: which attack family does a flow resemble?

A random forest, boosted trees and a single tree are trained on the same flows, with one scaler and
one list of labels. A caller can classify by any of them (`classify`); only the random forest counts
in the verdict. The forest also learns the class `unknown`, synthetic flows around and between real
ones, so that it calls only flows near benign ones benign.

Fit for: the families it was trained on, on which it is the most certain layer. Unfit for: a new
attack that copies benign flows.
Raw score: log-odds that the flow is not benign, from the averaged leaves of the forest. Leaves are
smoothed, so that no leaf is certain.
Cost: one array access for each tree and cut, in numpy; an explanation traverses the trees again.
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
    """Models of attack families: flows in, scores or class probabilities out.

    Attributes:
        scaler: scales flows for all models.
        labels: classes of all models, in their order, benign first.
        models: name -> fitted model; `FUSED_MODEL` is always present.
        missing: name of another known model -> why it is absent, and what the operator can do.
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
                f"each of {', '.join(KNOWN_MODELS)} once, present or missing", ", ".join(named)
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
                "a forest without certain leaves", "none, or one whose log-odds would be infinite"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the present models, in the order of `KNOWN_MODELS`."""
        return tuple(name for name in KNOWN_MODELS if name in self.models)

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        """Class probabilities by one model, in the order of `labels`.

        Args:
            features: float32 (n, 78), finite.
            name: one of `names`.

        Returns:
            float64 (n, k), each in [0, 1], rows sum to 1.

        Raises:
            KeyError: the model is absent; `missing` has the reason.
        """
        return self.models[name].probabilities(self.scaler.scale(features))

    def raw(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Log-odds of not benign of each flow, float64 (n,); `features` is float32 (n, 78)."""
        return self._forest.not_first(self.scaler.scale(features))

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score each flow, calibrated.

        Explained by the most likely family, and by the features that moved the forest away from
        benign.
        """
        if not isinstance(batch, FlowBatch):
            raise TypeError(f"{batch.kind} events have no flow features")
        scores = self.calibration.apply(self.raw(batch.features))
        return ModelScores(scores, details=self._details(batch.features) if explain else {})

    @property
    def _forest(self) -> VotingTrees:
        forest = self.models[FUSED_MODEL]
        assert isinstance(forest, VotingTrees)  # noqa: S101  # `__post_init__` checked it
        return forest

    def _details(self, features: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        rows = self.scaler.scale(features)
        family = self._forest.probabilities(rows)[:, 1:].argmax(axis=1) + 1
        moved = self._forest.moved_by(rows)
        facts: dict[str, NDArray[np.generic]] = {"family": np.array(self.labels)[family]}
        return facts | {name: moved[:, column] for column, name in enumerate(self.scaler.names)}

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal model."""
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
        """Build the model from a bundle.

        Raises:
            ArtifactIncompatible: a part is missing, of another shape, or has an impossible value.
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
