"""Scoring beside a training job that uses all CPU or dies (R14)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from ensemble.features.tabular import NETWORK_FEATURES
from tests.support.callers import figures
from tests.support.running_service import CONNECTIONS, IS_LONG, NOISE_S, Service
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

ANSWERED_WITHIN_S = 0.250 * 1.1 + NOISE_S  # RELIABILITY P18
ROWS = 30_000 if IS_LONG else 10_000  # two fits of them keep two cores busy for seconds
CALM_S = 2.0
ENDED_WITHIN_S = 120.0
SWEPT_WITHIN_S = 4.0
STARTED_WITHIN_S = 60.0  # a new process that imports scikit-learn


@pytest.fixture(scope="module")
def table() -> bytes:
    """A body of POST /models/train."""
    rows = np.random.default_rng(0).lognormal(3, 1, (ROWS, 3)).round(3).tolist()
    return json.dumps(
        {"network_data": [dict(zip(NETWORK_FEATURES, row, strict=True)) for row in rows]}
    ).encode()


@pytest.fixture
def trainer(service: Service) -> Service:
    """The service, with a key to sign the models that it trains."""
    service.axon("trust", "init")
    return service


JSON = {"Content-Type": "application/json"}


def submit(service: Service, table: bytes) -> str:
    answer = httpx.post(
        f"http://127.0.0.1:{service.port}/models/train",
        content=table,
        headers=JSON,
        timeout=30.0,
        trust_env=False,
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def job(service: Service, number: str) -> dict[str, Any]:
    return service.get(f"/models/jobs/{number}")


def has_ended(service: Service, number: str) -> bool:
    return job(service, number)["status"] not in {"queued", "running", "publishing"}


def fits(service: Service) -> list[psutil.Process]:
    """Find the processes of training actors, which Ray titles by their class."""
    return service.titled("ray::Fit")


def test_scoring_has_priority_while_two_jobs_train(trainer: Service, table: bytes) -> None:
    """R14: requests keep their deadline; the jobs use the remaining CPU time, and finish."""
    with trainer.callers() as callers:
        callers.warm()
        calm = callers.between(*callers.go_on(CALM_S))
        at, _ = callers.go_on(0.0)
        jobs = [submit(trainer, table) for _ in range(2)]
        assert wait_until(lambda: all(has_ended(trainer, one) for one in jobs), ENDED_WITHIN_S)
        _, until = callers.go_on(0.0)
    busy = callers.between(at, until)
    print(
        f"\nbefore: {figures(calm)}\nwhile two jobs of {ROWS:,} rows train, {until - at:.1f} "
        f"s: {figures(busy)}"
    )

    assert [job(trainer, one)["status"] for one in jobs] == ["done", "done"]
    assert [one for one in busy if not one.is_answered] == []
    assert sum(one.elapsed_s > ANSWERED_WITHIN_S for one in busy) <= CONNECTIONS


def test_the_kill_of_a_job_fails_only_that_job_and_leaves_no_files(
    trainer: Service, table: bytes
) -> None:
    """R14, F21: no version, nothing in staging, and every request has a verdict."""
    with trainer.callers() as callers:
        callers.warm()
        at, _ = callers.go_on(0.0)
        number = submit(trainer, table)
        assert wait_until(lambda: bool(fits(trainer)), STARTED_WITHIN_S)
        for process in fits(trainer):
            process.kill()
        assert wait_until(lambda: has_ended(trainer, number), ENDED_WITHIN_S)
    replies = callers.between(at)
    found = job(trainer, number)
    print(f"\na fit killed: {figures(replies)}")

    assert (found["status"], found["error"]["code"]) == ("failed", "JOB_CRASHED")
    assert found.get("model_version") is None
    # the record of the job is written through staging too
    assert wait_until(lambda: not list((trainer.state / ".staging").iterdir()), SWEPT_WITHIN_S)
    assert [one for one in replies if not one.is_answered] == []
