"""Hot reload: a slot always returns scores of its layer, or abstains with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, LoadTimeout
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.model import ModelScores, Parts
from ensemble.runtime.hot_reload import (
    ANY_RELEASE,
    FIRST_RETRY_S,
    IN_USE_WITHIN_S,
    LONGEST_RETRY_S,
    SUSPICIOUS_FAILURES,
    LayerSlot,
)
from ensemble.runtime.model_state import (
    KindState,
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    SlotEvent,
)
from ensemble.runtime.resolver import ResolvedReleases
from ensemble.verdicts import Abstention, LayerStatus
from tests.support.model_source import FakeSource

FLOWS = FlowBatch(("", "", ""), ("", "", ""), np.zeros((3, 78), np.float32))
PROCESSES = ProcessBatch.of([ProcessEvent("cmd.exe")])
TORN = LoadFailure("ARTIFACT_CORRUPT", "sha256 differs")


@dataclass
class FakeModel:
    """Gives every event the same score, or calls `instead`."""

    value: float = 0.7
    instead: Callable[[EventBatch], ModelScores] | None = None

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        if self.instead is not None:
            return self.instead(batch)
        return ModelScores(
            np.full(len(batch), self.value),
            {0: "a note"},
            {"why": np.ones(len(batch))} if explain else {},
        )

    def to_parts(self) -> Parts:
        return Parts({}, {})

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        raise NotImplementedError(parts)


def release_of(serial: int, value: float = 0.7) -> LoadedRelease:
    return LoadedRelease(f"acme/{serial}", {Kind.FLOW: LoadedModel(FakeModel(value), f"v{serial}")})


@dataclass
class World:
    """A slot, its source, two clocks that the test moves, and the events that it reported."""

    source: FakeSource = field(default_factory=lambda: FakeSource([release_of(1)]))
    uptime_s: float = 1000.0
    date: float = 1.8e9
    events: list[SlotEvent] = field(default_factory=list)
    woken: int = 0

    def __post_init__(self) -> None:
        self.slot = LayerSlot(
            "behavior",
            [Kind.FLOW],
            self.source,
            fallback_score=0.1,
            on_event=self.events.append,
            clock=lambda: self.uptime_s,
            now=lambda: self.date,
        )
        self.slot.wake = self._wake

    def _wake(self) -> None:
        self.woken += 1

    def events_of(self, what: str) -> list[SlotEvent]:
        return [event for event in self.events if event.what == what]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def live(world: World) -> World:
    """A slot that serves release 1."""
    world.slot.refresh()
    return world


# empty


def test_a_new_slot_is_warming_up_and_shows_its_fallback_score(world: World) -> None:
    """DESIGN, decision 1: a constructor cannot fail; a replica responds before it has a model."""
    opinion = world.slot.score(FLOWS, ANY_RELEASE)

    assert world.source.loads == 0, "a new slot must not call anything that can fail"
    assert (opinion.status, opinion.speaks, opinion.version, opinion.release) == (
        LayerStatus.WARMING_UP,
        False,
        "",
        "",
    )
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]
    assert {kind: state.status for kind, state in world.slot.state().kinds.items()} == {
        Kind.FLOW: LayerStatus.WARMING_UP
    }


# live


def test_a_live_slot_returns_the_scores_of_its_model(live: World) -> None:
    opinion = live.slot.score(FLOWS, "acme/1", explain=True)

    assert (opinion.layer, opinion.status, opinion.version) == ("behavior", LayerStatus.LIVE, "v1")
    assert (opinion.release, opinion.reason, opinion.abstained) == ("acme/1", "", {})
    assert opinion.scores.tolist() == [0.7, 0.7, 0.7]
    assert opinion.notes == {0: "a note"}
    assert opinion.details["why"].tolist() == [1.0, 1.0, 1.0]
    assert live.slot.score(FLOWS, "acme/1").details == {}
    assert live.slot.state().kinds == {
        Kind.FLOW: KindState(LayerStatus.LIVE, "v1", since=live.date)
    }


def test_a_model_with_expired_data_abstains_with_the_reason(world: World) -> None:
    """P16: past `expired_after` the posture layer has no opinion; its score has weight 0."""
    old = FakeModel(
        instead=lambda batch: ModelScores(
            np.full(len(batch), 0.5), abstains="vulnerability data expired"
        )
    )
    world.source.put(LoadedRelease("acme/1", {Kind.FLOW: LoadedModel(old, "v1")}))
    world.slot.refresh()

    opinion = world.slot.score(FLOWS, "acme/1")

    assert (opinion.status, opinion.speaks, opinion.reason) == (
        LayerStatus.STALE,
        False,
        "vulnerability data expired",
    )


def test_a_kind_that_the_layer_never_rates_is_not_applicable(live: World) -> None:
    """Outside the coverage: a layer is not missing for a kind that it never rates."""
    opinion = live.slot.score(PROCESSES, "acme/1")

    assert (opinion.status, opinion.speaks) == (LayerStatus.NOT_APPLICABLE, False)
    assert Kind.PROCESS not in live.slot.state().kinds


# loads that fail


FAILURES = [
    pytest.param(
        ArtifactCorrupt("model.safetensors", "sha256 differs"),
        "ARTIFACT_CORRUPT",
        "files",
        id="an error of the publisher",
    ),
    pytest.param(
        RuntimeError("CUDA error at /home/amy/model"),
        "MODEL_LOAD_ERROR",
        "files",
        id="anything else",
    ),
    pytest.param(MemoryError(), "MODEL_LOAD_ERROR", "resources", id="no memory"),
]


@pytest.mark.parametrize(("error", "code", "cause"), FAILURES)
def test_a_failed_load_is_a_fallback_with_a_code_and_a_cause(
    world: World, error: Exception, code: str, cause: str
) -> None:
    """P12, S1-26: the score has weight 0, and clients see the code, not the error's text."""
    world.source.found = error
    world.slot.refresh()

    opinion = world.slot.score(FLOWS, ANY_RELEASE)
    state = world.slot.state().kinds[Kind.FLOW]

    assert (opinion.status, opinion.speaks, opinion.reason) == (LayerStatus.FALLBACK, False, code)
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]
    assert (state.status, state.version, state.reason) == (LayerStatus.FALLBACK, "", code)
    assert state.problem is not None
    assert (state.problem.code, state.problem.cause) == (code, cause)


