"""The routes for operators: the status of the ensemble, and switches that outlive a restart."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.controls import CONTROLS, change_controls, read_controls
from ensemble.runtime.model_state import LoadCheck
from ensemble.store.names import Tenant
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient, OpenIngress
from tests.support.fake_handles import FakeHandle, FakeMethod
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.scoring_client import error_of, scored
from tests.support.slot_states import load_check
from tests.support.slots import broken_slot

ML = {"anomaly", "behavior"}
SWITCHES = ["disable", "enable", "reset", "test"]


def statuses(body: dict[str, Any]) -> dict[str, str]:
    return {layer["layer"]: layer["status"] for layer in body["layers"]}


def poll(client: IngressClient) -> None:
    """What the monitor does every two seconds."""
    client.loop.run(client.ingress._monitor.poll())


# -- ready


@pytest.mark.parametrize("path", ["/ready", "/v2/health/ready"])
@pytest.mark.parametrize(
    "down", [set(), ML, set(LAYERS)], ids=["none down", "the learning ones down", "all down"]
)
def test_a_degraded_ensemble_is_ready(open_client: OpenIngress, path: str, down: set[str]) -> None:
    """P38.

    Live, ready and degraded are three states; a fallback alone must not restart anything.
    """
    answer = open_client(down=down).get(path)

    assert (answer.status_code, answer.json()) == (200, {"ready": True})


def test_before_its_first_poll_it_is_not_ready_and_still_scores(
    client: IngressClient, flow_events: list[Event]
) -> None:
    """C-15: a probe of readiness waits for the start; liveness and scoring do not."""
    client.ingress._pipelines.watchers[Tenant("default")]._poller._first.clear()

    assert client.get("/ready").status_code == 503
    assert client.get("/ready").json() == {"ready": False}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/health").status_code == 200
    assert scored(client, flow_events[0])["score"] >= 0.0


# -- status


def test_the_uptime_does_not_jump_with_the_clock(
    client: IngressClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T1."""
    monkeypatch.setattr("time.time", lambda: 0.0)

    assert 0.0 <= client.get("/v1/status").json()["uptime_s"] < 3600.0


def test_the_status_has_since_and_reason_of_each_layer_and_kind(open_client: OpenIngress) -> None:
    """S1-26.

    A code, where to search first, and the meaning, without a text that could contain a path.
    """
    body = open_client(down={"behavior"}).get("/v1/status").json()

    layers = {layer["layer"]: layer for layer in body["layers"]}
    flow = layers["behavior"]["kinds"]["flow"]
    assert (flow["status"], flow["reason"], flow["version"]) == ("fallback", "ARTIFACT_MISSING", "")
    assert flow.keys() == {"status", "version", "reason", "since", "problem"}
    assert flow["problem"] == {
        "code": "ARTIFACT_MISSING",
        "cause": "files",
        "meaning": "The store has no such model, version or release.",
    }
    assert layers["anomaly"]["kinds"]["flow"]["problem"] is None
    assert layers["anomaly"]["release"] == body["release"]
    assert layers["anomaly"]["breaker"].keys() == {"state", "since"}
    assert body["coverage_by_kind"] == {"flow": body["coverage"], "process": 1.0}
    assert body["controls"] == {
        "disabled": [],
        "disabled_by_environment": [],
        "resets": {},
        "rolled_back": {},
    }
    assert {"deadline_ms", "tenant", "uptime_s", "version", "time", "rollout"} <= body.keys()


def test_the_layers_are_listed_with_whether_a_model_is_loaded(open_client: OpenIngress) -> None:
    """S1-04; a disabled layer still has its model."""
    client = open_client(down={"behavior"})
    client.post("/v1/layers/anomaly/disable", {})

    listed = {layer["layer"]: layer for layer in client.get("/v1/layers").json()["layers"]}

    assert [name for name, layer in listed.items() if not layer["model_loaded"]] == ["behavior"]
    assert [name for name, layer in listed.items() if not layer["enabled"]] == ["anomaly"]
    assert listed.keys() == LAYERS.keys()
    assert listed["anomaly"]["models"].keys() == {"flow", "process"}


