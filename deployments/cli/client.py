"""The key with which the terminal asks a service.

From the environment, for every process of a machine can read arguments.
"""

from __future__ import annotations

import os
from http import HTTPStatus

__all__ = ["KEY_VARIABLE", "key_header", "where_keys_come_from"]

KEY_VARIABLE = "AXON_KEY"


def key_header() -> dict[str, str]:
    """The header of a request: the bearer key of AXON_KEY, or nothing where it is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def where_keys_come_from(status: int) -> str:
    """What to add to the refusal of a service.

    Where a key is looked for, if it was one that was missing.
    """
    return f"; put one into {KEY_VARIABLE}" if status == HTTPStatus.UNAUTHORIZED else ""
