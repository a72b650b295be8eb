"""The slots.

Models of several tenants in one process, those that were asked last; one tenant's load is no
other's business.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.events import Kind
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import LoadedModel, LoadedRelease, LoadResult
from ensemble.runtime.tenant_slots import TenantSlots
from tests.ensemble.runtime.test_hot_reload import FakeSource

TENANTS = ["acme", "a", "a_b", "globex", "initech"]


class Kept:
    """A slot that nobody looks after but the test."""

    def __init__(self, tenant: str) -> None:
        self.tenant, self.is_stopped = tenant, False
        self.source = FakeSource([LoadedRelease(f"{tenant}/1")])
        self.slot = LayerSlot("behavior", [Kind.FLOW], self.source, fallback_score=0.1)

    def poll(self) -> None:
        self.slot.refresh()

    def stop(self) -> None:
        self.is_stopped = True


class Shelf:
    """A slots, and every slot that was ever made for it."""

    def __init__(self, *, most: int = 3, pinned: tuple[str, ...] = ()) -> None:
        self.made: list[Kept] = []
        self.slots = TenantSlots(self._make, default="default", pinned=pinned, most=most)

    def _make(self, tenant: str) -> Kept:
        self.made.append(Kept(tenant))
        return self.made[-1]

    @property
    def tenants(self) -> list[str]:
        return [polled.tenant for polled in self.slots]


def test_a_slot_is_made_when_its_tenant_is_asked_for_first_and_kept() -> None:
    world = Shelf()

    first = world.slots.of_release("acme/1")

    assert world.slots.of_release("acme/7") is first
    assert world.tenants == ["acme"]


def test_who_names_no_release_is_answered_by_the_home_slot() -> None:
    world = Shelf()

    assert world.slots.of_release("") is world.slots.of("default").slot


def test_the_tenant_asked_last_longest_ago_makes_room_and_is_looked_after_no_longer() -> None:
    world = Shelf(most=3)
    for tenant in ("default", "acme", "globex", "acme", "initech"):
        world.slots.of(tenant)

    assert world.tenants == ["default", "acme", "initech"]
    assert [polled.tenant for polled in world.made if polled.is_stopped] == ["globex"]


def test_the_generic_slots_never_go() -> None:
    world = Shelf(most=2, pinned=("retail",))
    for tenant in ("default", "retail", "acme", "globex", "initech"):
        world.slots.of(tenant)

    assert world.tenants == ["default", "retail", "initech"]


@given(st.lists(st.sampled_from(["default", *TENANTS]), max_size=40), st.integers(2, 4))
def test_never_more_than_allowed_and_never_without_whoever_was_asked_last(
    asked: list[str], most: int
) -> None:
    """The slow, obvious way beside it: the last `most - 1` different tenants, and home."""
    world = Shelf(most=most)
    world.slots.of("default")
    for tenant in asked:
        world.slots.of(tenant)

        assert len(world.tenants) <= most
        assert {tenant, "default"} <= set(world.tenants)
    assert {polled.tenant for polled in world.made if not polled.is_stopped} == set(world.tenants)


def test_a_tenants_slot_is_its_own_whatever_its_name_begins_with() -> None:
    """C-22: tenant `a` is not tenant `a_b`."""
    world = Shelf(most=6)

    slots = {id(world.slots.of(tenant).slot) for tenant in TENANTS}

    assert len(slots) == len(TENANTS)


def test_models_of_every_slot_can_be_had() -> None:
    world = Shelf()
    # nobody asks it to score
    model = LoadedModel(object(), "1", bundles=("behavior-flow/1 00",))  # type: ignore[arg-type]
    polled = world.slots.of("acme")
    world.made[-1].source.found = LoadResult(
        "acme/1", (LoadedRelease("acme/1", {Kind.FLOW: model}),)
    ).releases

    polled.poll()

    assert world.slots.models() == (model,)


@pytest.mark.parametrize("hangs", TENANTS)
def test_a_tenant_whose_files_hang_hangs_alone(hangs: str) -> None:
    world = Shelf(most=6)
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