# -- switches


def test_a_disabled_layer_is_not_called_from_the_next_event_on(
    client: IngressClient, flow_events: list[Event]
) -> None:
    """S1-06: without a restart, and named in every verdict."""
    before = scored(client, flow_events[0])

    answer = client.post("/v1/layers/behavior/disable", {})

    assert answer.json() == {
        "layer": "behavior",
        "enabled": False,
        "disabled_by_environment": False,
        "resets": 0,
    }
    after = scored(client, flow_events[0])
    assert before["coverage"] == 1.0
    assert 0.0 < after["coverage"] < 1.0
    assert (after["degraded"], after["status"]) == (True, "PARTIALLY_OPERATIONAL")
    assert statuses(after)["behavior"] == "disabled"
    health = client.get("/health").json()
    assert (health["status"], health["ml_status"]) == ("degraded", "PARTIALLY_OPERATIONAL")
    assert health["providers"]["behavior"]["status"] == "disabled"
    assert client.get("/v1/status").json()["controls"]["disabled"] == ["behavior"]


def test_an_enabled_layer_is_called_again_at_once(
    client: IngressClient, flow_events: list[Event]
) -> None:
    """S1-07."""
    client.post("/v1/layers/behavior/disable", {})

    assert client.post("/v1/layers/behavior/enable", {}).json()["enabled"] is True

    assert scored(client, flow_events[0])["coverage"] == 1.0


def test_a_switch_outlives_a_restart(open_client: OpenIngress, flow_events: list[Event]) -> None:
    """S1-06: not even the first event after the start is scored by the layer."""
    open_client().post("/v1/layers/behavior/disable", {})

    assert statuses(scored(open_client(), flow_events[0]))["behavior"] == "disabled"


def test_a_switch_of_another_replica_is_followed(
    open_client: OpenIngress, own_state: Path, flow_events: list[Event]
) -> None:
    one, other = open_client(), open_client()
    one.post("/v1/layers/anomaly/disable", {})

    poll(other)
    assert statuses(scored(other, flow_events[0]))["anomaly"] == "disabled"

    change_controls(own_state, lambda now: now.with_enabled("anomaly"))
    poll(one)
    assert statuses(scored(one, flow_events[0]))["anomaly"] == "live"


def test_no_route_enables_what_the_environment_disables(
    open_client: OpenIngress, monkeypatch: pytest.MonkeyPatch, flow_events: list[Event]
) -> None:
    """S1-06, S1-07: both switches must be cleared."""
    monkeypatch.setenv("AXON_DISABLED_LAYERS", " behavior, ")
    client = open_client()

    answer = client.post("/v1/layers/behavior/enable", {}).json()

    assert (answer["enabled"], answer["disabled_by_environment"]) == (False, True)
    assert statuses(scored(client, flow_events[0]))["behavior"] == "disabled"
    assert client.get("/v1/status").json()["controls"]["disabled_by_environment"] == ["behavior"]


