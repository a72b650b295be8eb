"""Fixtures of the deployments: a service in this process, its log, and models to break."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.store.layout import Store
from ensemble.store.signing import Signer
from tests.support.models_on_disk import ModelsOnDisk
from tests.support.own_models import trust_signer
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter
from tests.support.service_fixtures import *  # noqa: F403  # all fixtures of a service
from tests.support.slots import resolver_of


@pytest.fixture(scope="session")
def ensemble(shipped: Store) -> LocalEnsemble:
    """The shipped models in this process: a slower, simpler way to the same verdicts."""
    return LocalEnsemble(
        resolver_of(shipped),
        min_coverage=0.5,
        posture_bound=0.5,
        stale_after_days=30,
        expired_after_days=730,
    )


@pytest.fixture
def recorded_log(caplog: pytest.LogCaptureFixture) -> Iterator[RecordedLog]:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        yield RecordedLog(caplog)


@pytest.fixture
def models_on_disk(
    tmp_path: Path, meter: RecordingMeter, own_trust: Path, signer: Signer
) -> Iterator[ModelsOnDisk]:
    """A copy of the shipped models, in a store that trusts the key of the tests."""
    trust_signer(own_trust, signer)
    made = ModelsOnDisk(tmp_path / "shipped", meter)
    yield made
    made.close()
