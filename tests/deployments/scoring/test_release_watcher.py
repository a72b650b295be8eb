"""The watcher of the pointer.

A promotion is served without a restart, once the layers have it; what cannot be read changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deployments.config.settings import read_settings
from deployments.scoring import release_watcher
from deployments.scoring.pipeline import TenantPipeline
from deployments.scoring.release_watcher import ReleaseWatcher
from ensemble.errors import ArtifactMissing, LayerCrashed
from ensemble.events import EventBatch, Kind
from ensemble.fusion import Fusion
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.controls import Controls
from ensemble.runtime.model_state import KindState, LoadFailure, SlotState
from ensemble.runtime.release_fusion import FusionChoices, ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus
from tests.support.pipelines import layer_client, tenant_pipeline


def fusions_of(name: str) -> ReleaseFusion:
    """A release whose evidence is shared by anomaly and behavior."""
    return ReleaseFusion(name, {Kind.FLOW: Fusion({"anomaly": 0.4, "behavior": 0.6}, 1.0, {})})


class Pointer:
    """What can be read of the pointer now: releases, the wanted one first, or why not."""

    def __init__(self, *found: str) -> None:
        self.serial, self.found, self.at_once = 1, found, False
        self.wanted = found[0] if found else ""
        self.error: Exception | None = None if found else ArtifactMissing("CURRENT")

    def moves_to(self, *found: str, wanted: str = "") -> None:
        self.serial, self.found, self.wanted, self.error = (
            self.serial + 1,
            found,
            wanted or found[0],
            None,
        )

    def resolve(self) -> FusionChoices:
        if self.error is not None:
            raise self.error
        problem = (
            None
            if self.found[0] == self.wanted
            else LoadFailure("ARTIFACT_CORRUPT", "sha256 differs")
        )
        return FusionChoices(
            self.wanted,
            f"default#{self.serial}",
            self.at_once,
            tuple(fusions_of(name) for name in self.found),
            problem,
        )


class Layers:
    """Layers that report their loaded releases, and remember the requested ones."""

    def __init__(self) -> None:
        self.have: dict[str, dict[str, frozenset[Kind]]] = {}
        self.told: set[str] = set()
        self.silent: set[str] = set()
        self.load("default/1")

    def load(self, *releases: str, torn: str = "") -> None:
        """Every layer loads `releases`; the layer `torn` tries, and has nothing of the last one."""
        for layer, plan in LAYERS.items():
            had = self.have.setdefault(layer, {})
            had |= {release: frozenset(plan.kinds) for release in releases}
            if layer == torn:
                had[releases[-1]] = frozenset()

    def state_of(self, layer: str) -> Callable[[str], Awaitable[tuple[SlotState, str]]]:
        async def state(wanted: str) -> tuple[SlotState, str]:
            self.told.add(wanted)
            if layer in self.silent:
                raise LayerCrashed(layer)
            kinds = dict.fromkeys(LAYERS[layer].kinds, KindState(LayerStatus.LIVE, "1"))
            return SlotState(layer, "", kinds, holds=dict(self.have[layer])), "cpu"

        return state


# as Serve passes it
async def _unasked(_batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
    raise AssertionError


class RollbackMarks:
    """Switches that are kept in memory."""

    def __init__(self) -> None:
        self.controls = Controls()
        self.error: Exception | None = None

    async def update(self, change: Callable[[Controls], Controls]) -> Controls:
        if self.error is not None:
            raise self.error
        self.controls = change(self.controls)
        return self.controls


def world(
    pointer: Pointer, retreats: RollbackMarks | None = None
) -> tuple[TenantPipeline, Layers, ReleaseWatcher]:
    layers = Layers()
    states = {layer: layers.state_of(layer) for layer in LAYERS}
    client = layer_client(dict.fromkeys(LAYERS, _unasked), states, deadline_s=20.0)
    settings = read_settings({"fusion": {"min_coverage": 0.5, "posture_bound": 0.5}})
    pipeline = tenant_pipeline(client, settings=settings)
    # all it uses of a resolver and of the switches
    return pipeline, layers, ReleaseWatcher(pipeline, pointer, retreats or RollbackMarks())  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_watcher, "POLL_EVERY_S", 0.001)
    monkeypatch.setattr(release_watcher, "STATES_EVERY_S", 0.001)
    monkeypatch.setattr(release_watcher, "LAYERS_LOAD_WITHIN_S", 0.3)


async def until(is_so: Callable[[], bool]) -> None:
    async def looking() -> None:
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)

    await asyncio.wait_for(looking(), 20.0)


def is_coming(pipeline: TenantPipeline, name: str) -> bool:
    """Whether the release serves, or takes its first steps."""
    return name in {
        pipeline.release.name,
        pipeline.controller.view.release if pipeline.controller.view else "",
    }


async def test_the_first_request_finds_the_release_of_the_pointer() -> None:
    pipeline, _, watcher = world(Pointer("default/1"))

    await watcher.start()

    assert pipeline.release.name == "default/1"


@pytest.mark.parametrize("to", ["default/2", "default/7"], ids=["the next", "a later one"])
async def test_a_promotion_is_fused_with_once_every_layer_has_it(to: str) -> None:
    """P7; and no answer of the old models meets the new fusion."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()

    pointer.moves_to(to, "default/1")
    await until(lambda: to in layers.told)
    assert pipeline.release.name == "default/1"
    layers.load(to)

    await until(lambda: is_coming(pipeline, to))


