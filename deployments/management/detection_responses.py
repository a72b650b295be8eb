"""The response bodies of detections and loads, as types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from deployments.web import ErrorBody

__all__ = ["Detections", "Finding", "Loading", "Replica", "RowRefused"]


class Finding(Struct):
    """The result for one row.

    Attributes:
        index: position of the row in the request, from 0.
        anomaly_score: in [0, 1], higher is more anomalous.
        threat_level: low, medium, high or critical.
        original_data: the row as it was sent.
    """

    index: int
    is_anomaly: bool
    anomaly_score: float
    threat_level: str
    original_data: Any


class RowRefused(Struct):
    """The error of one row.

    Attributes:
        index: position of the row in the request, from 0.
    """

    index: int
    error: ErrorBody


class Detections(Struct):
    """The results in the order of the rows; a bad row affects only itself.

    Attributes:
        model_version: number of the version that rated the rows.
        tenant_id: tenant that owns the model.
        is_last_good: an older version rated the rows, because the promoted one cannot be loaded.
        results: a finding or an error for each row.
    """

    model_name: str
    model_version: int
    tenant_id: str
    is_last_good: bool
    # Finding or RowRefused: msgspec has no untagged unions of structs, so `openapi` names them
    results: Sequence[Any]


class Replica(Struct):
    """The state of the model on one replica.

    Attributes:
        deployment: deployment of the replica: a layer, or `detectors`.
        kind: kind of event that the model scores there; empty for rows.
        status: status of the model there: that of a layer, e.g. `live`, or `not_loaded`, or
            `unreachable` where the replica did not answer.
        version: version that serves there.
        reason: code of the reason why the status is not `live`.
    """

    deployment: str
    kind: str
    status: str
    version: str
    reason: str


class Loading(Struct):
    """The reports of all replicas that were told to load the model."""

    model_name: str
    replicas: list[Replica]
