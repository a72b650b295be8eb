"""The watcher of the pointer.

A promotion is served without a restart, once the layers have loaded it; a pointer that cannot be
read changes nothing.
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
from ensemble.layers import catalog
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.controls import Controls
from ensemble.runtime.model_state import KindState, LoadFailure, SlotState
from ensemble.runtime.release_fusion import FusionChoices, ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus
from tests.support.pipelines import layer_client, tenant_pipeline
from tests.support.slot_states import OWN_LAYER


def fusions_of(name: str) -> ReleaseFusion:
    """A release whose evidence is shared by anomaly and behavior."""
    return ReleaseFusion(name, {Kind.FLOW: Fusion({"anomaly": 0.4, "behavior": 0.6}, 1.0, {})})


class Pointer:
    """The releases that can be read now, the wanted one first, or the error."""

    def __init__(self, *found: str) -> None:
        self.serial, self.found, self.at_once = 1, found, False
        self.wanted = found[0] if found else ""
        self.challenger = ""
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
            fusions_of(self.challenger) if self.challenger else None,
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
async def _not_called(_batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
    raise AssertionError


class RollbackMarks:
    """Switches that exist in memory alone."""

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
    client = layer_client(dict.fromkeys(LAYERS, _not_called), states, deadline_s=20.0)
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
    async def poll_until() -> None:
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll_until(), 20.0)


def is_coming(pipeline: TenantPipeline, name: str) -> bool:
    """Whether the release serves, or its rollout is in progress."""
    return name in {
        pipeline.release.name,
        pipeline.controller.view.release if pipeline.controller.view else "",
    }


async def test_the_first_request_finds_the_release_of_the_pointer() -> None:
    pipeline, _, watcher = world(Pointer("default/1"))

    await watcher.start()

    assert pipeline.release.name == "default/1"


@pytest.mark.parametrize("to", ["default/2", "default/7"], ids=["the next", "a later one"])
async def test_a_promotion_serves_once_every_layer_has_loaded_it(to: str) -> None:
    """P7; and no score of the old models is fused by the new fusion."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()

    pointer.moves_to(to, "default/1")
    await until(lambda: to in layers.told)
    assert pipeline.release.name == "default/1"
    layers.load(to)

    await until(lambda: is_coming(pipeline, to))


async def test_a_promotion_does_not_wait_for_an_own_layer_without_a_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A promotion once took 10 s longer, and its challenger was never scored in shadow."""
    monkeypatch.setitem(catalog._layers, "extremes", OWN_LAYER)
    monkeypatch.setattr(release_watcher, "LAYERS_LOAD_WITHIN_S", 60.0)
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.silent.add("extremes")
    layers.load("default/2", "default/3")
    pointer.challenger = "default/3"

    pointer.moves_to("default/2", "default/1")
    await until(lambda: is_coming(pipeline, "default/2"))

    await until(lambda: pipeline.evaluation.agreement is not None)


async def test_a_rollback_gets_all_traffic_at_once() -> None:
    """P8: what served before is known, and needs no canary."""
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


async def test_a_new_release_is_rolled_out_in_steps() -> None:
    """N-12."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.load("default/2")

    pointer.moves_to("default/2", "default/1")
    await until(lambda: is_coming(pipeline, "default/2"))

    assert pipeline.release.name == "default/1"


async def test_a_release_that_a_layer_cannot_load_changes_nothing() -> None:
    """P5.

    The whole ensemble stays with the active release; no verdict mixes two releases.
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


async def test_a_start_with_a_broken_release_serves_the_last_good_one() -> None:
    """N-05.

    An older model is better than a dummy. Until the layers have loaded it, what is loaded of the
    wanted release serves.
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


async def test_a_release_that_cannot_be_read_is_replaced_and_its_problem_reported() -> None:
    """The fusion of a release can be missing, too."""
    pointer = Pointer("default/1")
    pointer.wanted = "default/2"
    pipeline, _, watcher = world(pointer)

    await watcher.start()

    assert pipeline.release.name == "default/1"
    assert watcher.state.wanted == "default/2"
    assert watcher.state.problem is not None
    assert watcher.state.problem.code == "ARTIFACT_CORRUPT"


async def test_a_layer_that_never_responds_delays_a_promotion_for_a_limited_time() -> None:
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    layers.load("default/2")
    layers.silent.add("resilience")

    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_an_ingress_that_starts_after_a_rollback_serves_the_release_before() -> None:
    """A replica that is added or restarted must not wait for the next promotion."""
    retreats = RollbackMarks()
    await retreats.update(lambda controls: controls.with_rollback("default#1>2", "too many flips"))
    pipeline, layers, watcher = world(Pointer("default/2", "default/1"), retreats)
    layers.load("default/1", "default/2")

    await watcher.start()

    assert pipeline.release.name == "default/1"


async def test_a_release_that_closes_a_gap_gets_all_traffic_at_once() -> None:
    """DESIGN, N-12.

    A canary holds back only what replaces a complete release; otherwise coverage would stay low for
    longer.
    """
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    layers.load("default/1", torn="behavior")
    await watcher.start()
    layers.load("default/2")

    pointer.moves_to("default/2", "default/1")

    await until(lambda: pipeline.release.name == "default/2")


async def test_a_rollback_that_cannot_be_written_holds_here_and_is_logged_once(
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
    assert sum(record.message == "rollback_write_failed" for record in caplog.records) == 1


async def test_a_rollout_interrupted_by_a_failed_poll_restarts() -> None:
    """P7.

    One failed read of a file must not roll back the promoted release on every ingress replica.
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


async def test_a_disabled_layer_does_not_hold_a_promotion_back() -> None:
    """S1-06: it is disabled because it is broken, and the promotion repairs it."""
    pointer = Pointer("default/1")
    pipeline, layers, watcher = world(pointer)
    await watcher.start()
    pipeline.layers.disabled = frozenset({"behavior"})
    layers.load("default/2")
    del layers.have["behavior"]["default/2"]

    pointer.moves_to("default/2", "default/1")

    await until(lambda: is_coming(pipeline, "default/2"))


async def test_fallbacks_are_requested_one_by_one_until_one_is_complete() -> None:
    """A release that is requested is loaded.

    Requesting all fallbacks at every poll would load them again and again.
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


async def test_a_rolled_back_release_is_not_tried_again_until_the_pointer_moves() -> None:
    """N-12: one ingress replica decides for all of them."""
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


async def test_a_pointer_that_cannot_be_read_changes_nothing_and_is_polled_again() -> None:
    """P5: a failed reload changes nothing. P7: the next poll repairs it."""
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


async def test_a_start_without_any_release_succeeds() -> None:
    """DESIGN decision 1."""
    pointer = Pointer()
    pipeline, layers, watcher = world(pointer)

    await watcher.start()
    assert pipeline.release.name == ""
    layers.load("default/3")
    pointer.moves_to("default/3")

    await until(lambda: pipeline.release.name == "default/3")
