"""A fit in a real Ray cluster.

Progress arrives step by step, and closing the generator ends the process (R14).
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from deployments.config.settings import read_settings
from deployments.management import training_actor
from deployments.management.job_records import JobRecord, JobStatus
from deployments.management.jobs import Jobs, TrainingSpec
from deployments.management.training_actor import NICE, FitWork, run_in_ray
from ensemble.errors import JobCrashed, TrainingError
from ensemble.features.tabular import NETWORK_FEATURES
from ensemble.store.bundles.metadata import Metadata
from ensemble.store.layout import Actor, Store
from ensemble.store.names import Tenant
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.tabular_rows import Step, TrainingTable
from ensemble.training.publish import Trained
from tests.support.recorded_telemetry import RecordedLog
from tests.support.timing import wait_until

LIMIT_S = 120.0  # a test that hangs fails after this time

pytestmark = pytest.mark.cluster

ACME, AMY = Tenant("acme"), Actor("key-1", "203.0.113.7")
RUN = partial(run_in_ray, num_cpus=0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster on this machine, for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
        )
        yield
        ray.shutdown()


def work(count: int = 300, **fields: Any) -> FitWork:
    table = TrainingTable(NETWORK_FEATURES, np.random.default_rng(0).lognormal(3, 1, (count, 3)))
    return FitWork(**({"table": table, "name": "m", "seed": 42, "metadata": Metadata()} | fields))


def trainers() -> list[psutil.Process]:
    """The processes that fit now, or wait for their work: Ray titles them by their class."""
    return [one for one in psutil.Process().children(recursive=True) if "ray::Fit" in _title(one)]


def _title(process: psutil.Process) -> str:
    """The title of a process; empty once it has ended, whether or not its parent has noticed."""
    try:
        return "".join(process.cmdline()[:1])
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def slow_fit(work: FitWork) -> Iterator[Step | Trained]:
    """A fit that never ends and ignores interrupts."""
    yield Step(work.name, 0.1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Event().wait()


def dying_fit(work: FitWork) -> Iterator[Step | Trained]:
    """A fit whose process is killed, as by the system when memory runs out."""
    yield Step(work.name, 0.1)
    os.kill(os.getpid(), signal.SIGKILL)


def failing_fit(work: FitWork) -> Iterator[Step | Trained]:
    """A fit with a bug in it."""
    yield Step(work.name, 0.1)
    raise RuntimeError("a mistake")


def by_value(
    fit: Callable[[FitWork], Iterator[Step | Trained]],
) -> Callable[[FitWork], Iterator[Step | Trained]]:
    """Pickle `fit` by value: Ray's processes cannot import this module."""
    fit.__module__ = "__main__"
    return fit


# asked for by its effect
async def test_a_fit_tells_how_far_it_is_and_gives_back_arrays(cluster: None) -> None:  # noqa: ARG001
    async with asyncio.timeout(LIMIT_S):
        *steps, trained = [step async for step in RUN(work())]
        assert isinstance(trained, Trained)
        assert [step.done for step in steps if isinstance(step, Step)] == pytest.approx(
            [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6]
        )
        assert trained.training["rows"] == 300


