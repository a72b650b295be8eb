"""Errors of decoding a request body, with the place in it: field, position or feature name."""

from __future__ import annotations

import re

import msgspec

from ensemble.errors import EventError, MalformedEvent, MalformedJson
from ensemble.features.flow import FEATURE_NAMES

__all__ = ["check_size", "count_pairs", "decode_error"]

MOST_VALUES = 256  # allowed for each event of a batch: three times as many as an event can have
# always allowed: a caller that sends a few values too many gets the specific error of the decoder
FEWEST_VALUES = 1024
LONGEST_ECHO = 200  # characters of the caller's text that an error repeats
_ANY_KEY = "[...]"  # msgspec's notation for some key of an object
# a JSON string; an unterminated one matches too, or each further quote would scan to the end again
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.?+[^"\\]*+)*+(?:"|\Z)', re.DOTALL)
MOST_DIGITS = 4  # of the position of a feature


def decode_error(error: Exception, body: bytes) -> EventError:
    """Convert an error of decoding into one of Axon's, with the place in the body.

    Args:
        error: raised by decoding: msgspec's own, UnicodeDecodeError or RecursionError.
        body: the body that was decoded.
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
    """Refuse a body with far more values than its events can have, before it is decoded.

    Each value would become an object of 32 bytes. Values are counted by commas; commas in strings
    do not count, since a command line may have many.

    Raises:
        MalformedEvent: the body has more values.
    """
    most = max(FEWEST_VALUES, MOST_VALUES * events)
    if body.count(b",") > most and _has_more_values(body, most):
        raise MalformedEvent(
            "", f"the body has more than {most:,} values, more than such a request can need"
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
    """Count the `"name": value` pairs of a JSON text, in all its objects together.

    More pairs than the decoder found names means that a name is given twice. Decoders use the last
    one, while a filter in front of Axon may have checked the first.
    """
    return _TEXT.sub(b"", body).count(b":")


def _misfit(message: str, body: bytes) -> MalformedEvent:
    problem, place = _problem_and_place(message)
    if name := _field_of(problem):
        place = f"{place}.{name}" if place else name
    problem += _feature_at(place)
    if place.endswith(_ANY_KEY):
        place = f"{place.removesuffix(_ANY_KEY)}.{_first_non_number(body)}"
    return MalformedEvent(place[:LONGEST_ECHO], problem[:LONGEST_ECHO])


# The message repeats text of the caller, of any length. It is searched once, from an end: a regular
# expression that tries each place again takes seconds for 60 kB.


def _problem_and_place(message: str) -> tuple[str, str]:
    """Split msgspec's "problem - at `$.place`" and "problem - at `key in $.place`"."""
    problem, found, place = message.rpartition(" - at `")
    place = place.removeprefix("key in ")
    if not found or not place.startswith("$") or not place.endswith("`"):
        return message, ""
    return problem, place[1:-1].removeprefix(".")


def _field_of(problem: str) -> str:
    """Return the field of "missing required field `name`" and "unknown field `name`", or ""."""
    for words in ("missing required field `", "contains unknown field `"):
        _, found, name = problem.partition(words)
        if found and name.endswith("`"):
            return name[:-1]
    return ""


def _feature_at(place: str) -> str:
    """Return " for NAME" for a place in the list of features, "" for every other place."""
    _, found, position = place.removesuffix("]").rpartition("features[")
    if not found or not position.isdecimal() or len(position) > MOST_DIGITS:
        return ""
    index = int(position)
    return f" for {FEATURE_NAMES[index]}" if index < len(FEATURE_NAMES) else ""


def _first_non_number(body: bytes) -> str:
    """Name the first feature of an event that is not a number; "" where that cannot be found."""
    try:
        features: dict[str, object] = msgspec.json.decode(body).get("features", {})
        return next(
            name
            for name, value in features.items()
            if isinstance(value, bool) or not isinstance(value, int | float | None)
        )
    except (msgspec.DecodeError, AttributeError, StopIteration, RecursionError):
        return ""
