"""The answers of the management application to errors of the store, the replicas and the trainer.

A missing thing and another tenant's thing get the same answer.
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
    error_response,
    public_message,
    status_of,
)
from ensemble.errors import ArtifactError, EnsembleError, ServiceError, TrainingError

__all__ = ["MANAGEMENT_EXCEPTION_HANDLERS", "RETRY_AFTER_S"]

RETRY_AFTER_S = 10  # a hanging disk, or an application that starts, takes longer than a second


async def _refuse(request: Request, error: Exception) -> Response:
    if not isinstance(error, EnsembleError):
        raise error
    response = error_response(request, status_of(error.code), error.code, public_message(error))
    if error.code in RETRYABLE_CODES:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response


MANAGEMENT_EXCEPTION_HANDLERS: Mapping[Any, HTTPExceptionHandler] = {
    **EXCEPTION_HANDLERS,
    ArtifactError: _refuse,
    ServiceError: _refuse,
    TrainingError: _refuse,
}
