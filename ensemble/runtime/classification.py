"""Classification of flows by one named model of the classifier.

The layer's score is a single number, from the model whose score counts in the fusion. A
classification tells which attack family a flow resembles, according to the model that the caller
names. It is served by the same slot, for a release by name, and is not fused. Where there is no
classification, the result holds the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import EnsembleError, LayerCrashed, LayerWarmingUp, ModelNotLoaded
from ensemble.events import FlowBatch, Kind
from ensemble.layers.classifier import KNOWN_MODELS
from ensemble.runtime.bad_rows import call_isolating_bad_rows
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.verdicts import LayerStatus

__all__ = ["KNOWN_MODELS", "Classification", "Classifier", "classify"]

SUM_TOLERANCE = 1e-6  # of a flow's probabilities: a mean of some hundred trees in float64


class Classifier(Protocol):
    """A model that contains several, one of which the caller names."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models that it contains."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """Known model that it does not contain -> the reason."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, benign first."""
        ...

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        """Probabilities (n, classes) of flows, float32 (n, 78), by one model; rows sum to 1."""
        ...


def _no_rows() -> NDArray[np.float64]:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True)
class Classification:
    """The classes of a batch of n flows, or the reason why there are none.

    Attributes:
        release: name of the release that the model was loaded for, "" if none was.
        version: serial version of the classifier's bundle, "" if none was loaded.
        labels: the classes, in order.
        probabilities: float64 (n, classes), finite, each in [0, 1], rows sum to 1, read-only;
            (0, 0) if `absence` is set.
        abstained: rows on which the model failed; their probabilities mean nothing.
        absence: why no flow was classified; None if the model ran.
    """

    release: str = ""
    version: str = ""
    labels: tuple[str, ...] = ()
    probabilities: NDArray[np.float64] = field(default_factory=_no_rows)
    abstained: frozenset[int] = frozenset()
    absence: EnsembleError | None = None

    def __post_init__(self) -> None:
        self.probabilities.flags.writeable = False

    def answers(self, release: str, size: int) -> bool:
        """Whether this is a valid result, or an absence, for `size` flows by `release`.

        "" stands for any release.
        """
        if self.absence is not None:
            return True
        return release in ("", self.release) and self.probabilities.shape == (
            size,
            len(self.labels),
        )


def classify(slot: LayerSlot, batch: FlowBatch, release: str, name: str) -> Classification:
    """Classify a batch by the model `name` of `release`.

    Args:
        slot: of the classifier.
        batch: n flows.
        release: name of a release, or `ANY_RELEASE`.
        name: of one of the known models.
    """
    loaded = slot.get_release(release)
    if loaded is None:
        status, reason = slot.absence
        is_loading = status is LayerStatus.WARMING_UP
        return Classification(
            absence=LayerWarmingUp(slot.layer) if is_loading else ModelNotLoaded(name, reason)
        )
    model = loaded.models.get(Kind.FLOW)
    if model is None:
        failure = loaded.failures.get(Kind.FLOW)
        return Classification(
            absence=ModelNotLoaded(
                name, failure.code if failure else "this release has no classifier"
            )
        )
    # the slot of the classifier loads no other kind of model
    classifier: Classifier = model.model  # type: ignore[assignment]
    if name not in classifier.names:
        return Classification(
            absence=ModelNotLoaded(
                name, classifier.missing.get(name, "this release was trained without it")
            )
        )
    try:
        classified, bad_rows = call_isolating_bad_rows(
            lambda part: _checked(classifier, part, name), batch
        )
    except Exception as error:  # noqa: BLE001  # here a layer becomes an abstention
        slot.record_failure(batch, error)
        return Classification(absence=LayerCrashed(slot.layer))
    probabilities = np.zeros((len(batch), len(classifier.labels)))
    for start, rows in classified:
        probabilities[start : start + len(rows)] = rows
    return Classification(
        loaded.name, model.version, classifier.labels, probabilities, frozenset(bad_rows)
    )


def _checked(classifier: Classifier, batch: FlowBatch, name: str) -> NDArray[np.float64]:
    """Classify by one model, and check the shape and range of its probabilities.

    Raises:
        ValueError: a probability is impossible; treated like an exception of the model.
    """
    found = classifier.classify(batch.features, name)
    if found.shape != (len(batch), len(classifier.labels)):
        raise ValueError(
            f"probabilities {found.shape} for {len(batch)} flows and "
            f"{len(classifier.labels)} classes"
        )
    if not ((found >= 0.0) & (found <= 1.0)).all():  # NaN fails both comparisons
        raise ValueError("a probability is outside [0, 1]")
    if not (np.abs(found.sum(axis=1) - 1.0) <= SUM_TOLERANCE).all():
        raise ValueError("the probabilities of a flow do not sum to 1")
    return found
