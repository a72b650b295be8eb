"""Classification by the named model of the named release, or the reason why there is none."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.errors import ArtifactMissing, LayerCrashed, LayerWarmingUp, ModelNotLoaded
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.model import ModelScores
from ensemble.runtime.classification import KNOWN_MODELS, Classification, classify
from ensemble.runtime.hot_reload import ANY_RELEASE, LayerSlot
from ensemble.runtime.model_state import (
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    SlotEvent,
)
from tests.support.model_source import StaticSource

POISON = 666.0
WHY = "it was not installed where this was trained"


@dataclass
class Two:
    """Two models of two classes: one is certain by the first feature, the other is not."""

    names: tuple[str, ...] = ("random_forest", "decision_tree")
    missing: Mapping[str, str] = field(default_factory=lambda: {"xgboost": WHY})
    labels: tuple[str, ...] = ("BENIGN", "Flood")
    fixed: NDArray[np.float64] | None = None

    def classify(self, features: NDArray[np.float32], name: str) -> NDArray[np.float64]:
        if (features[:, 0] == POISON).any():
            raise ZeroDivisionError
        if self.fixed is not None:
            return np.tile(self.fixed, (len(features), 1))
        hostile = (
            features[:, 0].astype(float) if name == "decision_tree" else np.full(len(features), 0.5)
        )
        return np.stack([1.0 - hostile, hostile], axis=1)

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        raise NotImplementedError((batch, explain))


def slot_of(
    found: Sequence[LoadedRelease] | Exception, events: list[SlotEvent] | None = None
) -> LayerSlot:
    """A slot that loaded these releases, or failed with this error."""

    def find(loaded: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
        del loaded, requested
        if isinstance(found, Exception):
            raise found
        return LoadResult(found[0].name, tuple(found))

    slot = LayerSlot(
        "classifier",
        [Kind.FLOW],
        StaticSource(find),
        fallback_score=0.0,
        on_event=(events if events is not None else []).append,
    )
    slot.refresh()
    return slot


def holding(
    model: Any, *, release: str = "acme/3", events: list[SlotEvent] | None = None
) -> LayerSlot:
    return slot_of(([LoadedRelease(release, {Kind.FLOW: LoadedModel(model, "7")})]), events)


def flows(*values: float) -> FlowBatch:
    features = np.zeros((len(values), 78), np.float32)
    features[:, 0] = values
    return FlowBatch(("",) * len(values), ("",) * len(values), features)


@pytest.mark.parametrize("release", ["acme/3", ANY_RELEASE])
def test_the_named_model_of_the_named_release_classifies(release: str) -> None:
    result = classify(holding(Two()), flows(0, 1, 1), release, "decision_tree")

    assert (result.release, result.version, result.labels, result.absence) == (
        "acme/3",
        "7",
        ("BENIGN", "Flood"),
        None,
    )
    assert result.probabilities.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert result.answers(release, 3)
    with pytest.raises(ValueError, match="read-only"):
        result.probabilities[0, 0] = 0.5


def test_a_release_that_is_not_loaded_is_requested_and_is_warming_up() -> None:
    result = classify(holding(Two()), flows(0), "acme/4", "random_forest")

    assert isinstance(result.absence, LayerWarmingUp)
    assert result.answers("acme/4", 1)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ((ArtifactMissing("acme's release")), "ARTIFACT_MISSING"),
        (
            (
                [
                    LoadedRelease(
                        "acme/3", {}, {Kind.FLOW: LoadFailure("ARTIFACT_CORRUPT", "/srv/x: torn")}
                    )
                ]
            ),
            "ARTIFACT_CORRUPT",
        ),
        ([LoadedRelease("acme/3")], "this release has no classifier"),
    ],
    ids=["no release", "a torn bundle", "a release without one"],
)
def test_a_classifier_without_a_model_gives_the_code_of_the_failure(
    found: Sequence[LoadedRelease] | Exception, reason: str
) -> None:
    absence = classify(slot_of(found), flows(0), "acme/3", "random_forest").absence

    assert isinstance(absence, ModelNotLoaded)
    assert absence.reason == reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [("xgboost", WHY), ("hist_gradient_boosting", "this release was trained without it")],
)
def test_a_known_model_that_is_not_in_the_bundle_gives_the_reason(name: str, reason: str) -> None:
    absence = classify(holding(Two()), flows(0), "acme/3", name).absence

    assert isinstance(absence, ModelNotLoaded)
    assert (absence.model, absence.reason) == (name, reason)
    assert name in KNOWN_MODELS


def test_only_rows_on_which_a_model_fails_are_not_classified() -> None:
    result = classify(holding(Two()), flows(0, POISON, 1, 1, POISON), "acme/3", "decision_tree")

    assert result.abstained == {1, 4}
    assert result.probabilities[[0, 2, 3]].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]


def test_a_model_that_fails_on_all_rows_is_reported_and_counted() -> None:
    events: list[SlotEvent] = []

    result = classify(holding(Two(), events=events), flows(POISON), "acme/3", "random_forest")

    assert isinstance(result.absence, LayerCrashed)
    assert [(one.what, one.fields) for one in events if one.what == "scoring_failed"] == [
        ("scoring_failed", {"events": 1, "error_type": "ZeroDivisionError"})
    ]


@pytest.mark.parametrize(
    "probabilities", [[0.5, 0.6], [np.nan, 1.0], [1.5, -0.5], [1.0], [0.2, 0.3, 0.5]]
)
def test_impossible_probabilities_are_a_failure_of_the_model(probabilities: list[float]) -> None:
    assert isinstance(
        classify(
            holding(Two(fixed=np.array(probabilities))), flows(0), "acme/3", "random_forest"
        ).absence,
        LayerCrashed,
    )


@pytest.mark.parametrize(
    ("release", "size", "is_one"),
    [("acme/3", 2, True), (ANY_RELEASE, 2, True), ("acme/4", 2, False), ("acme/3", 1, False)],
)
def test_a_classification_fits_its_release_and_size_only(
    release: str,
    size: int,
    is_one: bool,  # noqa: FBT001  # a case
) -> None:
    assert (
        classify(holding(Two()), flows(0, 1), "acme/3", "decision_tree").answers(release, size)
        is is_one
    )


def test_a_classification_survives_pickling() -> None:
    for result in (
        classify(holding(Two()), flows(0, POISON), "acme/3", "decision_tree"),
        Classification(absence=ModelNotLoaded("xgboost", WHY)),
    ):
        travelled = pickle.loads(pickle.dumps(result))  # noqa: S301  # made here
        assert str(travelled.absence) == str(result.absence)
        assert travelled.probabilities.tolist() == result.probabilities.tolist()
        assert travelled.abstained == result.abstained
