"""The second look: what was scored while the ensemble was degraded is scored again once it is not. Fail-open becomes fail-late.

The hot path only puts an event into a buffer. A thread of its own writes the buffer to the spool
twice a second, so that the sudden
death of this process costs half a second of degraded events. When more of the ensemble speaks than
did, the spool is scored again,
a few events at a time, while nobody else waits; what turns hostile becomes a finding with its
original time.

An event leaves the spool once the whole ensemble saw it. One that only more of it saw waits on,
with what was said of it now; one
that no more of it saw goes to the end of the line, and the next try comes later each time.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from deployments.config.settings import RetroSettings
from deployments.observability.log import log_event
from deployments.scoring import wire
from deployments.web import encode
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.retro import (
    WHOLE,
    Finding,
    Findings,
    FirstVerdict,
    Reading,
    Spool,
    SpooledEvent,
    is_hostile_now,
    millionths,
)
from ensemble.verdicts import VerdictWord

__all__ = ["Retro", "RetroCounts"]

Rescore = Callable[
    [str, Kind, Sequence[wire.EventRequest]], Awaitable[Sequence[wire.Verdict | EventError]]
]
T = TypeVar("T")

FLUSH_EVERY_S = 0.5  # what a sudden death of the process may cost
FLUSHES_AN_UPKEEP = 4  # dead owners and old events are looked for every two seconds
LOOK_EVERY_S = (
    1.0  # whether more of the ensemble speaks now; the state of the layers is kept as long
)
# a door that is never idle gets one small batch a second, or the spool would starve until its age
# limit
LONGEST_WAIT_S = 1.0
ASK_AGAIN_AFTER_S = 0.02  # whether callers still wait
FIRST_PAUSE_S, LONGEST_PAUSE_S = (
    2.0,
    60.0,
)  # after a batch of which no more was seen than before; each pause is twice the last
STOP_WITHIN_S = 2.0  # a hanging disk holds up no replica that is to leave
EVENTS_A_LOOK = 64
# a write lets the event loop run: the thread never holds the interpreter for more than these take
# to encode
EVENTS_A_WRITE = 32
BUFFER_BYTES = 64 << 20  # of what waits for the next flush; half a second of 30,000 flows a second
_FLOW_BYTES = 4096  # 78 numbers and the verdict, as Python keeps them
_PROCESS_BYTES = 1024  # the verdict, beside the event's own texts

_encode = msgspec.json.Encoder(
    order="deterministic"
).encode  # one event, one text: what the digest is made of


@dataclass(frozen=True, slots=True)
class RetroCounts:
    """What became of the events that were scored while the ensemble was degraded; since this process began, if not said otherwise.

    Attributes:
        spooled: written to the disk.
        adopted: taken over from processes that died.
        dropped: lost, by reason: `buffer_full`, `size`, `age`, `unreadable`, `disk`.
        rescored: second looks taken; an event that needs several is counted as often.
        findings: events that turned hostile.
        waiting_events: on the disk now.
        waiting_bytes: on the disk now.
        oldest_age_s: of those, a quarter of an hour too much at most; 0.0 where none waits.
    """

    spooled: int
    adopted: int
    dropped: Mapping[str, int]
    rescored: int
    findings: int
    waiting_events: int
    waiting_bytes: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class _Pause:
    """No more of the ensemble saw a kind of event than before.

    The next try is at `until`, or once `coverage` is another.
    """

    coverage: float
    until: float
    length_s: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a second look came to."""

    found: list[Finding]
    again: list[SpooledEvent]
    refused: int
    is_better: bool


