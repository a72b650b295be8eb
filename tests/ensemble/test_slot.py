"""A slot keeps one layer answering, whatever happens to its models; what it cannot answer it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pytest

from ensemble.errors import ArtifactCorrupt
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.layers.model import ModelScores, Parts
from ensemble.slot import ANY_RELEASE, LOOK_AGAIN_AFTER_S, HeldModel, HeldRelease, KindState, LayerSlot, LoadFailure
from ensemble.verdicts import LayerStatus

FLOWS = FlowBatch(("", "", ""), ("", "", ""), np.zeros((3, 78), np.float32))
PROCESSES = ProcessBatch.of([ProcessEvent("cmd.exe")])
WAIT_S = 10.0  # for a thread that has nothing to wait for; only a broken slot takes so long


@dataclass
class FakeModel:
    """Says one score of every event, or does what `instead` does."""

    says: float = 0.7
    instead: Callable[[EventBatch], ModelScores] | None = None

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        if self.instead is not None:
            return self.instead(batch)
        return ModelScores(np.full(len(batch), self.says), {0: "a note"}, {"why": np.ones(len(batch))} if explain else {})

    def to_parts(self) -> Parts:
        return Parts({}, {})

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        raise NotImplementedError(parts)


def release_of(serial: int, says: float = 0.7) -> HeldRelease:
    return HeldRelease(f"acme/{serial}", {Kind.FLOW: HeldModel(FakeModel(says), f"v{serial}")})


class FakeStore:
    """The release that the pointer names, and a clock that moves when told; a load waits while the gate is closed."""

    def __init__(self, *, current: HeldRelease | None = None) -> None:
        self.current = current  # None: nothing can be had
        self.error: Exception = ArtifactCorrupt("model.safetensors", "sha256 differs")
        self.loads = 0
        self.now = 1000.0
        self.gate = threading.Event()
        self.gate.set()

    def load(self) -> HeldRelease:
        self.loads += 1
        assert self.gate.wait(WAIT_S)
        if self.current is None:
            raise self.error
        return self.current

    def later(self) -> None:
        """The moment from which the slot may look again."""
        self.now += LOOK_AGAIN_AFTER_S

    def slot(self) -> LayerSlot:
        return LayerSlot("behavior", self.load, fallback_score=0.1, clock=lambda: self.now)


def wait_for_loads() -> None:
    for thread in threading.enumerate():
        if thread.name == "load-behavior":
            thread.join(WAIT_S)
            assert not thread.is_alive()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore(current=release_of(1))


@pytest.fixture
def live(store: FakeStore) -> LayerSlot:
    slot = store.slot()
    slot.load()
    return slot


# empty


def test_a_new_slot_is_warming_up_and_shows_its_fallback_score(store: FakeStore) -> None:
    """DESIGN, decision 1: constructors cannot fail, and a replica answers before it has a model."""
    store.gate.clear()
    slot = store.slot()
    assert store.loads == 0, "making a slot must not call what could fail"

    opinion = slot.score(FLOWS, ANY_RELEASE)

    assert (opinion.status, opinion.speaks, opinion.version, opinion.release) == (LayerStatus.WARMING_UP, False, "", "")
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]
    assert {state.status for state in slot.state().kinds.values()} == {LayerStatus.WARMING_UP}
    store.gate.set()
    wait_for_loads()


def test_start_returns_at_once_and_loads_beside(store: FakeStore) -> None:
    store.gate.clear()
    slot = store.slot()

    slot.start()
    before = slot.score(FLOWS, ANY_RELEASE)
    store.gate.set()
    wait_for_loads()

    assert before.status is LayerStatus.WARMING_UP
    assert slot.score(FLOWS, ANY_RELEASE).status is LayerStatus.LIVE
    assert store.loads == 1


# live


def test_a_live_slot_says_what_its_model_says(live: LayerSlot) -> None:
    opinion = live.score(FLOWS, "acme/1", explain=True)

    assert (opinion.layer, opinion.status, opinion.version, opinion.release, opinion.reason) == (
        "behavior",
        LayerStatus.LIVE,
        "v1",
        "acme/1",
        "",
    )
    assert opinion.scores.tolist() == [0.7, 0.7, 0.7]
    assert opinion.notes == {0: "a note"}
    assert opinion.details["why"].tolist() == [1.0, 1.0, 1.0]
    assert live.score(FLOWS, "acme/1").details == {}
    assert live.state().kinds == {Kind.FLOW: KindState(LayerStatus.LIVE, "v1")}


def test_a_model_whose_knowledge_is_too_old_abstains_and_says_why(store: FakeStore) -> None:
    """P16: past `expired_after` the posture layer has no opinion; its score is for show."""
    old = FakeModel(instead=lambda batch: ModelScores(np.full(len(batch), 0.5), abstains="vulnerability data expired"))
    store.current = HeldRelease("acme/1", {Kind.FLOW: HeldModel(old, "v1")})
    slot = store.slot()
    slot.load()

    opinion = slot.score(FLOWS, "acme/1")

    assert (opinion.status, opinion.speaks, opinion.reason) == (LayerStatus.STALE, False, "vulnerability data expired")


FAILURES = [
    pytest.param(ArtifactCorrupt("model.safetensors", "sha256 differs"), "ARTIFACT_CORRUPT", id="an error of the publisher"),
    pytest.param(RuntimeError("CUDA error at /home/amy/model"), "MODEL_LOAD_ERROR", id="anything else"),
    pytest.param(MemoryError(), "MODEL_LOAD_ERROR", id="no memory"),
]


@pytest.mark.parametrize(("error", "code"), FAILURES)
def test_a_load_that_fails_makes_a_fallback_with_a_code(error: Exception, code: str) -> None:
    """P12: the score is for show and weighs nothing; the code is for the operator, the error's text is not for the client."""
    store = FakeStore()
    store.error = error
    slot = store.slot()
    slot.load()

    opinion = slot.score(FLOWS, ANY_RELEASE)

    assert (opinion.status, opinion.speaks, opinion.reason) == (LayerStatus.FALLBACK, False, code)
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]
    assert all((state.status, state.version, state.reason) == (LayerStatus.FALLBACK, "", code) for state in slot.state().kinds.values())


