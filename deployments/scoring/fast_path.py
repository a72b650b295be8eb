"""The fast path of POST /v1/score, around Starlette's middleware and router: a quarter of the time.

Only the plain form of the request takes it: POST without a query. The routes handle every other
form, and errors become the same responses, so a response does not depend on the path.
"""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.scoring import wire
from deployments.scoring.named_deadline import deadline_of
from deployments.scoring.tenants import TenantPipelines
from deployments.web import (
    JSON,
    AuthenticatedApp,
    Scope,
    allows,
    caller_of,
    decode_apart,
    encode,
    exception_response,
    read_json,
)
from ensemble.errors import EventError

__all__ = ["SCORE", "FastPathApp", "score_body"]

SCORE = "/v1/score"
_CONTENT_TYPE = (b"content-type", JSON.encode())


async def score_body(
    pipelines: TenantPipelines,
    tenant: str,
    body: bytes,
    headers: list[tuple[bytes, bytes]],
    *,
    explain: bool,
) -> bytes:
    """Score the event in `body`, and return the body of the response.

    Args:
        pipelines: score the event.
        tenant: of the caller.
        body: the event.
        headers: of the request; they may name a deadline.
        explain: also return what moved the layers.

    Raises:
        EventError: the body is not an event, the event is not admitted, or every layer was late.
    """
    deadline = deadline_of(headers, since=time.monotonic(), default_s=pipelines.deadline_s)
    event = await decode_apart(wire.parse_event, body)
    pipeline = await pipelines.for_tenant(tenant)
    return encode(await pipeline.submit(event, tenant, deadline, explain=explain))


class FastPathApp(AuthenticatedApp):
    """Starlette behind authentication, with a fast path for POST /v1/score.

    Args:
        pipelines: score the events.
        limit_bytes: of a body.
        **options: those of `AuthenticatedApp`; its routes include `SCORE`, for requests that do
            not take the fast path.
    """

    def __init__(
        self,
        pipelines: TenantPipelines,
        *,
        limit_bytes: int,
        **options: Any,  # noqa: ANN401  # Starlette's
    ) -> None:
        super().__init__(**options)
        self._pipelines, self._limit_bytes = pipelines, limit_bytes

    async def inside(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Score a plain request at once; pass every other one to the routes."""
        is_plain = (
            scope["type"] == "http"
            and scope["path"] == SCORE
            and scope["method"] == "POST"
            and not scope["query_string"]
        )
        if not is_plain or not allows(scope, Scope.SCORE):
            await super().inside(scope, receive, send)
            return
        try:
            body = await read_json(scope["headers"], receive, self._limit_bytes)
            tenant = caller_of(scope).tenant
            verdict = await score_body(
                self._pipelines, tenant, body, scope["headers"], explain=False
            )
        except Exception as error:
            response = await exception_response(Request(scope, receive), error)
            await response(scope, receive, send)
            if not isinstance(error, EventError):
                raise  # after the response, as Starlette does, so that the server counts an error
            return
        headers = [(b"content-length", b"%d" % len(verdict)), _CONTENT_TYPE]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": verdict})
