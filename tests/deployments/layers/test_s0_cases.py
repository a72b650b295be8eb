"""The four acceptance cases of S0, with the layers' deployments and damaged real files."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.store.bundles import manifest
from ensemble.store.files import safe_read
from tests.support.asgi_clients import Event
from tests.support.models_on_disk import ModelsOnDisk, layer_statuses
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter


@pytest.fixture
def world(
    tmp_path: Path, meter: RecordingMeter, recorded_log: RecordedLog
) -> Iterator[ModelsOnDisk]:
    del recorded_log  # records from the start
    made = ModelsOnDisk(tmp_path / "shipped", meter)
    yield made
    made.close()


def test_s0_27_a_corrupt_anomaly_file_affects_the_anomaly_layer_only(
    world: ModelsOnDisk, recorded_log: RecordedLog, flow_events: list[Event]
) -> None:
    """S0-27: layer1_load_failed, layer1_dummy_active, PARTIALLY_OPERATIONAL; resilience works."""
    for name in ("anomaly-flow", "anomaly-process"):
        for file in world.files(f"{name}/*/model.safetensors"):
            file.write_bytes(file.read_bytes()[:-1000])

    answer = world.start().post("/v1/score", flow_events[0]).json()

    assert {"layer1_load_failed", "layer1_dummy_active", "layer2_loaded"} <= set(
        recorded_log.events
    )
    assert layer_statuses(answer) == {
        "anomaly": "fallback",
        "behavior": "live",
        "classifier": "live",
        "resilience": "live",
    }
    assert answer["status"] == "PARTIALLY_OPERATIONAL"
    (failed, *_) = recorded_log("layer1_load_failed")
    assert (failed["error_code"], failed["code"], failed["cause"]) == (
        "MODEL_LOAD_ERROR",
        "ARTIFACT_CORRUPT",
        "files",
    )
    assert failed["action"] == "initializing_dummy_model"


def test_s0_28_without_any_file_every_event_is_still_processed(
    world: ModelsOnDisk, recorded_log: RecordedLog, flow_events: list[Event]
) -> None:
    """S0-28: layer1_files_missing and layer2_files_missing, FALLBACK_MODE, events are processed.

    Without any opinion the verdict is indeterminate.
    """
    for file in world.files("model.safetensors"):
        file.unlink()

    client = world.start()
    answer = client.post("/v1/score", flow_events[0]).json()
    client.loop.run(
        client.ingress._monitor.poll()
    )  # the ingress does this itself once it is started

    assert {
        "layer1_files_missing",
        "layer1_load_failed",
        "layer2_files_missing",
        "layer2_load_failed",
    } <= set(recorded_log.events)
    assert (answer["status"], answer["verdict"], answer["coverage"]) == (
        "FALLBACK_MODE",
        "indeterminate",
        0.0,
    )
    incidents = {
        record["incident"]
        for record in recorded_log()
        if record["event"].startswith("layer2_") and "incident" in record
    }
    assert len(incidents) == 1, "both events of a missing file have the same incident (C-31)"
    (status,) = recorded_log("ml_models_status")[-1:]
    assert (status["status"], status["service_status"]) == (
        "FALLBACK_MODE",
        "RESILIENCE_SCORING_ONLY",
    )


def test_s0_29_a_model_of_another_version_is_reported_and_the_service_continues(
    world: ModelsOnDisk,
    recorded_log: RecordedLog,
    flow_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S0-29, C-09: an intact model of another format is incompatible, not corrupt, and not decoded.

    Axon's models are arrays, which depend on no library's version. A forest of another version of
    scikit-learn is refused by `axon import`.
    """
    monkeypatch.setattr(manifest, "FORMAT", 2)

    answer = world.start().post("/v1/score", flow_events[0]).json()

    assert (answer["status"], layer_statuses(answer)["anomaly"]) == ("FALLBACK_MODE", "fallback")
    failed = recorded_log("layer1_load_failed")[0]
    assert (failed["code"], failed["cause"]) == ("ARTIFACT_INCOMPATIBLE", "dependencies")
    assert "format 2" in failed["error"]


def test_s0_30_a_failing_disk_affects_every_model_and_no_response(
    world: ModelsOnDisk,
    recorded_log: RecordedLog,
    flow_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """S0-30: layer1 and layer2 load_failed with the system's error number, FALLBACK_MODE."""
    honest = os.read

    def failing(fd: int, size: int) -> bytes:
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return honest(fd, size)

    monkeypatch.setattr(safe_read.os, "read", failing)

    answer = world.start().post("/v1/score", flow_events[0]).json()

    assert answer["status"] == "FALLBACK_MODE"
    for event in ("layer1_load_failed", "layer2_load_failed"):
        failed = recorded_log(event)[0]
        assert (failed["code"], "[Errno 5]" in failed["error"]) == ("ARTIFACT_UNREADABLE", True)


def test_a_missing_file_has_the_systems_error_number_too(
    world: ModelsOnDisk, recorded_log: RecordedLog
) -> None:
    """S0-30 greps for "[Errno 2]"."""
    world.files("behavior-flow/2/model.safetensors")[0].unlink()

    world.start()

    assert recorded_log("layer2_load_failed")[0]["error"].startswith("[Errno 2] ")


def test_restored_files_are_fully_operational_at_the_next_poll(
    world: ModelsOnDisk, recorded_log: RecordedLog, flow_events: list[Event], tmp_path: Path
) -> None:
    """P7: no restart; the log event of the load ends the incident."""
    torn = world.files("model.safetensors")
    kept = {file: file.read_bytes() for file in torn}
    for file in torn:
        file.write_bytes(b"")
    client = world.start()
    assert client.post("/v1/score", flow_events[0]).json()["status"] == "FALLBACK_MODE"

    for file, data in kept.items():
        file.write_bytes(data)
    world.poll()
    answer = client.post("/v1/score", flow_events[0]).json()

    assert (answer["status"], answer["coverage"]) == ("FULLY_OPERATIONAL", 1.0)
    assert {"resolves_incident"} <= set(recorded_log("layer2_loaded")[-1])
    assert not list((tmp_path / "state").glob("tenants/*")), (
        "recovery writes nothing into the store"
    )