def test_a_reset_applies_here_at_once_and_on_all_replicas(
    client: IngressClient, own_state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1-09."""
    done: list[str] = []
    monkeypatch.setattr(client.ingress._layers, "reset", done.append)

    answer = client.post("/v1/layers/behavior/reset", {})

    assert (answer.status_code, answer.json()["resets"]) == (200, 1)
    assert done == ["behavior"]
    assert read_controls(own_state).resets == {"behavior": 1}
    poll(client)
    assert done == ["behavior"]  # once


def test_a_broken_controls_file_changes_nothing_and_is_logged_once(
    client: IngressClient,
    own_state: Path,
    flow_events: list[Event],
    meter: RecordingMeter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If it counted as empty, it would enable what an operator disabled."""
    client.post("/v1/layers/behavior/disable", {})
    (own_state / CONTROLS).write_text("{torn")

    poll(client)
    poll(client)

    assert statuses(scored(client, flow_events[0]))["behavior"] == "disabled"
    assert meter.value("axon_controls_readable") == 0.0
    assert (
        len(
            [
                record
                for record in caplog.records
                if getattr(record, "event", "") == "controls_unreadable"
            ]
        )
        == 1
    )
    error_of(client.post("/v1/layers/behavior/enable", {}), 503, "CONTROLS_NOT_KEPT")

    (own_state / CONTROLS).unlink()
    poll(client)
    assert statuses(scored(client, flow_events[0]))["behavior"] == "live"
    assert meter.value("axon_controls_readable") == 1.0


def test_a_switch_on_a_hanging_disk_gets_an_error_with_a_code(
    client: IngressClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F14."""
    come_back = threading.Event()
    monkeypatch.setattr(
        "deployments.scoring.layer_switches.change_controls", lambda *_: come_back.wait(10)
    )
    monkeypatch.setattr("deployments.scoring.layer_switches.UPDATE_WITHIN_S", 0.01)

    answer = client.post("/v1/layers/behavior/disable", {})
    come_back.set()

    error_of(answer, 503, "CONTROLS_NOT_KEPT")
    assert "nothing was changed" not in answer.json()["error"]["message"]


def test_a_switch_behind_one_that_hangs_was_not_begun_and_the_response_says_so(
    client: IngressClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F14: the second switch is not queued, so it will not apply later."""
    come_back = threading.Event()
    monkeypatch.setattr(
        "deployments.scoring.layer_switches.change_controls", lambda *_: come_back.wait(10)
    )
    monkeypatch.setattr("deployments.scoring.layer_switches.UPDATE_WITHIN_S", 0.01)

    first = client.post("/v1/layers/behavior/disable", {})
    second = client.post("/v1/layers/anomaly/disable", {})
    come_back.set()

    error_of(second, 503, "CONTROLS_NOT_KEPT")
    assert "applies once it is written" in first.json()["error"]["message"]
    assert "nothing was changed" in second.json()["error"]["message"]


def test_a_switch_that_cannot_be_written_changes_nothing(
    client: IngressClient, flow_events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault F20: a switch that is not written would be lost at the next restart."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/srv/state/controls.json")

    monkeypatch.setattr("ensemble.store.files.atomic.write_new", full)

    answer = client.post("/v1/layers/behavior/disable", {})

    error_of(answer, 503, "CONTROLS_NOT_KEPT")
    assert "/srv" not in answer.text
    assert statuses(scored(client, flow_events[0]))["behavior"] == "live"


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("layer", ["nobody", "Anomaly", "..", "anomaly%2f..", "*", "%00"])
def test_an_unknown_layer_is_not_found(
    client: IngressClient, own_state: Path, layer: str, switch: str
) -> None:
    answer = client.post(f"/v1/layers/{layer}/{switch}", {})

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"UNKNOWN_LAYER", "NOT_FOUND"}
    assert not (own_state / CONTROLS).exists()


def test_the_error_of_an_unknown_layer_names_the_known_ones(client: IngressClient) -> None:
    error = error_of(client.post("/v1/layers/nobody/disable", {}), 404, "UNKNOWN_LAYER")

    assert all(layer in error["message"] for layer in LAYERS)


# -- what is counted


def test_the_ingress_counts_its_events_and_errors(
    open_client: OpenIngress, flow_events: list[Event], meter: RecordingMeter
) -> None:
    """S0-31, C-13, C-29: by batch, by the ingress itself."""
    client = open_client(down={"behavior"})

    scored(client, flow_events[0])
    poll(client)

    assert meter.total("axon_events_scored_total", kind="flow") == 1
    assert (
        meter.total("axon_fallback_scores_total", layer="behavior", kind="flow", status="fallback")
        == 1
    )
    assert {labels["layer"] for _, _, labels in meter.observed} >= {"anomaly", "resilience"}
    assert meter.state("axon_ml_status") == "PARTIALLY_OPERATIONAL"
    assert meter.state("axon_layer_status", layer="behavior", kind="flow") == "fallback"


# -- testing a layer


def test_a_test_reports_for_each_kind_whether_its_model_would_serve(
    open_client: OpenIngress,
) -> None:
    """S1-05.

    Initialisation only. The log has the text of a failure; a client gets its code and meaning.
    """
    checks = {
        Kind.FLOW: load_check(ok=True, version="2"),
        Kind.PROCESS: load_check(
            ok=False, code="ARTIFACT_CORRUPT", message="/srv/models/x.bin: sha256 is 12"
        ),
    }
    client = open_client(handles={"behavior": FakeHandle(broken_slot("behavior"), checks)})
    before = client.get("/health").json()

    answer = client.post("/v1/layers/behavior/test", {})

    body = answer.json()
    assert (answer.status_code, body["layer"], body["ok"], body["code"]) == (
        200,
        "behavior",
        False,
        "",
    )
    assert body["kinds"]["flow"] == {
        "ok": True,
        "version": "2",
        "code": "",
        "message": "",
        "elapsed_ms": 12.346,
    }
    assert (body["kinds"]["process"]["ok"], body["kinds"]["process"]["code"]) == (
        False,
        "ARTIFACT_CORRUPT",
    )
    assert body["kinds"]["process"]["message"] == "The bytes are not the bytes that were published."
    assert "/srv" not in answer.text
    assert client.get("/health").json() == before


def test_a_test_passes_if_all_kinds_pass(open_client: OpenIngress) -> None:
    handle = FakeHandle(broken_slot("behavior"), {Kind.FLOW: load_check(ok=True, version="2")})

    assert (
        open_client(handles={"behavior": handle}).post("/v1/layers/behavior/test", {}).json()["ok"]
        is True
    )


async def _hangs() -> None:
    await asyncio.get_running_loop().create_future()


async def _dies() -> None:
    raise RuntimeError("/srv/secret went down")


@pytest.mark.parametrize(("call", "code"), [(_hangs, "LAYER_TIMEOUT"), (_dies, "LAYER_CRASHED")])
def test_a_layer_that_does_not_respond_fails_its_test(
    open_client: OpenIngress, call: Any, code: str
) -> None:
    handle = FakeHandle(broken_slot("behavior"))
    handle.test = FakeMethod(call)
    controls = {"disabled": [], "look_every_s": 2, "test_within_s": 0.05}
    client = open_client(
        handles={"behavior": handle}, overrides={**LONG_DEADLINE, "controls": controls}
    )

    answer = client.post("/v1/layers/behavior/test", {})

    body = answer.json()
    assert (answer.status_code, body["ok"], body["code"], body["kinds"]) == (200, False, code, {})
    assert body["message"]
    assert "/srv" not in answer.text


def test_a_layer_is_tested_once_at_a_time(open_client: OpenIngress) -> None:
    """A test loads a second copy of the models; two tests would need the memory of a third."""
    go = asyncio.Event()
    started = asyncio.Event()

    async def slow() -> dict[Kind, LoadCheck]:
        started.set()
        await go.wait()
        return {Kind.FLOW: load_check(ok=True)}

    handle = FakeHandle(broken_slot("behavior"))
    handle.test = FakeMethod(slow)
    client = open_client(handles={"behavior": handle})

    async def twice() -> list[Any]:
        first = asyncio.create_task(client.send("POST", "/v1/layers/behavior/test"))
        await started.wait()
        second = await client.send("POST", "/v1/layers/behavior/test")
        go.set()
        return [await first, second]

    first, second = client.loop.run(twice())

    assert (first.status_code, first.json()["ok"]) == (200, True)
    error_of(second, 409, "TEST_RUNNING")
    assert client.post("/v1/layers/behavior/test", {}).status_code == 200


# -- the contract


@pytest.mark.parametrize("switch", SWITCHES)
def test_the_document_names_the_scope_of_a_switch(client: IngressClient, switch: str) -> None:
    operation = json.loads(client.get("/openapi.json").text)["paths"][
        f"/v1/layers/{{layer}}/{switch}"
    ]["post"]

    assert "scope `operate`" in operation["description"]
    assert operation["security"] == [{"key": []}]
    assert "404" in operation["responses"]
