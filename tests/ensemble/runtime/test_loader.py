"""Loading a release, and the whole ensemble in one process.

A broken model falls back; the others are not affected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing
from ensemble.events import FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.fusion import Fusion, Thresholds
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.golden import golden_batch
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.release_fusion import FusionResolver
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.signing import Signer, Trust
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.publish import (
    Published,
    Trained,
    digest_of,
    golden_flows,
    golden_of,
    publish,
    renew_release,
)
from ensemble.training.recipes.flow_ensemble import FlowLayers
from ensemble.training.recipes.process_anomaly import TrainedProcesses, train_benign
from ensemble.verdicts import LayerStatus, SystemStatus, VerdictLabel, Verdicts

NOW = datetime(2026, 11, 20, 8, 15, tzinfo=UTC)
RULES: dict[str, Any] = {
    "min_coverage": 0.5,
    "posture_bound": 1.0,
    "stale_after_days": 30,
    "expired_after_days": 730,
}
PROCESSES = ProcessBatch.of([ProcessEvent("cmd.exe"), ProcessEvent("excel.exe")])


@pytest.fixture(scope="module", autouse=True)
def no_fsync() -> Iterator[None]:
    """Skip fsync, which is tested in tests/ensemble/store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def processes() -> TrainedProcesses:
    """Models of the other kind of event, to distinguish the loss of a kind from that of a layer."""
    names = ["excel.exe", "outlook.exe", "chrome.exe", "cmd.exe", "teams.exe"]
    generator = np.random.default_rng(0)
    picks = np.minimum(generator.geometric(0.4, 300) - 1, 4)
    events = [
        ProcessEvent(names[pick], "explorer.exe", "", f"user{i % 3}", f"ws-{i % 3}")
        for i, pick in enumerate(picks)
    ]
    return train_benign(events, None, seed=1)


@pytest.fixture(scope="module")
def trained(
    layers: FlowLayers, table: FlowTable, processes: TrainedProcesses
) -> dict[str, Trained]:
    """Every model but the posture's, ready to publish."""
    events = golden_flows(table.features, table.is_hostile)
    record = {
        "recipe": "test",
        "data_sha256": digest_of(table.features),
        "seed": 3,
        "rows": len(table),
    }
    golden_processes = [{"name": "cmd.exe", "user": "user0", "host": "ws-0"}, {"name": "evil.exe"}]
    return {
        **{
            f"{layer}-flow": Trained(
                f"{layer}-flow",
                model.to_parts(),
                golden_of(model, Kind.FLOW, events),
                record,
                "# Card\n",
            )
            for layer, model in layers.models.items()
        },
        "anomaly-process": Trained(
            "anomaly-process",
            processes.model.to_parts(),
            golden_of(processes.model, Kind.PROCESS, golden_processes),
            record,
            "# Card\n",
        ),
    }


@pytest.fixture
def store(tmp_path: Path, trust: Trust) -> Store:
    return Store(tmp_path / "var", None, trust)


@pytest.fixture
def fusions(layers: FlowLayers) -> dict[Kind, Fusion]:
    assert layers.fusion is not None
    return {
        Kind.FLOW: layers.fusion,
        Kind.PROCESS: Fusion({"anomaly": 1.0}, 1.0, {"anomaly": Thresholds(0.1, 0.5, 0.9)}),
    }


@pytest.fixture
def published(
    store: Store, trained: dict[str, Trained], fusions: dict[Kind, Fusion], signer: Signer
) -> Published:
    """The four models as release 1 of tenant `acme`, promoted."""
    return publish(
        store,
        "acme",
        list(trained.values()),
        fusions,
        notes="first",
        now=NOW,
        signer=signer,
        and_promote=True,
    )


