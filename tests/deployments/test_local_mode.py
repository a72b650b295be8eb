"""The whole application composed by Serve in this process.

Handles resolve, layers answer through them. No cluster, no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployments.scoring import wire
from deployments.scoring.app import IngressApp
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.hot_reload import ANY_RELEASE
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.training.data.flow_table import FlowTable
from ensemble.verdicts import LayerScores, LayerStatus
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient
from tests.support.local_mode import WITHIN_S, Made, is_live, run_locally
from tests.support.timing import wait_until


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """What the ingress of the shipped models was made with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXON_STATE", str(tmp_path_factory.mktemp("local") / "state"))
        settings, handles = run_locally("axon-local", LONG_DEADLINE)
        assert wait_until(
            lambda: all(is_live(handle) for handle in handles.values()), WITHIN_S
        )  # the slots load beside
        yield settings, handles


@pytest.fixture
def local_client(composed: Made) -> Iterator[IngressClient]:
    client = IngressClient(IngressApp(*composed))
    yield client
    client.close()


def test_every_layer_answers_through_its_handle(composed: Made, flows: FlowTable) -> None:
    _, handles = composed
    batch = flows.select(np.arange(5)).batch()

    assert handles.keys() == LAYERS.keys()
    for layer, handle in handles.items():
        # as the ingress passes it
        said = handle.score.remote(batch, ANY_RELEASE, False).result(timeout_s=WITHIN_S)  # noqa: FBT003

        assert isinstance(said, LayerScores)
        assert (said.layer, said.status, said.scores.shape) == (layer, LayerStatus.LIVE, (5,))


def test_every_layer_tells_its_state_and_device_through_its_handle(composed: Made) -> None:
    for layer, handle in composed[1].items():
        state, device = handle.state.remote(ANY_RELEASE).result(timeout_s=WITHIN_S)

        assert (state.layer, device) == (layer, "cpu")


def test_the_composed_application_scores_as_the_ensemble_in_one_process(
    local_client: IngressClient, ensemble: LocalEnsemble, flow_events: list[Event]
) -> None:
    """P15: wire, ingress, handles, layers and fusion together change no score."""
    parsed = [wire.parse_event(json.dumps(event).encode()) for event in flow_events[:20]]
    expected = ensemble.score(wire.admit(Kind.FLOW, parsed)[0]).score.tolist()

    answers = [answer.json() for answer in local_client.post_all(flow_events[:20])]

    assert [answer["score"] for answer in answers] == pytest.approx(expected, abs=1e-6)
    assert {answer["status"] for answer in answers} == {"FULLY_OPERATIONAL"}


def test_the_composed_application_starts_although_no_model_is_there(
    tmp_path: Path, flow_events: list[Event]
) -> None:
    """DESIGN decision 1.

    Constructors cannot fail, and a layer without a model serves its fallback.
    """
    client = IngressClient(
        IngressApp(
            *run_locally(
                "axon-empty", {**LONG_DEADLINE, "store": {"shipped": str(tmp_path / "none")}}
            )
        )
    )
    body = client.post("/v1/score", flow_events[0]).json()
    client.close()

    assert (body["verdict"], body["coverage"], body["status"]) == (
        "indeterminate",
        0.0,
        "FALLBACK_MODE",
    )
