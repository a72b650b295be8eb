"""A segment: one file of spooled events that are rescored at the same time.

All events of a segment have the same kind and coverage and arrived within one span of time. These
three are in the file name, so that the spool can tell from it whether the segment is due or too
old:

    <kind>-<coverage in millionths>-<since, seconds since 1970>-<boot><expiry><random>.jsonl

The expiry is a time of the system's monotonic clock, which goes on while the system runs, whatever
happens to the date. `boot` tells which start of the system it belongs to. Both have 8 hexadecimal
digits, and the random part has 16.
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from ensemble.retro.private_folder import open_to_read
from ensemble.verdicts import VerdictLabel

__all__ = ["FirstVerdict", "Reading", "Segment", "SpooledEvent", "line_of"]

_NAME = re.compile(
    r"([a-z]{1,16})-([0-9]{7})-([0-9]{1,15})-([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{16}\.jsonl"
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LONGEST_CLOCK_S = 0xFFFF_FFFF  # 136 years
_BLOCK_BYTES = 1 << 20
_LATEST = 1e11  # seconds since 1970; the year 5138
Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class FirstVerdict(msgspec.Struct, frozen=True):
    """The verdict on an event at its arrival."""

    score: Share
    verdict: VerdictLabel
    coverage: Share


class SpooledEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One waiting event: a line of a segment.

    Attributes:
        format: version of the format of this line.
        at: time of arrival, seconds since 1970.
        tenant: tenant that sent the event. Lines of a version with a single tenant have "", which
            means the generic tenant.
        digest: SHA-256 of the event's canonical wire form, in hexadecimal.
        kind: kind of the event.
        was: the first verdict.
        event: the event in its canonical wire form.
    """

    format: Literal[1] = 1
    at: Annotated[float, Meta(ge=0.0, le=_LATEST)]
    tenant: str = ""
    digest: str
    kind: str
    was: FirstVerdict
    event: msgspec.Raw


class _OnlyTenant(msgspec.Struct):
    tenant: str = ""


@dataclass(slots=True, eq=False)
class Segment:
    """One segment and how far it has been rescored.

    Attributes:
        name: name of the file.
        tenant: of all its events.
        kind: kind of its events.
        coverage: coverage of its events at arrival, in millionths.
        since: start of its span of time, seconds since 1970; no event is older.
        size_bytes: bytes written.
        events: number of events written.
        read_bytes: length of the part that was rescored, from the beginning.
        done: number of events that were rescored.
        is_skipped: True if the file could not be read; it stays until it is too old.
        expires_at: when it is too old, by the monotonic clock; infinite if that is not known.
    """

    name: str
    tenant: str
    kind: str
    coverage: int
    since: int
    size_bytes: int = 0
    events: int = 0
    read_bytes: int = 0
    done: int = 0
    is_skipped: bool = False
    expires_at: float = math.inf

    @classmethod
    def new(cls, tenant: str, kind: str, coverage: int, since: int, expires_at: float) -> Self:
        """Make a segment that has no file yet."""
        expiry = min(max(int(expires_at), 0), _LONGEST_CLOCK_S)
        unique = f"{_boot()}{expiry:08x}{secrets.token_hex(8)}"
        name = f"{kind}-{coverage:07d}-{since}-{unique}.jsonl"
        return cls(name, tenant, kind, coverage, since, expires_at=expires_at)

    @classmethod
    def found(cls, name: str, folder: int) -> Self | None:
        """Describe the segment in the file `name`; None if the name is not a segment's.

        Raises:
            OSError: the file cannot be read, or is not a regular file.
        """
        parts = _NAME.fullmatch(name)
        if parts is None:
            return None
        size = lines = 0
        last = b"\n"
        with open_to_read(name, folder) as file:
            tenant = _tenant_of(file.readline(_BLOCK_BYTES))
            file.seek(0)
            while block := file.read(_BLOCK_BYTES):
                size, lines, last = size + len(block), lines + block.count(b"\n"), block[-1:]
        lines += last != b"\n"  # an unfinished last line; `read` counts it as unreadable
        expires_at = float(int(parts[5], 16)) if parts[4] == _boot() else math.inf
        kind, coverage, since = parts[1], int(parts[2]), int(parts[3])
        return cls(name, tenant, kind, coverage, since, size, lines, expires_at=expires_at)

    @property
    def waiting(self) -> int:
        """Number of events that are not rescored yet."""
        return self.events - self.done

    def read(self, folder: int, most: int) -> Reading:
        """Read at most `most` of the next events; count torn lines and lines of another format.

        Raises:
            OSError: the file cannot be read.
        """
        events: list[SpooledEvent] = []
        unreadable = size = 0
        with open_to_read(self.name, folder) as file:
            file.seek(self.read_bytes)
            for line in islice(file, min(most, self.waiting)):
                size += len(line)
                try:
                    events.append(_decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    unreadable += 1
        if not size:  # another process truncated the file: no more can be read
            return Reading(self, (), self.waiting, self.size_bytes)
        return Reading(self, events, unreadable, size)


@dataclass(frozen=True, slots=True)
class Reading:
    """The next events of a segment, after the part that was rescored.

    Attributes:
        segment: segment that was read.
        events: the readable events.
        unreadable: number of unreadable lines.
        size_bytes: length of all lines that were read.
    """

    segment: Segment
    events: Sequence[SpooledEvent]
    unreadable: int
    size_bytes: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SpooledEvent).decode


_decode_tenant = msgspec.json.Decoder(_OnlyTenant).decode


@cache
def _boot() -> str:
    """This start of the system, 8 hexadecimal digits; random where the system does not tell."""
    try:
        return _BOOT_ID.read_text()[:8]
    except OSError:
        return secrets.token_hex(4)


def _tenant_of(line: bytes) -> str:
    """The tenant of a line; "" where it cannot be read, and for lines of one tenant."""
    try:
        return _decode_tenant(line).tenant
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def line_of(event: SpooledEvent) -> bytes:
    """Encode an event as a line of a segment."""
    return _encode(event) + b"\n"
