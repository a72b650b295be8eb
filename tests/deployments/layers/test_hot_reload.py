"""A reload that fails changes nothing.

One that succeeds loses nothing; and what is wrong is told (P5, P7, N-05).
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
SHIPPED = 4  # number of the release that is shipped
Release = Callable[..., int]


@pytest.fixture
def release(signer: Signer) -> Release:
    """`release("anomaly-flow", shift=...)`.

    The model again, its golden answers shifted, in a new release that is promoted.
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


def ask(client: IngressClient, event: Event) -> bytes:
    """The answer, without what differs from call to call."""
    answer = client.post("/v1/score", event)
    assert answer.status_code == 200
    return re.sub(rb'(?<="elapsed_ms":)[0-9.]+|(?<="scored_at":)"[^"]+"', b"0", answer.content)


@pytest.mark.parametrize("model", ["anomaly-flow", "behavior-flow"])
def test_a_reload_that_fails_leaves_every_answer_equal_to_the_byte(
    models_on_disk: ModelsOnDisk,
    release: Release,
    flow_events: list[Event],
    recorded_log: RecordedLog,
    model: str,
) -> None:
    """P5.

    Same version, same bytes, and the trouble is in the status, in the log and in the counters.
    """
    client = models_on_disk.start()
    before = ask(client, flow_events[0])

    release(model, shift=0.25)
    models_on_disk.poll()
    after = ask(client, flow_events[0])
    status = client.get("/v1/status").json()

    assert after == before
    assert status["release"] == "default/4"
    layer = model.split("-", maxsplit=1)[0]
    assert any(
        layer in record["layer"]
        for record in recorded_log()
        if record["event"].endswith("_load_failed")
    )


def test_the_wanted_release_is_gone_over_to_when_it_is_mended(
    models_on_disk: ModelsOnDisk, release: Release, flow_events: list[Event]
) -> None:
    """P7: here by the next release; nobody restarts anything."""
    client = models_on_disk.start()
    release("anomaly-flow", shift=0.25)
    models_on_disk.poll()

    number = release("anomaly-flow")
    models_on_disk.poll()

    assert client.get("/v1/status").json()["release"] == f"default/{number}"
    versions = {
        layer["layer"]: layer["version"]
        for layer in json.loads(ask(client, flow_events[0]))["layers"]
    }
    assert versions["anomaly"] == "4"


def test_a_start_on_a_release_that_does_not_load_serves_the_last_good_one_and_says_so(
    models_on_disk: ModelsOnDisk, release: Release, flow_events: list[Event]
) -> None:
    """N-05.

    A real older model before a dummy. Only the layer whose model is older is `last_good`: the
    others have what they want.
    """
    expected = layer_statuses(json.loads(ask(models_on_disk.start(), flow_events[0])))
    release("anomaly-flow", shift=0.25)

    client = models_on_disk.start()
    models_on_disk.poll()
    answer = json.loads(ask(client, flow_events[0]))

    assert layer_statuses(answer) == {**expected, "anomaly": "last_good"}
    assert (answer["coverage"], answer["degraded"], answer["status"]) == (
        1.0,
        False,
        "FULLY_OPERATIONAL",
    )
    assert client.get("/v1/status").json()["release"] == "default/4"


def test_damage_on_the_disk_is_told_while_the_model_in_memory_goes_on(
    models_on_disk: ModelsOnDisk, flow_events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart would lose it: that must be known before the restart."""
    monkeypatch.setattr(pipeline, "STATES_CACHED_S", 0.0)
    client = models_on_disk.start()
    before = ask(client, flow_events[0])
    models_on_disk.files("behavior-flow/2/model.safetensors")[0].write_bytes(b"")

    models_on_disk.poll()

    assert ask(client, flow_events[0]) == before
    (behavior,) = [
        layer for layer in client.get("/v1/status").json()["layers"] if layer["layer"] == "behavior"
    ]
    assert behavior["files_present"] is False
    assert behavior["kinds"]["flow"]["status"] == "live"


def test_a_layer_makes_one_trial_at_a_time(
    models_on_disk: ModelsOnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1-05.

    Each loads the models once more, so a crowd of ingresses and of callers that gave up must not
    add up.
    """
    models_on_disk.start()
    layer = models_on_disk._layers["behavior"]
    go_on, trials = threading.Event(), []

    def slow() -> dict[Kind, LoadCheck]:
        trials.append(1)
        go_on.wait(10)
        return {}

    monkeypatch.setattr(layer.slots.of("default").slot, "check_load", slow)

    async def asked() -> None:
        first = asyncio.create_task(layer.test())
        await asyncio.sleep(0)
        first.cancel()
        others = [asyncio.create_task(layer.test()) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*others) == [{}] * 3
        assert len(trials) == 1
        await layer.test()

    asyncio.run(asked())

    assert len(trials) == 2


def test_the_gauges_of_a_layer_with_two_kinds_are_of_both(
    models_on_disk: ModelsOnDisk, meter: RecordingMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1-02: a layer has one gauge, so a kind that is whole must not hide one that is not."""
    monkeypatch.setattr("deployments.layers.deployment.RayMeter", lambda: meter)
    models_on_disk.start()
    whole = meter.value("axon_model_size_bytes", provider="anomaly", state="loaded")
    assert meter.value("axon_model_files_present", provider="anomaly") == 1.0

    for version in models_on_disk.files("anomaly-flow/*/manifest.json"):
        version.unlink()  # the one before too, or it would be gone back to
    models_on_disk.start()

    assert meter.value("axon_model_files_present", provider="anomaly") == 0.0
    assert meter.value("axon_model_files_present", provider="behavior") == 1.0
    assert 0 < meter.value("axon_model_size_bytes", provider="anomaly", state="loaded") < whole / 2


def test_a_reload_keeps_what_did_not_change(models_on_disk: ModelsOnDisk, release: Release) -> None:
    """Loading only what is missing: a new release of one model must not cost the others a load."""
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
    """P8: one call, by a new pointer with a higher serial."""
    client = models_on_disk.start()
    release("anomaly-flow")
    models_on_disk.poll()
    store = own_store()
    before = read_pointer(store, DEFAULT)

    after = promote(store, DEFAULT, before.previous[0], before.serial, signer=signer)
    models_on_disk.poll()

    assert after.serial > before.serial
    assert client.get("/v1/status").json()["release"] == "default/4"