def test_a_failed_reload_changes_nothing_and_reports_the_problem(live: World) -> None:
    """P5: the last good models still serve, byte for byte; `problem` is for the operator."""
    before = live.slot.score(FLOWS, "acme/1")
    live.source.found, live.source.touched = ArtifactMissing("CURRENT"), 1

    live.slot.refresh()
    after, state = live.slot.score(FLOWS, "acme/1"), live.slot.state()

    assert (after.status, after.version, after.scores.tobytes()) == (
        before.status,
        before.version,
        before.scores.tobytes(),
    )
    assert state.kinds[Kind.FLOW].status is LayerStatus.LIVE
    assert state.kinds[Kind.FLOW].problem == LoadFailure(
        "ARTIFACT_MISSING", "CURRENT is not in the store", "files", "ArtifactMissing", "CURRENT"
    )
    assert state.files_present is False


def test_loading_a_release_again_never_loses_a_serving_model(live: World) -> None:
    """P5: a release never changes, so a later load that finds less of it has lost nothing."""
    live.source.put(LoadedRelease("acme/1", {}, {Kind.FLOW: TORN}))
    live.source.problems = {Kind.FLOW: TORN}

    live.slot.refresh()

    assert live.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE
    assert live.slot.state().kinds[Kind.FLOW].problem == TORN


