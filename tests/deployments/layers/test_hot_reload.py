"""Hot reload with real models (P5, P7, N-05).

A failed reload changes nothing and is reported; a successful one loses nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable

import pytest

from deployments.cli.local_store import own_store
from deployments.scoring import pipeline
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import LoadCheck
from ensemble.store.bundles.codecs import GOLDEN, Golden, decode_golden, decode_parts
from ensemble.store.bundles.open import open_bundle
from ensemble.store.names import ModelName, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer
from ensemble.training.publish import Trained, publish
from tests.support.asgi_clients import Event, IngressClient
from tests.support.models_on_disk import ModelsOnDisk, layer_statuses
from tests.support.publishing import NOW
from tests.support.recorded_telemetry import RecordedLog, RecordingMeter

DEFAULT = Tenant("default")
SHIPPED = 4  # number of the shipped release
Release = Callable[..., int]


@pytest.fixture
def release(signer: Signer) -> Release:
    """`release("anomaly-flow", shift=...)` publishes and promotes a new release.

    It has the same model again, with its golden scores shifted.
    """

    def one(model: str, *, shift: float = 0.0, at_once: bool = True) -> int:
        store = own_store()
        pointer = read_pointer(store, DEFAULT)
        bundle = open_bundle(store, read_release(store, DEFAULT, SHIPPED).bundles[ModelName(model)])
        golden = decode_golden(bundle.files[GOLDEN])
        shifted = Golden(golden.events, [abs(score - shift) for score in golden.scores])
        training = {"recipe": "the same again", "data_sha256": "0" * 64, "seed": 0, "rows": 1}
        trained = Trained(model, decode_parts(bundle.files), shifted, training, "# Card\n")
        made = publish(
            store, "default", [trained], {}, notes="", now=NOW, signer=signer, and_promote=False
        )
        promote(store, DEFAULT, made.release, pointer.serial, signer=signer, at_once=at_once)
        return made.release.serial

    return one


def score(client: IngressClient, event: Event) -> bytes:
    """The body of a response, without the values that differ from call to call."""
    answer = client.post("/v1/score", event)
    assert answer.status_code == 200
    return re.sub(rb'(?<="elapsed_ms":)[0-9.]+|(?<="scored_at":)"[^"]+"', b"0", answer.content)


@pytest.mark.parametrize("model", ["anomaly-flow", "behavior-flow"])
def test_after_a_failed_reload_every_response_is_equal_to_the_byte(
    models_on_disk: ModelsOnDisk,
    release: Release,
    flow_events: list[Event],
    recorded_log: RecordedLog,
    model: str,
) -> None:
    """P5: same version, same bytes; the problem is in the status, the log and the counters."""
    client = models_on_disk.start()
    before = score(client, flow_events[0])

    release(model, shift=0.25)
    models_on_disk.poll()
    after = score(client, flow_events[0])
    status = client.get("/v1/status").json()

    assert after == before
    assert status["release"] == "default/4"
    layer = model.split("-", maxsplit=1)[0]
    assert any(
        layer in record["layer"]
        for record in recorded_log()
        if record["event"].endswith("_load_failed")
    )


def test_the_wanted_release_serves_once_it_is_repaired(
    models_on_disk: ModelsOnDisk, release: Release, flow_events: list[Event]
) -> None:
    """P7: here by the next release, without a restart."""
    client = models_on_disk.start()
    release("anomaly-flow", shift=0.25)
    models_on_disk.poll()

    number = release("anomaly-flow")
    models_on_disk.poll()

    assert client.get("/v1/status").json()["release"] == f"default/{number}"
    versions = {
        layer["layer"]: layer["version"]
        for layer in json.loads(score(client, flow_events[0]))["layers"]
    }
    assert versions["anomaly"] == "4"


def test_a_start_with_a_release_that_does_not_load_serves_the_last_good_one(
    models_on_disk: ModelsOnDisk, release: Release, flow_events: list[Event]
) -> None:
    """N-05: an older model is better than a fallback score.

    Only the layer whose model is older has the status `last_good`.
    """
    expected = layer_statuses(json.loads(score(models_on_disk.start(), flow_events[0])))
    release("anomaly-flow", shift=0.25)

    client = models_on_disk.start()
    models_on_disk.poll()
    answer = json.loads(score(client, flow_events[0]))

    assert layer_statuses(answer) == {**expected, "anomaly": "last_good"}
    assert (answer["coverage"], answer["degraded"], answer["status"]) == (
        1.0,
        False,
        "FULLY_OPERATIONAL",
    )
    assert client.get("/v1/status").json()["release"] == "default/4"


def test_damage_on_disk_is_reported_while_the_model_in_memory_serves(
    models_on_disk: ModelsOnDisk, flow_events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart would lose the model, so the operator must know before."""
    monkeypatch.setattr(pipeline, "STATES_CACHED_S", 0.0)
    client = models_on_disk.start()
    before = score(client, flow_events[0])
    models_on_disk.files("behavior-flow/2/model.safetensors")[0].write_bytes(b"")

    models_on_disk.poll()

    assert score(client, flow_events[0]) == before
    (behavior,) = [
        layer for layer in client.get("/v1/status").json()["layers"] if layer["layer"] == "behavior"
    ]
    assert behavior["files_present"] is False
    assert behavior["kinds"]["flow"]["status"] == "live"


