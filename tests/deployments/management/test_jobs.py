"""Training jobs (S4-13, C-25, I13).

Accepted within limits, fitted in another process, published here, and visible to their tenant only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from deployments.config.settings import Settings, read_settings
from deployments.config.trust import SigningRefused
from deployments.management.job_records import ENDED, JobRecord, JobRecords, JobStatus
from deployments.management.jobs import Jobs, TrainingSpec
from deployments.management.training_actor import FitWork
from ensemble.errors import (
    FeatureMismatch,
    JobCrashed,
    JobQuota,
    MalformedEvent,
    TooManyRows,
    TrainingError,
    UnknownJob,
)
from ensemble.features.tabular import NETWORK_FEATURES
from ensemble.runtime.builder import proven_detector
from ensemble.store.audit_log import read_audit
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.files import atomic
from ensemble.store.layout import Actor, Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.releases.aliases import Alias, read_model_alias
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.tabular_rows import DEFAULT_NAME, Step
from ensemble.training.publish import Trained
from ensemble.training.recipes import tabular
from ensemble.training.recipes.tabular import fit_steps
from tests.support.recorded_telemetry import RecordedLog
from tests.support.timing import Clock

LIMIT_S = 60.0  # a test that hangs fails after this time

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
AMY = Actor("key-1", "203.0.113.7")
MODEL = ModelName(DEFAULT_NAME)
DAY_S = 86_400.0

Run = Callable[[FitWork], AsyncGenerator[Step | Trained, None]]
Rows = list[dict[str, Any]]


def rows(count: int = 120, seed: int = 0) -> Rows:
    table = np.random.default_rng(seed).lognormal(3, 1, (count, 3)).tolist()
    return [dict(zip(NETWORK_FEATURES, row, strict=True)) for row in table]


def wanted(*, as_champion: bool = True, **fields: Any) -> TrainingSpec:
    return TrainingSpec(**({"rows": rows(), "as_champion": as_champion} | fields))


async def fit_here(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
    """The real fit, in this process."""
    for step in fit_steps(work.table, name=work.name, seed=work.seed, metadata=work.metadata):
        yield step
        await asyncio.sleep(0)


class HeldFit:
    """A fit that waits until the test releases it, and records whether it was stopped."""

    def __init__(self) -> None:
        self.began, self.goes_on = asyncio.Event(), asyncio.Event()
        self.fitting, self.most, self.was_stopped = 0, 0, False

    async def __call__(self, work: FitWork) -> AsyncGenerator[Step | Trained, None]:
        self.fitting += 1
        self.most = max(self.most, self.fitting)
        self.began.set()
        try:
            yield Step("forest 1 of 6", 1 / 6)
            await self.goes_on.wait()
            async for step in fit_here(work):
                yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.was_stopped = True
            raise
        finally:
            self.fitting -= 1


class Desk:
    """Jobs over a store and a key of this test's own."""

    def __init__(self, settings: Settings, trust: Trust) -> None:
        self.settings, self.trust, self.clock = settings, trust, Clock(1_700_000_000.0)
        self.made: list[Jobs] = []

    def store(self, actor: Actor) -> Store:
        return Store(self.settings.state, None, self.trust, actor)

    def jobs(self, run: Run = fit_here, *, quota: Quota | None = None, **limits: Any) -> Jobs:
        """The management application after a restart."""
        own = self.settings.model_copy(
            update={"management": self.settings.management.model_copy(update=limits)}
        )
        self.made.append(Jobs(own, self.store, run, quota=quota, now=self.clock))
        return self.made[-1]

    def champion(self, tenant: Tenant = ACME) -> BundleRef | None:
        return read_model_alias(self.store(AMY), tenant, MODEL, Alias.CHAMPION)


@pytest.fixture(autouse=True)
def quick_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small forests: these tests do not check scores."""
    monkeypatch.setattr(tabular, "TREES", 5)


@pytest.fixture
def key(signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The signing key of the tests, where management looks for it."""
    path = tmp_path / "signing.key"
    path.write_bytes(signer.to_pem())
    path.chmod(0o600)
    monkeypatch.setenv("AXON_SIGNING_KEY", str(path))
    return path


@pytest.fixture
# asked for by their effect
def desk(own_state: Path, key: Path, trust: Trust, no_fsync: None) -> Desk:  # noqa: ARG001
    return Desk(read_settings({}), trust)


