"""Error responses: JSON with a stable code, never a path, a traceback or another error's text."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import HTTPExceptionHandler

from deployments.web.error_meanings import MEANINGS
from ensemble import errors
from ensemble.errors import (
    ArtifactError,
    ArtifactInUse,
    EnsembleError,
    EventError,
    LayerError,
    Overloaded,
    PointerMoved,
    QuotaExceeded,
    RateLimited,
    TrainingError,
)

__all__ = [
    "EXCEPTION_HANDLERS",
    "JSON",
    "RETRYABLE_CODES",
    "ErrorAnswer",
    "ErrorBody",
    "as_json",
    "cause_of",
    "describe_code",
    "encode",
    "error_response",
    "exception_response",
    "public_message",
    "request_id_of",
    "status_of",
]

encode = msgspec.json.Encoder().encode


_CAUSES: dict[str, str] = {
    kind.code: kind.cause
    for kind in (getattr(errors, name) for name in errors.__all__)
    if issubclass(kind, ArtifactError)
}
logger = logging.getLogger("ray.serve")
JSON = "application/json"
UNPROCESSABLE, UNAVAILABLE = 422, 503
LONGEST_REQUEST_ID = 128
# a layer that was loading, or crashed, is often back by then; a retry while its breaker is open
# costs nothing
RETRY_AFTER_S = 1
_LAYER_ERRORS: tuple[type[LayerError], ...] = (LayerError, *LayerError.__subclasses__())
_LAYER_CODES = frozenset(kind.code for kind in _LAYER_ERRORS)
_CONFLICTS = (  # the thing exists, but its state does not allow the request
    "ARTIFACT_CORRUPT", "ARTIFACT_UNTRUSTED", "ARTIFACT_INCOMPATIBLE", "ARTIFACT_IN_USE",
    "INSUFFICIENT_MEMORY", "MODEL_LOAD_ERROR",
    "NOT_SERVING",
    "POINTER_MOVED", "SERVED_BY_RELEASE", "SIGNING_REFUSED", "VERSION_EXISTS",
)  # fmt: skip
_NOT_NOW = (
    "ARTIFACT_UNREADABLE",
    "DEPLOYMENT_UNAVAILABLE",
    "LOAD_TIMEOUT",
    "SERVICE_ERROR",
    "STORE_UNAVAILABLE",
)
RETRYABLE_CODES = _LAYER_CODES | {
    "RATE_LIMITED",
    "OVERLOADED",
    "JOB_QUOTA",
    "QUOTA_EXCEEDED",
    *_NOT_NOW,
}
"""Codes of temporary errors; their answers have Retry-After."""
_STATUS_OF_CODE = {  # every other code is a mistake in the request: 422
    "MALFORMED_JSON": 400,
    "UNKNOWN_LAYER": 404,
    "UNKNOWN_MODEL": 404,
    "MODEL_NOT_LOADED": 409,
    "REQUEST_TIMEOUT": 408,
    "BODY_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "UNAUTHORIZED": 401,
    "UNKNOWN_HOST": 421,
    "FOREIGN_ORIGIN": 403,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "TEST_RUNNING": 409,
    "RATE_LIMITED": 429,
    "OVERLOADED": 503,
    "INTERNAL_ERROR": 500,
    "CONTROLS_NOT_KEPT": 503,
    "ARTIFACT_MISSING": 404,
    "UNKNOWN_JOB": 404,
    "UNKNOWN_TENANT": 404,
    "JOB_QUOTA": 429,
    "QUOTA_EXCEEDED": 429,
    "STORE_FULL": 507,
    **dict.fromkeys(_CONFLICTS, 409),
    **dict.fromkeys((*_LAYER_CODES, *_NOT_NOW), UNAVAILABLE),
}
_OF_STATUS = {
    404: ("NOT_FOUND", "there is no such route; GET / lists them"),
    405: ("METHOD_NOT_ALLOWED", "this route does not take that method"),
}


def as_json(body: object, status: int = 200) -> Response:
    """Answer with `body` as JSON."""
    return Response(encode(body), status, media_type=JSON)


def error_response(
    request: Request, status: int, code: str, message: str, field: str = ""
) -> Response:
    """Answer with an error, under the request id of `request_id_of`."""
    request_id = request_id_of(request)
    body = ErrorAnswer(ErrorBody(code, message, field, request_id))
    return Response(encode(body), status, media_type=JSON, headers={"X-Request-ID": request_id})


def status_of(code: str) -> int:
    """Return the HTTP status of an error code."""
    return _STATUS_OF_CODE.get(code, UNPROCESSABLE)


def request_id_of(request: Request) -> str:
    """Return the caller's `X-Request-ID` if it is short printable ASCII, else a new id."""
    given = request.headers.get("x-request-id", "")
    return (
        given
        if given.isascii() and given.isprintable() and 0 < len(given) <= LONGEST_REQUEST_ID
        else uuid.uuid4().hex
    )