def test_a_layer_runs_one_load_check_at_a_time(
    models_on_disk: ModelsOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1-05: each check loads the models once more, so checks of many callers must not add up."""
    models_on_disk.start()
    layer = models_on_disk._layers["behavior"]
    go_on, trials = threading.Event(), []

    def slow() -> dict[Kind, LoadCheck]:
        trials.append(1)
        go_on.wait(10)
        return {}

    monkeypatch.setattr(layer.slots.of("default").slot, "check_load", slow)

    async def check_twice() -> None:
        first = asyncio.create_task(layer.test())
        await asyncio.sleep(0)
        first.cancel()
        others = [asyncio.create_task(layer.test()) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*others) == [{}] * 3
        assert len(trials) == 1
        await layer.test()

    asyncio.run(check_twice())

    assert len(trials) == 2


def test_the_gauges_of_a_layer_cover_all_its_kinds(
    models_on_disk: ModelsOnDisk, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1-02: a layer has one gauge, so an intact kind must not hide a damaged one."""
    monkeypatch.setattr("deployments.layers.deployment.RayMeter", lambda: meter)
    models_on_disk.start()
    before = meter.value("axon_model_size_bytes", provider="anomaly", state="loaded")
    assert meter.value("axon_model_files_present", provider="anomaly") == 1.0

    for version in models_on_disk.files("anomaly-flow/*/manifest.json"):
        version.unlink()  # the one before too, or it would be the fallback
    models_on_disk.start()

    assert meter.value("axon_model_files_present", provider="anomaly") == 0.0
    assert meter.value("axon_model_files_present", provider="behavior") == 1.0
    assert 0 < meter.value("axon_model_size_bytes", provider="anomaly", state="loaded") < before / 2


def test_a_reload_reuses_unchanged_models(models_on_disk: ModelsOnDisk, release: Release) -> None:
    """Only missing models are loaded: a new release of one model must not load the others again."""
    models_on_disk.start()
    held = {
        layer: deployment.slots.of("default").slot.loaded[0].models
        for layer, deployment in models_on_disk._layers.items()
    }

    release("anomaly-process")
    models_on_disk.poll()

    for layer, deployment in models_on_disk._layers.items():
        for kind in LAYERS[layer].kinds:
            is_same = (
                deployment.slots.of("default").slot.loaded[0].models[kind].model
                is held[layer][kind].model
            )
            assert is_same != (layer == "anomaly" and kind is Kind.PROCESS)


def test_a_rolled_back_release_is_served_at_once(
    models_on_disk: ModelsOnDisk, release: Release, signer: Signer
) -> None:
    """P8: one call, which writes a new pointer with a higher serial."""
    client = models_on_disk.start()
    release("anomaly-flow")
    models_on_disk.poll()
    store = own_store()
    before = read_pointer(store, DEFAULT)

    after = promote(store, DEFAULT, before.previous[0], before.serial, signer=signer)
    models_on_disk.poll()

    assert after.serial > before.serial
    assert client.get("/v1/status").json()["release"] == "default/4"
