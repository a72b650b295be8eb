"""One value, one text: the JSON of manifests, releases, pointers, configurations and golden scores.

Keys sorted, no spaces, ASCII, one newline at the end. Reading demands exactly what writing would
have written, so that a repeated key, a field we do not know, `1.0` for `1` or a NaN cannot hide in
a file that someone signs.
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
    """The one text of `value`.

    Args:
        value: mappings with text keys, lists, tuples, text, booleans, None, whole and finite
            numbers.

    Raises:
        ValueError: a NaN, an infinity, or a key that is no text (JSON would turn the key 1 into
            "1").
        TypeError: something JSON has no word for.
    """
    _refuse_odd_keys(value)
    return (
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
    ).encode("ascii")


def decode(data: bytes, *, what: str) -> object:
    """The value of `data`; `what` names the file in errors.

    Raises:
        ArtifactCorrupt: not JSON, a repeated key, a number that is not finite, nested too deep,
            or not the canonical text.
    """
    try:
        value = json.loads(
            data.decode("ascii"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        is_canonical = encode(value) == data
    except _OddValueError as refused:
        raise ArtifactCorrupt(what, str(refused)) from None
    except (
        ValueError,
        RecursionError,
    ):  # JSON, text, NaN by overflow such as 1e400, and integers of thousands of digits
        raise ArtifactCorrupt(what, "is not JSON that Axon writes") from None
    if not is_canonical:
        raise ArtifactCorrupt(what, "is not in canonical form")
    return value


def to_dataclass(value: object, kind: type[_T], *, what: str) -> _T:
    """Convert `value`, from `decode`, to `kind`: every field, no others, each of its own type.

    Raises:
        ArtifactCorrupt: a field is missing, unknown, or of another type.
    """
    try:
        made = msgspec.convert(value, kind, dec_hook=_checked_text)
    except msgspec.ValidationError as error:
        raise ArtifactCorrupt(what, _first_line(error)) from None
    # msgspec passes over fields it does not know
    if encode(asdict(made)) != encode(value):  # type: ignore[call-overload]
        raise ArtifactCorrupt(what, "has a field that this format does not have")
    return made


class _OddValueError(ValueError):
    """Valid for a JSON parser and not for us."""


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
    """Builds our checked names (`Tenant`, `ModelName`), which msgspec does not know."""
    try:
        return kind(value)
    except EnsembleError as error:
        raise ValueError(str(error)) from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][
        :200
    ]  # msgspec speaks of types and field names; 200 is enough for both


def refuse_other_format(value: object, known: int, *, what: str) -> None:
    """Tell a file of another Axon from a broken one, before any other field is looked at.

    Raises:
        ArtifactIncompatible: `value` has a whole `format`, and it is not `known`.
    """
    found = value.get("format") if isinstance(value, dict) else None
    if type(found) is int and found != known:
        raise ArtifactIncompatible(what, f"format {known}", f"format {found}")


def timestamp(now: datetime) -> str:
    """`now` as manifests and releases write it.

    Raises:
        ValueError: `now` has no time zone, so nobody knows when it is.
    """
    if now.tzinfo is None:
        raise ValueError("a time without a zone could be any of 24 hours")
    return now.astimezone(UTC).strftime(_TIMESTAMP)


def is_timestamp(text: str) -> bool:
    """Whether `timestamp` could have written `text`."""
    try:
        return datetime.strptime(text, _TIMESTAMP).replace(tzinfo=UTC).strftime(_TIMESTAMP) == text
    except ValueError:
        return False