async def _refuse_event(request: Request, error: Exception) -> Response:
    if not isinstance(error, EventError):
        raise error
    response = error_response(request, status_of(error.code), error.code, str(error), error.field)
    if error.code in RETRYABLE_CODES:
        response.headers["Retry-After"] = str(
            error.retry_after_s if isinstance(error, RateLimited | Overloaded) else RETRY_AFTER_S
        )
    return response


async def _refuse_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = _OF_STATUS.get(status, ("HTTP_ERROR", "the request cannot be answered"))
    response = error_response(request, status, code, message)
    response.headers.update(getattr(error, "headers", None) or {})  # Allow, with 405
    return response


def public_message(error: EnsembleError) -> str:
    """The text of an error that a client may read.

    Its own sentence where that names no file of the store, else the meaning of its code.
    """
    match error:
        case LayerError():
            return f"{error.layer} did not answer: {describe_code(error.code)}"
        case EventError() | ArtifactInUse() | PointerMoved() | QuotaExceeded() | TrainingError():
            return str(error)
    return describe_code(error.code)


async def _refuse_layer(request: Request, error: Exception) -> Response:
    """Answer with 503: the one layer that could answer is overloaded, failing or disabled."""
    if not isinstance(error, LayerError):
        raise error
    response = error_response(request, UNAVAILABLE, error.code, public_message(error))
    response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


async def exception_response(request: Request, error: Exception) -> Response:
    """Answer a request that raised `error`."""
    return await (_refuse_event if isinstance(error, EventError) else _fail)(request, error)


async def _fail(request: Request, error: Exception) -> Response:
    """Answer an unexpected error with 500 and a request id; the log has the traceback."""
    response = error_response(
        request,
        500,
        "INTERNAL_ERROR",
        "an unexpected error inside Axon; the log has it under this request id",
    )
    logger.error(
        "request_failed",
        exc_info=error,
        extra={"event": "request_failed", "request_id": response.headers["X-Request-ID"]},
    )
    return response


EXCEPTION_HANDLERS: Mapping[Any, HTTPExceptionHandler] = {
    HTTPException: _refuse_route,
    EventError: _refuse_event,
    LayerError: _refuse_layer,
    Exception: _fail,
}


def describe_code(code: str) -> str:
    """Describe an error code of Axon in one sentence fit for any reader; "" for an unknown code."""
    return MEANINGS.get(code, "")


def cause_of(code: str) -> str:
    """Name the cause that a code of an artifact error stands for; "" for any other code."""
    return _CAUSES.get(code, "")


class ErrorBody(Struct, omit_defaults=True):
    """An error.

    Attributes:
        code: stable code to match on.
        message: one sentence for people; never a path or a traceback.
        field: place of the error in the request, e.g. `events[3].features`; absent without one.
        request_id: id of the request, as in the log.
    """

    code: str
    message: str
    field: str = ""
    request_id: str = ""


class ErrorAnswer(Struct):
    """The body of every error."""

    error: ErrorBody
