"""Errors of decoding a request body, with the place in it: field, position or feature name."""

from __future__ import annotations

import msgspec

from ensemble.errors import EventError, MalformedEvent, MalformedJson
from ensemble.features.flow import FEATURE_NAMES

__all__ = ["decode_error"]

LONGEST_ECHO = 200  # characters of the caller's text that an error repeats
_ANY_KEY = "[...]"  # msgspec's notation for some key of an object
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
