"""Request bodies: bounded in size, JSON alone, decoded once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from starlette.types import Receive

from deployments.web.decode_errors import decode_error
from deployments.web.errors import JSON
from ensemble.errors import BodyTooLarge, MalformedJson, UnsupportedMediaType

__all__ = ["decode_body", "read_body", "read_json"]

MOST_DIGITS = 18  # of a length; Python refuses to read a number of 5,000
_JSON = JSON.encode()


# what the decoder was made for
def decode_body(decode: Callable[[bytes], Any], body: bytes) -> Any:  # noqa: ANN401
    """What `decode` makes of a body.

    Raises:
        MalformedJson: not JSON, or not UTF-8.
        MalformedEvent: JSON, but nothing that the decoder was made for; `field` says where.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise decode_error(error, body) from None


async def read_json(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """Read the whole body of a JSON route; refuse a body declared as another type, or compressed.

    One that says nothing is taken for JSON. Browsers send forms and text to other people's services
    unasked, but JSON only with their leave; and a packed body could be of any size.

    Raises:
        UnsupportedMediaType: what `Content-Type` or `Content-Encoding` says is not JSON.
        BodyTooLarge: more than `limit` bytes were announced, or came.
        MalformedJson: the client left in the middle of it; nobody reads the answer.
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


async def read_body(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """The whole body, refused as soon as it passes the limit.

    Raises:
        BodyTooLarge: more than `limit` bytes were announced, or came.
        MalformedJson: the client left in the middle of it; nobody reads the answer.
    """
    for name, value in headers:
        if (
            name == b"content-length"
            and value.isdigit()
            and (len(value) > MOST_DIGITS or int(value) > limit)
        ):
            raise BodyTooLarge(limit)
    body = bytearray()
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise MalformedJson("the body ends in the middle")
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
        if len(body) > limit:
            raise BodyTooLarge(limit)
    return bytes(body)