@pytest.fixture
def renew(
    store: Store,
    trained: dict[str, Trained],  # noqa: ARG001  # published before
    published: Published,  # noqa: ARG001  # the release to renew
    signer: Signer,
) -> Callable[..., Published]:
    """`renew(replace(...))` publishes and promotes a release with one model replaced."""

    def one(model: Trained, *, feature_schema: str | None = None) -> Published:
        if feature_schema is None:
            return publish(
                store, "acme", [model], {}, notes="next", now=NOW, signer=signer, and_promote=True
            )
        ref = publish_bundle(
            store,
            Tenant("acme"),
            ModelName(model.name),
            model.parts,
            model.golden,
            card="# Card\n",
            pictures={},
            feature_schema=feature_schema,
            training=model.training,
            now=NOW,
            signer=signer,
        )
        return renew_release(
            store, "acme", [ref], {}, notes="next", now=NOW, signer=signer, and_promote=True
        )

    return one


def resolver_of(store: Store, *tenants: str) -> ReleaseResolver:
    return ReleaseResolver(lambda: store, tenants or ["acme"])


def loader_of(store: Store, layer: str, *tenants: str) -> ReleaseLoader:
    return ReleaseLoader(
        resolver_of(store, *tenants), layer, ModelBuilder("cpu", 30, 730, NOW.timestamp)
    )


def ensemble_of(store: Store, **changes: Any) -> LocalEnsemble:
    return LocalEnsemble(resolver_of(store), **(RULES | changes), now=NOW.timestamp)


def why_not(ensemble: LocalEnsemble, layer: str) -> str:
    """The reason why a layer does not score flows by the model of the newest release, or ""."""
    return ensemble.slots[layer].state().kinds[Kind.FLOW].reason


def statuses(verdicts: Verdicts) -> dict[str, tuple[LayerStatus, str]]:
    return {opinion.layer: (opinion.status, opinion.reason) for opinion in verdicts.layers}


def file_of(store: Store, ref: BundleRef, name: str) -> Path:
    path = store.state / "tenants" / ref.tenant / "bundles" / ref.model / str(ref.version) / name
    path.parent.chmod(0o755)
    path.chmod(0o644)
    return path


# publish, load, score


@pytest.mark.usefixtures("published")
def test_a_published_model_scores_like_the_trained_one(
    store: Store, layers: FlowLayers, fresh: FlowTable
) -> None:
    """P15: the same event, the same version, another process."""
    verdicts = ensemble_of(store).score(fresh.batch())

    scores = {opinion.layer: opinion.scores for opinion in verdicts.layers}
    assert scores["anomaly"] == pytest.approx(layers.anomaly.score(fresh.batch()).scores, abs=1e-6)
    assert scores["behavior"] == pytest.approx(
        layers.behavior.score(fresh.batch()).scores, abs=1e-6
    )
    assert (verdicts.coverage, verdicts.status) == (1.0, SystemStatus.FULLY_OPERATIONAL)
    assert VerdictLabel.INDETERMINATE not in verdicts.label


@pytest.mark.usefixtures("published")
def test_the_fitted_fusion_comes_with_the_release(store: Store, layers: FlowLayers) -> None:
    release = FusionResolver(resolver_of(store)).load()

    assert release.name == "acme/1"
    assert release.fusions[Kind.FLOW] == layers.fusion


@pytest.mark.usefixtures("published")
def test_attacks_are_found_by_the_ensemble_as_it_serves(store: Store, fresh: FlowTable) -> None:
    verdicts = ensemble_of(store).score(fresh.batch())

    loud = np.array(
        [word in {VerdictLabel.SUSPICIOUS, VerdictLabel.MALICIOUS} for word in verdicts.label]
    )
    assert loud[fresh.is_hostile].mean() > 0.8
    assert loud[~fresh.is_hostile].mean() < 0.1


@pytest.mark.usefixtures("published")
def test_a_model_that_is_not_in_the_release_is_a_fallback_of_its_layer(
    store: Store, fresh_batch: FlowBatch
) -> None:
    """No posture was published: the host shifts no score, and the verdict shows it."""
    verdicts = ensemble_of(store).score(fresh_batch)

    assert statuses(verdicts)["resilience"] == (LayerStatus.FALLBACK, "ARTIFACT_MISSING")
    assert verdicts.degraded


