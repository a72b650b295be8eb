"""Shared parts of the contracts of the management routes: parameters, error codes, an example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.management.request_parsing import RESERVED
from deployments.web import Answer, Json, path_parameter
from ensemble.training.data.tabular_rows import DEFAULT_NAME

__all__ = [
    "CHANGING",
    "MODEL",
    "NAME",
    "NUMBER",
    "OF_MODEL",
    "READING_STORE",
    "ROW",
    "SIGNING",
    "done",
]

NUMBER: Json = {"type": "string", "pattern": "^[1-9][0-9]{0,14}$"}
"""A serial in a path or query, as text: `2.0` is refused."""
NAME: Json = {
    "type": "string",
    "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$",
    "not": {"enum": sorted(RESERVED)},
}
MODEL = path_parameter("name", NAME, "Name of the model", DEFAULT_NAME)
ROW: Mapping[str, Any] = {
    "bytes_transferred": 5120.0,
    "packet_count": 12,
    "connection_duration": 1.5,
    "source_ip": "10.0.0.7",
}
READING_STORE = (
    "MALFORMED_EVENT",
    "STORE_UNAVAILABLE",
    "ARTIFACT_UNREADABLE",
    "ARTIFACT_CORRUPT",
    "ARTIFACT_UNTRUSTED",
    "ARTIFACT_INCOMPATIBLE",
)
CHANGING = (*READING_STORE, "STORE_FULL")
SIGNING = (*CHANGING, "SIGNING_REFUSED", "POINTER_MOVED")
OF_MODEL = ("ARTIFACT_MISSING", "RESERVED_NAME")


def done(schema: type) -> Mapping[int, Answer]:
    """Declare an answer with 200 and one schema."""
    return {200: Answer(schema)}