def test_a_failed_reload_leaves_what_was_live(store: FakeStore, live: LayerSlot) -> None:
    """The last good models go on."""
    store.current = None

    live.load()

    assert live.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def _raise(_: EventBatch) -> ModelScores:
    raise ZeroDivisionError


CRASHES = [
    pytest.param(_raise, id="raises"),
    pytest.param(lambda batch: ModelScores(np.full(len(batch), np.nan)), id="says NaN"),
    pytest.param(lambda batch: ModelScores(np.full(len(batch), 1.5)), id="says 1.5"),
    pytest.param(lambda batch: ModelScores(np.full((len(batch), 2), 0.5)), id="says a matrix"),
    pytest.param(lambda _: None, id="says nothing"),
    pytest.param(
        lambda batch: ModelScores(np.full(len(batch) - 1, 0.5)),
        id="says a score too few",
    ),
]


@pytest.mark.parametrize("instead", CRASHES)
def test_a_model_that_breaks_becomes_an_abstention(store: FakeStore, instead: Callable[[EventBatch], ModelScores]) -> None:
    """P11, P12: one layer's bug must not stop the others, and must not look like innocence."""
    store.current = HeldRelease("acme/1", {Kind.FLOW: HeldModel(FakeModel(instead=instead), "v1")})
    slot = store.slot()
    slot.load()

    opinion = slot.score(FLOWS, "acme/1")

    assert (opinion.status, opinion.speaks, opinion.reason) == (LayerStatus.FALLBACK, False, "LAYER_CRASHED")
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]


def test_a_crash_on_one_batch_is_not_a_crash_on_the_next(store: FakeStore) -> None:
    model = FakeModel(instead=_raise)
    store.current = HeldRelease("acme/1", {Kind.FLOW: HeldModel(model, "v1")})
    slot = store.slot()
    slot.load()
    slot.score(FLOWS, "acme/1")

    model.instead = None

    assert slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


# kinds of events


def test_a_kind_that_is_none_of_the_layers_business_is_not_applicable(live: LayerSlot) -> None:
    """Outside the coverage: a layer cannot be missed where it never had an opinion."""
    opinion = live.score(PROCESSES, "acme/1")

    assert (opinion.status, opinion.speaks) == (LayerStatus.NOT_APPLICABLE, False)
    assert Kind.PROCESS not in live.state().kinds


@pytest.fixture
def half(store: FakeStore) -> LayerSlot:
    """A slot of which the model for processes could not be had."""
    failed = LoadFailure("ARTIFACT_MISSING", "anomaly-process/1 is not in the store")
    store.current = HeldRelease("acme/1", {Kind.FLOW: HeldModel(FakeModel(), "v1")}, {Kind.PROCESS: failed})
    slot = store.slot()
    slot.load()
    return slot


def test_a_kind_whose_bundle_failed_falls_back_while_the_other_kind_is_live(half: LayerSlot) -> None:
    """A torn bundle costs one kind of event, not the layer."""
    flows, processes = half.score(FLOWS, "acme/1"), half.score(PROCESSES, "acme/1")

    assert flows.status is LayerStatus.LIVE
    assert (processes.status, processes.reason) == (LayerStatus.FALLBACK, "ARTIFACT_MISSING")
    process = half.state().kinds[Kind.PROCESS]
    assert (process.status, process.version, process.reason) == (LayerStatus.FALLBACK, "", "ARTIFACT_MISSING")