async def once(jobs: Jobs, record: JobRecord, is_so: Callable[[JobRecord], bool]) -> JobRecord:
    """Return the record as soon as `is_so` holds."""
    # who asks over HTTP has no event either
    while not is_so(found := await jobs.get(Tenant(record.tenant), record.id)):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return found


async def ended(jobs: Jobs, record: JobRecord) -> JobRecord:
    """Return the record once the job has ended."""
    return await once(jobs, record, lambda found: found.status in ENDED)


async def test_a_job_ends_as_a_signed_version_that_serves(
    desk: Desk, recorded_log: RecordedLog
) -> None:
    """S4-08, S4-14.

    Published under the tenant, champion if asked, with the submitter in the audit log.
    """
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs()
        record = await jobs.submit(
            ACME, wanted(label="20261120_081500", user_metadata={"ticket": "SEC-7"}), AMY
        )
        assert (record.status, record.rows, record.submitted_by) == (JobStatus.QUEUED, 120, "key-1")
        done = await ended(jobs, record)
        assert (done.status, done.version, done.is_champion, done.progress, done.code) == (
            JobStatus.DONE,
            1,
            True,
            1.0,
            "",
        )

    ref = desk.champion()
    assert ref is not None
    bundle = open_bundle(desk.store(AMY), ref)
    assert proven_detector(bundle).features == NETWORK_FEATURES
    assert (bundle.manifest.training["label"], bundle.manifest.training["user_metadata"]) == (
        "20261120_081500",
        {"ticket": "SEC-7"},
    )
    assert {(entry.who, entry.where) for entry in read_audit(desk.store(AMY), ACME, limit=100)} == {
        ("key-1", "203.0.113.7")
    }
    assert recorded_log("model_saved")[0]["message"] == "model_saved: Model saved successfully"


async def test_a_job_that_was_not_to_serve_is_published_and_does_not(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs()
        done = await ended(jobs, await jobs.submit(ACME, wanted(as_champion=False), AMY))
        assert (done.status, done.version, done.is_champion) == (JobStatus.DONE, 1, False)

    assert desk.champion() is None


async def test_a_running_job_shows_how_far_it_is(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit)
        record = await jobs.submit(ACME, wanted(), AMY)
        await fit.began.wait()
        found = await once(jobs, record, lambda found: found.progress > 0.0)
        assert (found.status, found.stage, found.progress) == (
            JobStatus.RUNNING,
            "forest 1 of 6",
            pytest.approx(1 / 6),
        )
        fit.goes_on.set()
        assert (await ended(jobs, record)).status is JobStatus.DONE


# -- refused at the door, before anything is computed


async def never(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
    del work
    raise AssertionError("something was computed")
    yield Step("", 0.0)  # a generator


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        pytest.param(lambda: wanted(rows=rows(99)), TrainingError, id="too few rows"),
        pytest.param(lambda: wanted(rows=rows(1001)), TooManyRows, id="too many rows"),
        pytest.param(
            lambda: wanted(rows=[{"other": 1.0}] * 200), FeatureMismatch, id="none of the features"
        ),
        pytest.param(
            lambda: wanted(rows=[*rows(), {**rows(1)[0], "packet_count": float("nan")}]),
            FeatureMismatch,
            id="NaN",
        ),
        pytest.param(lambda: wanted(features=("a", "b")), FeatureMismatch, id="two features"),
        pytest.param(lambda: wanted(model="../x"), MalformedEvent, id="a model name that climbs"),
        pytest.param(lambda: wanted(label="x" * 65), MalformedEvent, id="a long label"),
        pytest.param(lambda: wanted(label="a\nb"), MalformedEvent, id="a label of two lines"),
        pytest.param(
            lambda: wanted(user_metadata={"x": "y" * 9000}),
            MalformedEvent,
            id="metadata without end",
        ),
        pytest.param(
            lambda: wanted(user_metadata={"x": object()}),
            MalformedEvent,
            id="metadata that is no JSON",
        ),
        pytest.param(
            lambda: wanted(user_metadata={"x": float("inf")}),
            MalformedEvent,
            id="metadata that is not finite",
        ),
    ],
)
async def test_what_cannot_be_trained_is_refused_at_the_door(
    desk: Desk, request_: Callable[[], TrainingSpec], error: type[Exception]
) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(never, max_rows=1000)
        with pytest.raises(error):
            await jobs.submit(ACME, request_(), AMY)
        assert await jobs.list(ACME) == []