def test_a_release_that_was_published_without_a_classifier_is_complete(
    store: Store,
    trained: dict[str, Trained],
    fusions: dict[Kind, Fusion],
    signer: Signer,
    fresh_batch: FlowBatch,
) -> None:
    """Older releases, and a tenant's own: their thresholds are of the layers that they have."""
    shares = {"anomaly": 0.4, "behavior": 0.6}
    two = {
        Kind.FLOW: Fusion(shares, 1.0, {"anomaly+behavior": Thresholds(0.1, 0.5, 0.9)}),
        Kind.PROCESS: fusions[Kind.PROCESS],
    }
    models = [model for name, model in trained.items() if name != "classifier-flow"]
    publish(store, "acme", models, two, notes="older", now=NOW, signer=signer, and_promote=True)

    ensemble = ensemble_of(store)
    verdicts = ensemble.score(fresh_batch)
    state = ensemble.slots["classifier"].state()

    assert statuses(verdicts)["classifier"] == (
        LayerStatus.NOT_APPLICABLE,
        "the release was published without this layer",
    )
    assert (verdicts.coverage, verdicts.status) == (1.0, SystemStatus.FULLY_OPERATIONAL)
    assert VerdictLabel.INDETERMINATE not in verdicts.label
    assert (state.kinds[Kind.FLOW].status, state.kinds[Kind.FLOW].problem) == (
        LayerStatus.NOT_APPLICABLE,
        None,
    )
    assert state.holds == {"acme/1": frozenset({Kind.FLOW})}


def test_a_release_whose_fusion_weighs_a_layer_without_a_model_is_degraded(
    store: Store,
    trained: dict[str, Trained],
    fusions: dict[Kind, Fusion],
    signer: Signer,
    fresh_batch: FlowBatch,
) -> None:
    """Its share of the weight has no opinion, whatever the status of the slot is."""
    models = [model for name, model in trained.items() if name != "classifier-flow"]
    publish(
        store,
        "acme",
        models,
        fusions,
        notes="a bundle short",
        now=NOW,
        signer=signer,
        and_promote=True,
    )

    verdicts = ensemble_of(store).score(fresh_batch)

    assert verdicts.degraded
    assert verdicts.coverage == pytest.approx(1.0 - fusions[Kind.FLOW].shares["classifier"])


@pytest.mark.usefixtures("published")
def test_behavior_is_not_applicable_to_processes(store: Store) -> None:
    verdicts = ensemble_of(store).score(PROCESSES)

    assert statuses(verdicts)["behavior"][0] is LayerStatus.NOT_APPLICABLE
    assert (verdicts.coverage, verdicts.status) == (1.0, SystemStatus.FULLY_OPERATIONAL)


def test_a_tenant_without_a_release_is_an_error_of_the_publisher(store: Store) -> None:
    with pytest.raises(ArtifactMissing):
        ensemble_of(store)


@pytest.mark.usefixtures("published")
def test_no_tenant_is_served_by_the_models_of_another(store: Store) -> None:
    with pytest.raises(ArtifactMissing):
        LocalEnsemble(resolver_of(store, "acm"), **RULES)


# what is broken falls back


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        pytest.param(
            lambda path: path.write_bytes(path.read_bytes()[:-100]), "ARTIFACT_CORRUPT", id="torn"
        ),
        pytest.param(
            lambda path: path.write_bytes(
                path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
            ),
            "ARTIFACT_CORRUPT",
            id="one byte flipped",
        ),
        pytest.param(lambda path: path.unlink(), "ARTIFACT_MISSING", id="gone"),
    ],
)
def test_a_damaged_bundle_affects_its_kind_of_event_only(
    store: Store,
    published: Published,
    fresh_batch: FlowBatch,
    spoil: Callable[[Path], object],
    code: str,
) -> None:
    """P12: the verdict shows which layers had an opinion."""
    spoil(file_of(store, published.bundles[0], "model.safetensors"))

    ensemble = ensemble_of(store)
    flows, others = ensemble.score(fresh_batch), ensemble.score(PROCESSES)

    assert statuses(flows)["anomaly"] == (LayerStatus.FALLBACK, code)
    assert statuses(flows)["behavior"][0] is LayerStatus.LIVE
    assert flows.status is SystemStatus.PARTIALLY_OPERATIONAL
    assert flows.coverage == pytest.approx(
        1.0 - ensemble.release.fusions[Kind.FLOW].shares["anomaly"]
    )
    assert statuses(others)["anomaly"][0] is LayerStatus.LIVE
    assert (others.coverage, others.degraded) == (1.0, True), (
        "the posture is missing, the anomaly layer is not"
    )


