"""A shortcut for one route: requests of it go past Starlette's middleware and router, which take a quarter of an ingress's time.

Only the plain form of the request goes this way: the route's own method, no query. Everything else,
errors too, is Starlette's,
so that an answer never depends on which way a request went.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.web import JSON, AuthenticatedApp, Scope, allows, exception_response, read_json
from ensemble.errors import EventError

__all__ = ["ShortcutApp"]


class ShortcutApp(AuthenticatedApp):
    """Starlette behind its gate, with a shortcut for POST to one path.

    Args:
        path: of the route; it has a `ScopedRoute` too, for requests with a query.
        needs: the scope of the route; who has it not is answered by the route itself.
        answer: the body of the answer to a body; it hears of the request too, whose scope says
            who asks.
        limit: bytes that a body may have.
        **options: those of `AuthenticatedApp`.
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
        is_plain = (
            scope["type"] == "http"
            and scope["path"] == self._path
            and scope["method"] == "POST"
            and not scope["query_string"]
        )
        if not is_plain or not allows(scope, self._needs):
            await super().inside(scope, receive, send)
            return
        try:
            body = await self._answer(
                scope, await read_json(scope["headers"], receive, self._limit)
            )
        except Exception as error:
            response = await exception_response(Request(scope, receive), error)
            await response(scope, receive, send)
            if not isinstance(error, EventError):
                # answered, as Starlette does: whoever runs the application counts it as an error
                raise
            return
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", JSON.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
