"""The rescorer (N-02): degraded events are scored again once more layers are available."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from deployments.scoring import verdict_wire, wire
from ensemble.errors import MalformedEvent
from ensemble.events import Kind
from tests.support.retro import (
    LIMIT_S,
    RetroBench,
    flow,
    process,
    verdict,
)


@pytest.fixture
def world(tmp_path: Path) -> RetroBench:
    return RetroBench(tmp_path / "state" / "retro")


async def test_an_event_that_turns_hostile_is_a_finding_with_its_original_time(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), flow(2))
        world.ensemble.now += 90 * 60.0
        world.ensemble.recover()
        world.ensemble.answer = lambda event: verdict(
            event, "malicious" if event.id == "f2" else "benign", 1.0
        )

        await world.rescore_all()

        (found,) = world.findings
        assert (found.retro, found.id, found.kind, found.host) == (True, "f2", "flow", "web-1")
        assert (found.at, found.found_at) == (
            "2026-01-01T00:00:00.000000+00:00",
            "2026-01-01T01:30:00.000000+00:00",
        )
        assert msgspec.to_builtins(found.was) == {
            "score": 0.5,
            "verdict": "benign",
            "coverage": 0.4,
        }
        assert msgspec.json.decode(found.verdict, type=verdict_wire.Verdict) == verdict(
            flow(2), "malicious", 1.0
        )
        counts = world.spool.counts()
        assert (counts.rescored, counts.findings, counts.waiting_events) == (2, 1, 0)
        assert world.files() == []


NEWS = [
    ("benign", "suspicious", True),
    ("indeterminate", "suspicious", True),
    ("suspicious", "malicious", True),
]
NO_NEWS = [
    ("benign", "indeterminate", False),
    ("suspicious", "suspicious", False),
    ("malicious", "suspicious", False),
]


@pytest.mark.parametrize(("was", "now", "is_news"), [*NEWS, *NO_NEWS])
async def test_an_event_is_a_finding_if_its_verdict_is_worse_than_before(
    world: RetroBench,
    was: str,
    now: str,
    is_news: bool,  # noqa: FBT001
) -> None:  # a case
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), word=was)
        world.ensemble.recover()
        world.ensemble.answer = lambda event: verdict(event, now, 1.0)

        await world.rescore_all()

        assert bool(world.findings) is is_news


async def test_nothing_is_rescored_until_coverage_rises(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), process(1))

        await world.rescore_all()
        assert world.ensemble.seen == []
        world.ensemble.coverage[Kind.PROCESS] = 1.0
        await world.rescore_all()

        assert world.ensemble.seen == [["p1"]]


async def test_a_rescored_batch_is_small(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(200)))
        world.ensemble.recover()

        await world.rescore_all()

        assert [len(batch) for batch in world.ensemble.seen] == [64, 64, 64, 8]
        assert len(world.found) == 200


async def test_a_rescore_without_a_higher_coverage_pauses_and_drops_nothing(
    world: RetroBench,
) -> None:
    """The status reported recovery too early.

    Each try comes later than the last, until coverage rises.
    """
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(100)))
        world.ensemble.recover()
        world.ensemble.answer = lambda event: verdict(event, "malicious", 0.4)

        tried_at: list[float] = []
        for _ in range(130):
            before = len(world.ensemble.seen)
            assert not await world.rescorer.rescore()
            tried_at += [world.ensemble.now] * (len(world.ensemble.seen) - before)
            world.ensemble.now += 1.0
        assert [later - sooner for sooner, later in pairwise(tried_at)] == [
            2.0,
            4.0,
            8.0,
            16.0,
            32.0,
            60.0,
        ]
        assert (world.spool.counts().waiting_events, world.found) == (100, [])
        world.ensemble.now += 60.0
        world.ensemble.answer = lambda event: verdict(event, "malicious", 1.0)
        await world.rescore_all()

        assert sorted(world.found) == sorted(f"f{number}" for number in range(100))
        assert world.spool.counts().waiting_events == 0


async def test_a_changed_coverage_ends_the_pause(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1))
        world.ensemble.recover()
        world.ensemble.answer = lambda event: verdict(event, "malicious", 0.4)
        await world.rescore_all()
        world.ensemble.coverage[Kind.FLOW] = 0.9
        world.ensemble.answer = lambda event: verdict(event, "malicious", 1.0)

        await world.rescore_all()

        assert world.found == ["f1"]


async def test_an_event_that_cannot_be_scored_delays_no_other_event(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(130)))
        world.ensemble.recover()
        world.ensemble.answer = lambda event: verdict(
            event, "malicious", 0.4 if event.id == "f0" else 1.0
        )

        await world.rescore_all()

        assert len(world.found) == 129
        assert world.spool.counts().waiting_events == 1
        tries = len(world.ensemble.seen)
        await world.rescore_all()
        assert len(world.ensemble.seen) == tries


async def test_an_event_with_a_higher_but_not_full_coverage_is_rescored_again(
    world: RetroBench,
) -> None:
    """Each rescore needs a higher coverage than the last, so they end; no finding is repeated."""
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), flow(2), word="indeterminate", coverage=0.0)
        world.ensemble.coverage[Kind.FLOW] = 0.4
        words = {"f1": "suspicious", "f2": "benign"}
        world.ensemble.answer = lambda event: verdict(
            event, words[event.id], world.ensemble.coverage[Kind.FLOW]
        )
        await world.rescore_all()
        assert world.found == ["f1"]
        assert world.spool.counts().waiting_events == 2

        world.ensemble.recover()
        words["f2"] = "malicious"
        await world.rescore_all()

        assert world.found == ["f1", "f2"]
        assert [finding.was.coverage for finding in world.findings] == [0.0, 0.4]
        assert world.spool.counts().waiting_events == 0


async def test_an_event_of_which_the_complete_ensemble_knows_nothing_leaves_the_spool(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(process(1), word="indeterminate", coverage=0.0)
        world.ensemble.recover()
        world.ensemble.answer = lambda event: msgspec.structs.replace(
            verdict(event, "indeterminate", 0.0), degraded=False
        )

        await world.rescore_all()

        assert world.found == []
        assert world.spool.counts().waiting_events == 0


async def test_an_event_that_is_no_longer_admitted_is_counted_and_dropped(
    world: RetroBench,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(3)))
        (segment,) = world.files()
        segment.write_bytes(
            segment.read_bytes().replace(b'"id":"f1"', b'"di":"f1"')
        )  # a field this wire does not know
        world.ensemble.recover()
        refused = MalformedEvent("features", "is not what it was")
        world.ensemble.answer = lambda event: (
            refused if event.id == "f0" else verdict(event, "malicious", 1.0)
        )

        await world.rescore_all()

        assert world.found == ["f2"]
        assert (
            world.spool.counts().dropped["unreadable"],
            world.spool.counts().waiting_events,
        ) == (2, 0)


# -- order, crashes and disks


async def test_an_event_is_removed_only_after_its_finding_is_written(
    world: RetroBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), flow(2))
        world.ensemble.recover()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "no space left on device")

        with monkeypatch.context() as failing:
            failing.setattr(os, "fsync", full)
            await world.rescore_all()
        assert (world.spool.counts().findings, world.spool.counts().waiting_events) == (0, 2)
        assert world.found == []
        world.ensemble.now += 60.0
        await world.rescore_all()

        assert sorted(world.found) == ["f1", "f2"]


async def test_a_crash_before_the_removal_repeats_the_finding_with_the_same_id(
    world: RetroBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least once: the same digest and time mean the same event."""

    class Crash(BaseException):
        pass

    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1))
        world.ensemble.recover()

        def dies(*_: object, **__: object) -> bool:
            raise Crash

        with monkeypatch.context() as crashing:
            crashing.setattr(world.spool._spool, "settle", dies)
            with pytest.raises(Crash):
                await world.rescorer.rescore()
        world.spool._spool.close()  # as the system does for the dead
        world.retro = world.another()
        await world.spool.upkeep()
        await world.rescore_all()

        first, second = world.findings
        assert (first.digest, first.at) == (second.digest, second.at)
        assert world.spool.counts().adopted == 1


