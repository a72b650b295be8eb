"""Reading a request of the management application: caller, model, number and body.

Everything is validated here, once and strictly, before the store is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request

from deployments.web import (
    SMALL_TEXT_BYTES,
    TWICE,
    caller_of,
    check_names,
    count_names,
    decode_apart,
    decode_body,
    outline,
    read_json,
)
from ensemble.errors import (
    MalformedEvent,
    MalformedJson,
    ReservedName,
    TooManyRows,
    UnknownTenant,
)
from ensemble.layers import layers_by_model
from ensemble.store import Alias, ModelName, Tenant, parse_serial

__all__ = [
    "RESERVED",
    "BodyReader",
    "model_of",
    "new_model_name",
    "parse_number",
    "reject_unknown_query",
    "requested_limit",
    "requested_version",
    "require_own_tenant",
    "tenant_of",
]

RESERVED = frozenset(
    {
        "jobs",
        "releases",
        "train",
        "import",
        "audit",
        "challenger",
        "rollback",
        "retention",
        "openapi.json",
        "docs",
    }
)
"""Path segments of routes: a model of that name could not be reached."""
Body = TypeVar("Body")


class _HasRows(Protocol):
    @property
    def network_data(self) -> Sequence[msgspec.Raw]: ...


BodyOfRows = TypeVar("BodyOfRows", bound=_HasRows)
OBJECTS_OF_A_ROW = 4  # itself, and what a detector ignores
MAX_ENTRIES, DEFAULT_ENTRIES = 1000, 100


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads JSON bodies, strictly.

    Attributes:
        limit_bytes: size of the largest body of rows that is read; others have 64 KiB.
        max_rows: rows of one body.
    """

    limit_bytes: int
    max_rows: int

    async def __call__(
        self, request: Request, kind: type[Body], *, empty: Callable[[], Body] | None = None
    ) -> Body:
        """Read the body of `request` as `kind`.

        Args:
            request: its body has not been read.
            kind: a msgspec struct.
            empty: makes the value that an absent body stands for; None where a body is required.

        Raises:
            EventError: the body is too long, not JSON, or not a `kind`; `field` names the place.
        """
        body = await read_json(
            request.scope["headers"], request.receive, min(self.limit_bytes, SMALL_TEXT_BYTES)
        )
        if not body and empty is not None:
            return empty()
        read: Body = decode_body(partial(msgspec.json.decode, type=kind), body)
        check_names(body)
        return read

    async def rows(self, request: Request, kind: type[BodyOfRows]) -> BodyOfRows:
        """Read a body of rows, which are not decoded yet.

        Args:
            request: its body has not been read.
            kind: a msgspec struct.

        Raises:
            EventError: as above, or there are too many rows.
        """
        body = await read_json(request.scope["headers"], request.receive, self.limit_bytes)
        return await decode_apart(partial(self._decode_rows, kind), body)

    def _decode_rows(self, kind: type[BodyOfRows], body: bytes) -> BodyOfRows:
        found = outline(body)
        # before each becomes an object here: a list has values without a name
        for count in (found.objects, found.values - found.names):
            if count > OBJECTS_OF_A_ROW * (self.max_rows + 1):
                raise TooManyRows(count, self.max_rows)
        read: BodyOfRows = decode_body(partial(msgspec.json.decode, type=kind), body)
        if len(read.network_data) > self.max_rows:
            raise TooManyRows(len(read.network_data), self.max_rows)
        around: Mapping[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        names = len(around) + sum(outline(bytes(row)).names for row in read.network_data)
        names += count_names(getattr(read, "user_metadata", {}))
        if found.names != names:
            raise MalformedJson(TWICE)
        return read


def tenant_of(request: Request) -> Tenant:
    """Return the tenant of the caller."""
    return caller_of(request.scope).tenant


def require_own_tenant(request: Request, named: str | None) -> Tenant:
    """Return the caller's tenant; the request may name it, but no other.

    Raises:
        UnknownTenant: the request names another tenant, which may or may not exist.
    """
    tenant = tenant_of(request)
    if named is not None and named != tenant:
        raise UnknownTenant
    return tenant


def model_of(request: Request) -> ModelName:
    """Return the model that the path names.

    Raises:
        MalformedEvent: it is not a valid name.
        ReservedName: it is in `RESERVED`.
    """
    name = ModelName(request.path_params["name"])
    if name in RESERVED:
        raise ReservedName("name")
    return name


def new_model_name(name: str) -> ModelName:
    """Check the name of a model that a tenant trains itself.

    Raises:
        MalformedEvent: it is not a valid name.
        ReservedName: it is in `RESERVED`, or a model of a layer.
    """
    checked = ModelName(name)
    if checked in RESERVED or checked in layers_by_model():
        raise ReservedName("name")
    return checked


def parse_number(text: str, field: str) -> int:
    """Parse a version or release number.

    Raises:
        MalformedEvent: `text` is not such a number; the error names `field`.
    """
    number = parse_serial(text)
    if number is None:
        raise MalformedEvent(
            field, "must be a whole number from 1, below 10**15, without a sign or a leading zero"
        )
    return number


def requested_version(request: Request) -> int | Alias | None:
    """Return the version that the query names, by number or alias; None where it names none.

    Raises:
        MalformedEvent: it is neither.
    """
    text = request.query_params.get("version")
    if text is None or text in set(Alias):
        return Alias(text) if text else None
    return parse_number(text, "version")


def reject_unknown_query(request: Request, *known: str) -> None:
    """Refuse a query with unknown or repeated parameters: a guess could delete things.

    Raises:
        MalformedEvent: there is one.
    """
    names: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known or name in names:
            raise MalformedEvent(
                "query", "has a parameter that this route does not know, or one twice"
            )
        names.add(name)


def requested_limit(request: Request) -> int:
    """Return the number of entries that the query requests.

    Raises:
        MalformedEvent: it is not a number, or above `MAX_ENTRIES`.
    """
    text = request.query_params.get("limit")
    if text is None:
        return DEFAULT_ENTRIES
    number = parse_number(text, "limit")
    if number > MAX_ENTRIES:
        raise MalformedEvent("limit", f"is above {MAX_ENTRIES:,}")
    return number
