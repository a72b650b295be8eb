"""examples/own_layer: trained, published, served in the whole application, and given a weight.

One file and one line of settings; everything else is Axon's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments import cli
from deployments.cli.local_store import own_store
from deployments.config.settings import read_settings
from deployments.scoring.app import IngressApp
from ensemble.events import Kind
from ensemble.layers import catalog
from ensemble.layers.catalog import LAYERS
from ensemble.layers.checks import check_layer
from ensemble.runtime import (
    FusionResolver,
    LocalEnsemble,
    ModelBuilder,
    ReleaseLoader,
    ReleaseResolver,
)
from ensemble.training.data.flow_table import FlowTable
from examples.own_layer import train
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient
from tests.support.flow_files import csv_of, written
from tests.support.local_mode import run_locally
from tests.support.timing import wait_until

WITHIN_S = 30.0
SETTINGS = {
    **LONG_DEADLINE,
    "layers": {"extremes": {"import": "examples.own_layer.own_layer:Layer"}},
}
MakeFlows = Callable[..., FlowTable]


@pytest.fixture(autouse=True)
def own_layer() -> Iterator[None]:
    """The settings name the layer; the catalog is of the process, so leave it as it was."""
    layers, schemas = dict(catalog._layers), dict(catalog._feature_schemas)
    read_settings(SETTINGS)
    yield
    for known, before in ((catalog._layers, layers), (catalog._feature_schemas, schemas)):
        known.clear()
        known.update(before)  # type: ignore[arg-type]


def axon(*arguments: str | Path) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def published(own_layer: None, tmp_path: Path, make_flows: MakeFlows) -> None:
    """The example's model, trained on made-up benign flows, in a release of this test's store."""
    del own_layer
    axon("trust", "init")
    benign = make_flows(benign=300, families={}, seed=11)
    train.main([str(written(tmp_path / "benign.csv", csv_of(benign)))])


def answers(name: str, events: list[Event]) -> list[dict[str, Any]]:
    """The whole application in this process, with the layer among its deployments."""
    settings, handles = run_locally(name, SETTINGS)
    assert list(handles) == list(LAYERS)
    assert "extremes" in handles
    client = IngressClient(IngressApp(settings, handles))
    try:
        # every layer: each loads its model in a thread of its own
        assert wait_until(
            lambda: set(statuses_of(client.post("/v1/score", events[0]).json())) == {"live"},
            WITHIN_S,
        )
        return [answer.json() for answer in client.post_all(events)]
    finally:
        client.close()


def statuses_of(answer: dict[str, Any]) -> list[str]:
    return [one["status"] for one in answer["layers"]]


@pytest.mark.usefixtures("published")
def test_the_example_is_served_without_a_weight_and_then_with_one(
    tmp_path: Path, make_flows: MakeFlows, flow_events: list[Event], ensemble: LocalEnsemble
) -> None:
    events = flow_events[:10]
    served = answers("axon-own", events)
    shown = [{one["layer"]: one for one in answer["layers"]}["extremes"] for answer in served]
    before = shares()
    labelled = make_flows(benign=300, families={"Flood": 60, "Scan": 60}, seed=12)
    data = written(tmp_path / "labelled.csv", csv_of(labelled, labelled=True))
    said = axon("calibrate", "--data", data)
    weighed = answers("axon-own-weighed", events)

    assert all(0.0 <= one["score"] <= 1.0 and one["status"] == "live" for one in shown)
    assert "extremes" not in before
    assert {answer["coverage"] for answer in served} == {1.0}
    batch = make_flows(benign=20, families={}, seed=3).batch()
    assert ensemble_now().release.fusions[Kind.PROCESS] == ensemble.release.fusions[Kind.PROCESS]
    assert "weight of extremes: 0." in said
    assert 0.01 <= shares()["extremes"] <= 0.2
    assert sum(shares().values()) == pytest.approx(1.0)
    assert {answer["coverage"] for answer in weighed} == {1.0}
    assert [one["score"] for one in weighed] != [one["score"] for one in served]
    assert ensemble_now().score(batch).coverage == 1.0


@pytest.mark.usefixtures("published")
def test_without_a_weight_every_score_is_the_one_without_the_layer(
    make_flows: MakeFlows, ensemble: LocalEnsemble
) -> None:
    """To the bit: the release with the layer against the shipped one without it."""
    batch = make_flows(benign=40, families={"Flood": 20}, seed=3).batch()

    alone, beside = ensemble.score(batch), ensemble_now().score(batch)

    assert beside.layers[-1].layer == "extremes"
    assert beside.layers[-1].speaks
    assert beside.score.tobytes() == alone.score.tobytes()
    assert (beside.coverage, beside.label, beside.status) == (
        alone.coverage,
        alone.label,
        alone.status,
    )


@pytest.mark.usefixtures("published")
def test_the_example_passes_the_common_checks_of_a_layer(make_flows: MakeFlows) -> None:
    builder = ModelBuilder("cpu", 30, 730)
    loader = ReleaseLoader(ReleaseResolver(own_store, ["default"]), "extremes", builder)

    check_layer(
        lambda: loader.load(loader.resolve(), [], frozenset()).releases[0].models[Kind.FLOW].model,
        make_flows(benign=30, families={"Flood": 10}, seed=4).batch(),
    )


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ({"extremes": {"import": "examples.own_layer.own_layer:Nothing"}}, "cannot be imported"),
        ({"other": {"import": "examples.own_layer.own_layer:Layer"}}, "is named extremes"),
        ({"anomly": {"max_replicas": 2}}, "layers.anomly"),
        ({"ingress": {"import": "examples.own_layer.own_layer:Layer"}}, "cannot be the name"),
    ],
    ids=["no such class", "another name", "a misspelt layer", "a deployment of Axon"],
)
def test_settings_that_name_no_layer_are_refused(layers: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_settings({"layers": layers})


def shares() -> dict[str, float]:
    return dict(FusionResolver(ReleaseResolver(own_store, ["default"])).load().of(Kind.FLOW).shares)


def ensemble_now() -> LocalEnsemble:
    """The current release of this test's store."""
    return LocalEnsemble(
        ReleaseResolver(own_store, ["default"]),
        min_coverage=0.5,
        posture_bound=0.5,
        stale_after_days=30,
        expired_after_days=730,
    )
