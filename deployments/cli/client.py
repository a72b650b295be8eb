"""The API key that the terminal sends to a service.

It comes from the environment, because every process of a machine can read the command lines.
"""

from __future__ import annotations

import os
from http import HTTPStatus

__all__ = ["KEY_VARIABLE", "key_header", "key_hint"]

KEY_VARIABLE = "AXON_KEY"


def key_header() -> dict[str, str]:
    """Return the authorization header with the key of AXON_KEY; empty if that is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def key_hint(status: int) -> str:
    """Return a hint for an error response of this status: where to put the API key, or ""."""
    return f"; put one into {KEY_VARIABLE}" if status == HTTPStatus.UNAUTHORIZED else ""
