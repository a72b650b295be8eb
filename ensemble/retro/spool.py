"""The spool: events that wait on disk to be rescored, bounded in bytes and age; losses are counted.

Where there is no room, the tenant with the most bytes loses its oldest events, so that no tenant
pushes out another's. Age is counted by a monotonic clock: a wall clock that jumps deletes nothing.

    <root>/<owner>/<segment>

Every owner, which is one process, has its own spool. A running owner adopts the segments of owners
that died. A failing disk raises no error here: events that cannot be written are lost and counted,
and `last_error` names the error. Segments are not fsynced: written events survive the death of the
process, but may be lost in a power failure. Not safe for use by two threads at once.
"""

from __future__ import annotations

import errno
import math
import os
import time
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.retro.owned_folder import OwnedFolder
from ensemble.retro.policy import millionths
from ensemble.retro.private_folder import append_atomic
from ensemble.retro.segment import Reading, Segment, SpooledEvent, line_of

__all__ = ["DROP_REASONS", "Spool", "SpoolCounts"]

DROP_REASONS = ("size", "age", "unreadable", "disk")
# Spans of time in the age limit; for a day, one is a quarter of an hour. An event may be dropped up
# to one span before the age limit, never after it.
SPANS = 96
_SEGMENTS = 16  # at least so many fit in the size limit; making room drops one of them at a time
_LARGEST_SEGMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """Counts of the events by outcome.

    `spooled + adopted` is the sum of the events that wait, that were settled, and that were dropped
    after they were written. An event that was never written counts in `dropped` alone.

    Attributes:
        spooled: events written by this owner.
        adopted: events taken over from dead owners.
        settled: events that were rescored.
        dropped: lost events by reason: `size`, `age`, `unreadable`, `disk`.
        waiting_events: events that wait on the disk.
        waiting_bytes: their size on the disk.
        since: lower bound of their times, seconds since 1970; None if no event waits.
    """

    spooled: int = 0
    adopted: int = 0
    settled: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    waiting_events: int = 0
    waiting_bytes: int = 0
    since: float | None = None


_Key = tuple[str, str, int, int]  # tenant, kind, coverage and since of a segment


