"""The spool: events that wait on disk for a second look, bounded in bytes and in age, and every loss counted.

    <root>/<owner>/<segment>

An owner is a process, and every owner has a spool of its own; what a dead owner left is taken over
by one that lives.
Nothing here raises for a failing disk: it costs the spool what could not be written, counts it, and
says so in `trouble`. Segments
are not fsynced: the death of the process loses nothing that was written, the loss of power may. Not
safe for two threads at once.
"""

from __future__ import annotations

import errno
import os
from bisect import insort
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.retro.owned_folder import OwnedFolder
from ensemble.retro.policy import millionths
from ensemble.retro.private_folder import append_whole
from ensemble.retro.segment import Reading, Segment, SpooledEvent, line_of

__all__ = ["DROP_REASONS", "Spool", "SpoolCounts"]

DROP_REASONS = ("size", "age", "unreadable", "disk")
# of the age limit: a quarter of an hour of a day; so much earlier than the limit an event may go,
# never later
SPANS = 96
_SEGMENTS = (
    16  # of the size limit at least: what is dropped to make room is at most so small a part
)
_LARGEST_SEGMENT_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """What became of the events.

    `spooled + adopted` is what waits, what was settled and what was dropped after it was written;
    an event that was never written
    is in `dropped` alone.

    Attributes:
        spooled: written by this owner.
        adopted: taken over from dead owners.
        settled: had their second look.
        dropped: lost, by reason: `size`, `age`, `unreadable`, `disk`.
        waiting_events: on the disk.
        waiting_bytes: on the disk.
        since: no waiting event is older, seconds since 1970; None where none waits.
    """

    spooled: int = 0
    adopted: int = 0
    settled: int = 0
    dropped: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    waiting_events: int = 0
    waiting_bytes: int = 0
    since: float | None = None