def test_a_kind_whose_bundle_failed_falls_back_while_the_other_kind_is_live(world: World) -> None:
    """A damaged bundle affects one kind of event, not the layer."""
    world.source.put(
        LoadedRelease("acme/1", {Kind.FLOW: LoadedModel(FakeModel(), "v1")}, {Kind.PROCESS: TORN})
    )
    world.slot.refresh()

    flows, processes = world.slot.score(FLOWS, "acme/1"), world.slot.score(PROCESSES, "acme/1")

    assert flows.status is LayerStatus.LIVE
    assert (processes.status, processes.reason) == (LayerStatus.FALLBACK, "ARTIFACT_CORRUPT")


# later polls


def test_files_that_do_not_change_are_not_loaded_again(live: World) -> None:
    """A poll runs every two seconds: one that finds no change must cost next to nothing."""
    for _ in range(5):
        live.slot.refresh()

    assert live.source.loads == 1


def test_repaired_files_are_live_at_the_next_poll(world: World) -> None:
    """P7: the operator repairs the file; there is no restart, and no wait for a retry."""
    world.source.found = ArtifactCorrupt("model.safetensors", "sha256 differs")
    for _ in range(3):
        world.slot.refresh()

    world.source.put(release_of(1))
    world.slot.refresh()

    assert world.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_a_failed_load_is_retried_with_growing_pauses_without_a_change_of_files(
    world: World,
) -> None:
    """F1: after 1, 2, 4 .. 30 s. A disk that fails now and then does not change the fingerprint."""
    world.source.found = ArtifactCorrupt("model.safetensors", "cannot be read")
    world.slot.refresh()
    waits = []
    for _ in range(8):
        start, loads = world.uptime_s, world.source.loads
        while world.source.loads == loads:
            world.uptime_s += 0.5
            world.slot.refresh()
        waits.append(world.uptime_s - start)

    assert waits == [
        FIRST_RETRY_S,
        2.0,
        4.0,
        8.0,
        16.0,
        LONGEST_RETRY_S,
        LONGEST_RETRY_S,
        LONGEST_RETRY_S,
    ]


def test_a_change_of_the_files_restarts_the_retries(world: World) -> None:
    """F1: an operator who repairs files one by one does not wait longer for each."""
    world.source.found = ArtifactMissing("CURRENT")
    for _ in range(6):
        world.uptime_s += LONGEST_RETRY_S
        world.slot.refresh()

    world.source.touched += 1
    world.slot.refresh()
    loads = world.source.loads
    world.uptime_s += FIRST_RETRY_S
    world.slot.refresh()

    assert world.source.loads == loads + 1


@pytest.mark.parametrize(
    "is_superseded", [True, False], ids=["something newer was loaded", "nothing newer was loaded"]
)
def test_an_abandoned_load_that_ends_late_is_used_unless_it_is_superseded(
    live: World,
    is_superseded: bool,  # noqa: FBT001  # a case
) -> None:
    """F13: a load from a slow disk is used when it ends, unless a newer one ended before."""
    original = live.source.load

    def slow(
        resolved: ResolvedReleases,
        loaded: Sequence[LoadedRelease],
        requested: frozenset[str],
    ) -> LoadResult:
        live.source.load = original  # type: ignore[method-assign]
        found = original(resolved, loaded, requested)
        live.slot.abandon_load(LoadTimeout("models", 10.0))
        if is_superseded:
            live.source.put(release_of(3))
            live.slot.refresh()
        return found

    live.source.load = slow  # type: ignore[method-assign]
    live.source.put(release_of(2))

    live.slot.refresh()

    assert live.slot.state().release == ("acme/3" if is_superseded else "acme/2")
    assert live.slot.state().kinds[Kind.FLOW].problem is None


