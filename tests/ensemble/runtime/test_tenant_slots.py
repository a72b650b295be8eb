"""LRU cache of slots: models of several tenants in one process, each loaded independently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.events import Kind
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import LoadedModel, LoadedRelease, LoadResult
from ensemble.runtime.tenant_slots import TenantSlots
from tests.support.model_source import FakeSource

TENANTS = ["acme", "a", "a_b", "globex", "initech"]


class PolledByTest:
    """A polled slot without a thread: the test polls it."""

    def __init__(self, tenant: str) -> None:
        self.tenant, self.is_stopped = tenant, False
        self.source = FakeSource([LoadedRelease(f"{tenant}/1")])
        self.slot = LayerSlot("behavior", [Kind.FLOW], self.source, fallback_score=0.1)

    def poll(self) -> None:
        self.slot.refresh()

    def stop(self) -> None:
        self.is_stopped = True


class World:
    """A cache, and every slot that was made for it."""

    def __init__(self, *, most: int = 3, pinned: tuple[str, ...] = ()) -> None:
        self.made: list[PolledByTest] = []
        self.slots = TenantSlots(self._make, default="default", pinned=pinned, most=most)

    def _make(self, tenant: str) -> PolledByTest:
        self.made.append(PolledByTest(tenant))
        return self.made[-1]

    @property
    def tenants(self) -> list[str]:
        return [polled.tenant for polled in self.slots]


def test_a_slot_is_made_at_the_first_use_of_its_tenant_and_reused() -> None:
    world = World()

    first = world.slots.of_release("acme/1")

    assert world.slots.of_release("acme/7") is first
    assert world.tenants == ["acme"]


def test_the_default_slot_serves_calls_that_name_no_release() -> None:
    world = World()

    assert world.slots.of_release("") is world.slots.of("default").slot


def test_the_least_recently_used_tenant_is_evicted_and_its_polling_stops() -> None:
    world = World(most=3)
    for tenant in ("default", "acme", "globex", "acme", "initech"):
        world.slots.of(tenant)

    assert world.tenants == ["default", "acme", "initech"]
    assert [polled.tenant for polled in world.made if polled.is_stopped] == ["globex"]


def test_pinned_slots_are_never_evicted() -> None:
    world = World(most=2, pinned=("retail",))
    for tenant in ("default", "retail", "acme", "globex", "initech"):
        world.slots.of(tenant)

    assert world.tenants == ["default", "retail", "initech"]


@given(st.lists(st.sampled_from(["default", *TENANTS]), max_size=40), st.integers(2, 4))
def test_the_cache_holds_the_most_recently_used_tenants_and_no_more(
    asked: list[str], most: int
) -> None:
    """Compared with a simple model: the default tenant and the last `most - 1` other tenants."""
    world = World(most=most)
    world.slots.of("default")
    for tenant in asked:
        world.slots.of(tenant)

        assert len(world.tenants) <= most
        assert {tenant, "default"} <= set(world.tenants)
    assert {polled.tenant for polled in world.made if not polled.is_stopped} == set(world.tenants)


def test_tenants_with_a_common_prefix_have_slots_of_their_own() -> None:
    """C-22: tenant `a` is not tenant `a_b`."""
    world = World(most=6)

    slots = {id(world.slots.of(tenant).slot) for tenant in TENANTS}

    assert len(slots) == len(TENANTS)


def test_models_lists_those_of_every_slot() -> None:
    world = World()
    # no call scores with it
    model = LoadedModel(object(), "1", bundles=("behavior-flow/1 00",))  # type: ignore[arg-type]
    polled = world.slots.of("acme")
    world.made[-1].source.found = LoadResult(
        "acme/1", (LoadedRelease("acme/1", {Kind.FLOW: model}),)
    ).releases

    polled.poll()

    assert world.slots.models() == (model,)


@pytest.mark.parametrize("hangs", TENANTS)
def test_a_hanging_disk_of_one_tenant_affects_no_other(hangs: str) -> None:
    world = World(most=6)
    for tenant in TENANTS:
        world.slots.of(tenant)
    broken = next(polled for polled in world.made if polled.tenant == hangs)
    broken.slot.abandon_load(TimeoutError())

    for polled in world.made:
        if polled is not broken:
            polled.poll()

    assert {polled.tenant for polled in world.made if polled.slot.state().release} == set(
        TENANTS
    ) - {hangs}