async def test_a_roll_back_takes_all_traffic_at_once() -> None:
    """P8: what served before is known; it needs no steps."""
    pointer = Pointer("default/5")
    pipeline, layers, watcher = world(pointer)
    layers.load("default/4", "default/5")
    await watcher.start()
    pointer.at_once = True
    pointer.moves_to("default/4")
    await until(lambda: pipeline.release.name == "default/4")
    pointer.at_once = False

    pointer.moves_to("default/5")
    await until(lambda: pipeline.release.name == "default/5")


async def test_a_new_release_that_replaces_a_living_one_is_stepped_in() -> None:
    """N-12."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.load("default/2")

    pointer.moves_to("default/2", "default/1")
    await until(lambda: is_coming(pipeline, "default/2"))

    assert pipeline.release.name == "default/1"


async def test_a_release_that_a_layer_cannot_have_changes_nothing() -> None:
    """P5.

    The whole ensemble stays with the release in use, rather than answer with half of each.
    """
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.load("default/1", "default/2", torn="behavior")

    pointer.moves_to("default/2", "default/1")
    for _ in range(3):
        await watcher.poll()
    assert pipeline.release.name == "default/1"
    layers.load("default/2")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_a_start_with_a_torn_release_goes_back_to_the_last_good_one() -> None:
    """N-05.

    A real older model before a dummy. Until the layers have it, what there is of the wanted one
    serves.
    """
    pointer = Pointer("default/2", "default/1")
    pipeline, layers, watcher = world(pointer)
    layers.have = {}
    layers.load("default/2", torn="anomaly")
    await watcher.start()
    assert pipeline.release.name == "default/2"

    await until(lambda: "default/1" in layers.told)
    layers.load("default/1")

    await until(lambda: pipeline.release.name == "default/1")


async def test_a_release_that_cannot_be_read_is_replaced_by_the_one_before_and_the_trouble_is_kept() -> (
    None
):
    """The fusion can be missing too: last good."""
    pointer = Pointer("default/1")
    pointer.wanted = "default/2"
    pipeline, _, watcher = world(pointer)

    await watcher.start()

    assert pipeline.release.name == "default/1"
    assert watcher.state.wanted == "default/2"
    assert watcher.state.problem is not None
    assert watcher.state.problem.code == "ARTIFACT_CORRUPT"


async def test_a_layer_that_never_answers_does_not_hold_a_promotion_up_for_ever() -> None:
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.load("default/2")
    layers.silent.add("resilience")

    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_an_ingress_that_starts_after_a_retreat_serves_the_release_before() -> None:
    """Autoscaled or restarted: it must not be blind until the next promotion."""
    retreats = RollbackMarks()
    await retreats.update(lambda controls: controls.with_rollback("default#1>2", "too many flips"))
    pipeline, layers, watcher = world(Pointer("default/2", "default/1"), retreats)
    layers.load("default/1", "default/2")

    await watcher.start()

    assert pipeline.release.name == "default/1"


async def test_a_release_that_closes_a_gap_of_the_living_one_takes_all_at_once() -> None:
    """DESIGN, N-12.

    Only what replaces a living one is held back; holding back what was missing would be chosen
    blindness.
    """
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    layers.load("default/1", torn="behavior")
    await watcher.start()
    layers.load("default/2")

    pointer.moves_to("default/2", "default/1")

    await until(lambda: pipeline.release.name == "default/2")


async def test_a_retreat_that_cannot_be_kept_holds_here_and_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk must not fill the log as well."""
    pointer = Pointer("default/1")
    retreats = RollbackMarks()
    retreats.error = OSError(28, "No space left on device")
    pipeline, layers, watcher = world(pointer, retreats)
    await watcher.start()
    layers.load("default/2")
    pointer.moves_to("default/2", "default/1")
    await until(lambda: is_coming(pipeline, "default/2"))
    pipeline.controller.roll_back("default/2", "too many flips")

    for _ in range(5):
        await watcher.poll()

    assert pipeline.release.name == "default/1"
    assert sum(record.message == "retreat_not_kept" for record in caplog.records) == 1