# asked for by its effect
async def test_a_fit_lets_scoring_go_first(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """R14.

    Ray's workers run at the priority of scoring, as `axon serve` starts them; a fit does not.
    """
    fit = training_actor.fit

    def watched(work: FitWork) -> Iterator[Step | Trained]:
        for _ in fit(work):
            yield Step(str(os.getpriority(os.PRIO_PROCESS, 0)), 0.1)

    monkeypatch.setattr(training_actor, "fit", by_value(watched))

    async with asyncio.timeout(LIMIT_S):
        steps = [step async for step in RUN(work())]
        assert min(int(step.what) for step in steps if isinstance(step, Step)) >= NICE


async def test_a_job_trains_in_ray_and_another_is_cancelled_and_a_third_times_out(
    cluster: None,  # noqa: ARG001  # asked for by its effect
    own_state: Path,
    signer: Signer,
    trust: Trust,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R14: no process of a fit outlives its job, and no other job is affected."""
    key = tmp_path / "signing.key"
    key.write_bytes(signer.to_pem())
    key.chmod(0o600)
    monkeypatch.setenv("AXON_SIGNING_KEY", str(key))
    request = TrainingSpec(
        rows=[
            dict(zip(NETWORK_FEATURES, row, strict=True)) for row in work().table.values.tolist()
        ],
        as_champion=True,
    )

    def management(job_seconds: float) -> Jobs:
        settings = read_settings({"management": {"job_seconds": job_seconds}})
        return Jobs(settings, lambda actor: Store(own_state, None, trust, actor), RUN)

    async def once(jobs: Jobs, record: JobRecord, is_so: Callable[[JobRecord], bool]) -> JobRecord:
        # who asks over HTTP has no event either
        while not is_so(found := await jobs.get(ACME, record.id)):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return found

    async with asyncio.timeout(LIMIT_S):
        jobs = management(60.0)
        seen: list[float] = []
        record = await jobs.submit(ACME, request, AMY)
        done = await once(
            jobs, record, lambda found: seen.append(found.progress) or found.has_ended
        )
        assert len({share for share in seen if 0.0 < share < 1.0}) > 1
        assert (done.status, done.version, done.is_champion) == (JobStatus.DONE, 1, True)

        monkeypatch.setattr(training_actor, "fit", by_value(slow_fit))
        record = await jobs.submit(ACME, request, AMY)
        await once(jobs, record, lambda found: found.progress > 0.0)
        (process,) = trainers()
        assert (await jobs.cancel(ACME, record.id)).status is JobStatus.CANCELLED
        assert await asyncio.to_thread(wait_until, lambda: not process.is_running(), 10.0)

        await jobs.stop()

        jobs = management(5.0)
        record = await jobs.submit(ACME, request, AMY)
        late = await once(jobs, record, lambda found: found.has_ended)
        assert (late.status, late.code) == (JobStatus.TIMEOUT, "JOB_TIMEOUT")
        assert await asyncio.to_thread(wait_until, lambda: trainers() == [], 10.0)
        await jobs.stop()


async def test_a_fit_may_be_stopped_at_any_moment_around_its_end(
    cluster: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller stops the fit after its last step, while Ray is still completing it.

    If the fit were a task, cancelling it would make Ray 2.60 end this process: once in some 240
    such fits, once in 40 real ones.
    """

    def short_fit(work: FitWork) -> Iterator[Step | Trained]:
        yield Step(work.name, 1.0)

    monkeypatch.setattr(training_actor, "fit", by_value(short_fit))
    moments = np.random.default_rng(0).uniform(
        0.0, 0.004, 240 if os.environ.get("AXON_VERIFY") == "1" else 12
    )

    async def stop(after_s: float) -> None:
        async with aclosing(RUN(work())) as steps:
            async for _ in steps:
                # a timer of the event loop is not fine enough
                time.sleep(after_s)  # noqa: ASYNC251
                return

    async with asyncio.timeout(LIMIT_S):
        for pair in moments.reshape(-1, 2):
            await asyncio.gather(*map(stop, pair))
        assert await asyncio.to_thread(wait_until, lambda: trainers() == [], 10.0)


async def test_a_fit_that_waits_for_a_process_can_be_stopped(
    cluster: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = partial(run_in_ray, num_cpus=2.0)
    monkeypatch.setattr(training_actor, "fit", by_value(slow_fit))

    async with asyncio.timeout(LIMIT_S):
        async with aclosing(everything(work())) as first:
            await anext(first)
            waits = asyncio.create_task(anext(everything(work())))
            await asyncio.sleep(0.5)
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
        async with aclosing(
            everything(work())
        ) as third:  # nothing is left of the two that had, and wanted, all processors
            assert isinstance(await anext(third), Step)


@pytest.mark.parametrize(
    "fit", [pytest.param(dying_fit, id="killed"), pytest.param(failing_fit, id="raises")]
)
async def test_a_fit_that_dies_is_one_error_of_ours(
    cluster: None,  # noqa: ARG001  # asked for by its effect
    fit: Callable[[FitWork], Iterator[Step | Trained]],
    recorded_log: RecordedLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_actor, "fit", by_value(fit))

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(JobCrashed):
            [step async for step in RUN(work())]

    assert recorded_log.events == ["training_failed"]


# asked for by its effect
async def test_rows_that_cannot_teach_are_said_to_be_that(cluster: None) -> None:  # noqa: ARG001
    """It is not a crash, and has no traceback of Ray around it."""
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(TrainingError) as raised:
            [step async for step in RUN(work(count=10))]
        assert str(raised.value) == "10 rows are too few to train on; at least 100 are needed"
