"""Training jobs: rows are validated at submission, fitted beside serving, and published here.

A caller gets a record at once and polls it. A job that cannot succeed is refused at submission: for
a bad row, too many rows, too many jobs, or a missing signing key. The fit runs in another process
(`training_actor`) and returns arrays; only this process, which has the key, publishes them. A fit
can be cancelled, and is killed at its time limit; a job that is being published cannot be stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from deployments.config import Settings, SigningRefused, read_signer
from deployments.management.job_records import JobRecord, JobRecords, JobStatus, new_id
from deployments.management.training_actor import FitWork
from deployments.observability import log_event
from ensemble.errors import (
    ArtifactError,
    EnsembleError,
    JobCrashed,
    JobLost,
    JobQuota,
    JobTimeout,
    JobUnpublished,
    MalformedEvent,
    TooManyRows,
    UnknownJob,
)
from ensemble.features.tabular import NETWORK_FEATURES, Missing
from ensemble.store import Actor, BundleRef, Metadata, ModelName, Quota, Store, Tenant
from ensemble.store.files import timestamp
from ensemble.training.data.tabular_rows import DEFAULT_NAME, Step, training_table
from ensemble.training.publish import Trained, make_champion, publish_detector

__all__ = ["Jobs", "TrainingSpec"]

T = TypeVar("T")
Run = Callable[[FitWork], AsyncGenerator[Step | Trained, None]]

SEED = 42  # S4-08
LONGEST_LABEL = 64
USER_METADATA_BYTES = 8 << 10  # it is signed with the model, in a manifest of 64 KiB
STOPPABLE = (JobStatus.QUEUED, JobStatus.RUNNING)
UNPUBLISHED = (ArtifactError, SigningRefused, OSError)
THREADS = 4  # a hanging disk blocks at most these


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSpec:
    """A model to train, as the caller requested it.

    Attributes:
        rows: one mapping of feature -> value for each row.
        as_champion: whether the version becomes champion once it is published.
        model: name of the model, see `ModelName`.
        features: names of the features to read, in order.
        missing: treatment of a missing value.
        label: the caller's name for this version, for people.
        user_metadata: JSON that is stored with the version.
        seed: random seed of the fit.
    """

    rows: Sequence[Mapping[str, Any]]
    as_champion: bool
    model: str = DEFAULT_NAME
    features: Sequence[str] = NETWORK_FEATURES
    missing: Missing = Missing.REFUSE
    label: str = ""
    user_metadata: Mapping[str, Any] = field(default_factory=dict)
    seed: int = SEED


class Jobs:
    """The training jobs of all tenants; lives in one process, on one event loop.

    Args:
        settings: limits, and the folder of the records.
        store_for: returns the store with the current trust, for an actor that the audit log names.
        run: runs a fit step by step; closing the generator stops it.
        quota: number of models and versions that a tenant may have; None for no limit.
        now: wall clock, seconds since 1970.
    """

    def __init__(
        self,
        settings: Settings,
        store_for: Callable[[Actor], Store],
        run: Run,
        *,
        quota: Quota | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._limits = settings.management
        self._store_for, self._run, self._quota, self._now = store_for, run, quota, now
        self._files = JobRecords(
            settings.state,
            limit=self._limits.jobs_kept,
            max_age_days=self._limits.jobs_kept_days,
            now=now,
        )
        self._threads = ThreadPoolExecutor(THREADS, "jobs")
        # one thread: the last record to be written is the last state
        self._disk = ThreadPoolExecutor(1, "job-records")
        self._records: dict[str, JobRecord] = {}  # id -> record, in the order of submission
        self._working: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(self._limits.jobs_at_once)
        # one at a time: the last job to end is the last version, and the champion
        self._publishing = asyncio.Lock()
        self._is_stopping = False
        self._begun: asyncio.Task[None] | None = None

    async def submit(self, tenant: Tenant, spec: TrainingSpec, actor: Actor) -> JobRecord:
        """Accept a job; from now on it waits or runs.

        Args:
            tenant: owner of the model.
            spec: the model to train.
            actor: caller, for the audit log.

        Raises:
            JobQuota: the limit of waiting and running jobs is reached.
            TooManyRows, FeatureMismatch, MalformedEvent: the request is wrong.
            TrainingError: the rows do not suffice for training.
            SigningRefused: there is no key to sign with.
            ArtifactError, OSError: the record of the job cannot be written.
        """
        await self._begin()
        self._check_quota(tenant)
        if len(spec.rows) > self._limits.max_rows:
            raise TooManyRows(len(spec.rows), self._limits.max_rows)
        model, metadata = str(ModelName(spec.model)), _metadata(spec)
        await self._in_thread(lambda: read_signer(self._store_for(actor).trust))
        table = await self._in_thread(
            lambda: training_table(spec.rows, spec.features, missing=spec.missing)
        )
        self._check_quota(tenant)  # again, now that nothing is awaited until the job counts
        record = JobRecord(
            id=new_id(),
            tenant=str(tenant),
            model=model,
            status=JobStatus.QUEUED,
            rows=len(table.values),
            features=table.features,
            label=spec.label,
            as_champion=spec.as_champion,
            submitted_by=actor.name,
            submitted_at=self._timestamp(),
        )
        self._records[record.id] = record
        try:
            await self._write(record)
        except BaseException:  # also cancellation: the caller has no id, so the job must not run
            del self._records[record.id]
            self._disk.submit(self._files.delete, record)
            raise
        work = FitWork(table, model, spec.seed, metadata)
        task = self._working[record.id] = asyncio.create_task(
            self._run_job(record.id, tenant, work, actor)
        )
        task.add_done_callback(lambda _: self._working.pop(record.id, None))
        return record

    async def get(self, tenant: Tenant, job: str) -> JobRecord:
        """Return the record of a job.

        Raises:
            UnknownJob: this tenant has no such job; another tenant may have it.
        """
        await self._begin()
        record = self._records.get(job)
        if record is None or record.tenant != tenant:
            raise UnknownJob
        return record

    async def list(self, tenant: Tenant) -> list[JobRecord]:
        """List the jobs of a tenant, newest first."""
        await self._begin()
        return [record for record in reversed(self._records.values()) if record.tenant == tenant]

    async def cancel(self, tenant: Tenant, job: str) -> JobRecord:
        """Stop a job that waits or runs; a job that is being published or has ended goes on.

        Raises:
            UnknownJob: this tenant has no such job.
        """
        record = await self.get(tenant, job)
        if record.status in STOPPABLE:
            await self._halt(job)
        return self._records.get(job, record)

    async def stop(self) -> None:
        """Stop every job as the application stops; wait for those that are being published."""
        self._is_stopping = True
        halting = [job for job in self._working if self._records[job].status in STOPPABLE]
        finishing = [task for job, task in self._working.items() if job not in halting]
        await asyncio.gather(*finishing, *map(self._halt, halting))
        for threads in (self._threads, self._disk):
            threads.shutdown(wait=False)

    async def _begin(self) -> None:
        """Read the records once; after a failure the next call reads them again."""
        if self._begun is None or (
            self._begun.done() and (self._begun.cancelled() or self._begun.exception())
        ):
            self._begun = asyncio.create_task(self._recover())
        await asyncio.shield(self._begun)

    async def _recover(self) -> None:
        found = await asyncio.wrap_future(self._disk.submit(self._files.recover))
        self._records = {
            record.id: record
            for record in sorted(found, key=lambda one: (one.submitted_at, one.id))
        }

    def _check_quota(self, tenant: Tenant) -> None:
        active = [record.tenant for record in self._records.values() if not record.has_ended]
        if active.count(tenant) >= self._limits.jobs_per_tenant:
            raise JobQuota("this tenant", self._limits.jobs_per_tenant)
        if len(active) >= self._limits.jobs_in_all:
            raise JobQuota("all tenants", self._limits.jobs_in_all)

    async def _run_job(self, job: str, tenant: Tenant, work: FitWork, actor: Actor) -> None:
        began = self._now()
        try:
            async with self._places:
                began = self._now()
                await self._change(
                    job,
                    status=JobStatus.RUNNING,
                    stage="waiting for a process",
                    started_at=self._timestamp(),
                )
                trained = await self._fit(job, work)
            async with self._publishing:
                await self._change(
                    job, status=JobStatus.PUBLISHING, stage="publishing", progress=1.0
                )
                ended = await self._publish(self._records[job], tenant, trained, actor)
        except asyncio.CancelledError:
            ended = self._halted()
        except TimeoutError:
            late = JobTimeout(self._limits.job_seconds)
            ended = {"status": JobStatus.TIMEOUT, "code": late.code, "message": str(late)}
        except EnsembleError as problem:
            ended = {"status": JobStatus.FAILED, "code": problem.code, "message": str(problem)}
        except Exception:  # an unexpected error ends this job and no other
            logging.getLogger("ray.serve").exception(
                "job_failed", extra={"event": "job_failed", "job": job}
            )
            crashed = JobCrashed()
            ended = {"status": JobStatus.FAILED, "code": crashed.code, "message": str(crashed)}
        await self._end(job, ended, self._now() - began)

    async def _end(self, job: str, ended: Mapping[str, Any], seconds: float) -> None:
        await self._change(job, **{"stage": "", "ended_at": self._timestamp(), **ended})
        record = self._records[job]
        fields = {
            "job": job,
            "tenant": record.tenant,
            "model": record.model,
            "status": str(record.status),
            "code": record.code,
        }
        log_event(
            logging.INFO if record.status is JobStatus.DONE else logging.WARNING,
            "job_ended",
            fields | {"seconds": seconds},
        )
        for old in self._files.superfluous(self._records.values()):
            del self._records[old.id]
            self._disk.submit(self._files.delete, old)

    async def _halt(self, job: str) -> None:
        """Stop a job, and wait until its work has ended."""
        if task := self._working.get(job):
            task.cancel()
            await asyncio.wait({task})
        record = self._records.get(job)
        if record and not record.has_ended:  # cancelled before its first step
            await self._end(job, self._halted(), 0.0)

    def _halted(self) -> dict[str, Any]:
        if self._is_stopping:
            return {"status": JobStatus.LOST, "code": JobLost.code, "message": str(JobLost())}
        return {"status": JobStatus.CANCELLED}

    async def _fit(self, job: str, work: FitWork) -> Trained:
        async with asyncio.timeout(self._limits.job_seconds), aclosing(self._run(work)) as steps:
            async for step in steps:
                if isinstance(step, Trained):
                    return step
                await self._change(job, stage=step.what, progress=step.done)
        raise JobCrashed  # the steps ended without a model

    async def _publish(
        self, record: JobRecord, tenant: Tenant, trained: Trained, actor: Actor
    ) -> dict[str, Any]:
        """Publish, promote if requested, and return the fields of the record that change."""
        about = {"model": record.model, "tenant": tenant, "job": record.id}
        try:
            ref = await self._in_thread(lambda: self._published(tenant, trained, actor))
        except UNPUBLISHED as problem:
            code = _code_of(problem)
            fields = about | {"code": code, "error_type": type(problem).__name__}
            log_event(
                logging.ERROR, "model_save_failed", fields, f"Failed to save model: {record.model}"
            )
            return {"status": JobStatus.FAILED, "code": code, "message": str(JobUnpublished())}
        version = {
            "status": JobStatus.DONE,
            "version": ref.version,
            "manifest_sha256": ref.manifest_sha256,
        }
        log_event(
            logging.INFO,
            "model_saved",
            about | {"version": ref.version, "digest": ref.manifest_sha256},
            "Model saved successfully",
        )
        if not record.as_champion:
            return version
        try:
            await self._in_thread(lambda: self._promoted(ref, actor))
        except UNPUBLISHED as problem:
            code = _code_of(problem)
            log_event(
                logging.ERROR,
                "champion_not_set",
                about
                | {"version": ref.version, "code": code, "error_type": type(problem).__name__},
            )
            return {
                **version,
                "code": code,
                "message": "the version is published, but could not be made champion",
            }
        return {**version, "is_champion": True}

    def _published(self, tenant: Tenant, trained: Trained, actor: Actor) -> BundleRef:
        store = self._store_for(actor)
        now = datetime.fromtimestamp(self._now(), UTC)
        return publish_detector(
            store, tenant, trained, now=now, signer=read_signer(store.trust), quota=self._quota
        )

    def _promoted(self, ref: BundleRef, actor: Actor) -> None:
        store = self._store_for(actor)
        make_champion(store, ref, signer=read_signer(store.trust))

    async def _change(self, job: str, **fields: Any) -> None:  # noqa: ANN401  # fields of a record
        record = self._records[job] = replace(self._records[job], **fields)
        try:
            await self._write(record)
        except (ArtifactError, OSError) as problem:  # the job goes on; a restart sees the old state
            fields = {"job": job, "tenant": record.tenant, "error_type": type(problem).__name__}
            log_event(logging.ERROR, "job_record_not_kept", fields)

    async def _write(self, record: JobRecord) -> None:
        await asyncio.wrap_future(self._disk.submit(self._files.save, record))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread; it runs to its end even if the caller is cancelled."""
        return await asyncio.wrap_future(self._threads.submit(work))

    def _timestamp(self) -> str:
        return timestamp(datetime.fromtimestamp(self._now(), UTC))


def _code_of(problem: Exception) -> str:
    return problem.code if isinstance(problem, EnsembleError) else JobUnpublished.code


def _metadata(spec: TrainingSpec) -> Metadata:
    label = spec.label
    if len(label) > LONGEST_LABEL or not label.isprintable():
        raise MalformedEvent(
            "version", f"must be printable, and have at most {LONGEST_LABEL} characters"
        )
    try:
        size = len(json.dumps(spec.user_metadata, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError):
        raise MalformedEvent("metadata", "must be JSON with finite numbers") from None
    if size > USER_METADATA_BYTES:
        raise MalformedEvent(
            "metadata", f"has {size:,} bytes of JSON; the limit is {USER_METADATA_BYTES:,}"
        )
    return Metadata(label=label, user_metadata=spec.user_metadata)