class Spool:
    """One owner's events.

    Args:
        root: folder of all owners; made when there is something to write.
        limit_bytes: on disk, of this owner.
        max_age_s: an older event is dropped.
        now: seconds since 1970.
    """

    def __init__(
        self, root: Path, *, limit_bytes: int, max_age_s: float, now: Callable[[], float]
    ) -> None:
        self._limit_bytes, self._max_age_s, self._now = limit_bytes, max_age_s, now
        self._segment_bytes = min(_LARGEST_SEGMENT_BYTES, limit_bytes // _SEGMENTS)
        self._span_s = max(1, int(max_age_s / SPANS))
        self._own = OwnedFolder(root)
        self._segments: list[Segment] = []  # oldest first
        self._open: dict[
            tuple[str, int, int], Segment
        ] = {}  # (kind, coverage, since) -> the one that grows
        self._dropped: Counter[str] = Counter()
        self._spooled = self._adopted = self._settled = 0
        self.trouble = ""

    @property
    def kinds(self) -> set[str]:
        """Kinds of event that wait."""
        return {segment.kind for segment in self._segments if not segment.is_skipped}

    @property
    def counts(self) -> SpoolCounts:
        """What became of the events so far."""
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
        """Write events, the oldest segments making room.

        What cannot be written is dropped and counted.
        """
        for key, lines in self._grouped(events):
            size = sum(map(len, lines))
            if size > self._limit_bytes:
                self._dropped["size"] += len(lines)
                continue
            try:
                self._make_room(size)
                self._write(key, lines)
            except OSError as error:
                self._dropped["disk"] += len(lines)
                self._troubled(error)
            else:
                self._spooled += len(lines)
                self.trouble = ""

    def upkeep(self) -> None:
        """Take over what dead owners left, and drop what is too old."""
        self._try(self._adopt)
        for segment in self._segments:
            segment.is_skipped = False  # a disk that failed for a moment is tried again
        for segment in list(self._segments):
            is_old = (
                abs(self._now() - segment.since) > self._max_age_s
            )  # by distance: a clock that ran ahead must not keep it for ever
            if (
                is_old and segment in self._segments
            ):  # one failure may have been the loss of them all
                self._try(self._drop, segment, "age")
        self._try(self._make_room, 0)

    def next_of(self, coverage: Mapping[str, float], most: int) -> Reading | None:
        """The oldest events that more of the ensemble could see now.

        Args:
            coverage: kind -> the coverage an event of it would have now; a kind that is not
                among them is not read.
            most: events.
        """
        now = {kind: millionths(share) for kind, share in coverage.items()}
        for segment in self._segments:
            if segment.is_skipped or segment.coverage >= now.get(segment.kind, 0):
                continue
            try:
                return segment.read(self._own.fd, most)
            except OSError as error:
                segment.is_skipped = True
                self._troubled(error)
        return None

    def settle(
        self, reading: Reading, *, again: Sequence[SpooledEvent] = (), unreadable: int = 0
    ) -> bool:
        """Forget events that had their second look.

        Args:
            reading: what was looked at.
            again: those of them that wait on, with what was said of them now.
            unreadable: how many of the reading's events are none of this Axon's.

        Returns:
            Whether it was done; where the disk failed they wait as before.
        """
        segment = reading.segment
        if (
            segment not in self._segments
        ):  # it made room meanwhile, and its events were counted then
            return True
        try:
            for key, lines in self._grouped(again):
                self._write(
                    key, lines
                )  # before they are forgotten: a crash repeats an event, it does not lose one
            segment.read_bytes += reading.size_bytes
            segment.done += len(reading.events) + reading.unreadable
            self._settled += len(reading.events) - unreadable - len(again)
            self._dropped["unreadable"] += reading.unreadable + unreadable
            if segment.read_bytes >= segment.size_bytes:
                self._remove(segment)
            self._make_room(0)
        except OSError as error:
            self._troubled(error)
            return False
        self.trouble = ""
        return True

    def close(self) -> None:
        """Let go: what waits is for whoever comes next."""
        self._own.close()
        self._segments, self._open = [], {}

    def _grouped(
        self, events: Iterable[SpooledEvent]
    ) -> Iterable[tuple[tuple[str, int, int], list[bytes]]]:
        """Lines that belong into one segment, never more than fit into one unless a line alone does not."""
        groups: dict[tuple[str, int, int], list[bytes]] = {}
        sizes: Counter[tuple[str, int, int]] = Counter()
        for event in events:
            line = line_of(event)
            key = (
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

    def _write(self, key: tuple[str, int, int], lines: Sequence[bytes]) -> None:
        data = b"".join(lines)
        segment = self._open.get(key)
        is_new = (
            segment is None
            or segment.is_skipped
            or bool(segment.size_bytes and segment.size_bytes + len(data) > self._segment_bytes)
        )
        if segment is None or is_new:
            segment = Segment.new(*key)
        append_whole(segment.name, data, self._own.fd, at=segment.size_bytes, sync=False)
        segment.size_bytes += len(data)
        segment.events += len(lines)
        if is_new:  # only what could be written to is grown and read
            self._open[key] = segment
            self._insert(segment)

    def _try(self, work: Callable[..., None], *given: object) -> None:
        try:
            work(*given)
        except OSError as error:
            self._troubled(error)

    def _adopt(self) -> None:
        for segment in self._own.adopt():
            self._adopted += segment.waiting
            self._insert(segment)

    def _insert(self, segment: Segment) -> None:
        insort(self._segments, segment, key=lambda one: one.since)

    def _size_bytes(self) -> int:
        return sum(segment.size_bytes for segment in self._segments)

    def _make_room(self, size_bytes: int) -> None:
        while self._segments and self._size_bytes() + size_bytes > self._limit_bytes:
            self._drop(self._segments[0], "size")

    def _drop(self, segment: Segment, reason: str) -> None:
        self._remove(segment)
        self._dropped[reason] += segment.waiting

    def _remove(self, segment: Segment) -> None:
        with suppress(FileNotFoundError):  # whoever removed it wanted what we want
            os.unlink(segment.name, dir_fd=self._own.fd)
        self._segments.remove(segment)
        self._open = {key: one for key, one in self._open.items() if one is not segment}

    def _troubled(self, error: OSError) -> None:
        self.trouble = errno.errorcode.get(error.errno or 0, type(error).__name__)
        if self._own.is_removed:  # by somebody else: begin anew
            self._dropped["disk"] += sum(segment.waiting for segment in self._segments)
            self.close()