def test_a_bundle_that_was_repaired_is_live_after_the_next_look(store: FakeStore, half: LayerSlot) -> None:
    """P7: the operator mends the file and touches nothing else."""
    both = HeldModel(FakeModel(), "v1")
    store.current = HeldRelease("acme/1", {Kind.FLOW: both, Kind.PROCESS: both})
    store.later()

    half.score(PROCESSES, "acme/1")
    wait_for_loads()

    assert half.score(PROCESSES, "acme/1").status is LayerStatus.LIVE


# releases


def test_asked_for_another_release_it_loads_beside_and_never_answers_with_the_wrong_one(store: FakeStore, live: LayerSlot) -> None:
    """DESIGN: an answer is made by one release only; scores of one with thresholds of another mean nothing."""
    store.current = release_of(2, 0.9)
    store.gate.clear()
    store.later()

    meanwhile = [live.score(FLOWS, "acme/2") for _ in range(3)]
    still = live.score(FLOWS, "acme/1")
    store.gate.set()
    wait_for_loads()
    after = live.score(FLOWS, "acme/2")

    assert {(o.status, o.release) for o in meanwhile} == {(LayerStatus.WARMING_UP, "")}
    assert (still.status, still.release, still.scores[0]) == (LayerStatus.LIVE, "acme/1", 0.7)
    assert (after.status, after.release, after.scores[0]) == (LayerStatus.LIVE, "acme/2", 0.9)
    assert store.loads == 2, "one load, however many asked for it"


def test_a_release_that_is_not_there_is_looked_for_once_in_a_while_and_not_on_every_call(store: FakeStore, live: LayerSlot) -> None:
    """A load reads and proves every byte: done for each call it would be an attack that anybody can make."""
    for _ in range(50):
        live.score(FLOWS, "acme/99")
    wait_for_loads()
    assert store.loads == 1

    store.later()
    for _ in range(50):
        live.score(FLOWS, "acme/99")
        wait_for_loads()

    assert store.loads == 2


def test_a_failed_load_is_not_for_ever(store: FakeStore) -> None:
    """One bad promotion, rolled forward: every replica is back without a restart."""
    repaired, store.current = store.current, None
    slot = store.slot()
    slot.load()
    store.current = repaired
    assert slot.score(FLOWS, "acme/1").status is LayerStatus.FALLBACK

    store.later()
    slot.score(FLOWS, "acme/1")
    wait_for_loads()

    assert slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_it_keeps_two_releases_and_lets_the_oldest_go(store: FakeStore, live: LayerSlot) -> None:
    """While one replaces the other, ingress replicas still ask for both; a third would be memory for nobody."""
    for serial in (2, 3):
        store.current = release_of(serial)
        live.load()

    assert [live.score(FLOWS, f"acme/{serial}").status is LayerStatus.LIVE for serial in (3, 2, 1)] == [True, True, False]


def test_loading_a_release_again_does_not_push_the_other_one_out(store: FakeStore, live: LayerSlot) -> None:
    store.current = release_of(2)
    for _ in range(3):
        live.load()

    assert live.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_who_asks_for_any_release_gets_the_newest_and_is_told_which(store: FakeStore, live: LayerSlot) -> None:
    """The answer names the release whose thresholds belong to it."""
    store.current = release_of(2, 0.9)
    live.load()

    opinion = live.score(FLOWS, ANY_RELEASE)

    assert (opinion.scores[0], opinion.release) == (0.9, "acme/2")
    assert live.state().release == "acme/2"


def test_who_asks_about_a_release_makes_the_slot_look_for_it(store: FakeStore, live: LayerSlot) -> None:
    """Health is asked for even where nobody scores: a promotion must reach an idle replica too."""
    store.current = release_of(2)
    store.later()

    live.state("acme/2")
    wait_for_loads()

    assert live.state("acme/2").release == "acme/2"


def test_looking_again_at_a_release_never_loses_a_model_that_lives(store: FakeStore) -> None:
    """P5: a release never changes, so a second look that finds less, for a torn disk, has nothing to teach."""
    alive, torn = HeldModel(FakeModel(), "v1"), LoadFailure("ARTIFACT_CORRUPT", "sha256 differs")
    store.current = HeldRelease("acme/1", {Kind.FLOW: alive}, {Kind.PROCESS: torn})
    slot = store.slot()
    slot.load()

    store.current = HeldRelease("acme/1", {}, {Kind.FLOW: torn, Kind.PROCESS: torn})
    slot.load()

    assert slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE
    assert {kind: state.status for kind, state in slot.state().kinds.items()} == {
        Kind.FLOW: LayerStatus.LIVE,
        Kind.PROCESS: LayerStatus.FALLBACK,
    }
