"""Description of a model (S4-03, S4-05, S4-06): metadata and references, without local paths."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from ensemble.errors import ArtifactIncompatible, ArtifactMissing
from ensemble.model import Parts
from ensemble.store.bundles.codecs import Golden
from ensemble.store.bundles.metadata import Metadata, refuse_other_type
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.publish import publish_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.describe import (
    describe_bundle,
    list_models,
    resolve_bundle,
)
from ensemble.store.operations.references import list_tenants
from ensemble.store.releases.aliases import Alias, set_challenger, set_model_alias
from ensemble.store.releases.release import promote
from ensemble.store.signing import Signer

MODEL = ModelName("anomaly-flow")
Publish = Callable[..., BundleRef]
TRAINING = {"recipe": "tabular", "data_sha256": "d" * 64, "seed": 7, "rows": 3}
SAID = Metadata(
    label="20261120_081500",
    model_type="IsolationForest",
    model_module="ensemble.kernels.isolation_forest",
    model_params={"trees": 100, "contamination": 0.1},
    user_metadata={"ticket": "SEC-12", "owner": "amy"},
    feature_names=("bytes", "packets", "duration"),
)


def test_all_metadata_of_the_publisher_is_described(
    store: Store, acme: Tenant, publish: Publish, folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    """S4-06."""
    ref = publish(store, training=TRAINING | SAID.in_training())
    folder = folder_of(store, ref)
    os.utime(folder / "manifest.json", (1_795_000_000,) * 2)

    info = describe_bundle(store, acme, MODEL)

    assert (info.model_name, info.tenant_id, info.version) == ("anomaly-flow", "acme", 1)
    assert (info.created_at, info.last_modified) == ("2026-11-20T08:15:00Z", "2026-11-18T11:06:40Z")
    assert info.metadata == SAID
    assert info.training_data_hash == "d" * 64
    assert info.file_hash == sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert {file.name: file.sha256 for file in info.files} == {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    assert info.size_bytes == sum(
        path.stat().st_size for path in folder.iterdir() if path.name != "manifest.json"
    )
    assert info.size_mb == info.size_bytes / 1e6
    assert {"numpy", "safetensors", "python"} <= info.libraries.keys()
    assert info.path == "tenants/acme/bundles/anomaly-flow/1"
    assert (info.aliases, info.in_use, info.is_shipped, info.problem) == ((), False, False, "")
    assert info.ref == ref


def test_no_path_of_this_machine_is_shown(
    store: Store, acme: Tenant, publish: Publish, folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    """C-22: S4 gave the full path to every caller."""
    publish(store)
    (folder_of(store, publish(store)) / "manifest.json").unlink()

    described = json.dumps([asdict(info) for info in list_models(store, acme)])

    assert str(store.state) not in described


def test_the_metadata_of_s4_is_in_the_manifest_beside_the_training_record(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    publish(store, training=TRAINING | {"mine": [1, 2]} | SAID.in_training())

    info = describe_bundle(store, acme, MODEL)

    assert info.training == TRAINING | {"mine": [1, 2]} | SAID.in_training()


def test_a_bundle_without_metadata_has_its_recipe_as_type(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    publish(store)

    assert describe_bundle(store, acme, MODEL).metadata == Metadata(model_type="toy")


def test_metadata_of_another_type_is_ignored() -> None:
    odd = {
        "label": 3,
        "model_type": None,
        "model_params": [],
        "user_metadata": "x",
        "feature_names": ["a", 1],
        "recipe": "r",
    }

    assert Metadata.of(odd) == Metadata(model_type="r")


def test_a_model_of_another_type_is_refused(store: Store, publish: Publish) -> None:
    """S4-07, C-21: it was a warning, and any class was loaded."""
    manifest = open_bundle(store, publish(store, training=TRAINING | SAID.in_training())).manifest

    refuse_other_type(manifest.training, "IsolationForest", what="anomaly-flow/1")
    with pytest.raises(ArtifactIncompatible, match=r"OneClassSVM.*IsolationForest"):
        refuse_other_type(manifest.training, "OneClassSVM", what="anomaly-flow/1")
    with pytest.raises(ArtifactIncompatible, match="without a type"):
        refuse_other_type(TRAINING, "OneClassSVM", what="anomaly-flow/1")


def test_the_default_version_is_the_champion_else_the_highest_intact_one(
    store: Store,
    acme: Tenant,
    publish: Publish,
    signer: Signer,
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    refs = [publish(store, float(number)) for number in range(3)]
    (folder_of(store, refs[2]) / "manifest.json").unlink()
    assert resolve_bundle(store, acme, MODEL) == refs[1]

    set_model_alias(store, acme, MODEL, Alias.CHAMPION, refs[0], 0, signer=signer)
    set_model_alias(store, acme, MODEL, Alias.CHALLENGER, refs[1], 0, signer=signer)

    assert [
        resolve_bundle(store, acme, MODEL, which)
        for which in (None, Alias.CHAMPION, Alias.CHALLENGER, 2)
    ] == [
        refs[0],
        refs[0],
        refs[1],
        refs[1],
    ]
    assert [info.aliases for info in list_models(store, acme)] == [
        (),
        (Alias.CHALLENGER,),
        (Alias.CHAMPION,),
    ]
    assert [(info.in_use, info.why_in_use) for info in list_models(store, acme)] == [
        (False, ""),
        (True, "it is the challenger of its model"),
        (True, "it is the champion of its model"),
    ]


def test_of_a_model_in_a_release_the_champion_is_what_serves(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """The release decides alone, so that there is one source of truth."""
    refs = [publish(store, float(number)) for number in range(3)]
    releases = [release_of(store, ref) for ref in refs]
    set_model_alias(store, acme, MODEL, Alias.CHAMPION, refs[2], 0, signer=signer)
    promote(store, acme, releases[0], 0, signer=signer)
    set_challenger(store, acme, releases[1], 0, signer=signer)

    assert resolve_bundle(store, acme, MODEL, Alias.CHAMPION) == refs[0]
    assert resolve_bundle(store, acme, MODEL, Alias.CHALLENGER) == refs[1]


def test_an_inherited_bundle_is_described_with_its_owner_only(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """P10: acme's release names a bundle of banks; the champion of acme's own model is acme's."""
    own, lent = publish(store), publish(store, tenant="banks")
    promote(
        store, acme, release_of(store, lent, parents=frozenset({lent.tenant})), 0, signer=signer
    )

    assert resolve_bundle(store, acme, MODEL) == own
    with pytest.raises(ArtifactMissing):
        resolve_bundle(store, acme, MODEL, Alias.CHAMPION)
    assert [info.tenant_id for info in list_models(store, acme)] == ["acme"]


