"""The gate of bulk: a few parts at a time, in turns of tenants, and a refusal before it is late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.config.settings import read_settings
from deployments.scoring.bulk_gate import BulkGate, gather_all
from ensemble.errors import Overloaded
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.timing import Clock

LONG_S = 60.0


class Gate:
    """A gate whose parts end when the test says so."""

    def __init__(self, **ingress: int) -> None:
        self.clock, self.meter = Clock(), RecordingMeter()
        settings = read_settings({"ingress": {"parts_in_flight": 1, **ingress}}).ingress
        self.gate = BulkGate(settings, self.meter, clock=self.clock)
        self.begun: list[str] = []
        self.ends: asyncio.Queue[None] = asyncio.Queue()

    async def part(self, tenant: str, events: int = 256, within_s: float = LONG_S) -> None:
        async with self.gate.place(tenant, events, self.clock.now + within_s):
            self.begun.append(tenant)
            await self.ends.get()

    def start(self, tenant: str, **options: Any) -> asyncio.Task[None]:
        return asyncio.create_task(self.part(tenant, **options))

    async def end_one(self) -> None:
        self.ends.put_nowait(None)
        for _ in range(5):
            await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_parts_take_turns_by_tenant() -> None:
    """P21: the batch of one tenant does not wait for all batches of another."""
    world = Gate()
    out = [world.start("bulk") for _ in range(4)]
    await settled()
    out.append(world.start("quiet"))
    await settled()

    for _ in range(5):
        await world.end_one()

    assert world.begun.index("quiet") <= 2
    assert all(task.done() for task in out)


async def test_no_more_parts_than_places_are_begun() -> None:
    world = Gate(parts_in_flight=2)
    out = [world.start("bulk") for _ in range(5)]
    await settled()

    assert len(world.begun) == 2
    for _ in range(5):
        await world.end_one()
    assert all(task.done() for task in out)


async def test_a_part_without_a_place_by_its_deadline_is_refused_and_not_begun() -> None:
    """Work whose deadline has passed is not begun; the caller learns when to retry."""
    world = Gate()
    first = world.start("bulk")
    await settled()

    with pytest.raises(Overloaded) as refusal:
        await world.part("bulk", within_s=0.01)

    assert refusal.value.retry_after_s >= 1
    assert world.begun == ["bulk"]
    await world.end_one()
    await first
    after = world.start("bulk")
    await settled()
    assert world.begun == ["bulk"] * 2, "the refused part still holds a place"
    await world.end_one()
    await after


@pytest.mark.parametrize("at_once", [True, False], ids=["as its turn comes", "while it waits"])
async def test_a_caller_that_leaves_gives_its_place_back(at_once: bool) -> None:  # noqa: FBT001
    world = Gate()
    first, second = world.start("bulk"), world.start("bulk")
    await settled()
    if at_once:  # the first part ends, and the caller of the second leaves before it goes on
        world.ends.put_nowait(None)
        asyncio.get_running_loop().call_soon(second.cancel)
    else:
        second.cancel()
    await asyncio.wait([second])
    if not at_once:
        await world.end_one()
    assert first.done()
    assert world.begun == ["bulk"]

    third = world.start("bulk")
    await settled()
    assert world.begun == ["bulk"] * 2
    await world.end_one()
    await third


async def test_a_batch_that_cannot_be_in_time_is_refused_at_once() -> None:
    """P20: the refusal comes before any work is done, not at the deadline."""
    world = Gate()
    first = world.start("bulk")
    await settled()
    world.clock.now += 2.56  # 10 ms for each of 256 events
    await world.end_one()
    await first
    out = [world.start("bulk") for _ in range(3)]
    await settled()

    world.gate.admit("bulk", 256, world.clock.now + 6.0)
    with pytest.raises(Overloaded) as refusal:
        world.gate.admit("bulk", 256, world.clock.now + 5.0)

    assert refusal.value.retry_after_s == 6
    for _ in range(3):
        await world.end_one()
    await asyncio.gather(*out)


async def test_a_tenant_may_fill_half_of_the_room() -> None:
    world = Gate(waiting_events=2048)
    out = [world.start("bulk") for _ in range(5)]
    await settled()

    with pytest.raises(Overloaded):
        world.gate.admit("bulk", 256, world.clock.now + LONG_S)
    world.gate.admit("quiet", 256, world.clock.now + LONG_S)

    assert world.meter.total("axon_requests_refused_total", code="OVERLOADED") == 1
    for _ in range(5):
        await world.end_one()
    await asyncio.gather(*out)


@pytest.mark.parametrize(
    ("event_ms", "expected"), [(0.01, 1000), (0.06, 1000), (0.12, 500), (1.0, 64)]
)
async def test_a_slow_machine_gets_smaller_parts(event_ms: float, expected: int) -> None:
    """P21b: a single event waits for the parts in the layers, on any machine about as long."""
    world = Gate(parts_ms=60)
    for _ in range(3):
        part = world.start("bulk", events=100)
        await settled()
        world.clock.now += 100 * event_ms / 1000.0
        await world.end_one()
        await part

    assert world.gate.part_events == pytest.approx(expected, abs=1)


async def test_a_few_small_parts_do_not_make_the_service_seem_slow() -> None:
    """Any part costs some milliseconds; a batch must not be refused for a short one before it."""
    world = Gate()
    for events in [1000] * 10 + [2]:
        part = world.start("bulk", events=events)
        await settled()
        world.clock.now += 0.01 + events * 0.00003
        await world.end_one()
        await part

    assert world.gate.part_events == 1000


async def test_an_idle_gate_admits_any_batch() -> None:
    world = Gate(waiting_events=1)

    world.gate.admit("bulk", 1000, world.clock.now + LONG_S)


async def test_the_parts_of_a_batch_end_together_when_one_fails() -> None:
    was_cancelled = asyncio.Event()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise Overloaded(1)

    async def runs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    with pytest.raises(Overloaded):
        await gather_all([fails(), runs()])
    await asyncio.wait_for(was_cancelled.wait(), 5.0)
