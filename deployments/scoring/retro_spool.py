"""The spool of degraded events: events that only some layers scored wait on disk for a rescore.

The hot path only appends an event to a buffer. One thread writes the buffer to the spool twice a
second, so a sudden death of this process loses half a second of degraded events.
`deployments.scoring.retro_rescorer` scores them again.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from deployments.config import RetroSettings
from deployments.observability import log_event
from deployments.poller import Poller
from deployments.scoring import verdict_wire, wire
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.retro import Finding, Findings, FirstVerdict, Reading, Spool, SpooledEvent
from ensemble.verdicts import VerdictLabel

__all__ = ["RetroBatch", "RetroCounts", "RetroSpool", "first_verdict"]

T = TypeVar("T")

FLUSH_EVERY_S = 0.5  # events of this time are lost if the process dies
FLUSHES_PER_UPKEEP = 4  # upkeep runs every two seconds
STOP_WITHIN_S = 2.0  # a hanging disk does not delay the stop of a replica
EVENTS_PER_BATCH = 64
# the event loop runs between two writes: the thread holds the interpreter no longer than it needs
# to encode these
EVENTS_PER_WRITE = 32
BUFFER_BYTES = 64 << 20  # half a second of 30,000 flows a second
_FLOW_BYTES = 4096  # 78 numbers and the verdict, as Python objects
_PROCESS_BYTES = 1024  # the verdict, beside the event's own texts

_encode = msgspec.json.Encoder(order="deterministic").encode  # the digest is of this text


@dataclass(frozen=True, slots=True)
class RetroCounts:
    """What became of the events that were scored while the ensemble was degraded.

    Counted since this process began, unless an attribute says otherwise.

    Attributes:
        spooled: events written to the disk.
        adopted: events taken over from processes that died.
        dropped: events lost, by reason: `buffer_full`, `size`, `age`, `unreadable`, `disk`.
        rescored: rescores; an event that needs several is counted as often.
        findings: events that turned hostile.
        waiting_events: events on the disk now.
        waiting_bytes: their size.
        oldest_age_s: age of the oldest of them, at most a quarter of an hour too high; 0.0 if none
            waits.
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
class RetroBatch:
    """Spooled events of one kind, parsed.

    Attributes:
        reading: what was read from the spool, including events that this version cannot parse.
        events: the events that it can parse, each with its spooled form.
    """

    reading: Reading
    events: Sequence[tuple[SpooledEvent, wire.EventRequest]]

    @property
    def kind(self) -> Kind:
        """The kind of every event."""
        return Kind(self.reading.segment.kind)