def test_an_abandoned_load_is_a_problem_of_its_own(live: World) -> None:
    live.slot.abandon_load(LoadTimeout("models", 10.0))

    problem = live.slot.state().kinds[Kind.FLOW].problem

    assert problem is not None
    assert (problem.code, problem.cause) == ("LOAD_TIMEOUT", "resources")
    assert live.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_reset_forgets_earlier_failures(world: World) -> None:
    """S1-09: after a repair that changes no file, e.g. of a mount, no retry is awaited."""
    world.source.found = ArtifactCorrupt("model.safetensors", "permission")
    for _ in range(3):
        world.uptime_s += LONGEST_RETRY_S
        world.slot.refresh()
    world.source.found = [release_of(1)]

    world.slot.reset()
    world.slot.refresh()

    assert world.woken == 1
    assert world.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_a_slot_that_is_disabled_loads_nothing(world: World) -> None:
    """S1-06: a disabled layer must not try to load, and fail."""
    world.slot.is_disabled = True

    world.slot.refresh()

    assert world.source.loads == 0


def test_a_load_check_reports_its_result_and_changes_nothing(live: World) -> None:
    """S1-05."""
    assert live.slot.check_load()[Kind.FLOW].version == "v9"
    assert live.slot.state().kinds[Kind.FLOW].version == "v1"


# releases


def test_it_never_scores_by_another_release_than_the_named_one(live: World) -> None:
    """DESIGN: scores of one release with thresholds of another mean nothing."""
    opinion = live.slot.score(FLOWS, "acme/2")

    assert (opinion.status, opinion.release) == (LayerStatus.WARMING_UP, "")
    assert live.slot.score(FLOWS, "acme/1").scores[0] == 0.7


def test_a_named_release_that_is_missing_is_requested_once_and_soon(live: World) -> None:
    """The poller is woken, and the release is requested once: a load verifies every byte."""
    for _ in range(50):
        live.slot.score(FLOWS, "acme/9")
    live.slot.refresh()
    for _ in range(50):
        live.slot.score(FLOWS, "acme/9")
        live.slot.refresh()

    assert live.woken >= 1
    assert live.source.requests == [frozenset(), frozenset({"acme/9"})]


def test_two_callers_that_name_different_releases_cost_one_load_each(live: World) -> None:
    """Two ingress replicas may serve different releases for a while."""
    for _ in range(20):
        for name in ("acme/8", "acme/9"):
            live.slot.score(FLOWS, name)
            live.slot.refresh()

    assert live.source.loads == 3


def test_while_one_release_replaces_another_both_score(live: World) -> None:
    live.source.put(release_of(2, 0.9))
    live.slot.score(FLOWS, "acme/1")

    live.slot.refresh()

    assert live.slot.score(FLOWS, "acme/1").scores[0] == 0.7
    assert live.slot.score(FLOWS, "acme/2").scores[0] == 0.9


def test_a_release_that_callers_still_name_stays_loaded(live: World) -> None:
    """A rollback must find its release loaded; a release without calls is dropped."""
    for serial in (2, 3, 4):
        live.slot.score(FLOWS, "acme/1")
        live.source.put(release_of(serial))
        live.slot.refresh()
        live.slot.score(FLOWS, f"acme/{serial}")
    assert {"acme/4", "acme/1"} <= set(live.slot.state().holds)

    live.uptime_s += 2 * IN_USE_WITHIN_S
    live.source.put(release_of(5))
    live.slot.refresh()

    assert set(live.slot.state().holds) == {"acme/5", "acme/4"}


def test_a_call_for_any_release_gets_the_newest_and_its_name(live: World) -> None:
    """The result names the release whose thresholds belong to it."""
    live.source.put(release_of(2, 0.9))
    live.slot.refresh()

    opinion = live.slot.score(FLOWS, ANY_RELEASE)

    assert (opinion.scores[0], opinion.release) == (0.9, "acme/2")
    assert live.slot.state().release == "acme/2"


