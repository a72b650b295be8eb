"""The times that callers give for their events."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from ensemble.features.event_time import PlausibleTimes, cut_time, seconds_since_1970

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC).timestamp()
DAY = 86_400.0
TIMES = PlausibleTimes(NOW - 365 * DAY, NOW + 600)
NONE, SKEWED, INVALID = (), ("skewed",), ("time_invalid",)

JUDGED = [
    pytest.param(None, NONE, id="none"),
    pytest.param("2026-12-01T12:00:00Z", NONE, id="now"),
    pytest.param("2026-12-01T12:00:00", NONE, id="UTC if it names no zone"),
    pytest.param("2026-12-01 13:05:00+01:00", NONE, id="five minutes ahead, in another zone"),
    pytest.param(NOW + 600, NONE, id="the latest"),
    pytest.param(NOW + 600.1, SKEWED, id="after the latest"),
    pytest.param(NOW - 365 * DAY, NONE, id="the earliest"),
    pytest.param(NOW - 365 * DAY - 0.1, SKEWED, id="before the earliest"),
    pytest.param("2016-12-01T12:00:00Z", SKEWED, id="ten years old"),
    pytest.param("2026-12-01T12:00:00-01:00", SKEWED, id="an hour ahead"),
    pytest.param(NOW * 1000, SKEWED, id="milliseconds"),
    pytest.param(0.0, SKEWED, id="1970"),
    pytest.param(-1e308, SKEWED, id="a huge number"),
    pytest.param(float("nan"), SKEWED, id="not a number"),
    pytest.param("0001-01-01T00:00:00+23:59", SKEWED, id="the first year, in a zone"),
    pytest.param("9999-12-31T23:59:59-23:59", SKEWED, id="the last year, in a zone"),
    pytest.param("", INVALID, id="empty"),
    pytest.param("yesterday", INVALID, id="no time"),
    pytest.param("5/7/2017 8:55", INVALID, id="month or day first"),
    pytest.param("2026-12-01T12:00:00Z\ud800", INVALID, id="half a surrogate pair"),
    pytest.param("2026-12-01T12:00:00Z" + " " * 100, INVALID, id="too long"),
]


@pytest.mark.parametrize(("time", "flags"), JUDGED)
def test_a_time_is_plausible_skewed_or_invalid(
    time: str | float | None, flags: tuple[str, ...]
) -> None:
    """T2: a time decides nothing but its flag."""
    assert TIMES.remarks(time) == flags
    assert TIMES.remarks(cut_time(time)) == flags, "cutting changes no judgement"


def test_a_long_text_takes_no_time() -> None:
    """A caller may send 8 MiB; the error of the standard library repeats the text."""
    text = "2026-12-01T" + "9" * (8 << 20)

    began = time.process_time()

    assert seconds_since_1970(text) is None
    assert len(str(cut_time(text))) < 100
    assert time.process_time() - began < 0.01
