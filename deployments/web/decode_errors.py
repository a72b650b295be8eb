"""Errors of decoding a request body, with the place in it: field, position or feature name."""

from __future__ import annotations

import re

import msgspec

from ensemble.errors import EventError, MalformedEvent, MalformedJson
from ensemble.features.flow import FEATURE_NAMES

__all__ = ["check_size", "count_pairs", "decode_error"]

MOST_VALUES = 256  # of each event of a batch: three times those that one can have
FEWEST_VALUES = (
    1024  # that are read in any case: who sends a few too many is told what is wrong with them
)
LONGEST_ECHO = 200  # characters of what a caller sent that an error repeats
_AT = re.compile(r"^(?P<problem>.*?)(?: - at `(?:key in )?\$\.?(?P<place>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"(?:required|unknown) field `(?P<name>.*)`$", re.DOTALL)
_SOMEWHERE = "[...]"  # how msgspec writes a key of an object
_TEXT = re.compile(
    rb'"[^"\\]*+(?:\\.?+[^"\\]*+)*+(?:"|\Z)', re.DOTALL
)  # one that never ends, too: or each quote would look again
_POSITION = re.compile(r"features\[(\d+)\]$")


def decode_error(error: Exception, body: bytes) -> EventError:
    """The error to answer with.

    Args:
        error: what decoding raised: msgspec's own, UnicodeDecodeError or RecursionError.
        body: what was decoded.
    """
    if isinstance(error, msgspec.ValidationError):
        return _misfit(str(error), body)
    problem = (
        str(error)
        if isinstance(error, msgspec.DecodeError)
        else "it is not UTF-8 text of bounded depth"
    )
    return MalformedJson(f"the body is not JSON: {problem}")


def check_size(body: bytes, events: int) -> None:
    """Refuse a body of far more values than its events can have, before it is decoded.

    Each value would become an object of 32 bytes.

    Commas in strings are no values: a command line may have as many as it likes.

    Raises:
        MalformedEvent: it has more.
    """
    most = max(FEWEST_VALUES, MOST_VALUES * events)
    if body.count(b",") > most and _has_more_values(body, most):
        raise MalformedEvent(
            "", f"the body holds more than {most:,} values, more than any such request can need"
        )


def _has_more_values(body: bytes, most: int) -> bool:
    found = end = 0
    for text in _TEXT.finditer(body):
        found += body.count(b",", end, text.start())
        end = text.end()
        if found > most:
            return True
    return found + body.count(b",", end) > most


def count_pairs(body: bytes) -> int:
    """How many `"name": value` there are in a JSON text, in all its objects together.

    More than the names that a decoder found: one was given twice, and the last of them would win,
    here as with any decoder. Whoever looked at the body before us may have believed the first.
    """
    return _TEXT.sub(b"", body).count(b":")


def _misfit(message: str, body: bytes) -> MalformedEvent:
    found = _AT.match(message)
    problem, place = (found["problem"], found["place"] or "") if found else (message, "")
    named = _NAMED.search(problem)
    if named:
        place = f"{place}.{named['name']}" if place else named["name"]
    position = _POSITION.search(place)
    if position and int(position[1]) < len(FEATURE_NAMES):
        problem += f" for {FEATURE_NAMES[int(position[1])]}"
    if place.endswith(_SOMEWHERE):
        place = f"{place.removesuffix(_SOMEWHERE)}.{_first_word(body)}"
    return MalformedEvent(place[:LONGEST_ECHO], problem[:LONGEST_ECHO])


def _first_word(body: bytes) -> str:
    """Name of the first feature of an event that is no number; "" where it cannot be told."""
    try:
        features: dict[str, object] = msgspec.json.decode(body).get("features", {})
        return next(
            name
            for name, value in features.items()
            if isinstance(value, bool) or not isinstance(value, int | float | None)
        )
    except (msgspec.DecodeError, AttributeError, StopIteration, RecursionError):
        return ""