def test_without_any_model_the_verdict_is_indeterminate(
    store: Store, published: Published, fresh_batch: FlowBatch
) -> None:
    for ref in published.bundles:
        file_of(store, ref, "model.safetensors").unlink()

    verdicts = ensemble_of(store).score(fresh_batch)

    assert verdicts.status is SystemStatus.FALLBACK_MODE
    assert set(verdicts.label) == {VerdictLabel.INDETERMINATE}
    assert verdicts.score == pytest.approx(0.01)
    assert [o.scores[0] for o in verdicts.layers] == [0.0, 0.1, 0.0, 0.5], "shown, weighing nothing"


def test_a_model_that_scores_differently_from_the_trained_one_is_refused(
    store: Store,
    trained: dict[str, Trained],
    renew: Callable[..., Published],
    fresh_batch: FlowBatch,
) -> None:
    """It is intact and loads, but it is another model: only the golden events show it."""
    good = trained["anomaly-flow"]
    renew(
        replace(
            good,
            golden=Golden(
                good.golden.events, [min(1.0, score + 1e-4) for score in good.golden.scores]
            ),
        )
    )

    ensemble = ensemble_of(store)

    assert why_not(ensemble, "anomaly") == "ARTIFACT_INCOMPATIBLE"
    assert statuses(ensemble.score(fresh_batch))["anomaly"][0] is LayerStatus.LAST_GOOD
    assert statuses(ensemble.score(fresh_batch))["behavior"][0] is LayerStatus.LIVE


def test_golden_scores_may_differ_by_the_rounding_of_another_cpu(
    store: Store,
    trained: dict[str, Trained],
    renew: Callable[..., Published],
    fresh_batch: FlowBatch,
) -> None:
    """DESIGN, decision 12: 1e-6 on a CPU."""
    good = trained["anomaly-flow"]
    renew(
        replace(
            good, golden=Golden(good.golden.events, [score - 5e-7 for score in good.golden.scores])
        )
    )

    assert statuses(ensemble_of(store).score(fresh_batch))["anomaly"][0] is LayerStatus.LIVE


def test_a_model_without_golden_events_is_refused(
    store: Store, trained: dict[str, Trained], renew: Callable[..., Published]
) -> None:
    """It cannot be proven to be the trained model."""
    renew(replace(trained["behavior-flow"], golden=Golden([], [])))

    assert why_not(ensemble_of(store), "behavior") == "ARTIFACT_CORRUPT"


@pytest.mark.parametrize("schema", ["0" * 64, ""])
def test_a_model_of_other_features_is_refused(
    store: Store, trained: dict[str, Trained], renew: Callable[..., Published], schema: str
) -> None:
    """The same 76 numbers in another order are another event."""
    renew(trained["anomaly-flow"], feature_schema=schema)

    assert why_not(ensemble_of(store), "anomaly") == "ARTIFACT_INCOMPATIBLE"


def test_parts_that_make_no_model_are_refused(
    store: Store, trained: dict[str, Trained], renew: Callable[..., Published]
) -> None:
    good = trained["anomaly-flow"]
    renew(
        replace(
            good,
            parts=replace(
                good.parts,
                arrays={k: v for k, v in good.parts.arrays.items() if k != "codebook.centres"},
            ),
        )
    )

    assert why_not(ensemble_of(store), "anomaly") == "ARTIFACT_INCOMPATIBLE"


def test_a_model_under_the_name_of_another_is_refused(
    store: Store, trained: dict[str, Trained], renew: Callable[..., Published]
) -> None:
    renew(replace(trained["behavior-flow"], name="anomaly-flow"))

    assert why_not(ensemble_of(store), "anomaly")


# releases


