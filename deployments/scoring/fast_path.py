"""A shortcut for one route: requests of it go past Starlette's middleware and router, which take a quarter of an ingress's time.

Only the plain form of the request goes this way: the route's own method, no query. Everything else, errors too, is Starlette's,
so that an answer never depends on which way a request went.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.web.api_keys import Scope
from deployments.web.auth import GatedApp, allows
from deployments.web.errors import JSON, answer_to
from ensemble.errors import BodyTooLarge, EventError, MalformedJson, UnsupportedMediaType

__all__ = ["ShortcutApp", "read_body", "read_json"]

MOST_DIGITS = 18  # of a length; Python refuses to read a number of 5,000
_JSON = JSON.encode()


class ShortcutApp(GatedApp):
    """Starlette behind its gate, with a shortcut for POST to one path.

    Args:
        path: of the route; it has a `ScopedRoute` too, for requests with a query.
        needs: the scope of the route; who has it not is answered by the route itself.
        answer: the body of the answer to a body; it hears of the request too, whose scope says who asks.
        limit: bytes that a body may have.
        **options: those of `GatedApp`.
    """

    def __init__(
        self,
        path: str,
        answer: Callable[[AsgiScope, bytes], Awaitable[bytes]],
        *,
        needs: Scope,
        limit: int,
        **options: Any,  # noqa: ANN401  # Starlette's
    ) -> None:
        super().__init__(**options)
        self._path, self._answer, self._needs, self._limit = path, answer, needs, limit

    async def inside(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer a plain request at once; everything else is the routes'."""
        is_plain = scope["type"] == "http" and scope["path"] == self._path and scope["method"] == "POST" and not scope["query_string"]
        if not is_plain or not allows(scope, self._needs):
            await super().inside(scope, receive, send)
            return
        try:
            body = await self._answer(scope, await read_json(scope["headers"], receive, self._limit))
        except Exception as error:
            response = await answer_to(Request(scope, receive), error)
            await response(scope, receive, send)
            if not isinstance(error, EventError):
                raise  # answered, as Starlette does: whoever runs the application counts it as an error
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _JSON)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def read_json(headers: Iterable[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """The whole body of a route that reads JSON; a body that says of itself that it is something else, or packed, is not read.

    One that says nothing is taken for JSON. Browsers send forms and text to other people's services unasked, but JSON only with their
    leave; and a packed body could be of any size.

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
        if name == b"content-length" and value.isdigit() and (len(value) > MOST_DIGITS or int(value) > limit):
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