async def test_a_failing_disk_loses_the_events_and_is_logged_on_change(
    world: RetroBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ray.serve")

    async with asyncio.timeout(LIMIT_S):

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

        with monkeypatch.context() as failing:
            failing.setattr(os, "write", full)
            for number in range(5):
                await world.degraded(flow(number))
        assert world.spool.counts().dropped["disk"] == 5
        await world.degraded(flow(6))

        said = [(record.message, getattr(record, "code", "")) for record in caplog.records]
        assert said == [("retro_disk_failed", "ENOSPC"), ("retro_disk_recovered", "")]
        assert world.spool.counts().spooled == 1


async def test_the_buffer_is_written_at_the_stop(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.spool.start()
        world.spool.offer(["default"], [flow(1)], [verdict(flow(1))])
        await world.spool.stop()

        heir, _ = world.another()
        await heir.upkeep()

        assert heir.counts().waiting_events == 1


# -- traffic first


async def test_a_rescore_waits_while_callers_wait(world: RetroBench) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(100)))
        world.ensemble.recover()
        world.ensemble.is_busy = True
        looks_at_a_sleep: list[int] = []
        done = asyncio.Event()

        def slept() -> None:
            looks_at_a_sleep.append(len(world.ensemble.seen))
            if len(looks_at_a_sleep) == 20:
                world.ensemble.is_busy = False
            if len(world.ensemble.seen) == 2:
                done.set()

        world.ensemble.on_sleep = slept
        await world.rescorer.start()
        await done.wait()
        await world.rescorer.stop()

        assert looks_at_a_sleep[:20] == [0] * 20
        assert len(world.found) == 100


async def test_a_service_that_is_never_idle_rescores_one_small_batch_a_second(
    world: RetroBench,
) -> None:
    """Otherwise the events of a busy service would wait until their age limit drops them."""
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(64 * 10)))
        world.ensemble.recover()
        world.ensemble.is_busy = True
        began, done = world.ensemble.now, asyncio.Event()
        world.ensemble.on_sleep = lambda: done.set() if len(world.ensemble.seen) == 10 else None

        await world.rescorer.start()
        await done.wait()
        await world.rescorer.stop()

        assert 10.0 <= world.ensemble.now - began <= 12.0


async def test_a_failed_rescore_is_logged_and_tried_again(
    world: RetroBench, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1))
        world.ensemble.recover()
        done = asyncio.Event()

        def broken(_: wire.EventRequest) -> verdict_wire.Verdict:
            raise RuntimeError("command_line=hunter2")

        def mended() -> None:
            world.ensemble.answer = lambda event: verdict(event, "malicious", 1.0)
            if world.spool.counts().findings:
                done.set()

        world.ensemble.answer, world.ensemble.on_sleep = broken, mended
        await world.rescorer.start()
        await done.wait()
        await world.rescorer.stop()

        assert world.found == ["f1"]
        assert "retro_rescore_failed" in caplog.messages
        assert "hunter2" not in caplog.text
