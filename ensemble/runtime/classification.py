"""The classification of flows by one named model, or the reason for none, as a value.

The layer's score is one number of the model that has a say in the verdict. A classification is the
other question: what family does this flow look like, by the model that the caller names? It is
asked of the same slot, for a release by name, and fuses with nothing.
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

SUM_TOLERANCE = 1e-6  # of the probabilities of a flow: float64 of some hundred trees


class Classifier(Protocol):
    """A model that holds several, of which a caller names one."""

    @property
    def names(self) -> tuple[str, ...]:
        """The models it holds."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """Another known model -> why it is not there."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, benign first."""
        ...

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        """Probabilities (n, classes) of flows, float32 (n, 78), by one model; rows sum to 1."""
        ...


def _nothing() -> NDArray[np.float64]:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True)
class Classification:
    """The answer for a batch of n flows.

    Attributes:
        release: name of the release that the model was loaded for, "" where none was.
        version: serial version of the classifier's bundle, "" where none was.
        labels: the classes, in order.
        probabilities: float64 (n, classes), finite, each in [0, 1], rows sum to 1, read-only;
            (0, 0) where there is an `absence`.
        abstained: rows that the model could not answer; what stands there is no answer.
        absence: why there is no answer at all; None where there is one.
    """

    release: str = ""
    version: str = ""
    labels: tuple[str, ...] = ()
    probabilities: NDArray[np.float64] = field(default_factory=_nothing)
    abstained: frozenset[int] = frozenset()
    absence: EnsembleError | None = None

    def __post_init__(self) -> None:
        self.probabilities.flags.writeable = False

    def answers(self, release: str, size: int) -> bool:
        """Whether it is an answer, or an absence, to the question of `size` flows by `release`.

        "" is any release.
        """
        if self.absence is not None:
            return True
        return release in ("", self.release) and self.probabilities.shape == (
            size,
            len(self.labels),
        )


def classify(slot: LayerSlot, batch: FlowBatch, release: str, name: str) -> Classification:
    """What the model `name` of `release` says of a batch.

    Args:
        slot: of the classifier.
        batch: n flows.
        release: name of a release, or `ANY_RELEASE`.
        name: of one of the known models.
    """
    held = slot.get_release(release)
    if held is None:
        status, reason = slot.absence
        is_loading = status is LayerStatus.WARMING_UP
        return Classification(
            absence=LayerWarmingUp(slot.layer) if is_loading else ModelNotLoaded(name, reason)
        )
    model = held.models.get(Kind.FLOW)
    if model is None:
        failure = held.failures.get(Kind.FLOW)
        return Classification(
            absence=ModelNotLoaded(
                name, failure.code if failure else "this release has no classifier"
            )
        )
    # the classifier's slot holds nothing else
    classifier: Classifier = model.model  # type: ignore[assignment]
    if name not in classifier.names:
        return Classification(
            absence=ModelNotLoaded(
                name, classifier.missing.get(name, "this release was trained without it")
            )
        )
    try:
        answered, guilty = call_isolating_bad_rows(
            lambda part: _checked(classifier, part, name), batch
        )
    except Exception as error:  # noqa: BLE001  # here a layer becomes an abstention
        slot.record_failure(batch, error)
        return Classification(absence=LayerCrashed(slot.layer))
    probabilities = np.zeros((len(batch), len(classifier.labels)))
    for start, rows in answered:
        probabilities[start : start + len(rows)] = rows
    return Classification(
        held.name, model.version, classifier.labels, probabilities, frozenset(guilty)
    )


def _checked(classifier: Classifier, batch: FlowBatch, name: str) -> NDArray[np.float64]:
    """What a model said, once it has the right shape and range.

    A model that says nonsense has failed as one that raises.
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
