"""Request bodies: bounded in size, JSON only, decoded once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from starlette.types import Receive

from deployments.web.decode_errors import decode_error
from deployments.web.errors import JSON
from ensemble.errors import BodyTooLarge, MalformedJson, RequestTimeout, UnsupportedMediaType

__all__ = ["announced_bytes", "decode_body", "read_body", "read_json"]

# A body may take GRACE_S, and beyond it must come at this pace on average: a slow sensor that makes
# progress is served, and one that stops holds no place of a replica.
GRACE_S, LEAST_BYTES_PER_S = 15.0, 1000.0
MOST_DIGITS = 18  # of a Content-Length; `int` raises for 5,000 digits
_JSON = JSON.encode()


def decode_body(
    decode: Callable[[bytes], Any],
    body: bytes,
) -> Any:  # noqa: ANN401  # the type that the decoder was made for
    """Decode a body, with errors that a client may read.

    Raises:
        MalformedJson: not JSON, or not UTF-8.
        MalformedEvent: JSON, but not of the decoder's type; `field` names the place.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise decode_error(error, body) from None


async def read_json(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """Read the whole body of a JSON route; refuse a body declared as another type, or compressed.

    A body without a declared type counts as JSON. Browsers send forms and plain text to foreign
    services without a preflight request, but not JSON; and a compressed body could expand to any
    size.

    Raises:
        UnsupportedMediaType: `Content-Type` is not JSON, or `Content-Encoding` is not identity.
        BodyTooLarge: more than `limit` bytes were announced or received.
        RequestTimeout: the body comes slower than the least pace.
        MalformedJson: the client disconnected before the end of the body.
    """
    for name, value in headers:
        if name == b"content-type" and value != _JSON and not _is_json(value):
            raise UnsupportedMediaType("Content-Type")
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise UnsupportedMediaType("Content-Encoding")
    return await read_body(headers, receive, limit)


def _is_json(content_type: bytes) -> bool:
    media = content_type.split(b";", 1)[0].strip().lower()
    return media in (b"", _JSON) or (media.startswith(b"application/") and media.endswith(b"+json"))


def announced_bytes(headers: Iterable[tuple[bytes, bytes]]) -> int:
    """The length that a request announces for its body, below 10**18; 0 where it announces none."""
    lengths = [value for name, value in headers if name == b"content-length" and value.isdigit()]
    return max((int(value.lstrip(b"0")[:MOST_DIGITS] or b"0") for value in lengths), default=0)


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """Read the whole body; refuse it as soon as it exceeds the limit, or comes too slowly.

    Raises:
        BodyTooLarge: more than `limit` bytes were announced or received.
        RequestTimeout: it comes slower than the least pace.
        MalformedJson: the client disconnected before the end of the body.
    """
    if announced_bytes(headers) > limit:
        raise BodyTooLarge(limit)
    body = bytearray()
    has_more = True
    until = asyncio.get_running_loop().time() + GRACE_S
    while has_more:
        try:
            async with asyncio.timeout_at(until + len(body) / LEAST_BYTES_PER_S):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout from None
        if message["type"] == "http.disconnect":
            raise MalformedJson("the body ends in the middle")
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)
