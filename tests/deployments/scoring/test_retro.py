"""Rescoring: what was scored while layers were missing is scored again once they are available.

An event that turns hostile becomes a finding, late (N-02).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from deployments.config.settings import RetroSettings
from deployments.scoring import retro_rescorer, retro_spool, verdict_wire, wire
from deployments.scoring.retro_rescorer import RetroRescorer
from deployments.scoring.retro_spool import RetroSpool
from ensemble.errors import FeatureMismatch, MalformedEvent
from ensemble.events import EventBatch, Kind
from ensemble.layers.catalog import LAYERS
from ensemble.retro.findings import FINDINGS, Finding, read_findings
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores
from tests.deployments.conftest import (
    PATIENT,
    Event,
    FakeMethod,
    OpenDoor,
    RecordingMeter,
    broken_slot,
)

LIMIT_S = 30.0  # a test that hangs fails after this time

HOUR_S = 3600.0
T0 = 1_767_225_600.0  # 2026-01-01
LIMITS = RetroSettings(enabled=True, max_mb=4, max_age_hours=24, max_findings_mb=1)
Answer = verdict_wire.Verdict | Exception


def flow(number: int) -> wire.FlowRequest:
    return wire.FlowRequest(features=[float(number)] * 78, id=f"f{number}", host="web-1")


def process(number: int, line: str = "ls") -> wire.ProcessRequest:
    return wire.ProcessRequest(name="sh", command_line=line, id=f"p{number}", host="ws-17")


def verdict(
    event: wire.EventRequest,
    word: str = "benign",
    coverage: float = 0.4,
    *,
    elapsed_ms: float = 0.0,
) -> verdict_wire.Verdict:
    made_by = ("default/1", "0" * 64, "1" * 64, "2026-01-01T08:00:00.000Z")
    return verdict_wire.Verdict(
        event.id,
        0.5,
        0.1,
        0.9,
        word,
        "low",
        coverage,
        coverage < 1.0,
        "PARTIALLY_OPERATIONAL",
        [],
        elapsed_ms,
        *made_by,
    )


class LocalEnsemble:
    """Pipelines with a set coverage, a clock that moves on sleep, and callers that wait or not."""

    def __init__(self) -> None:
        self.now = T0
        self.coverage: dict[Kind, float] = dict.fromkeys(Kind, 0.4)
        self.seen: list[list[str]] = []
        self.tenants: list[str] = []
        self.answer: Callable[[wire.EventRequest], Any] = lambda event: verdict(
            event, "malicious", self.coverage[wire.kind_of(event)]
        )
        self.is_busy = False
        self.slept: list[float] = []
        self.on_sleep: Callable[[], None] = lambda: None

    @property
    def default(self) -> LocalEnsemble:
        return self

    async def for_tenant(self, tenant: str) -> LocalEnsemble:
        self.tenants.append(tenant)
        return self

    async def rescore(self, _kind: Kind, events: Sequence[wire.EventRequest]) -> list[Any]:
        self.seen.append([event.id for event in events])
        return [self.answer(event) for event in events]

    async def status(self) -> SimpleNamespace:
        return SimpleNamespace(coverage_by_kind=self.coverage)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()
        await asyncio.sleep(0)

    def recover(self) -> None:
        self.coverage = dict.fromkeys(Kind, 1.0)


class World:
    """A spool on real files and its rescorer."""

    def __init__(self, root: Path, settings: RetroSettings = LIMITS) -> None:
        self.root, self.ensemble = root, LocalEnsemble()
        self.spool, self.rescorer = self.another(settings)

    def another(self, settings: RetroSettings = LIMITS) -> tuple[RetroSpool, RetroRescorer]:
        made = self.ensemble
        now: Callable[[], float] = lambda: made.now  # noqa: E731  # moves with the ensemble
        spool = RetroSpool(settings, self.root, now=now, sleep=made.sleep)
        # all that it uses of the pipelines
        return spool, RetroRescorer(spool, made, now=now, clock=now, sleep=made.sleep)  # type: ignore[arg-type]

    async def degraded(
        self, *events: wire.EventRequest, word: str = "benign", coverage: float = 0.4
    ) -> None:
        """Spool events that only a part of the ensemble scored."""
        self.spool.offer(
            ["default"] * len(events), events, [verdict(event, word, coverage) for event in events]
        )
        await self.spool.flush()

    async def rescore_all(self) -> None:
        """Rescore until nothing improves."""
        while await self.rescorer.rescore():
            pass

    @property
    def findings(self) -> list[Finding]:
        found, bad = read_findings(self.root)
        assert bad == 0
        return found

    @property
    def found(self) -> list[str]:
        return [one.id for one in self.findings]

    def files(self) -> list[Path]:
        return [
            path
            for path in self.root.rglob("*")
            if path.is_file() and not path.name.startswith("findings")
        ]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "state" / "retro")


# -- what is kept


async def test_only_events_with_less_than_full_coverage_are_spooled(world: World) -> None:
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


async def test_the_spool_has_the_event_its_arrival_and_its_verdict(
    world: World,
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
    world: World,
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


async def test_an_offer_does_not_write_to_the_disk(world: World) -> None:
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
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(LIMIT_S):
        monkeypatch.setattr(retro_spool, "BUFFER_BYTES", 10 * 4096)
        events = [flow(number) for number in range(25)]

        world.spool.offer(["default"] * len(events), events, [verdict(event) for event in events])
        assert world.spool.counts().dropped["buffer_full"] == 15
        await world.spool.flush()
        world.spool.offer(["default"] * 5, events[:5], [verdict(event) for event in events[:5]])
        await world.spool.flush()

        assert (world.spool.counts().spooled, world.spool.counts().dropped["buffer_full"]) == (
            15,
            15,
        )


def test_a_long_command_line_counts_by_its_length(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retro_spool, "BUFFER_BYTES", 1 << 20)

    world.spool.offer(
        ["default"] * 2,
        [process(1, "A" * (2 << 20)), process(2)],
        [verdict(process(1)), verdict(process(2))],
    )

    assert world.spool.counts().dropped["buffer_full"] == 1


async def test_a_disabled_spool_writes_and_runs_nothing(tmp_path: Path) -> None:
    async with asyncio.timeout(LIMIT_S):
        world = World(tmp_path / "retro", LIMITS.model_copy(update={"enabled": False}))
        before = asyncio.all_tasks()

        await world.spool.start()
        await world.degraded(flow(1))
        await world.spool.stop()

        assert asyncio.all_tasks() == before
        assert not world.root.exists()
        assert world.spool.counts().spooled == 0


async def test_the_limits_of_the_settings_hold(world: World) -> None:
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


# -- the second look


async def test_an_event_that_turns_hostile_is_a_finding_with_its_original_time(
    world: World,
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
    world: World,
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


async def test_nothing_is_rescored_until_coverage_rises(world: World) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(flow(1), process(1))

        await world.rescore_all()
        assert world.ensemble.seen == []
        world.ensemble.coverage[Kind.PROCESS] = 1.0
        await world.rescore_all()

        assert world.ensemble.seen == [["p1"]]


async def test_a_rescored_batch_is_small(world: World) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.degraded(*(flow(number) for number in range(200)))
        world.ensemble.recover()

        await world.rescore_all()

        assert [len(batch) for batch in world.ensemble.seen] == [64, 64, 64, 8]
        assert len(world.found) == 200


async def test_a_rescore_without_a_higher_coverage_pauses_and_drops_nothing(world: World) -> None:
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


async def test_a_changed_coverage_ends_the_pause(world: World) -> None:
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
    world: World,
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
    world: World,
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


async def test_an_event_that_is_no_longer_admitted_is_counted_and_dropped(
    world: World,
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
    world: World, monkeypatch: pytest.MonkeyPatch
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
    world: World, monkeypatch: pytest.MonkeyPatch
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
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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


async def test_the_buffer_is_written_at_the_stop(world: World) -> None:
    async with asyncio.timeout(LIMIT_S):
        await world.spool.start()
        world.spool.offer(["default"], [flow(1)], [verdict(flow(1))])
        await world.spool.stop()

        heir, _ = world.another()
        await heir.upkeep()

        assert heir.counts().waiting_events == 1


# -- traffic first


async def test_a_rescore_waits_while_callers_wait(world: World) -> None:
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
    world: World,
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
    world: World, caplog: pytest.LogCaptureFixture
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
        assert "retro_look_failed" in caplog.messages
        assert "hunter2" not in caplog.text


# -- at the door


class SwitchedHandle:
    """A layer whose models can be removed and restored."""

    def __init__(self, layer: str, whole: LayerSlot) -> None:
        self.slot = broken_slot(layer)
        self.whole = whole

        # as the deployment
        async def score(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
            return self.slot.score(batch, release, explain=explain)

        async def state(wanted: str) -> tuple[SlotState, str]:
            return (self.whole if self.is_boasting else self.slot).state(wanted), "cpu"

        self.is_boasting = False  # says that it is live, and is not
        self.score, self.state = FakeMethod(score), FakeMethod(state)

    def mend(self) -> None:
        self.slot = self.whole


def until(is_so: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    end = time.monotonic() + 30.0
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        meanwhile()


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_hostile_flow_of_an_outage_is_found_after_recovery(
    open_door: OpenDoor,
    slots: Mapping[str, LayerSlot],
    flow_events: list[Event],
    own_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    meter: RecordingMeter,
    path: str,
) -> None:
    """N-02 over HTTP.

    Fail-open becomes fail-late. The rescore itself is neither spooled nor counted as an event.
    """
    monkeypatch.setattr(retro_spool, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "RESCORE_EVERY_S", 0.01)
    whole = open_door()
    hostile = [
        one
        for one in flow_events
        if whole.post("/v1/score", one).json()["verdict"] in {"suspicious", "malicious"}
    ]
    assert hostile
    down = {layer: SwitchedHandle(layer, slots[layer]) for layer in ("anomaly", "behavior")}
    door = open_door(handles=down)

    if path == "/v1/score":
        door.ask_all(hostile)
    else:
        door.post(path, {"events": hostile})
    until(
        lambda: door.ingress._spool.counts().waiting_events == len(hostile),
        lambda: door.get("/health"),
    )
    assert not (own_state / "retro" / FINDINGS).exists()
    for handle in down.values():
        handle.mend()
    until(
        lambda: door.ingress._spool.counts().findings == len(hostile), lambda: door.get("/health")
    )

    found, _ = read_findings(own_state / "retro")
    assert sorted(one.id for one in found) == sorted(one["id"] for one in hostile)
    assert {one.was.verdict for one in found} == {"indeterminate"}
    counts = door.ingress._spool.counts()
    assert (counts.spooled, counts.rescored, counts.waiting_events) == (
        len(hostile),
        len(hostile),
        0,
    )
    assert meter.total("axon_events_scored_total") == len(flow_events) + len(hostile)


def test_a_rescored_event_is_not_spooled_twice(
    open_door: OpenDoor,
    slots: Mapping[str, LayerSlot],
    flow_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retro_spool, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "RESCORE_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "FIRST_PAUSE_S", 0.01)
    behavior = SwitchedHandle("behavior", slots["behavior"])
    behavior.is_boasting = True
    door = open_door(handles={"behavior": behavior})

    door.post("/v1/score/batch", {"events": flow_events[:10]})
    until(lambda: door.ingress._spool.counts().rescored >= 50, lambda: door.get("/health"))

    counts = door.ingress._spool.counts()
    assert (counts.spooled, counts.waiting_events, counts.findings) == (10, 10, 0)


def test_a_silent_posture_alone_spools_nothing(
    open_door: OpenDoor, flow_events: list[Event], own_state: Path
) -> None:
    door = open_door(down={"resilience"})

    assert door.post("/v1/score", flow_events[0]).json()["degraded"]
    door.close()

    assert [path for path in own_state.rglob("*") if path.is_file()] == []


def test_an_application_with_rescoring_disabled_writes_nothing(
    open_door: OpenDoor, flow_events: list[Event], own_state: Path
) -> None:
    door = open_door(down=set(LAYERS), overrides={**PATIENT, "retro": {"enabled": False}})

    door.post("/v1/score", flow_events[0])
    door.close()

    assert not (own_state / "retro").exists()


def test_the_next_process_adopts_the_events_of_a_stopped_application(
    open_door: OpenDoor, flow_events: list[Event], own_state: Path
) -> None:
    door = open_door(down={"behavior"})
    door.post("/v1/score/batch", {"events": flow_events[:7]})
    door.close()

    heir = open_door(down={"behavior"})
    until(lambda: heir.ingress._spool.counts().adopted == 7, lambda: heir.get("/health"))

    assert len(list((own_state / "retro").glob("*/*.jsonl"))) == 1
