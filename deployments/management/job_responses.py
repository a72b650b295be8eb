"""The response bodies of training jobs, as types."""

from __future__ import annotations

from msgspec import Struct

from deployments.web import ErrorBody

__all__ = ["Job", "JobList"]


class Job(Struct):
    """A training job.

    Attributes:
        status: queued, running or publishing; at its end done, failed, cancelled, timeout or lost.
        stage: current step in words, while the job runs.
        progress: completed share of the training, in [0, 1].
        label: label of the version that the job publishes.
        features: features that the model reads, in order.
        promote: whether the new version is promoted when the job is done.
        submitted_by: id of the API key.
        started_at: empty until the job starts.
        ended_at: empty until the job ends.
        model_version: number of the published version; null before that.
        sha256: SHA-256 of the version's manifest.
        is_champion: the new version serves.
        error: why the job failed, or why its version does not serve; null without an error.
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
    """The jobs of the caller's tenant, newest first."""

    jobs: list[Job]