def test_a_fallback_release_has_the_status_last_good(world: World) -> None:
    """N-05: an older model is better than a fallback score; its status shows that it is older."""
    older = LoadedRelease(
        "acme/1", {Kind.FLOW: LoadedModel(FakeModel(0.4), "v1", LayerStatus.LAST_GOOD)}
    )
    world.source.put(LoadedRelease("acme/2", {}, {Kind.FLOW: TORN}), older)
    world.source.problems = {Kind.FLOW: TORN}
    world.slot.refresh()

    wanted, fallback = world.slot.score(FLOWS, "acme/2"), world.slot.score(FLOWS, "acme/1")

    assert (wanted.status, wanted.speaks) == (LayerStatus.FALLBACK, False)
    assert (fallback.status, fallback.speaks, fallback.scores[0]) == (
        LayerStatus.LAST_GOOD,
        True,
        0.4,
    )
    assert world.slot.state().holds == {"acme/2": frozenset(), "acme/1": frozenset({Kind.FLOW})}
    assert world.slot.state().wanted == "acme/2"


# models that fail


def _raise(_: EventBatch) -> ModelScores:
    raise ZeroDivisionError


CRASHES = [
    pytest.param(_raise, id="raises"),
    pytest.param(lambda batch: ModelScores(np.full(len(batch), np.nan)), id="NaN"),
    pytest.param(lambda batch: ModelScores(np.full(len(batch), 1.5)), id="1.5"),
    pytest.param(lambda batch: ModelScores(np.full((len(batch), 2), 0.5)), id="a matrix"),
    pytest.param(lambda _: None, id="None"),
    pytest.param(lambda batch: ModelScores(np.full(len(batch) - 1, 0.5)), id="a score too few"),
]


@pytest.fixture
def model(world: World) -> FakeModel:
    """The model that serves."""
    made = FakeModel()
    world.source.put(LoadedRelease("acme/1", {Kind.FLOW: LoadedModel(made, "v1", probe=FLOWS)}))
    world.slot.refresh()
    return made


@pytest.mark.parametrize("instead", CRASHES)
def test_a_model_that_fails_becomes_an_abstention(
    world: World, model: FakeModel, instead: Callable[[EventBatch], ModelScores]
) -> None:
    """P11, P12: a layer's error must not stop the others, and must not look like a benign score."""
    model.instead = instead

    opinion = world.slot.score(FLOWS, "acme/1")

    assert (opinion.status, opinion.speaks, opinion.reason) == (
        LayerStatus.FALLBACK,
        False,
        "LAYER_CRASHED",
    )
    assert opinion.scores.tolist() == [0.1, 0.1, 0.1]


def test_a_crash_on_one_batch_is_not_a_crash_on_the_next(world: World, model: FakeModel) -> None:
    model.instead = _raise
    world.slot.score(FLOWS, "acme/1")

    model.instead = None

    assert world.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE


def test_a_row_on_which_the_model_raises_affects_no_other_row(
    world: World, model: FakeModel
) -> None:
    """N-13, R6: the bad row gets no opinion, the others keep theirs."""
    flows = FlowBatch(
        ("a", "b", "c"), ("", "", ""), np.array([[0.0] * 78, [666.0] * 78, [0.0] * 78], np.float32)
    )

    def choke(batch: EventBatch) -> ModelScores:
        assert isinstance(batch, FlowBatch)
        if (batch.features == 666.0).any():
            raise ZeroDivisionError
        return ModelScores(np.full(len(batch), 0.7))

    model.instead = choke
    opinion = world.slot.score(flows, "acme/1")

    assert (opinion.status, opinion.scores.tolist()) == (LayerStatus.LIVE, [0.7, 0.1, 0.7])
    assert opinion.abstained == {1: Abstention(LayerStatus.FALLBACK, "LAYER_CRASHED")}
    assert [event.fields["events"] for event in world.events_of("scoring_failed")] == [1]


@pytest.mark.parametrize("has_probe_failed", [True, False])
def test_only_a_process_that_can_no_longer_score_golden_events_needs_a_restart(
    world: World,
    model: FakeModel,
    has_probe_failed: bool,  # noqa: FBT001  # a case
) -> None:
    """P38, C-35: bad events are no reason for a restart; a lost context of the GPU is one."""
    model.instead = _raise
    for _ in range(SUSPICIOUS_FAILURES):
        world.slot.score(FLOWS, "acme/1")

    model.instead = _raise if has_probe_failed else None

    if has_probe_failed:
        with pytest.raises(ZeroDivisionError):
            world.slot.check_health()
    else:
        world.slot.check_health()


