"""Following the pointer: a promotion is served without a restart, once the layers have it; what cannot be read changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from deployments import following
from deployments.fanout import FanOut
from deployments.following import ReleaseFollower
from deployments.settings import FusionSettings
from ensemble.errors import ArtifactMissing
from ensemble.events import EventBatch
from ensemble.loading import LAYERS, ReleaseFusion
from ensemble.slot import KindState, SlotState
from ensemble.verdicts import LayerScores, LayerStatus


class Pointer:
    """What can be read of the pointer now: a release, or why not."""

    def __init__(self, found: str | Exception) -> None:
        self.found = found

    def load(self) -> ReleaseFusion:
        if isinstance(self.found, Exception):
            raise self.found
        return ReleaseFusion(self.found)


class Layers:
    """Layers that say which release they have, and remember which one they were told of."""

    def __init__(self) -> None:
        self.have = dict.fromkeys(LAYERS, "default/1")
        self.told: set[str] = set()

    def state_of(self, layer: str) -> Callable[[str], Awaitable[tuple[SlotState, str]]]:
        async def state(wanted: str) -> tuple[SlotState, str]:
            self.told.add(wanted)
            return SlotState(layer, self.have[layer], dict.fromkeys(LAYERS[layer].kinds, KindState(LayerStatus.LIVE, "1"))), "cpu"

        return state


async def _unasked(_batch: EventBatch, _release: str, _explain: bool) -> LayerScores:  # noqa: FBT001  # as Serve passes it
    raise AssertionError


def world(pointer: Pointer) -> tuple[FanOut, Layers, ReleaseFollower]:
    layers = Layers()
    fan = FanOut(
        calls=dict.fromkeys(LAYERS, _unasked),
        states={layer: layers.state_of(layer) for layer in LAYERS},
        deadline_s=20.0,
        fusion_settings=FusionSettings(min_coverage=0.5, posture_bound=0.5),
    )
    return fan, layers, ReleaseFollower(fan, pointer)  # type: ignore[arg-type]  # all it uses of a loader


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_EVERY_S", 0.001)
    monkeypatch.setattr(following, "ASK_AGAIN_AFTER_S", 0.001)
    monkeypatch.setattr(following, "LAYERS_FOLLOW_WITHIN_S", 0.3)


async def until(is_so: Callable[[], bool]) -> None:
    async def looking() -> None:
        while not is_so():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)

    await asyncio.wait_for(looking(), 20.0)


def test_the_first_request_finds_the_release_of_the_pointer() -> None:
    async def promise() -> None:
        fan, _, follower = world(Pointer("default/1"))

        await follower.start()

        assert fan.release.name == "default/1"

    asyncio.run(promise())


@pytest.mark.parametrize("to", ["default/2", "default/7"], ids=["the next", "a later one"])
def test_a_promotion_is_fused_with_once_every_layer_has_it(to: str) -> None:
    """P7; and no answer of the old models meets the new fusion."""

    async def promise() -> None:
        pointer = Pointer("default/1")
        fan, layers, follower = world(pointer)
        await follower.start()

        pointer.found = to
        await until(lambda: to in layers.told)
        assert fan.release.name == "default/1"
        layers.have = dict.fromkeys(LAYERS, to)
        await until(lambda: fan.release.name == to)

    asyncio.run(promise())


def test_a_roll_back_is_followed_as_a_promotion_is() -> None:
    """P8."""

    async def promise() -> None:
        pointer = Pointer("default/5")
        fan, layers, follower = world(pointer)
        await follower.start()

        pointer.found, layers.have = "default/4", dict.fromkeys(LAYERS, "default/4")

        await until(lambda: fan.release.name == "default/4")

    asyncio.run(promise())


def test_a_layer_that_cannot_have_the_new_release_does_not_hold_it_up_for_ever() -> None:
    async def promise() -> None:
        pointer = Pointer("default/1")
        fan, layers, follower = world(pointer)
        await follower.start()

        pointer.found, layers.have = "default/2", {**dict.fromkeys(LAYERS, "default/2"), "behavior": "default/1"}

        await until(lambda: fan.release.name == "default/2")

    asyncio.run(promise())


def test_a_pointer_that_cannot_be_read_leaves_the_release_in_use_and_is_looked_at_again() -> None:
    """P5: a failed reload changes nothing. P7: it mends itself."""

    async def promise() -> None:
        pointer = Pointer("default/1")
        fan, layers, follower = world(pointer)
        await follower.start()

        pointer.found = ArtifactMissing("release 2")
        await asyncio.gather(*(_raises(follower) for _ in range(3)))
        assert fan.release.name == "default/1"
        pointer.found, layers.have = "default/2", dict.fromkeys(LAYERS, "default/2")

        await until(lambda: fan.release.name == "default/2")

    asyncio.run(promise())


async def _raises(follower: ReleaseFollower) -> None:
    with pytest.raises(ArtifactMissing):
        await follower.look()


def test_a_start_without_any_release_is_a_start() -> None:
    """DESIGN decision 1."""

    async def promise() -> None:
        pointer = Pointer(ArtifactMissing("CURRENT"))
        fan, layers, follower = world(pointer)

        await follower.start()
        assert fan.release.name == ""
        pointer.found, layers.have = "default/3", dict.fromkeys(LAYERS, "default/3")

        await until(lambda: fan.release.name == "default/3")

    asyncio.run(promise())