def test_the_release_that_the_pointer_names_is_loaded(
    store: Store, trained: dict[str, Trained], renew: Callable[..., Published], signer: Signer
) -> None:
    """Only the pointer contains the digest of a release; a rollback writes a new pointer."""
    loader = loader_of(store, "anomaly")
    old = loader.load(loader.resolve(), [], frozenset()).releases[0]
    second = renew(trained["anomaly-flow"])
    new = loader.load(loader.resolve(), [old], frozenset()).releases[0]
    first = ReleaseRef(
        1,
        hashlib.sha256(
            (store.state / "tenants" / "acme" / "releases" / "1.json").read_bytes()
        ).hexdigest(),
    )
    promote(store, Tenant("acme"), first, second.pointer_serial, signer=signer)

    rolled_back = loader.load(loader.resolve(), [new, old], frozenset()).releases[0]

    assert [loaded.name for loaded in (old, new, rolled_back)] == ["acme/1", "acme/2", "acme/1"]
    assert [loaded.models[Kind.FLOW].version for loaded in (old, new, rolled_back)] == [
        "1",
        "2",
        "1",
    ]


def test_a_missing_release_is_an_error(store: Store, published: Published) -> None:
    (store.state / "tenants" / "acme" / "releases" / f"{published.release.serial}.json").unlink()

    with pytest.raises(ArtifactMissing):
        loader_of(store, "anomaly").resolve()


def test_an_invalid_fusion_is_an_error_and_not_a_default(
    store: Store, published: Published, signer: Signer
) -> None:
    ref = publish_release(
        store,
        Tenant("acme"),
        published.bundles,
        {"flow": {"shares": {"anomaly": 2.0}}},
        notes="",
        now=NOW,
        signer=signer,
    )
    promote(store, Tenant("acme"), ref, 1, signer=signer)

    assert ensemble_of(store).release.name == "acme/1", "the last good one serves"
    with pytest.raises(ArtifactError):
        FusionResolver(resolver_of(store)).load()


def test_without_a_fusion_for_a_kind_every_verdict_of_it_is_indeterminate(
    store: Store, trained: dict[str, Trained], fresh_batch: FlowBatch, signer: Signer
) -> None:
    """The built-in rule gives all layers equal shares, which no data has validated."""
    publish(
        store,
        "acme",
        list(trained.values()),
        {},
        notes="",
        now=NOW,
        signer=signer,
        and_promote=True,
    )

    verdicts = ensemble_of(store).score(fresh_batch)

    assert set(verdicts.label) == {VerdictLabel.INDETERMINATE}
    assert (verdicts.coverage, verdicts.degraded, verdicts.status) == (
        0.0,
        True,
        SystemStatus.FULLY_OPERATIONAL,
    )


def test_every_layer_has_the_fallback_score_of_the_source() -> None:
    """S0: 0.1 for behavior, 0.5 for the posture of an unknown host, 0.0 for the others."""
    shown = {"anomaly": 0.0, "behavior": 0.1, "classifier": 0.0, "resilience": 0.5}

    assert {name: plan.fallback_score for name, plan in LAYERS.items()} == shown
    assert [name for name, plan in LAYERS.items() if not plan.is_evidence] == ["resilience"]


def test_golden_flows_pass_the_same_validation_as_any_other() -> None:
    with pytest.raises(ArtifactCorrupt, match="golden"):
        golden_batch(Kind.FLOW, [{"features": [None] * 78}])


def test_a_pointer_that_moves_during_a_poll_is_followed_at_the_next_poll(
    store: Store, trained: dict[str, Trained], published: Published, renew: Callable[..., Published]
) -> None:
    """Fingerprint and load are of one resolution, and do not mix two pointers."""
    loader = loader_of(store, "anomaly")
    assert published.release.serial == 1

    resolved = loader.resolve()
    renew(trained["anomaly-flow"])
    fingerprint = loader.fingerprint(resolved)
    loaded = loader.load(resolved, [], frozenset())

    assert [one.name for one in loaded.releases] == ["acme/1"]
    assert loaded.wanted == "acme/1"
    assert loader.fingerprint(loader.resolve()) != fingerprint, "the next poll has a reason to load"