async def test_a_rollout_that_a_bad_look_interrupts_begins_again_and_is_no_retreat() -> None:
    """P7.

    A file that could not be read for one look must not leave the promoted release for ever, at
    every ingress.
    """
    pointer = Pointer("default/1")
    retreats = RollbackMarks()
    pipeline, layers, watcher = world(pointer, retreats)
    await watcher.start()
    layers.load("default/2")
    pointer.moves_to("default/2", "default/1")
    await until(lambda: is_coming(pipeline, "default/2"))

    pointer.found = ("default/1",)
    await watcher.poll()
    assert not is_coming(pipeline, "default/2")
    pointer.found = ("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))
    assert retreats.controls.rolled_back == {}


async def test_a_layer_that_an_operator_switched_off_has_no_vote_on_a_promotion() -> None:
    """S1-06: it is switched off because it is broken, and the promotion is what mends it."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    pipeline.layers.disabled = frozenset({"behavior"})
    layers.load("default/2")
    del layers.have["behavior"]["default/2"]

    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_lower_rungs_are_asked_for_one_after_another_and_only_until_one_is_whole() -> None:
    """A rung that is asked for is loaded.

    Five of them at every look would be a load without end.
    """
    pointer = Pointer("default/1")
    _, layers, watcher = world(pointer)
    await watcher.poll()
    layers.load("default/1", "default/5", torn="behavior")
    layers.load("default/4")

    pointer.moves_to("default/5", "default/4", "default/3", "default/2", "default/1")
    for _ in range(3):
        await watcher.poll()

    assert layers.told == {"default/5", "default/4"}


async def test_a_release_that_retreated_is_not_offered_again_until_the_pointer_moves() -> None:
    """N-12: another ingress replica may have found out; all of them believe it."""
    pointer = Pointer("default/1")
    retreats = RollbackMarks()
    pipeline, layers, watcher = world(pointer, retreats)
    await watcher.start()
    layers.load("default/2")
    await retreats.update(lambda controls: controls.with_rollback("default#2>2", "too many flips"))

    pointer.moves_to("default/2", "default/1")
    for _ in range(3):
        await watcher.poll()
    assert not is_coming(pipeline, "default/2")
    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_a_pointer_that_cannot_be_read_leaves_the_release_in_use_and_is_looked_at_again() -> (
    None
):
    """P5: a failed reload changes nothing. P7: it mends itself."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()

    pointer.error = ArtifactMissing("release 2")
    await asyncio.gather(*(_raises(watcher) for _ in range(3)))
    assert pipeline.release.name == "default/1"
    layers.load("default/2")
    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def _raises(watcher: ReleaseWatcher) -> None:
    with pytest.raises(ArtifactMissing):
        await watcher.poll()


async def test_a_start_without_any_release_is_a_start() -> None:
    """DESIGN decision 1."""
    pointer = Pointer()
    pipeline, layers, watcher = world(pointer)

    await watcher.start()
    assert pipeline.release.name == ""
    layers.load("default/3")
    pointer.moves_to("default/3")

    await until(lambda: pipeline.release.name == "default/3")
