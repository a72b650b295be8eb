"""The edge of HTTP: every answer is JSON, and an error carries a stable code, never a path, a traceback or another error's text."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import HTTPExceptionHandler

from deployments import wire
from ensemble.errors import EventError, RateLimited

__all__ = ["JSON", "REFUSALS", "answer_to", "as_json", "refuse"]

logger = logging.getLogger("ray.serve")
JSON = "application/json"
UNPROCESSABLE = 422
LONGEST_REQUEST_ID = 128
_STATUS_OF_CODE = {
    "MALFORMED_JSON": 400,
    "UNKNOWN_LAYER": 404,
    "BODY_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
}  # every other mistake of the caller is 422
_OF_STATUS = {
    404: ("NOT_FOUND", "there is no such route; GET / lists them"),
    405: ("METHOD_NOT_ALLOWED", "this route does not take that method"),
}


def as_json(body: object, status: int = 200) -> Response:
    """`body` as JSON."""
    return Response(wire.encode(body), status, media_type=JSON)


def refuse(request: Request, status: int, code: str, message: str, field: str = "") -> Response:
    """An error, under the request's own id where it is fit for a log."""
    request_id = _request_id(request)
    body = wire.ErrorAnswer(wire.ErrorBody(code, message, field, request_id))
    return Response(wire.encode(body), status, media_type=JSON, headers={"X-Request-ID": request_id})


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= LONGEST_REQUEST_ID else uuid.uuid4().hex


async def _refuse_event(request: Request, error: Exception) -> Response:
    if not isinstance(error, EventError):
        raise error
    response = refuse(request, _STATUS_OF_CODE.get(error.code, UNPROCESSABLE), error.code, str(error), error.field)
    if isinstance(error, RateLimited):
        response.headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    return response


async def _refuse_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = _OF_STATUS.get(status, ("HTTP_ERROR", "the request cannot be answered"))
    return refuse(request, status, code, message)


async def answer_to(request: Request, error: Exception) -> Response:
    """The answer to a request that raised `error`."""
    return await (_refuse_event if isinstance(error, EventError) else _fail)(request, error)


async def _fail(request: Request, error: Exception) -> Response:
    """Whatever was not foreseen becomes a 500 with an id that the log knows."""
    response = refuse(request, 500, "INTERNAL_ERROR", "something failed inside; the log has it under this request id")
    logger.error("request_failed", exc_info=error, extra={"event": "request_failed", "request_id": response.headers["X-Request-ID"]})
    return response


REFUSALS: Mapping[Any, HTTPExceptionHandler] = {HTTPException: _refuse_route, EventError: _refuse_event, Exception: _fail}
