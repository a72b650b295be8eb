"""The spool of degraded events (N-02): what it stores, and its limits."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import msgspec
import pytest

from deployments.scoring import retro_spool, wire
from ensemble.errors import FeatureMismatch
from tests.support.retro import (
    HOUR_S,
    LIMIT_S,
    LIMITS,
    T0,
    RetroBench,
    flow,
    process,
    verdict,
)


@pytest.fixture
def world(tmp_path: Path) -> RetroBench:
    return RetroBench(tmp_path / "state" / "retro")


async def test_only_events_with_less_than_full_coverage_are_spooled(world: RetroBench) -> None:
    """A silent posture does not lower the coverage.

    It is no evidence about the event, so a rescore would add nothing.
    """
    async with asyncio.timeout(LIMIT_S):
        events = [flow(number) for number in range(5)]
        answers = [
            verdict(events[0], coverage=1.0),
            verdict(events[1], coverage=0.4),
            FeatureMismatch("features", "has 77 numbers"),
            verdict(events[3], coverage=0.0),
            msgspec.structs.replace(verdict(events[4], coverage=1.0), degraded=True),
        ]

        world.spool.offer(["default"] * len(events), events, answers)
        await world.spool.flush()

        assert world.spool.counts().spooled == 2
        world.ensemble.recover()
        await world.rescore_all()
        assert sorted(event for batch in world.ensemble.seen for event in batch) == ["f1", "f3"]


async def test_an_event_of_which_no_layer_knows_anything_is_not_spooled(
    world: RetroBench,
) -> None:
    """A7: no rescore could say more; it would wait until it is too old."""
    async with asyncio.timeout(LIMIT_S):
        unknown = msgspec.structs.replace(
            verdict(process(1), "indeterminate", coverage=0.0), degraded=False
        )

        world.spool.offer(["default"], [process(1)], [unknown])
        await world.spool.flush()

        assert world.spool.counts().spooled == 0


async def test_the_spool_has_the_event_its_arrival_and_its_verdict(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        events = [
            wire.FlowRequest(
                features={"Flow Duration": 3.0, "Destination Port": None}, id="f1", time="now"
            ),
            process(2, "é \u2028"),
        ]

        world.spool.offer(
            ["default"] * len(events),
            events,
            [verdict(event, "suspicious", 0.25, elapsed_ms=1500.0) for event in events],
        )
        await world.spool.flush()

        lines = [
            msgspec.json.decode(line)
            for file in sorted(world.files())
            for line in file.read_bytes().splitlines()
        ]
        assert [wire.parse_event(msgspec.json.encode(line["event"])) for line in lines] == events
        assert {line["at"] for line in lines} == {T0 - 1.5}
        assert lines[0]["was"] == {"score": 0.5, "verdict": "suspicious", "coverage": 0.25}


async def test_the_digest_of_an_event_does_not_depend_on_the_order_of_its_fields(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        one = wire.parse_event(
            b'{"kind":"flow","features":{"Flow Duration":3,"Destination Port":80},"id":"a"}'
        )
        other = wire.parse_event(
            b'{"id":"a","features":{"Destination Port":80.0,"Flow Duration":3.0},"kind":"flow"}'
        )
        await world.degraded(one, other, flow(3))

        world.ensemble.recover()
        await world.rescore_all()

        assert len({finding.digest for finding in world.findings}) == 2


async def test_an_offer_does_not_write_to_the_disk(world: RetroBench) -> None:
    """The hot path only appends to a buffer; another thread writes it later."""
    async with asyncio.timeout(LIMIT_S):
        world.spool.offer(["default"], [flow(1)], [verdict(flow(1))])
        assert not world.root.exists()

        written_by: list[int] = []
        write = os.write
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                os,
                "write",
                lambda fd, data: (written_by.append(threading.get_ident()), write(fd, data))[1],
            )
            await world.spool.flush()

        assert threading.get_ident() not in written_by
        assert len(world.files()) == 1


async def test_the_buffer_is_limited_and_counts_what_it_drops(
    world: RetroBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(LIMIT_S):
        monkeypatch.setattr(retro_spool, "BUFFER_BYTES", 10 * 4096)
        events = [flow(number) for number in range(25)]

        tenants = ["default", "another"] * len(events)
        world.spool.offer(tenants[:25], events, [verdict(event) for event in events])
        assert world.spool.counts().dropped["buffer_full"] == 15
        await world.spool.flush()
        world.spool.offer(["default"] * 5, events[:5], [verdict(event) for event in events[:5]])
        await world.spool.flush()

        assert (world.spool.counts().spooled, world.spool.counts().dropped["buffer_full"]) == (
            15,
            15,
        )


def test_one_tenant_fills_half_of_the_buffer(
    world: RetroBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retro_spool, "BUFFER_BYTES", 10 * 4096)
    events = [flow(number) for number in range(25)]

    world.spool.offer(["loud"] * 20, events[:20], [verdict(event) for event in events[:20]])
    world.spool.offer(["quiet"] * 5, events[20:], [verdict(event) for event in events[20:]])

    assert world.spool.counts().dropped["buffer_full"] == 15
    assert [tenant for _, tenant, _, _ in world.spool._buffer] == ["loud"] * 5 + ["quiet"] * 5


def test_nothing_is_kept_longer_than_what_is_scored_of_it(world: RetroBench) -> None:
    long = process(1, "A" * (2 << 20))

    world.spool.offer(["default"], [long], [verdict(long)])

    ((_, _, event, _),) = world.spool._buffer
    assert event.command_line == "A" * 32_768
    assert event.id == long.id


async def test_a_disabled_spool_writes_and_runs_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(LIMIT_S):
        world = RetroBench(tmp_path / "retro", LIMITS.model_copy(update={"enabled": False}))
        before = asyncio.all_tasks()

        await world.spool.start()
        await world.degraded(flow(1))
        await world.spool.stop()

        assert asyncio.all_tasks() == before
        assert not world.root.exists()
        assert world.spool.counts().spooled == 0


async def test_the_limits_of_the_settings_hold(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        for start in range(0, 8000, 500):
            world.ensemble.now += 60.0
            await world.degraded(*(flow(number) for number in range(start, start + 500)))

        counts = world.spool.counts()
        assert counts.waiting_bytes <= 4 << 20
        assert counts.waiting_events + counts.dropped["size"] == 8000
        assert counts.dropped["size"] > 0
        world.ensemble.now += 25 * HOUR_S
        await world.spool.upkeep()

        counts = world.spool.counts()
        assert (counts.waiting_events, counts.waiting_bytes, counts.oldest_age_s) == (0, 0, 0.0)
        assert counts.dropped["age"] + counts.dropped["size"] == 8000