def test_a_missing_model_is_no_reason_to_restart(world: World) -> None:
    """P38: a restart would read the same files."""
    world.source.found = ArtifactMissing("CURRENT")
    world.slot.refresh()
    for _ in range(2 * SUSPICIOUS_FAILURES):
        world.slot.score(FLOWS, ANY_RELEASE)

    world.slot.check_health()


# what it reports


def test_a_loaded_model_is_reported_once(world: World) -> None:
    """S0-15, S0-19: once, with the facts of the model."""
    world.source.put(
        LoadedRelease(
            "acme/1",
            {Kind.FLOW: LoadedModel(FakeModel(), "v1", size_bytes=12, facts={"device": "cpu"})},
        )
    )
    for _ in range(3):
        world.slot.refresh()
        world.source.touched += 1

    (event,) = world.events_of("loaded")

    assert event.kind is Kind.FLOW
    assert event.fields == {
        "version": "v1",
        "release": "acme/1",
        "status": "live",
        "size_bytes": 12,
        "device": "cpu",
    }


def test_a_failure_is_news_once_and_counted_every_time(world: World) -> None:
    """C-13: operators do not read a log that repeats itself; the counter is exact."""
    world.source.found = ArtifactMissing("manifest.json")
    for _ in range(4):
        world.slot.refresh()
        world.uptime_s += LONGEST_RETRY_S

    failures = world.events_of("load_failed")
    assert len(failures) == 4
    assert all(
        event.fields.keys() == {"code", "cause", "error", "error_type"} for event in failures
    )
    assert [len(world.events_of(what)) for what in ("files_missing", "fallback_active")] == [1, 1]
    assert failures[0].fields["cause"] == "files"


def test_fallback_scores_are_counted(world: World) -> None:
    """S0-38: a fallback score may hide an attack, so their number must be exact."""
    world.source.found = ArtifactMissing("manifest.json")
    world.slot.refresh()

    for _ in range(2):
        world.slot.score(FLOWS, ANY_RELEASE)

    assert [event.fields["events"] for event in world.events_of("fallback_used")] == [3, 3]


def test_a_state_has_the_time_of_its_beginning(live: World) -> None:
    began = live.date
    live.date += 60.0
    live.source.found, live.source.touched = ArtifactMissing("CURRENT"), 7
    live.slot.refresh()
    unchanged = live.slot.state().kinds[Kind.FLOW].since
    live.source.put(release_of(2))
    live.slot.refresh()

    assert (unchanged, live.slot.state().kinds[Kind.FLOW].since) == (began, began + 60.0)


# one resolution a poll


def test_what_is_loaded_is_what_was_fingerprinted(world: World) -> None:
    """Otherwise a moved pointer would be loaded under the fingerprint of the old one."""
    world.slot.refresh()
    world.source.put(release_of(2))
    world.slot.refresh()

    assert world.source.resolved == 2
    assert world.source.loaded_of == world.source.fingerprinted


def test_an_error_of_the_resolution_is_reported_like_one_of_the_load(live: World) -> None:
    error = ArtifactCorrupt("CURRENT", "torn")
    live.source.resolve = lambda: failing(error)  # type: ignore[method-assign]
    live.slot.refresh()
    live.slot.refresh()

    problem = live.slot.state().kinds[Kind.FLOW].problem
    assert problem is not None
    assert problem.code == "ARTIFACT_CORRUPT"
    assert live.slot.score(FLOWS, "acme/1").status is LayerStatus.LIVE
    assert len(live.events_of("load_failed")) == 1, "retried after a pause, not at every poll"


def failing(error: Exception) -> ResolvedReleases:
    raise error
