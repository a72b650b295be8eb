"""The records of training jobs: one small file each, so that a restart forgets none.

`<state>/jobs/<tenant>/<id>.json`. A file is replaced as a whole, so a reader and a crash see the
old state or the new one. Only the management process writes them. A job that it finds unfinished at
its start belonged to an earlier process, and becomes `lost`. Other files in the folder are ignored;
ended jobs are deleted by number and by age.
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
    """One training job, as it stands.

    Attributes:
        id: random, 32 hex digits.
        tenant: whose.
        model: name that the model gets.
        status: word for how far it is.
        stage: the same in words, while it runs.
        progress: share of the fit, in [0, 1].
        rows: that it trains on.
        features: that it reads, in order.
        label: what its user calls the version.
        as_champion: whether it is to serve once it is published.
        submitted_by: who, as the audit log has it.
        submitted_at: UTC, `2026-11-20T08:15:00Z`; so the other two, "" while it is not so far.
        started_at: when the fit began.
        ended_at: when it ended, well or not.
        version: that was published, 0 where none was.
        manifest_sha256: of that version, "" where none was.
        is_champion: it serves from then on.
        code: of the error that ended it, or that kept it from being champion; "" where there is
            none.
        message: its sentence.
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
        """Whether nothing more will become of it."""
        return self.status in ENDED


_decode = msgspec.json.Decoder(JobRecord).decode


def new_id() -> str:
    """An id that nobody guesses."""
    return uuid.uuid4().hex


class JobRecords:
    """The files; every call may block.

    Args:
        state: folder of what a running Axon writes.
        limit: ended jobs of one tenant that are remembered.
        max_age_days: days that they are remembered.
        now: seconds since 1970.
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
        """All job records; unfinished jobs without a worker are marked as lost, old ones removed.

        Raises:
            ArtifactError: the folder is a link, or cannot be read.
            OSError: the disk is full or failing.
        """
        found = [record for tenant in self._tenants() for record in self._of(tenant)]
        known = [record if record.has_ended else self._lost(record) for record in found]
        for record in self.superfluous(known):
            known.remove(record)
            self.forget(record)
        return known

    def save(self, record: JobRecord) -> None:
        """Keep `record`, on the disk, in the place of what it was.

        Raises:
            ArtifactError: the place is not inside the state folder.
            OSError: the disk is full or failing; what was kept before stays.
        """
        home = make_directory(self._state, FOLDER, record.tenant)
        place = home / f"{record.id}{SUFFIX}"
        write_atomic(self._state, place, msgspec.json.encode(record), mode=0o600)

    def forget(self, record: JobRecord) -> None:
        """Keep it no longer; best effort."""
        with suppress(OSError):
            (self._state / FOLDER / record.tenant / f"{record.id}{SUFFIX}").unlink(missing_ok=True)

    def superfluous(self, records: Iterable[JobRecord]) -> list[JobRecord]:
        """The ended jobs that are too many for their tenants, or too old."""
        oldest = timestamp(datetime.fromtimestamp(max(0.0, self._now() - self._max_age_s), UTC))
        newest_first = sorted(
            (record for record in records if record.has_ended),
            key=lambda one: (one.ended_at, one.id),
            reverse=True,
        )
        counts: dict[str, int] = {}
        gone = []
        for record in newest_first:
            counts[record.tenant] = counts.get(record.tenant, 0) + 1
            if counts[record.tenant] > self._limit or record.ended_at < oldest:
                gone.append(record)
        return gone

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
                if (record.id, record.tenant) == (
                    job,
                    tenant,
                ):  # one that was copied here is no job of this tenant
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