class Spool:
    """The spooled events of one owner.

    Args:
        root: folder of all owners; made at the first write.
        limit_bytes: size limit of this owner on disk.
        max_age_s: age limit; older events are dropped.
        now: clock, seconds since 1970.
        clock: monotonic clock, seconds.

    Attributes:
        last_error: name of the last disk error, e.g. `ENOSPC`; "" after a success.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int,
        max_age_s: float,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_bytes, self._max_age_s = limit_bytes, max_age_s
        self._now, self._clock = now, clock
        self._segment_bytes = min(_LARGEST_SEGMENT_BYTES, limit_bytes // _SEGMENTS)
        self._span_s = max(1, int(max_age_s / SPANS))
        self._own = OwnedFolder(root)
        self._segments: list[Segment] = []  # oldest first
        self._open: dict[_Key, Segment] = {}  # the segments that new events are appended to
        self._dropped: Counter[str] = Counter()
        self._spooled = self._adopted = self._settled = 0
        self.last_error = ""

    @property
    def kinds(self) -> set[str]:
        """Kinds of the events that are waiting."""
        return {segment.kind for segment in self._segments if not segment.is_skipped}

    @property
    def counts(self) -> SpoolCounts:
        """Counts of the events so far."""
        return SpoolCounts(
            spooled=self._spooled,
            adopted=self._adopted,
            settled=self._settled,
            dropped={reason: self._dropped[reason] for reason in DROP_REASONS},
            waiting_events=sum(segment.waiting for segment in self._segments),
            waiting_bytes=self._size_bytes(),
            since=self._segments[0].since if self._segments else None,
        )

    def append(self, events: Iterable[SpooledEvent]) -> None:
        """Write events; drop the oldest segments if there is no room.

        Events that cannot be written are dropped and counted.
        """
        for key, lines in self._grouped(events):
            size = sum(map(len, lines))
            if size > self._limit_bytes:
                self._dropped["size"] += len(lines)
                continue
            try:
                self._make_room(size, key[0])
                self._write(key, lines, self._clock() + self._max_age_s)
            except OSError as error:
                self._dropped["disk"] += len(lines)
                self._record_error(error)
            else:
                self._spooled += len(lines)
                self.last_error = ""

    def upkeep(self) -> None:
        """Adopt the segments of dead owners, and drop events that are too old."""
        self._try(self._adopt)
        for segment in self._segments:
            segment.is_skipped = False  # the disk may work again: retry
        for segment in list(self._segments):
            is_old = self._clock() >= segment.expires_at
            if (
                is_old and segment in self._segments
            ):  # an earlier disk error may have cleared the list
                self._try(self._drop, segment, "age")
        self._try(self._make_room, 0)

    def next_of(self, coverage: Mapping[str, float], most: int) -> Reading | None:
        """Read the oldest events that would get a higher coverage now; None if there are none.

        Args:
            coverage: kind -> coverage of an event of that kind now; other kinds are not read.
            most: largest number of events to read.
        """
        now = {kind: millionths(share) for kind, share in coverage.items()}
        for segment in self._segments:
            if segment.is_skipped or segment.coverage >= now.get(segment.kind, 0):
                continue
            try:
                return segment.read(self._own.fd, most)
            except OSError as error:
                segment.is_skipped = True
                self._record_error(error)
        return None

    def settle(
        self, reading: Reading, *, again: Sequence[SpooledEvent] = (), unreadable: int = 0
    ) -> bool:
        """Remove events that were rescored.

        Args:
            reading: the events.
            again: events of the reading that go on waiting, with their new verdicts.
            unreadable: number of events of the reading that this version cannot parse.

        Returns:
            False if the disk failed; the events then wait as before.
        """
        segment = reading.segment
        if segment not in self._segments:  # it was dropped meanwhile, and its events were counted
            return True
        try:
            for key, lines in self._grouped(again):
                # before the removal: a crash may repeat an event, but never loses one
                self._write(key, lines, segment.expires_at)
            segment.read_bytes += reading.size_bytes
            segment.done += len(reading.events) + reading.unreadable
            self._settled += len(reading.events) - unreadable - len(again)
            self._dropped["unreadable"] += reading.unreadable + unreadable
            if segment.read_bytes >= segment.size_bytes:
                self._remove(segment)
            self._make_room(0)
        except OSError as error:
            self._record_error(error)
            return False
        self.last_error = ""
        return True

    def close(self) -> None:
        """Release the folder; another owner will adopt the waiting events."""
        self._own.close()
        self._segments, self._open = [], {}

    def _grouped(self, events: Iterable[SpooledEvent]) -> Iterable[tuple[_Key, list[bytes]]]:
        """Group lines by segment, in parts that fit into one; a too long line is its own part."""
        groups: dict[_Key, list[bytes]] = {}
        sizes: Counter[_Key] = Counter()
        for event in events:
            line = line_of(event)
            key = (
                event.tenant,
                event.kind,
                millionths(event.was.coverage),
                max(0, int(event.at // self._span_s) * self._span_s),
            )
            if sizes[key] and sizes[key] + len(line) > self._segment_bytes:
                yield key, groups.pop(key)
                sizes[key] = 0
            groups.setdefault(key, []).append(line)
            sizes[key] += len(line)
        yield from groups.items()

    def _write(self, key: _Key, lines: Sequence[bytes], expires_at: float) -> None:
        data = b"".join(lines)
        segment = self._open.get(key)
        is_new = (
            segment is None
            or segment.is_skipped
            or bool(segment.size_bytes and segment.size_bytes + len(data) > self._segment_bytes)
        )
        if segment is None or is_new:
            # its first event may be a span old already
            segment = Segment.new(*key, expires_at - self._span_s)
        append_atomic(segment.name, data, self._own.fd, at=segment.size_bytes, sync=False)
        segment.size_bytes += len(data)
        segment.events += len(lines)
        if is_new:  # added only after the first write succeeded
            self._open[key] = segment
            self._insert(segment)

    def _try(self, work: Callable[..., None], *given: object) -> None:
        try:
            work(*given)
        except OSError as error:
            self._record_error(error)

    def _adopt(self) -> None:
        for segment in self._own.adopt():
            self._adopted += segment.waiting
            # of another start of the system only the date is known, which may have jumped since
            is_known = segment.expires_at < math.inf
            age_s = 0.0 if is_known else max(0.0, self._now() - segment.since)
            latest = self._clock() + self._max_age_s - age_s
            segment.expires_at = min(segment.expires_at, latest)
            self._insert(segment)

    def _insert(self, segment: Segment) -> None:
        insort(self._segments, segment, key=lambda one: one.since)

    def _size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments)

    def _make_room(self, size_bytes: int, tenant: str = "") -> None:
        """Drop segments until `size_bytes` of `tenant` fit."""
        while self._segments and self._size_bytes() + size_bytes > self._limit_bytes:
            sizes = Counter({tenant: size_bytes})
            for segment in self._segments:
                sizes[segment.tenant] += segment.size_bytes
            most = max(self._segments, key=lambda segment: sizes[segment.tenant])
            self._drop(most, "size")  # the first of equals: the oldest segment of that tenant

    def _drop(self, segment: Segment, reason: str) -> None:
        self._remove(segment)
        self._dropped[reason] += segment.waiting

    def _remove(self, segment: Segment) -> None:
        with suppress(FileNotFoundError):  # another process removed it already
            os.unlink(segment.name, dir_fd=self._own.fd)
        self._segments.remove(segment)
        self._open = {key: one for key, one in self._open.items() if one is not segment}

    def _record_error(self, error: OSError) -> None:
        self.last_error = errno.errorcode.get(error.errno or 0, type(error).__name__)
        if self._own.is_removed:  # by another process: start again with a new folder
            self._dropped["disk"] += sum(segment.waiting for segment in self._segments)
            self.close()
