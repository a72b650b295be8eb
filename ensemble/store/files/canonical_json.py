"""Canonical JSON: each value has exactly one text.

It is the format of manifests, releases, pointers, configurations and golden scores: sorted keys, no
spaces, ASCII, one newline at the end. The reader accepts only what the writer would have written,
so no repeated key, unknown field, NaN, or `1.0` for `1` can hide in a signed file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
from msgspec import Meta

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible, EnsembleError

__all__ = [
    "Serial",
    "Sha256",
    "decode",
    "encode",
    "is_timestamp",
    "refuse_other_format",
    "timestamp",
    "to_dataclass",
]

_TIMESTAMP = "%Y-%m-%dT%H:%M:%SZ"
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Serial = Annotated[int, Meta(ge=1, lt=10**15)]


_T = TypeVar("_T")


def encode(value: object) -> bytes:
    """Encode a value as its one text.

    Args:
        value: mappings with text keys, lists, tuples, text, booleans, None, integers and finite
            floats.

    Raises:
        ValueError: it has a NaN, an infinity, or a key that is not text (JSON would turn the key 1
            into "1").
        TypeError: it has a type that JSON does not have.
    """
    _refuse_odd_keys(value)
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
    ).encode("ascii")


def decode(data: bytes, *, what: str) -> object:
    """Decode canonical JSON; `what` names the file in errors.

    Raises:
        ArtifactCorrupt: it is not JSON or not canonical, has a repeated key or a number that is not
            finite, or is nested too deep.
    """
    try:
        value = json.loads(
            data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        is_canonical = encode(value) == data
    except _OddValueError as refused:
        raise ArtifactCorrupt(what, str(refused)) from None
    # ValueError: bad JSON or text, infinity by overflow (1e400), integers of thousands of digits
    except (ValueError, RecursionError):
        raise ArtifactCorrupt(what, "is not JSON that Axon writes") from None
    if not is_canonical:
        raise ArtifactCorrupt(what, "is not in canonical form")
    return value


def to_dataclass(value: object, kind: type[_T], *, what: str) -> _T:
    """Convert a decoded value to a dataclass with exactly its fields and their types.

    Raises:
        ArtifactCorrupt: a field is missing, unknown, or of another type.
    """
    try:
        made = msgspec.convert(value, kind, dec_hook=_checked_text)
    except msgspec.ValidationError as error:
        raise ArtifactCorrupt(what, _first_line(error)) from None
    # msgspec ignores unknown fields
    if encode(asdict(made)) != encode(value):  # type: ignore[call-overload]
        raise ArtifactCorrupt(what, "has a field that this format does not have")
    return made


class _OddValueError(ValueError):
    """JSON that parsers accept and the canonical form excludes."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _OddValueError("has a repeated key")
    return found


def _refuse_constant(_: str) -> NoReturn:
    raise _OddValueError("has a number that is not finite")


def _refuse_odd_keys(value: object) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("every key must be text")
        for inner in value.values():
            _refuse_odd_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_odd_keys(inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise _OddValueError("has a number that is not finite")


def _checked_text(kind: type, value: object) -> object:
    """Build the checked names (`Tenant`, `ModelName`), which msgspec does not know."""
    try:
        return kind(value)
    except EnsembleError as error:
        raise ValueError(str(error)) from None


def _first_line(error: Exception) -> str:
    # msgspec's message names types and fields, for which 200 characters are enough
    return str(error).splitlines()[0][:200]


def refuse_other_format(value: object, known: int, *, what: str) -> None:
    """Refuse a file of another format before any other field is read.

    Raises:
        ArtifactIncompatible: `format` is an integer other than `known`.
    """
    found = value.get("format") if isinstance(value, dict) else None
    if type(found) is int and found != known:
        raise ArtifactIncompatible(what, f"format {known}", f"format {found}")


def timestamp(now: datetime) -> str:
    """Format a time as in manifests and releases, e.g. 2026-11-20T08:15:00Z.

    Raises:
        ValueError: `now` has no time zone.
    """
    if now.tzinfo is None:
        raise ValueError("the time has no time zone")
    return now.astimezone(UTC).strftime(_TIMESTAMP)


def is_timestamp(text: str) -> bool:
    """Whether `timestamp` could have written `text`."""
    try:
        return datetime.strptime(text, _TIMESTAMP).replace(tzinfo=UTC).strftime(_TIMESTAMP) == text
    except ValueError:
        return False
