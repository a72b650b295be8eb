"""Model registry: each verb has one meaning, for HTTP and the terminal alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ensemble.errors import ArtifactMissing, ArtifactUntrusted, PointerMoved, ServedByRelease
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.registry import ModelRegistry
from ensemble.store.releases.aliases import Alias, set_challenger
from ensemble.store.signing import Signer, Trust

MODEL = ModelName("tabular")
Publish = Callable[..., BundleRef]
Two = tuple[ReleaseRef, ReleaseRef]


@pytest.fixture
def registry(store: Store, acme: Tenant, signer: Signer) -> ModelRegistry:
    return ModelRegistry(store, acme, lambda _: signer)


@pytest.mark.parametrize("which", ["number", Alias.CHALLENGER])
def test_promoting_the_challenger_clears_its_alias(
    registry: ModelRegistry, two_releases: Two, which: str
) -> None:
    """The terminal once left the alias where the release was promoted by its number."""
    new = two_releases[1]
    registry.set_challenger(new.serial)

    pointer = registry.promote(new.serial if which == "number" else Alias.CHALLENGER)

    assert pointer.ref == new
    assert registry.challenger().number == 0


def test_promoting_another_release_leaves_the_challenger(
    registry: ModelRegistry, two_releases: Two
) -> None:
    registry.set_challenger(two_releases[1].serial)

    registry.promote(two_releases[0].serial, at_once=True)

    assert registry.challenger().number == two_releases[1].serial


def test_promotion_by_number_promotes_that_release_and_no_newer_challenger(
    registry: ModelRegistry, store: Store, acme: Tenant, signer: Signer, two_releases: Two
) -> None:
    """A promotion once read the challenger again, and promoted one that was set meanwhile."""
    old, new = two_releases
    registry.set_challenger(old.serial)
    serial = registry.challenger().serial

    def signer_read_after_another_change(_: Trust) -> Signer:
        if registry.challenger().number == old.serial:
            set_challenger(store, acme, new, serial, signer=signer)
        return signer

    promoting = replace(registry, read_signer=signer_read_after_another_change)

    with pytest.raises(PointerMoved):  # the alias is no longer the one that was read
        promoting.promote(old.serial)

    pointer = registry.overview().pointer
    assert pointer is not None
    assert pointer.ref == old
    assert registry.challenger().number == new.serial


def test_a_broken_pointer_is_reported_and_replaced(
    registry: ModelRegistry, store: Store, two_releases: Two
) -> None:
    registry.promote(two_releases[0].serial)
    (store.state / "tenants" / "acme" / "CURRENT").write_bytes(b"{}\n")
    broken = registry.overview()

    moved = registry.promote(two_releases[1].serial)

    assert broken.pointer is None
    assert broken.pointer_error is not None
    assert registry.overview().pointer == moved


def test_a_broken_challenger_is_reported(
    registry: ModelRegistry, store: Store, two_releases: Two
) -> None:
    registry.set_challenger(two_releases[1].serial)
    (store.state / "tenants" / "acme" / "CHALLENGER").write_bytes(b"{}\n")

    overview = registry.overview()

    assert overview.challenger is None
    assert isinstance(overview.challenger_error, ArtifactUntrusted)
    assert overview.pointer_error is None


def test_a_tenant_without_a_pointer_has_no_error(registry: ModelRegistry) -> None:
    overview = registry.overview()

    assert (overview.pointer, overview.pointer_error, overview.releases) == (None, None, ())


def test_roll_back_names_the_release_before(registry: ModelRegistry, two_releases: Two) -> None:
    for ref in two_releases:
        registry.promote(ref.serial)

    assert registry.roll_back().ref == two_releases[0]


def test_promoting_the_challenger_of_a_model_clears_its_alias(
    registry: ModelRegistry, store: Store, publish: Publish
) -> None:
    ref = publish(store, model=MODEL)
    registry.set_alias(MODEL, Alias.CHALLENGER, ref.version)

    registry.promote_challenger_of(MODEL)

    assert registry.alias(MODEL, Alias.CHAMPION).number == ref.version
    assert registry.alias(MODEL, Alias.CHALLENGER).number == 0


def test_a_champion_set_by_number_loses_the_challenger_alias(
    registry: ModelRegistry, store: Store, publish: Publish
) -> None:
    """The terminal once left a champion that was also its own challenger."""
    ref = publish(store, model=MODEL)
    registry.set_alias(MODEL, Alias.CHALLENGER, ref.version)

    registry.set_alias(MODEL, Alias.CHAMPION, ref.version)

    assert registry.alias(MODEL, Alias.CHALLENGER).number == 0


@pytest.mark.parametrize("version", [1, None])
def test_a_model_of_a_layer_gets_no_alias(
    registry: ModelRegistry, store: Store, publish: Publish, version: int | None
) -> None:
    """The terminal once set an alias that no replica reads."""
    publish(store, model=MODEL)
    served = replace(registry, layer_models=frozenset({"tabular"}))

    with pytest.raises(ServedByRelease):
        served.set_alias(MODEL, Alias.CHAMPION, version)


@pytest.mark.parametrize("broken", ["aliases/tabular/champion", "CURRENT"])
def test_an_alias_is_cleared_whatever_else_is_broken(
    registry: ModelRegistry, store: Store, publish: Publish, two_releases: Two, broken: str
) -> None:
    """Clearing once resolved the champion first, through the broken alias or pointer."""
    registry.promote(two_releases[0].serial)
    registry.set_alias(MODEL, Alias.CHAMPION, publish(store, model=MODEL).version)
    path = store.state / "tenants" / "acme" / broken
    assert path.is_file()
    path.write_bytes(b"{}\n")

    cleared = registry.set_alias(MODEL, Alias.CHAMPION, None)

    assert cleared.number == 0
    assert registry.alias(MODEL, Alias.CHAMPION) == cleared


def test_no_alias_is_cleared_of_a_model_that_the_tenant_does_not_have(
    registry: ModelRegistry,
) -> None:
    with pytest.raises(ArtifactMissing):
        registry.set_alias(MODEL, Alias.CHALLENGER, None)


def test_a_tenant_inherits_champions_and_nothing_else(
    registry: ModelRegistry, store: Store, publish: Publish
) -> None:
    parent = replace(registry, tenant=Tenant("banks"))
    for value in (1.0, 2.0):
        publish(store, value, tenant="banks", model=MODEL)
    parent.set_alias(MODEL, Alias.CHAMPION, 1)
    child = replace(registry, parents=(Tenant("banks"),))

    assert [(one.info.version, one.is_inherited) for one in child.models()] == [(1, True)]
    assert child.describe(MODEL).is_inherited
    with pytest.raises(ArtifactMissing):
        child.describe(MODEL, 2)


def test_a_version_is_exported_imported_and_deleted(
    registry: ModelRegistry, store: Store, publish: Publish
) -> None:
    ref = publish(store, model=MODEL)
    found, data = registry.export(MODEL)
    other = replace(registry, tenant=Tenant("banks"))

    imported = other.import_archive(data)

    assert found == ref
    assert [one.model for one in imported.bundles] == [MODEL]
    other.delete(MODEL, 1)
    assert other.models() == []
    assert [entry.act for entry in other.audit(1)] == ["delete"]


def test_a_release_that_serves_is_exported_without_a_number(
    registry: ModelRegistry, two_releases: Two
) -> None:
    registry.promote(two_releases[1].serial)

    assert registry.export_release()[0] == two_releases[1]
    assert registry.export_release(two_releases[0].serial)[0] == two_releases[0]


def test_only_the_newest_are_retained(
    registry: ModelRegistry, store: Store, publish: Publish
) -> None:
    for value in (1.0, 2.0):
        publish(store, value, model=MODEL)

    removed = registry.retain(1)

    assert [one.serial for one in removed.bundles] == [1]


def test_a_registry_without_a_signer_changes_nothing(
    registry: ModelRegistry, two_releases: Two
) -> None:
    reader = replace(registry, read_signer=None)

    with pytest.raises(ValueError, match="without a signer"):
        reader.promote(two_releases[0].serial)
    assert reader.overview().pointer is None
