"""The API key that the terminal sends to a service.

It comes from the environment, because every process of a machine can read command lines.
"""

from __future__ import annotations

import os
from http import HTTPStatus

__all__ = ["KEY_VARIABLE", "key_header", "key_hint"]

KEY_VARIABLE = "AXON_KEY"


def key_header() -> dict[str, str]:
    """The authorization header with the key of AXON_KEY; empty where that is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def key_hint(status: int) -> str:
    """A hint to add to an error of the service with that status: where the API key belongs."""
    return f"; put one into {KEY_VARIABLE}" if status == HTTPStatus.UNAUTHORIZED else ""
