"""The records of training jobs: one small file each, which survive a restart.

`<state>/jobs/<tenant>/<id>.json`. A file is replaced as a whole, so a reader and a crash see the
old state or the new one. Only the management process writes them. A job that is unfinished when the
process starts belonged to an earlier process, and becomes `lost`. Other files in the folder are
ignored. Ended jobs are deleted by number and by age.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from deployments.observability import log_event
from ensemble.errors import ArtifactError, ArtifactMissing, JobLost
from ensemble.store import Tenant
from ensemble.store.files import (
    list_names,
    make_directory,
    open_directory,
    read_bounded,
    timestamp,
    write_atomic,
)

__all__ = ["ENDED", "JobRecord", "JobRecords", "JobStatus", "new_id"]

FOLDER = "jobs"
SUFFIX = ".json"
RECORD_LIMIT_BYTES = 64 << 10  # 64 names of 64 characters are 16 KiB at most
SECONDS_A_DAY = 86_400.0
_ID = re.compile(r"[0-9a-f]{32}")


class JobStatus(StrEnum):
    """Status of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    PUBLISHING = "publishing"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    LOST = "lost"


ENDED = frozenset(
    {JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.TIMEOUT, JobStatus.LOST}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """The state of one training job; times are UTC, e.g. `2026-11-20T08:15:00Z`.

    Attributes:
        id: random, 32 hexadecimal digits.
        tenant: owner of the job.
        model: name of the model.
        status: status of the job.
        stage: current step in words, while the job runs.
        progress: completed share of the fit, in [0, 1].
        rows: number of training rows.
        features: names of the features that the model reads, in order.
        label: the caller's name for the version.
        as_champion: whether the version becomes champion once it is published.
        submitted_by: name of the caller in the audit log.
        submitted_at: time of submission.
        started_at: start of the fit; "" before it.
        ended_at: end of the job; "" before it.
        version: number of the published version; 0 for none.
        manifest_sha256: SHA-256 of that version's manifest; "" for none.
        is_champion: the version became champion.
        code: code of the error that ended the job, or that prevented the promotion; "" for none.
        message: sentence of that error.
    """

    id: str
    tenant: str
    model: str
    status: JobStatus
    stage: str = ""
    progress: float = 0.0
    rows: int
    features: tuple[str, ...]
    label: str = ""
    as_champion: bool
    submitted_by: str
    submitted_at: str
    started_at: str = ""
    ended_at: str = ""
    version: int = 0
    manifest_sha256: str = ""
    is_champion: bool = False
    code: str = ""
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the job has reached a final status."""
        return self.status in ENDED


_decode = msgspec.json.Decoder(JobRecord).decode


def new_id() -> str:
    """Make a random id that cannot be guessed."""
    return uuid.uuid4().hex


class JobRecords:
    """The files of the records; every call may block.

    Args:
        state: the state folder.
        limit: number of ended jobs that are kept for each tenant.
        max_age_days: days for which they are kept.
        now: wall clock, seconds since 1970.
    """

    def __init__(
        self, state: Path, *, limit: int, max_age_days: int, now: Callable[[], float]
    ) -> None:
        self._state, self._limit, self._max_age_s, self._now = (
            state,
            limit,
            max_age_days * SECONDS_A_DAY,
            now,
        )

    def recover(self) -> list[JobRecord]:
        """Read all records; mark unfinished jobs as lost, and delete old records.

        Raises:
            ArtifactError: the folder is a link, or cannot be read.
            OSError: the disk is full or failing.
        """
        found = [record for tenant in self._tenants() for record in self._of(tenant)]
        known = [record if record.has_ended else self._lost(record) for record in found]
        for record in self.superfluous(known):
            known.remove(record)
            self.delete(record)
        return known

    def save(self, record: JobRecord) -> None:
        """Write `record` to disk in place of its earlier state.

        Raises:
            ArtifactError: the file would not be inside the state folder.
            OSError: the disk is full or failing; the earlier state remains.
        """
        home = make_directory(self._state, FOLDER, record.tenant)
        place = home / f"{record.id}{SUFFIX}"
        write_atomic(self._state, place, msgspec.json.encode(record), mode=0o600)

    def delete(self, record: JobRecord) -> None:
        """Delete a record; best effort."""
        with suppress(OSError):
            (self._state / FOLDER / record.tenant / f"{record.id}{SUFFIX}").unlink(missing_ok=True)

    def superfluous(self, records: Iterable[JobRecord]) -> list[JobRecord]:
        """List the ended jobs above the limit of their tenant, or too old."""
        oldest = timestamp(datetime.fromtimestamp(max(0.0, self._now() - self._max_age_s), UTC))
        newest_first = sorted(
            (record for record in records if record.has_ended),
            key=lambda one: (one.ended_at, one.id),
            reverse=True,
        )
        counts: dict[str, int] = {}
        excess = []
        for record in newest_first:
            counts[record.tenant] = counts.get(record.tenant, 0) + 1
            if counts[record.tenant] > self._limit or record.ended_at < oldest:
                excess.append(record)
        return excess

    def _tenants(self) -> list[Tenant]:
        try:
            with open_directory(self._state, FOLDER, what=FOLDER) as folder:
                return [
                    Tenant(name)
                    for name in sorted(list_names(folder, what=FOLDER))
                    if Tenant.is_one(name)
                ]
        except ArtifactMissing:
            return []

    def _of(self, tenant: Tenant) -> list[JobRecord]:
        found = []
        with open_directory(self._state, FOLDER, tenant, what=FOLDER) as folder:
            for name in list_names(folder, what=FOLDER):
                job = name.removesuffix(SUFFIX)
                if job == name or not _ID.fullmatch(job):
                    continue
                try:
                    record = _decode(
                        read_bounded(folder, name, limit=RECORD_LIMIT_BYTES, what="a job's record")
                    )
                except (ArtifactError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
                    log_event(
                        logging.WARNING,
                        "job_record_unreadable",
                        {"job": job, "tenant": tenant, "error_type": type(problem).__name__},
                    )
                    continue
                # a file that was copied here from elsewhere is ignored
                if (record.id, record.tenant) == (job, tenant):
                    found.append(record)
        return found

    def _lost(self, record: JobRecord) -> JobRecord:
        now = timestamp(datetime.fromtimestamp(self._now(), UTC))
        lost = replace(
            record,
            status=JobStatus.LOST,
            stage="",
            ended_at=now,
            code=JobLost.code,
            message=str(JobLost()),
        )
        self.save(lost)
        return lost
