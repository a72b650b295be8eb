"""Rescoring in the whole application (N-02): an outage, its recovery, and a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deployments.scoring import retro_rescorer, retro_spool
from ensemble.events import EventBatch
from ensemble.layers.catalog import LAYERS
from ensemble.retro.findings import FINDINGS, read_findings
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores
from tests.support.asgi_clients import LONG_DEADLINE, Event, OpenIngress
from tests.support.fake_handles import FakeMethod
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.slots import broken_slot


class SwitchedHandle:
    """A layer whose models can be removed and restored."""

    def __init__(self, layer: str, whole: LayerSlot) -> None:
        self.slot = broken_slot(layer)
        self.whole = whole

        # as the deployment
        async def score(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
            return self.slot.score(batch, release, explain=explain)

        async def state(wanted: str) -> tuple[SlotState, str]:
            return (self.whole if self.is_boasting else self.slot).state(wanted), "cpu"

        self.is_boasting = False  # says that it is live, and is not
        self.score, self.state = FakeMethod(score), FakeMethod(state)

    def mend(self) -> None:
        self.slot = self.whole


def until(is_so: Callable[[], bool], meanwhile: Callable[[], object]) -> None:
    end = time.monotonic() + 30.0
    while not is_so():
        assert time.monotonic() < end, "it never came to that"
        meanwhile()


@pytest.mark.parametrize("path", ["/v1/score", "/v1/score/batch"])
def test_a_hostile_flow_of_an_outage_is_found_after_recovery(
    open_client: OpenIngress,
    slots: Mapping[str, LayerSlot],
    flow_events: list[Event],
    own_state: Path,
    monkeypatch: pytest.MonkeyPatch,
    meter: RecordingMeter,
    path: str,
) -> None:
    """N-02 over HTTP.

    Fail-open becomes fail-late. The rescore itself is neither spooled nor counted as an event.
    """
    monkeypatch.setattr(retro_spool, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "RESCORE_EVERY_S", 0.01)
    whole = open_client()
    hostile = [
        one
        for one in flow_events
        if whole.post("/v1/score", one).json()["verdict"] in {"suspicious", "malicious"}
    ]
    assert hostile
    down = {layer: SwitchedHandle(layer, slots[layer]) for layer in ("anomaly", "behavior")}
    client = open_client(handles=down)

    if path == "/v1/score":
        client.post_all(hostile)
    else:
        client.post(path, {"events": hostile})
    until(
        lambda: client.ingress._spool.counts().waiting_events == len(hostile),
        lambda: client.get("/health"),
    )
    assert not (own_state / "retro" / FINDINGS).exists()
    for handle in down.values():
        handle.mend()
    until(
        lambda: client.ingress._spool.counts().findings == len(hostile),
        lambda: client.get("/health"),
    )

    found, _ = read_findings(own_state / "retro")
    assert sorted(one.id for one in found) == sorted(one["id"] for one in hostile)
    assert {one.was.verdict for one in found} == {"indeterminate"}
    counts = client.ingress._spool.counts()
    assert (counts.spooled, counts.rescored, counts.waiting_events) == (
        len(hostile),
        len(hostile),
        0,
    )
    assert meter.total("axon_events_scored_total") == len(flow_events) + len(hostile)


def test_a_rescored_event_is_not_spooled_twice(
    open_client: OpenIngress,
    slots: Mapping[str, LayerSlot],
    flow_events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retro_spool, "FLUSH_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "RESCORE_EVERY_S", 0.01)
    monkeypatch.setattr(retro_rescorer, "FIRST_PAUSE_S", 0.01)
    behavior = SwitchedHandle("behavior", slots["behavior"])
    behavior.is_boasting = True
    client = open_client(handles={"behavior": behavior})

    client.post("/v1/score/batch", {"events": flow_events[:10]})
    until(lambda: client.ingress._spool.counts().rescored >= 50, lambda: client.get("/health"))

    counts = client.ingress._spool.counts()
    assert (counts.spooled, counts.waiting_events, counts.findings) == (10, 10, 0)


def test_a_silent_posture_alone_spools_nothing(
    open_client: OpenIngress, flow_events: list[Event], own_state: Path
) -> None:
    client = open_client(down={"resilience"})

    assert client.post("/v1/score", flow_events[0]).json()["degraded"]
    client.close()

    assert [path for path in own_state.rglob("*") if path.is_file()] == []


def test_an_application_with_rescoring_disabled_writes_nothing(
    open_client: OpenIngress, flow_events: list[Event], own_state: Path
) -> None:
    client = open_client(down=set(LAYERS), overrides={**LONG_DEADLINE, "retro": {"enabled": False}})

    client.post("/v1/score", flow_events[0])
    client.close()

    assert not (own_state / "retro").exists()


def test_the_next_process_adopts_the_events_of_a_stopped_application(
    open_client: OpenIngress, flow_events: list[Event], own_state: Path
) -> None:
    client = open_client(down={"behavior"})
    client.post("/v1/score/batch", {"events": flow_events[:7]})
    client.close()

    heir = open_client(down={"behavior"})
    until(lambda: heir.ingress._spool.counts().adopted == 7, lambda: heir.get("/health"))

    assert len(list((own_state / "retro").glob("*/*.jsonl"))) == 1
