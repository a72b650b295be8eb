"""The whole application composed by Serve in this process: handles resolve, layers answer through them. No cluster, no network."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import serve

from deployments import wire
from deployments.app import build
from deployments.ingress import IngressApp
from ensemble.events import Kind
from ensemble.inprocess import Ensemble
from ensemble.loading import LAYERS
from ensemble.slot import ANY_RELEASE
from ensemble.training.flow_table import FlowTable
from ensemble.verdicts import LayerScores, LayerStatus

from .conftest import PATIENT, Door, Event

WITHIN_S = 30.0


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[IngressApp, dict[str, Any]]]:
    """The running ingress, and the handles that Serve put in the place of the bound layers."""
    caught: list[tuple[IngressApp, dict[str, Any]]] = []
    started = IngressApp.__init__

    def watched(self: IngressApp, settings: Mapping[str, Any], handles: Mapping[str, Any]) -> None:
        started(self, settings, handles)
        caught.append((self, dict(handles)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXON_STATE", str(tmp_path_factory.mktemp("local") / "state"))
        patch.setattr(IngressApp, "__init__", watched)
        serve.run(build(PATIENT), name="axon-local", _local_testing_mode=True)
        ((ingress, handles),) = caught
        for thread in threading.enumerate():
            if thread.name.startswith("load-"):  # the slots load beside, and so does the fusion
                thread.join(WITHIN_S)
        yield ingress, handles


@pytest.fixture
def local_door(composed: tuple[IngressApp, dict[str, Any]]) -> Iterator[Door]:
    door = Door(composed[0])
    yield door
    door.close()


def test_every_layer_answers_through_its_handle(composed: tuple[IngressApp, dict[str, Any]], flows: FlowTable) -> None:
    _, handles = composed
    batch = flows.take(np.arange(5)).batch()

    assert handles.keys() == LAYERS.keys()
    for layer, handle in handles.items():
        said = handle.score.remote(batch, ANY_RELEASE, False).result(timeout_s=WITHIN_S)  # noqa: FBT003  # as the ingress passes it

        assert isinstance(said, LayerScores)
        assert (said.layer, said.status, said.scores.shape) == (layer, LayerStatus.LIVE, (5,))


def test_every_layer_tells_its_state_and_device_through_its_handle(composed: tuple[IngressApp, dict[str, Any]]) -> None:
    for layer, handle in composed[1].items():
        state, device = handle.state.remote(ANY_RELEASE).result(timeout_s=WITHIN_S)

        assert (state.layer, device) == (layer, "cpu")


def test_the_composed_application_scores_as_the_ensemble_in_one_process(
    local_door: Door, ensemble: Ensemble, flow_events: list[Event]
) -> None:
    """P15: wire, ingress, handles, layers and fusion together change no score."""
    parsed = [wire.parse_event(json.dumps(event).encode()) for event in flow_events[:20]]
    expected = ensemble.score(wire.to_batch(Kind.FLOW, parsed)[0]).score.tolist()

    answers = [answer.json() for answer in local_door.ask_all(flow_events[:20])]

    assert [answer["score"] for answer in answers] == pytest.approx(expected, abs=1e-6)
    assert {answer["status"] for answer in answers} == {"FULLY_OPERATIONAL"}


def test_the_composed_application_starts_although_no_model_is_there(tmp_path: Path, flow_events: list[Event]) -> None:
    """DESIGN decision 1: constructors cannot fail, and a layer without a model serves its fallback."""
    caught: list[IngressApp] = []
    started = IngressApp.__init__

    def watched(self: IngressApp, settings: Mapping[str, Any], handles: Mapping[str, Any]) -> None:
        started(self, settings, handles)
        caught.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngressApp, "__init__", watched)
        serve.run(build({**PATIENT, "store": {"shipped": str(tmp_path / "none")}}), name="axon-empty", _local_testing_mode=True)
    door = Door(caught[0])
    body = door.post("/v1/score", flow_events[0]).json()
    door.close()

    assert (body["verdict"], body["coverage"], body["status"]) == ("indeterminate", 0.0, "FALLBACK_MODE")