async def test_without_a_signing_key_nothing_is_computed(desk: Desk, key: Path) -> None:
    """No hours of training for a model that could not be published."""
    key.unlink()

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(SigningRefused):
            await desk.jobs(never).submit(ACME, wanted(), AMY)


async def test_a_tenant_has_only_so_many_jobs_and_another_tenant_still_gets_its_own(
    desk: Desk,
) -> None:
    """I13: running and waiting jobs count; one tenant cannot fill the queue for all."""
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit, jobs_per_tenant=2, jobs_at_once=1)
        first, second = [await jobs.submit(ACME, wanted(), AMY) for _ in range(2)]
        with pytest.raises(JobQuota, match="2 training jobs of this tenant"):
            await jobs.submit(ACME, wanted(), AMY)
        other = await jobs.submit(GLOBEX, wanted(), AMY)
        fit.goes_on.set()
        for record in (first, second, other):
            assert (await ended(jobs, record)).status is JobStatus.DONE
        assert fit.most == 1
        await jobs.submit(ACME, wanted(), AMY)
        await jobs.stop()


async def test_all_tenants_together_have_only_so_many_jobs(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(HeldFit(), jobs_in_all=2)
        for tenant in (ACME, GLOBEX):
            await jobs.submit(tenant, wanted(), AMY)
        with pytest.raises(JobQuota, match="all tenants"):
            await jobs.submit(Tenant("third"), wanted(), AMY)
        await jobs.stop()


async def test_jobs_that_are_submitted_at_the_same_moment_do_not_slip_past_the_limit(
    desk: Desk,
) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(HeldFit(), jobs_per_tenant=2)
        given = await asyncio.gather(
            *(jobs.submit(ACME, wanted(), AMY) for _ in range(6)), return_exceptions=True
        )
        assert sum(isinstance(one, JobQuota) for one in given) == 4
        await jobs.stop()


# -- whose jobs


async def test_a_job_is_told_to_its_tenant_alone(desk: Desk) -> None:
    """Another tenant's job and a job that does not exist get the same answer."""
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(HeldFit())
        record = await jobs.submit(ACME, wanted(), AMY)
        for ask in (jobs.get, jobs.cancel):
            for tenant, job in ((GLOBEX, record.id), (ACME, "0" * 32), (ACME, "../" + record.id)):
                with pytest.raises(UnknownJob):
                    await ask(tenant, job)
        assert await jobs.list(GLOBEX) == []
        assert [one.id for one in await jobs.list(ACME)] == [record.id]
        await jobs.stop()


async def test_jobs_are_listed_with_the_newest_first(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs()
        made = []
        for _ in range(3):
            made.append((await ended(jobs, await jobs.submit(ACME, wanted(), AMY))).id)
            desk.clock.now += 60
        assert [record.id for record in await jobs.list(ACME)] == made[::-1]
        assert [record.id for record in await desk.jobs().list(ACME)] == made[
            ::-1
        ]  # after a restart too


# -- how jobs end


async def test_a_running_job_is_cancelled_and_its_fit_is_stopped(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit)
        record = await jobs.submit(ACME, wanted(), AMY)
        await fit.began.wait()
        assert (await jobs.cancel(ACME, record.id)).status is JobStatus.CANCELLED
        assert fit.was_stopped
        assert (
            await jobs.cancel(ACME, record.id)
        ).status is JobStatus.CANCELLED  # once more changes nothing

    assert desk.champion() is None


async def test_a_waiting_job_is_cancelled_and_gives_up_its_place(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit, jobs_at_once=1)
        first, second = [await jobs.submit(ACME, wanted(), AMY) for _ in range(2)]
        await fit.began.wait()
        assert (await jobs.cancel(ACME, second.id)).status is JobStatus.CANCELLED
        third = await jobs.submit(ACME, wanted(), AMY)
        fit.goes_on.set()
        assert [(await ended(jobs, one)).status for one in (first, third)] == [JobStatus.DONE] * 2


async def test_a_job_that_takes_too_long_is_stopped_and_says_so(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit, job_seconds=0.05)
        found = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        assert (found.status, found.code, found.message) == (
            JobStatus.TIMEOUT,
            "JOB_TIMEOUT",
            "not trained within 0.05 s",
        )
        assert fit.was_stopped


@pytest.mark.parametrize(
    ("problem", "code", "message"),
    [
        pytest.param(
            TrainingError("nearly all rows are alike"),
            "TRAINING_ERROR",
            "nearly all rows are alike",
            id="rows that cannot teach",
        ),
        pytest.param(
            JobCrashed(),
            "JOB_CRASHED",
            "the training ended without a model; the log knows more",
            id="a process that died",
        ),
        pytest.param(
            RuntimeError("/root/secret"),
            "JOB_CRASHED",
            "the training ended without a model; the log knows more",
            id="a mistake of ours",
        ),
        pytest.param(
            None,
            "JOB_CRASHED",
            "the training ended without a model; the log knows more",
            id="an end without a model",
        ),
    ],
)
async def test_a_fit_that_fails_ends_its_job_alone(
    desk: Desk, problem: Exception | None, code: str, message: str
) -> None:
    """R14: the record has no path and no text of another error."""

    async def broken(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
        yield Step(work.name, 0.1)
        if problem:
            raise problem

    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(broken)
        found = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        assert (found.status, found.code, found.message, found.version) == (
            JobStatus.FAILED,
            code,
            message,
            0,
        )
        jobs._run = fit_here
        assert (await ended(jobs, await jobs.submit(ACME, wanted(), AMY))).status is JobStatus.DONE


async def test_a_full_disk_publishes_nothing_and_the_champion_of_before_stays(
    desk: Desk, recorded_log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F20."""
    written = atomic.write_new

    def full(directory: Path, name: str, data: bytes, **options: Any) -> str:
        if name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(directory, name, data, **options)

    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs()
        await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        before = desk.champion()
        monkeypatch.setattr(atomic, "write_new", full)
        found = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        assert (found.status, found.code) == (JobStatus.FAILED, "JOB_UNPUBLISHED")
        assert desk.champion() == before
        await jobs.stop()  # waits for what is still written

    assert recorded_log("model_save_failed")[0]["message"].startswith(
        "model_save_failed: Failed to save model"
    )
    assert list((desk.settings.state / ".staging").iterdir()) == []


async def test_a_full_quota_of_versions_fails_the_job_with_its_code(desk: Desk) -> None:
    """I13: publish ten thousand versions."""
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(quota=Quota(versions_per_model=1, models_per_tenant=5))
        await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        found = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        assert (found.status, found.code) == (JobStatus.FAILED, "QUOTA_EXCEEDED")


async def test_a_key_that_is_gone_by_the_end_fails_the_job_and_publishes_nothing(
    desk: Desk, key: Path
) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit)
        record = await jobs.submit(ACME, wanted(), AMY)
        await fit.began.wait()
        key.unlink()  # a test may block
        fit.goes_on.set()
        found = await ended(jobs, record)
        assert (found.status, found.code, found.version) == (JobStatus.FAILED, "JOB_UNPUBLISHED", 0)


# -- over a restart


async def test_after_a_restart_an_ended_job_is_known_and_a_running_one_is_lost(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit)
        fit.goes_on.set()
        done = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
        fit.goes_on.clear()
        running = await jobs.submit(ACME, wanted(), AMY)
        await once(jobs, running, lambda found: found.status is JobStatus.RUNNING)

        after = desk.jobs()  # the first one is as good as killed: it writes nothing any more
        assert await after.get(ACME, done.id) == done
        lost = await after.get(ACME, running.id)
        assert (lost.status, lost.code) == (JobStatus.LOST, "JOB_LOST")
        assert (
            await desk.jobs().get(ACME, running.id)
        ).status is JobStatus.LOST  # it was written down
        await jobs.stop()


async def test_management_that_stops_in_order_leaves_no_job_that_seems_to_run(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        fit = HeldFit()
        jobs = desk.jobs(fit)
        record = await jobs.submit(ACME, wanted(), AMY)
        await fit.began.wait()
        await jobs.stop()
        assert fit.was_stopped
        assert (await desk.jobs().get(ACME, record.id)).status is JobStatus.LOST


async def test_a_job_that_cannot_be_written_down_is_not_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: JobRecords, record: JobRecord) -> None:
        del self, record
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(never)
        monkeypatch.setattr(JobRecords, "save", fails)
        with pytest.raises(OSError, match="No space left"):
            await jobs.submit(ACME, wanted(), AMY)
        assert await jobs.list(ACME) == []


# -- the files


@pytest.fixture
# asked for by its effect
def records(own_state: Path, no_fsync: None) -> JobRecords:  # noqa: ARG001
    return JobRecords(own_state, limit=3, max_age_days=30, now=Clock(1_700_000_000.0))


def record_of(
    number: int, tenant: str = "acme", ended_at: str = "2023-11-14T00:00:00Z"
) -> JobRecord:
    return JobRecord(
        id=f"{number:032x}",
        tenant=tenant,
        model="m",
        status=JobStatus.DONE,
        rows=100,
        features=NETWORK_FEATURES,
        as_champion=False,
        submitted_by="",
        submitted_at=ended_at,
        ended_at=ended_at,
    )


def test_a_record_is_read_as_it_was_written(records: JobRecords) -> None:
    record = replace(record_of(1), message="ü", progress=0.5)
    records.save(record)

    assert records.recover() == [record]


def test_old_jobs_and_too_many_jobs_are_forgotten(records: JobRecords) -> None:
    """The folder is bounded: the newest three of each tenant, none older than 30 days."""
    for number in range(5):
        records.save(record_of(number, ended_at=f"2023-11-14T00:00:0{number}Z"))
    records.save(record_of(9, tenant="globex", ended_at="2023-09-01T00:00:00Z"))

    assert sorted(int(record.id, 16) for record in records.recover()) == [2, 3, 4]
    assert sorted(int(record.id, 16) for record in records.recover()) == [2, 3, 4]


async def test_jobs_are_forgotten_while_management_runs_too(desk: Desk) -> None:
    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(jobs_kept=1)
        for _ in range(3):
            last = await ended(jobs, await jobs.submit(ACME, wanted(), AMY))
            desk.clock.now += 60
        await jobs.stop()  # waits for what the last one still has to do
        assert await jobs.list(ACME) == [last]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        pytest.param("f" * 32 + ".json", b"{", id="torn"),
        pytest.param("f" * 32 + ".json", b"x" * 70_000, id="too long"),
        pytest.param("f" * 32 + ".json", msgspec.json.encode(record_of(1)), id="another job's"),
        pytest.param(
            "f" * 32 + ".json",
            msgspec.json.encode(replace(record_of(0xF), tenant="globex", id="f" * 32)),
            id="another tenant's",
        ),
        pytest.param("notes.txt", b"hello", id="something else"),
    ],
)
def test_whatever_else_lies_in_the_folder_is_passed_over(
    records: JobRecords, own_state: Path, name: str, data: bytes
) -> None:
    records.save(record_of(1))
    (own_state / "jobs" / "acme" / name).write_bytes(data)

    assert records.recover() == [record_of(1)]


def test_a_link_in_the_place_of_a_record_is_not_followed(
    records: JobRecords, own_state: Path, tmp_path: Path
) -> None:
    records.save(record_of(1))
    outside = tmp_path / "elsewhere.json"
    outside.write_bytes(msgspec.json.encode(record_of(2)))
    (own_state / "jobs" / "acme" / f"{record_of(2).id}.json").symlink_to(outside)

    assert records.recover() == [record_of(1)]


async def test_who_stops_waiting_for_a_submission_leaves_no_job(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that disconnects never got the id of a job."""
    saved = JobRecords.save
    begun, goes_on = threading.Event(), threading.Event()

    def slow(self: JobRecords, record: JobRecord) -> None:
        begun.set()
        goes_on.wait(10.0)
        saved(self, record)

    async with asyncio.timeout(LIMIT_S):
        jobs = desk.jobs(never)
        await jobs.list(ACME)
        monkeypatch.setattr(JobRecords, "save", slow)
        submitting = asyncio.create_task(jobs.submit(ACME, wanted(), AMY))
        await asyncio.to_thread(begun.wait, 10.0)
        submitting.cancel()
        with suppress(asyncio.CancelledError):
            await submitting
        goes_on.set()
        assert await jobs.list(ACME) == []
        jobs._disk.shutdown()
        assert await desk.jobs().list(ACME) == []
