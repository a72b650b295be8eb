"""The response bodies of jobs, detections and loads, as types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from deployments.web import ErrorBody

__all__ = [
    "Detections",
    "Finding",
    "Job",
    "JobList",
    "Loading",
    "Replica",
    "RowRefused",
]


class Finding(Struct):
    """What a model says of one row.

    Attributes:
        index: of the row in the request.
        anomaly_score: in [0, 1], higher is stranger.
        threat_level: low, medium, high or critical.
        original_data: the row as it came.
    """

    index: int
    is_anomaly: bool
    anomaly_score: float
    threat_level: str
    original_data: Any


class RowRefused(Struct):
    """An error in the place of one row."""

    index: int
    error: ErrorBody


class Detections(Struct):
    """The findings in the order of the rows; a bad row spoils only itself.

    Attributes:
        model_version: that rated them.
        tenant_id: whose model it is.
        is_last_good: an older version rated them, because the one that shall serve cannot be had.
    """

    model_name: str
    model_version: int
    tenant_id: str
    is_last_good: bool
    results: Sequence[
        Any
        # Finding or RowRefused: msgspec keeps untagged unions out of types, so the document names
        # them
    ]


class Replica(Struct):
    """How one replica stands with the model.

    Attributes:
        deployment: whose replica: a layer, or `detectors`.
        kind: of event that the model rates there; left empty for rows.
        status: of the model there, as of a layer: `live` where it serves; or `not_loaded`, or
            `unreachable` where nobody answered.
        version: that serves there.
        reason: why the status is not `live`.
    """

    deployment: str
    kind: str
    status: str
    version: str
    reason: str


class Loading(Struct):
    """What every replica said that was asked to load the model now."""

    model_name: str
    replicas: list[Replica]


class Job(Struct):
    """A training job.

    Attributes:
        status: queued, running, publishing; or, when it has ended, done, failed, cancelled,
            timeout or lost.
        stage: the same in words, while it runs.
        progress: share of the fit, in [0, 1].
        label: what the version will be called.
        features: that it reads, in order.
        promote: whether it shall serve when it is done.
        submitted_by: id of the key.
        started_at: left empty before; likewise ended_at.
        model_version: that came out of it; null before.
        sha256: of its manifest.
        is_champion: it serves from then on.
        error: why it ended, or does not serve; null where nothing went wrong.
    """

    id: str
    status: str
    stage: str
    progress: float
    model_name: str
    label: str
    rows: int
    features: list[str]
    promote: bool
    submitted_by: str
    submitted_at: str
    started_at: str
    ended_at: str
    model_version: int | None
    sha256: str
    is_champion: bool
    error: ErrorBody | None


class JobList(Struct):
    """The jobs of the caller's tenant, the newest first."""

    jobs: list[Job]
