"""Publication of trained models: a new release is the current one with the new models in it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ensemble.errors import ArtifactMissing
from ensemble.events import FlowBatch, Kind
from ensemble.fusion import Fusion, Thresholds
from ensemble.model import ModelScores, Parts
from ensemble.store.bundles.codecs import Golden
from ensemble.store.layout import Store
from ensemble.store.names import Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.publish import (
    GOLDEN_EVENTS,
    Published,
    Trained,
    digest_of,
    golden_flows,
    golden_of,
    publish,
    renew_release,
)
from ensemble.training.recipes.flow_ensemble import FlowLayers

PublishOne = Callable[..., Published]
NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
ACME = Tenant("acme")
ONE_LAYER = Fusion({"anomaly": 1.0}, 1.0, {"anomaly": Thresholds(0.1, 0.5, 0.9)})
TWO_LAYERS = Fusion({"anomaly": 0.6, "behavior": 0.4}, 2.0, {})


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fsyncs prove nothing while the power is on."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def store(tmp_path: Path, trust: Trust) -> Store:
    return Store(tmp_path / "var", None, trust)


@pytest.fixture
def toy() -> Callable[..., Trained]:
    """`toy("anomaly-flow")`: a bundle that cannot be loaded, which publishing does not need."""

    def one(name: str, value: float = 1.0) -> Trained:
        record = {"recipe": "toy", "data_sha256": "0" * 64, "seed": 7, "rows": 3}
        return Trained(
            name,
            Parts({"w": np.full(2, value)}, {}),
            Golden([{"features": []}], [0.25]),
            record,
            "# Toy\n",
            {"roc.png": b"\x89PNG"},
        )

    return one


@pytest.fixture
def publish_one(signer: Signer) -> PublishOne:
    """`publish_one(store, toy("anomaly-flow"), fusions={...}, and_promote=False)`, for acme."""

    def one(
        store: Store,
        *trained: Trained,
        fusions: dict[Kind, Fusion] | None = None,
        and_promote: bool = True,
    ) -> Published:
        return publish(
            store,
            "acme",
            trained,
            fusions or {},
            notes="why",
            now=NOW,
            signer=signer,
            and_promote=and_promote,
        )

    return one


def test_the_first_release_names_what_was_published(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne
) -> None:
    done = publish_one(
        store, toy("anomaly-flow"), toy("behavior-flow"), fusions={Kind.FLOW: TWO_LAYERS}
    )

    release = read_release(store, ACME, read_pointer(store, ACME))
    assert (done.release.serial, done.pointer_serial) == (1, 1)
    assert tuple(release.bundles.values()) == done.bundles
    assert release.fusion == {"flow": TWO_LAYERS.to_config()}
    assert release.notes == "why"


def test_a_new_release_replaces_only_the_trained_models(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne
) -> None:
    """A tenant that trains processes still has its flow models."""
    publish_one(store, toy("anomaly-flow"), toy("behavior-flow"), fusions={Kind.FLOW: TWO_LAYERS})

    publish_one(
        store, toy("anomaly-process"), toy("anomaly-flow", 2.0), fusions={Kind.PROCESS: ONE_LAYER}
    )

    release = read_release(store, ACME, read_pointer(store, ACME))
    assert {name: ref.version for name, ref in release.bundles.items()} == {
        "anomaly-flow": 2,
        "behavior-flow": 1,
        "anomaly-process": 1,
    }
    assert release.fusion == {"flow": TWO_LAYERS.to_config(), "process": ONE_LAYER.to_config()}


def test_publishing_is_not_promoting(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne
) -> None:
    """DESIGN, decision 2: two separate actions."""
    publish_one(store, toy("anomaly-flow"))

    unused = publish_one(store, toy("anomaly-flow", 2.0), and_promote=False)

    assert (unused.release.serial, unused.pointer_serial) == (2, 0)
    assert read_pointer(store, ACME).release == 1


def test_new_thresholds_alone_are_a_release_of_the_same_bundles(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne, signer: Signer
) -> None:
    """`axon calibrate`."""
    first = publish_one(store, toy("anomaly-flow"), fusions={Kind.FLOW: TWO_LAYERS})

    renew_release(
        store,
        "acme",
        [],
        {Kind.FLOW: ONE_LAYER},
        notes="calibrated",
        now=NOW,
        signer=signer,
        and_promote=True,
    )

    release = read_release(store, ACME, read_pointer(store, ACME))
    assert tuple(release.bundles.values()) == first.bundles
    assert release.fusion["flow"] == ONE_LAYER.to_config()


def test_a_tenant_starts_from_nothing_and_not_from_anothers_release(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne, signer: Signer
) -> None:
    publish_one(store, toy("anomaly-flow"))

    publish(
        store,
        "other",
        [toy("behavior-flow")],
        {},
        notes="",
        now=NOW,
        signer=signer,
        and_promote=True,
    )

    assert set(read_release(store, Tenant("other"), 1).bundles) == {"behavior-flow"}
    assert set(read_release(store, ACME, 1).bundles) == {"anomaly-flow"}


def test_nothing_points_anywhere_before_the_first_promotion(
    store: Store, toy: Callable[..., Trained], publish_one: PublishOne
) -> None:
    publish_one(store, toy("anomaly-flow"), and_promote=False)

    with pytest.raises(ArtifactMissing):
        read_pointer(store, ACME)


# golden events


def test_golden_flows_contain_no_flow_of_the_data(table: FlowTable) -> None:
    """Published flows must not be real traffic: each golden flow is the mean of two."""
    events = golden_flows(table.features, table.is_hostile)
    rows = np.array([event["features"] for event in events], np.float32)

    assert len(events) == GOLDEN_EVENTS
    assert not (rows[:, None, 1:] == table.features[None, :, 1:]).all(axis=2).any()


def test_golden_flows_come_from_both_sides(table: FlowTable, layers: FlowLayers) -> None:
    """A model that calls everything benign would agree with benign golden events alone."""
    golden = golden_of(layers.anomaly, Kind.FLOW, golden_flows(table.features, table.is_hostile))

    assert min(golden.scores) < 0.05
    assert max(golden.scores) > 0.5


def test_golden_flows_of_benign_traffic_alone_are_half_as_many(table: FlowTable) -> None:
    assert len(golden_flows(table.features, np.zeros(len(table), bool))) == GOLDEN_EVENTS // 2


def test_golden_scores_are_those_of_the_model_after_admission() -> None:
    class Echo:
        """Model that returns the second feature of the flow, which admission does not change."""

        # the protocol's word
        def score(self, batch: FlowBatch, *, explain: bool = False) -> ModelScores:  # noqa: ARG002
            return ModelScores(batch.features[:, 1].astype(np.float64))

    golden = golden_of(
        Echo(), Kind.FLOW, [{"features": [0.0, value] + [0.0] * 76} for value in (0.25, 0.75)]
    )  # type: ignore[arg-type]

    assert list(golden.scores) == [0.25, 0.75]


# identity of rows


def test_the_digest_depends_on_value_shape_and_type() -> None:
    rows = np.arange(6, dtype=np.float32)

    others = [rows.reshape(2, 3), rows.astype(np.float64), rows[::-1], rows.astype(">f4")]

    assert digest_of(rows) == digest_of(rows.copy())
    assert digest_of(np.arange(12, dtype=np.float32)[::2]) == digest_of(
        np.arange(0, 12, 2).astype(np.float32)
    )
    assert len({digest_of(one) for one in [rows, *others]}) == 5
    assert digest_of(rows, rows) != digest_of(rows)
