"""The answers of the management application to errors of the store, the replicas and the trainer.

A missing thing and another tenant's thing get the same answer. Where the message of an error names
files of the store, the answer has the meaning of its code instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import HTTPExceptionHandler

from deployments.web import (
    EXCEPTION_HANDLERS,
    RETRYABLE_CODES,
    describe_code,
    error_response,
    status_of,
)
from ensemble.errors import (
    ArtifactError,
    ArtifactInUse,
    ArtifactMissing,
    EnsembleError,
    PointerMoved,
    QuotaExceeded,
    ServiceError,
    TrainingError,
)

__all__ = ["MANAGEMENT_EXCEPTION_HANDLERS", "RETRY_AFTER_S", "public_sentence"]

RETRY_AFTER_S = (
    10  # a disk that hangs, or an application that is being started, is no matter of a second
)
NOT_THERE = "there is no such model, version or release"


def public_sentence(error: EnsembleError) -> str:
    """The sentence of an error that is fit for any reader."""
    match error:
        case ArtifactMissing():
            return NOT_THERE
        case ArtifactInUse():
            return f"it is not removed: {error.reason}"
        case QuotaExceeded():
            return (
                f"{error.limit:,} are there, which is as many as may be; delete some, or "
                "let retention do it"
            )
        case PointerMoved() | TrainingError():
            return str(error)
    return describe_code(error.code)


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, EnsembleError):
        raise error
    response = error_response(request, status_of(error.code), error.code, public_sentence(error))
    if error.code in RETRYABLE_CODES:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


MANAGEMENT_EXCEPTION_HANDLERS: Mapping[Any, HTTPExceptionHandler] = {
    **EXCEPTION_HANDLERS,
    ArtifactError: _refuse,
    ServiceError: _refuse,
    TrainingError: _refuse,
}