@pytest.mark.parametrize("which", [9, Alias.CHAMPION, Alias.CHALLENGER])
def test_a_missing_version_is_not_described(
    store: Store, acme: Tenant, publish: Publish, which: int | Alias
) -> None:
    publish(store)

    with pytest.raises(ArtifactMissing):
        describe_bundle(store, acme, MODEL, which)
    with pytest.raises(ArtifactMissing):
        describe_bundle(store, acme, ModelName("other"))
    with pytest.raises(ArtifactMissing):
        describe_bundle(store, Tenant("evil"), MODEL)


def test_an_alias_of_a_version_removed_by_hand_is_missing(
    store: Store,
    acme: Tenant,
    publish: Publish,
    signer: Signer,
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    ref = publish(store)
    publish(store)
    set_model_alias(store, acme, MODEL, Alias.CHAMPION, ref, 0, signer=signer)
    shutil.rmtree(folder_of(store, ref))

    with pytest.raises(ArtifactMissing):
        describe_bundle(store, acme, MODEL)


@pytest.fixture
def publish_at(store: Store, acme: Tenant, signer: Signer) -> Callable[[str, datetime], BundleRef]:
    def publish(model: str, now: datetime) -> BundleRef:
        return publish_bundle(
            store, acme, ModelName(model), Parts({}, {}), Golden([], []), card="",
            pictures={}, feature_schema="",
            training=TRAINING, now=now, signer=signer,
        )  # fmt: skip

    return publish


def test_the_newest_model_comes_first_and_within_a_model_the_highest_version(
    store: Store, acme: Tenant, now: datetime, publish_at: Callable[[str, datetime], BundleRef]
) -> None:
    """S4-03, F24: a publisher whose clock is ahead does not stay the newest version forever."""
    day = timedelta(days=1)
    publish_at("a", now + 9000 * day)
    publish_at("a", now)
    publish_at("b", now - day)
    publish_at("c", now + day)

    assert [(info.model_name, info.version) for info in list_models(store, acme)] == [
        ("c", 1),
        ("a", 2),
        ("a", 1),
        ("b", 1),
    ]
    assert [info.version for info in list_models(store, acme, ModelName("a"))] == [2, 1]


def test_a_broken_version_is_listed_with_its_problem(
    store: Store,
    acme: Tenant,
    publish: Publish,
    untrusted_signer: Signer,
    trust: object,
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    """C-22: the source showed a model without metadata to every tenant.

    A model copied from another tenant does not become this tenant's.
    """
    del trust
    publish(store)
    theirs = Store(
        store.state,
        None,
        replace(store.trust, keys={untrusted_signer.key_id: untrusted_signer.public}),
    )
    publish(theirs, signer=untrusted_signer)
    foreign = publish(store, tenant="evil")
    shutil.copytree(
        folder_of(store, foreign), folder_of(store, replace(foreign, tenant=acme, version=3))
    )

    infos = list_models(store, acme)

    assert [(info.version, bool(info.problem), info.size_bytes > 0) for info in infos] == [
        (3, True, False),
        (2, True, False),
        (1, False, True),
    ]
    assert "another bundle" in infos[0].problem
    assert infos[1].metadata == Metadata()


def test_tenants_with_any_file_are_listed(two_roots: Store, publish: Publish) -> None:
    publish(two_roots, tenant="b")
    publish(Store(two_roots.shipped, None, two_roots.trust), tenant="a")  # type: ignore[arg-type]
    (two_roots.state / "tenants" / "NO TENANT").mkdir()

    assert list_tenants(two_roots) == ("a", "b")


def test_an_empty_store_lists_nothing(store: Store, acme: Tenant) -> None:
    assert (list_tenants(store), list_models(store, acme)) == ((), ())


def test_a_description_as_a_dictionary_has_the_fields_of_http(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    """The terminal once said `library_versions` where HTTP said `libraries`."""
    publish(store)

    known = describe_bundle(store, acme, MODEL).to_dict()

    assert {"libraries", "training"} <= known.keys()
    assert "library_versions" not in known