class Retro:
    """Keeps degraded events and looks at them again.

    Args:
        settings: limits.
        root: folder of the spool and of the findings.
        rescore: scores a tenant's events of one kind, in order, without offering them here again.
        coverage_of: the coverage that an event of a kind would have now.
        is_busy: whether callers wait for answers.
        now: seconds since 1970.
        clock: seconds that only rise.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        settings: RetroSettings,
        root: Path,
        *,
        rescore: Rescore,
        coverage_of: Callable[[Kind], Awaitable[float]],
        is_busy: Callable[[], bool],
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._is_enabled = settings.enabled
        self._rescore, self._coverage_of, self._is_busy = rescore, coverage_of, is_busy
        self._now, self._clock, self._sleep = now, clock, sleep
        self._spool = Spool(
            root,
            limit_bytes=settings.max_mb << 20,
            max_age_s=settings.max_age_hours * 3600.0,
            now=now,
        )
        self._journal = Findings(root, limit_bytes=settings.max_findings_mb << 20)
        self._disk = ThreadPoolExecutor(
            1, "retro"
        )  # one thread: the spool knows no other, and a hanging disk hangs only this one
        self._counts, self._kinds = (
            self._spool.counts,
            self._spool.kinds,
        )  # as of the last time the disk was touched
        self._buffer: list[tuple[float, str, wire.EventRequest, wire.Verdict]] = []
        self._buffered_bytes = self._unbuffered = self._rescored = self._found = 0
        self._trouble = self._told = ""
        self._pauses: dict[Kind, _Pause] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Write and look from now on; nothing is waited for."""
        if self._is_enabled:
            self._tasks = [
                asyncio.create_task(self._write_for_ever()),
                asyncio.create_task(self._look_for_ever()),
            ]

    async def stop(self) -> None:
        """Write what is in the buffer, and leave the spool to whoever comes next."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._last_words(), STOP_WITHIN_S)

    def counts(self) -> RetroCounts:
        """What became of the events so far."""
        spool = self._counts
        return RetroCounts(
            spooled=spool.spooled,
            adopted=spool.adopted,
            dropped={"buffer_full": self._unbuffered, **spool.dropped},
            rescored=self._rescored,
            findings=self._found,
            waiting_events=spool.waiting_events,
            waiting_bytes=spool.waiting_bytes,
            oldest_age_s=0.0 if spool.since is None else max(0.0, self._now() - spool.since),
        )

    def offer(
        self,
        tenants: Sequence[str],
        events: Sequence[wire.EventRequest],
        answers: Sequence[wire.Verdict | EventError],
    ) -> None:
        """Keep those events that only a part of the ensemble saw; costs the caller no disk and no wait.

        Args:
            tenants: whose each of the events is.
            events: as they came, n of them.
            answers: theirs, in order.
        """
        if not self._is_enabled:
            return
        degraded = [
            (tenant, event, answer)
            for tenant, event, answer in zip(tenants, events, answers, strict=True)
            if isinstance(answer, wire.Verdict) and answer.coverage < 1.0
        ]
        if not degraded:
            return
        now = self._now()
        for tenant, event, answer in degraded:
            size = _size_of(event)
            if self._buffered_bytes + size > BUFFER_BYTES:
                self._unbuffered += 1
                continue
            self._buffered_bytes += size
            self._buffer.append((now - answer.elapsed_ms / 1000.0, tenant, event, answer))

    async def flush(self) -> None:
        """Write the buffer to the spool."""
        if self._buffer:
            waiting, self._buffer, self._buffered_bytes = self._buffer, [], 0
            await self._on_disk(self._write, waiting)

    async def upkeep(self) -> None:
        """Take over what dead processes left, and drop what is too old."""
        await self._on_disk(self._spool.upkeep)

    async def look(self) -> bool:
        """Score some waiting events again, if more of the ensemble speaks now than did.

        Returns:
            Whether more of the ensemble saw one of them; False is a reason to wait before the next
            look.
        """
        coverage = await self._coverages()
        reading, events = await self._on_disk(self._next, coverage) if coverage else (None, [])
        if reading is None:
            return False
        kind = Kind(reading.segment.kind)
        answers = await self._rescored_of(kind, events)
        self._rescored += len(answers)
        outcome = self._judged(events, answers)
        unreadable = len(reading.events) - len(events) + outcome.refused
        is_done = await self._on_disk(self._conclude, reading, outcome, unreadable)
        is_better = is_done and (outcome.is_better or unreadable + reading.unreadable > 0)
        self._pace(kind, coverage[kind], is_better=is_better)
        return is_better

    async def _rescored_of(
        self, kind: Kind, events: Sequence[tuple[SpooledEvent, wire.EventRequest]]
    ) -> Sequence[wire.Verdict | EventError]:
        """The answers of now, in order: each tenant's events by that tenant's models."""
        answers: dict[int, wire.Verdict | EventError] = {}
        for tenant in dict.fromkeys(waiting.tenant for waiting, _ in events):
            places = [
                place for place, (waiting, _) in enumerate(events) if waiting.tenant == tenant
            ]
            answers |= zip(
                places,
                await self._rescore(tenant, kind, [events[place][1] for place in places]),
                strict=True,
            )
        return [answers[place] for place in range(len(events))]

    async def _write_for_ever(self) -> None:
        rounds = 0
        is_failing = False
        while True:
            try:
                if rounds % FLUSHES_AN_UPKEEP == 0:
                    await self.upkeep()
                await self.flush()
            # a mistake of ours costs the spool one round, never the door
            except Exception as error:  # noqa: BLE001
                if not is_failing:
                    log_event(
                        logging.ERROR, "retro_write_failed", {"error_type": type(error).__name__}
                    )  # no event in a traceback
                is_failing = True
            else:
                is_failing = False
            rounds += 1
            await self._sleep(FLUSH_EVERY_S)

    async def _look_for_ever(self) -> None:
        seen, found = 0, 0
        failed = ""
        while True:
            await self._calm()
            try:
                is_better, fails = await self.look(), ""
            except Exception as error:  # noqa: BLE001  # the events wait on, whatever went wrong
                is_better, fails = False, type(error).__name__
                if fails != failed:
                    log_event(
                        logging.ERROR, "retro_look_failed", {"error_type": fails}
                    )  # no event in a traceback
            failed = fails
            if not is_better and self._rescored > seen and not failed:
                fields = {
                    "events": self._rescored - seen,
                    "findings": self._found - found,
                    "waiting": self._counts.waiting_events,
                }
                log_event(logging.INFO, "retro_looked", fields)
                seen, found = self._rescored, self._found
            await self._sleep(0.0 if is_better else LOOK_EVERY_S)

    async def _calm(self) -> None:
        """Let callers go first, but not for ever."""
        until = self._clock() + LONGEST_WAIT_S
        while self._is_busy() and self._clock() < until:
            await self._sleep(ASK_AGAIN_AFTER_S)

    async def _last_words(self) -> None:
        await self.flush()
        await self._on_disk(self._spool.close)

    async def _on_disk(self, work: Callable[..., T], *given: object) -> T:
        """`work` in the thread of the disk.

        Then what the spool says of itself, on change what troubles it.
        """

        def done() -> T:
            result = work(*given)
            self._counts, self._kinds = self._spool.counts, self._spool.kinds
            return result

        result = await asyncio.get_running_loop().run_in_executor(self._disk, done)
        trouble = self._spool.trouble or self._trouble
        if trouble != self._told:
            self._told = trouble
            if trouble:
                log_event(logging.ERROR, "retro_disk_failed", {"code": trouble})
            else:
                log_event(logging.INFO, "retro_disk_recovered", {})
        return result

    def _write(self, waiting: Sequence[tuple[float, str, wire.EventRequest, wire.Verdict]]) -> None:
        for start in range(0, len(waiting), EVENTS_A_WRITE):
            self._spool.append(_spooled(*one) for one in waiting[start : start + EVENTS_A_WRITE])

    async def _coverages(self) -> dict[str, float]:
        """For each kind that waits and may be tried, the coverage of now."""
        coverages: dict[str, float] = {}
        for kind in [kind for kind in Kind if kind in self._kinds]:
            coverage = await self._coverage_of(kind)
            pause = self._pauses.get(kind)
            if pause is None or pause.coverage != coverage or self._clock() >= pause.until:
                coverages[kind] = coverage
        return coverages

    def _pace(self, kind: Kind, coverage: float, *, is_better: bool) -> None:
        last = self._pauses.pop(kind, None)
        if not is_better:
            length_s = (
                FIRST_PAUSE_S
                if last is None or last.coverage != coverage
                else min(2 * last.length_s, LONGEST_PAUSE_S)
            )
            self._pauses[kind] = _Pause(coverage, self._clock() + length_s, length_s)

    def _next(
        self, coverage: Mapping[str, float]
    ) -> tuple[Reading | None, list[tuple[SpooledEvent, wire.EventRequest]]]:
        reading = self._spool.next_of(coverage, EVENTS_A_LOOK)
        events: list[tuple[SpooledEvent, wire.EventRequest]] = []
        for waiting in reading.events if reading else ():
            with suppress(
                EventError
            ):  # of another version of the wire; counted by whoever compares
                event = wire.parse_event(bytes(waiting.event))
                if reading and wire.kind_of(event) == reading.segment.kind:
                    events.append((waiting, event))
        return reading, events

    def _judged(
        self,
        events: Sequence[tuple[SpooledEvent, wire.EventRequest]],
        answers: Sequence[wire.Verdict | EventError],
    ) -> _Outcome:
        found: list[Finding] = []
        again: list[SpooledEvent] = []
        refused, is_better = 0, False
        for (waiting, event), answer in zip(events, answers, strict=True):
            if isinstance(answer, EventError):
                refused += 1
                continue
            was, coverage = waiting.was, millionths(answer.coverage)
            if coverage <= millionths(was.coverage):
                again.append(
                    waiting
                )  # at the end of the line: one event that a layer cannot score holds up no other
                continue
            is_better = True
            if is_hostile_now(was.verdict, VerdictWord(answer.verdict)):
                found.append(self._finding(waiting, event, answer))
            if coverage < WHOLE:
                again.append(msgspec.structs.replace(waiting, was=_was(answer)))
        return _Outcome(found, again, refused, is_better)

    def _finding(
        self, waiting: SpooledEvent, event: wire.EventRequest, answer: wire.Verdict
    ) -> Finding:
        return Finding(
            id=event.id,
            tenant=waiting.tenant,
            kind=waiting.kind,
            host=event.host,
            digest=waiting.digest,
            at=_iso(waiting.at),
            found_at=_iso(self._now()),
            was=waiting.was,
            verdict=msgspec.Raw(encode(answer)),
        )

    def _conclude(self, reading: Reading, outcome: _Outcome, unreadable: int) -> bool:
        """Findings to the disk, and only then their events out of the spool."""
        if outcome.found:
            try:
                self._journal.append(outcome.found)
            except OSError as error:
                self._trouble = errno.errorcode.get(error.errno or 0, type(error).__name__)
                return False
            self._trouble = ""
            self._found += len(outcome.found)
        return self._spool.settle(reading, again=outcome.again, unreadable=unreadable)


def _size_of(event: wire.EventRequest) -> int:
    """About what an event takes in memory, in bytes."""
    if isinstance(event, wire.FlowRequest):
        return _FLOW_BYTES
    return (
        _PROCESS_BYTES
        + len(event.name)
        + len(event.parent)
        + len(event.command_line)
        + len(event.user)
        + len(event.host)
    )


def _spooled(
    at: float, tenant: str, event: wire.EventRequest, answer: wire.Verdict
) -> SpooledEvent:
    text = _encode(event)
    digest = hashlib.sha256(text).hexdigest()
    return SpooledEvent(
        at=at,
        tenant=str(tenant),
        digest=digest,
        kind=wire.kind_of(event),
        was=_was(answer),
        event=msgspec.Raw(text),
    )


def _was(answer: wire.Verdict) -> FirstVerdict:
    return FirstVerdict(answer.score, VerdictWord(answer.verdict), answer.coverage)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
