"""The key with which the terminal asks a service: from the environment, for every process of a machine can read arguments."""

from __future__ import annotations

import os

__all__ = ["KEY_VARIABLE", "key_header"]

KEY_VARIABLE = "AXON_KEY"


def key_header() -> dict[str, str]:
    """The header of a request: the bearer key of AXON_KEY, or nothing where it is not set."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