class RetroSpool:
    """The spool, written by one thread, and the journal of findings.

    Args:
        settings: limits.
        root: folder of the spool and of the findings.
        now: seconds since 1970.
        clock: monotonic seconds.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self,
        settings: RetroSettings,
        root: Path,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.is_enabled = settings.enabled
        self._now = now
        self._spool = Spool(
            root,
            limit_bytes=settings.max_mb << 20,
            max_age_s=settings.max_age_hours * 3600.0,
            now=now,
            clock=clock,
        )
        self._journal = Findings(root, limit_bytes=settings.max_findings_mb << 20)
        # one thread: the spool is not thread-safe, and a hanging disk hangs only this one
        self._disk = ThreadPoolExecutor(1, "retro")
        # as of the last use of the disk
        self._counts, self._kinds = self._spool.counts, self._spool.kinds
        self._buffer: list[tuple[float, str, wire.EventRequest, verdict_wire.Verdict]] = []
        self._unbuffered = self._rescored = self._found = self._polls = 0
        self._buffered: Counter[str] = Counter()  # bytes in the buffer, by tenant
        self._journal_error = self._logged_error = ""
        self._poller = Poller(
            self._write_buffer, every_s=FLUSH_EVERY_S, on_error=self._write_failed, sleep=sleep
        )

    @property
    def waiting_kinds(self) -> Collection[str]:
        """Kinds of the waiting events."""
        return self._kinds

    def counts(self) -> RetroCounts:
        """Count what became of the events so far."""
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

    async def start(self) -> None:
        """Start writing, without waiting for the disk."""
        if self.is_enabled:
            await self._poller.start()

    async def stop(self) -> None:
        """Write the buffer, and close the spool for the next process."""
        await self._poller.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._close(), STOP_WITHIN_S)

    def offer(
        self,
        tenants: Sequence[str],
        events: Sequence[wire.EventRequest],
        verdicts: Sequence[verdict_wire.Verdict | EventError],
    ) -> None:
        """Buffer the events that only a part of the ensemble scored. No disk access, no wait.

        Args:
            tenants: the tenant of each event.
            events: as they were parsed, n of them.
            verdicts: their verdicts or errors, in order.
        """
        if not self.is_enabled:
            return
        degraded = [
            (tenant, event, verdict)
            for tenant, event, verdict in zip(tenants, events, verdicts, strict=True)
            # one that no layer knows anything of is complete; one whose posture is missing, too
            if isinstance(verdict, verdict_wire.Verdict)
            and verdict.degraded
            and verdict.coverage < 1.0
        ]
        if not degraded:
            return
        now = self._now()
        for tenant, sent, verdict in degraded:
            event = wire.cut(sent)
            size_bytes = _size_of(event)
            own = self._buffered[tenant] + size_bytes
            # a tenant may fill half, so that there is room for the events of others
            if self._buffered.total() + size_bytes > BUFFER_BYTES or own > BUFFER_BYTES // 2:
                self._unbuffered += 1
                continue
            self._buffered[tenant] = own
            self._buffer.append((now - verdict.elapsed_ms / 1000.0, tenant, event, verdict))

    async def flush(self) -> None:
        """Write the buffer to the spool."""
        if self._buffer:
            waiting, self._buffer, self._buffered = self._buffer, [], Counter()
            await self._on_disk(self._append, waiting)

    async def upkeep(self) -> None:
        """Adopt the events of dead processes, and drop events that are too old."""
        await self._on_disk(self._spool.upkeep)

    async def next_batch(self, coverage: Mapping[str, float]) -> RetroBatch | None:
        """Read some events of one kind that were scored with less coverage than now.

        Args:
            coverage: the current coverage, by kind; events of other kinds wait on.

        Returns:
            The events, or None if there are none.
        """
        return await self._on_disk(self._read, coverage)

    async def settle(
        self,
        batch: RetroBatch,
        *,
        findings: Sequence[Finding],
        again: Sequence[SpooledEvent],
        unreadable: int,
    ) -> bool:
        """Write the findings of a rescored batch, and then remove its events from the spool.

        Args:
            batch: the events that were rescored.
            findings: events that turned hostile.
            again: events that wait on, at the end of the queue.
            unreadable: number of events that could not be rescored.

        Returns:
            Whether both were written; if not, the batch will be read again.
        """
        return await self._on_disk(self._settle, batch, findings, again, unreadable)

    def rescored(self, events: int) -> None:
        """Count events that were rescored."""
        self._rescored += events

    async def _write_buffer(self) -> None:
        polls, self._polls = self._polls, self._polls + 1
        if polls % FLUSHES_PER_UPKEEP == 0:
            await self.upkeep()
        await self.flush()

    def _write_failed(self, error: Exception) -> None:
        """Log the first of several failures, without a traceback, which would contain an event."""
        if not self._poller.last_error:
            log_event(logging.ERROR, "retro_write_failed", {"error_type": type(error).__name__})

    async def _close(self) -> None:
        await self.flush()
        await self._on_disk(self._spool.close)

    async def _on_disk(self, work: Callable[..., T], *arguments: object) -> T:
        """Run `work` in the thread of the disk; log when the disk fails and when it recovers."""

        def run() -> T:
            result = work(*arguments)
            self._counts, self._kinds = self._spool.counts, self._spool.kinds
            return result

        result = await asyncio.get_running_loop().run_in_executor(self._disk, run)
        code = self._spool.last_error or self._journal_error
        if code != self._logged_error:
            self._logged_error = code
            if code:
                log_event(logging.ERROR, "retro_disk_failed", {"code": code})
            else:
                log_event(logging.INFO, "retro_disk_recovered", {})
        return result

    def _append(
        self, waiting: Sequence[tuple[float, str, wire.EventRequest, verdict_wire.Verdict]]
    ) -> None:
        for start in range(0, len(waiting), EVENTS_PER_WRITE):
            self._spool.append(_spooled(*one) for one in waiting[start : start + EVENTS_PER_WRITE])

    def _read(self, coverage: Mapping[str, float]) -> RetroBatch | None:
        reading = self._spool.next_of(coverage, EVENTS_PER_BATCH)
        if reading is None:
            return None
        events: list[tuple[SpooledEvent, wire.EventRequest]] = []
        for waiting in reading.events:
            with suppress(EventError):  # written by another version; the rescorer counts it
                event = wire.parse_event(bytes(waiting.event))
                if wire.kind_of(event) == reading.segment.kind:
                    events.append((waiting, event))
        return RetroBatch(reading, events)

    def _settle(
        self,
        batch: RetroBatch,
        findings: Sequence[Finding],
        again: Sequence[SpooledEvent],
        unreadable: int,
    ) -> bool:
        if findings:
            try:
                self._journal.append(findings)
            except OSError as error:
                self._journal_error = errno.errorcode.get(error.errno or 0, type(error).__name__)
                return False
            self._journal_error = ""
            self._found += len(findings)
        return self._spool.settle(batch.reading, again=again, unreadable=unreadable)


def first_verdict(verdict: verdict_wire.Verdict) -> FirstVerdict:
    """The part of a verdict that the spool stores, to compare the next verdict with it."""
    return FirstVerdict(verdict.score, VerdictLabel(verdict.verdict), verdict.coverage)


def _size_of(event: wire.EventRequest) -> int:
    """Estimate the memory of an event and its verdict, in bytes."""
    if isinstance(event, wire.FlowRequest):
        return _FLOW_BYTES
    texts = (event.name, event.parent, event.command_line, event.user, event.host)
    return _PROCESS_BYTES + sum(map(len, texts))


def _spooled(
    at: float, tenant: str, event: wire.EventRequest, verdict: verdict_wire.Verdict
) -> SpooledEvent:
    text = _encode(event)
    return SpooledEvent(
        at=at,
        tenant=str(tenant),
        digest=hashlib.sha256(text).hexdigest(),
        kind=wire.kind_of(event),
        was=first_verdict(verdict),
        event=msgspec.Raw(text),
    )
