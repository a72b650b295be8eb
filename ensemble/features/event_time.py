"""The times that callers give for their events: parsed, and compared with the clock of the service.

A time is ISO 8601 text, in UTC if it names no zone, or seconds since 1970. No detector reads it, so
a wrong one never refuses an event: a caller could otherwise avoid a score. It is a remark: `skewed`
for a time too far ahead or behind, as of a sensor with a wrong clock or of old records, and
`time_invalid` for text that is no time.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["LONGEST_TIME", "PlausibleTimes", "cut_time", "seconds_since_1970"]

LONGEST_TIME = 64  # characters; ISO 8601 with microseconds and a zone has 32

SKEWED, INVALID = ("skewed",), ("time_invalid",)  # flags of an event


class PlausibleTimes(NamedTuple):
    """The times that an event which arrives now may have.

    Attributes:
        earliest: seconds since 1970.
        latest: seconds since 1970; above now, because clocks disagree.
    """

    earliest: float
    latest: float

    def remarks(self, time: str | float | None) -> tuple[str, ...]:
        """Judge the time of an event: its flags, empty for a plausible time and for none."""
        if time is None:
            return ()
        at = seconds_since_1970(time) if isinstance(time, str) else time
        if at is None:
            return INVALID
        return () if self.earliest <= at <= self.latest else SKEWED


def seconds_since_1970(time: str) -> float | None:
    """Parse an ISO 8601 time, in UTC if it names no zone; None for any other text."""
    if len(time) > LONGEST_TIME:  # the error of the parser would repeat all of it
        return None
    try:
        at = datetime.fromisoformat(time)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def cut_time(time: str | float | None) -> str | float | None:
    """Cut a text beyond all that is parsed of it; a text that is too long stays invalid."""
    return time[: LONGEST_TIME + 1] if isinstance(time, str) else time
