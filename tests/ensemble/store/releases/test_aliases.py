"""Aliases: the challenger release, and champion and challenger of a model outside releases."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMissing,
    ArtifactUntrusted,
    PointerMoved,
)
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.aliases import (
    Alias,
    AliasTarget,
    clear_challenger,
    clear_model_alias,
    get_alias,
    get_challenger,
    promote_challenger,
    read_challenger,
    read_model_alias,
    set_challenger,
    set_model_alias,
)
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote
from ensemble.store.signing import Signer

MODEL = ModelName("anomaly-flow")
Publish = Callable[..., BundleRef]
Two = tuple[ReleaseRef, ReleaseRef]


def challenger_file(store: Store) -> Path:
    return store.state / "tenants" / "acme" / "CHALLENGER"


def alias_file(store: Store, alias: str = "champion", tenant: str = "acme") -> Path:
    return store.state / "tenants" / tenant / "aliases" / "anomaly-flow" / alias


def test_a_new_tenant_has_no_challenger(store: Store, acme: Tenant) -> None:
    assert read_challenger(store, acme) is None
    assert get_challenger(store, acme) == AliasTarget(0, "", 0)


def test_a_challenger_is_set_replaced_and_cleared_with_a_rising_serial(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    for serial, release in enumerate(two_releases):
        set_challenger(store, acme, release, serial, signer=signer)
        assert read_challenger(store, acme) == release

    assert clear_challenger(store, acme, 2, signer=signer) == AliasTarget(0, "", 3)
    assert read_challenger(store, acme) is None
    assert set_challenger(store, acme, two_releases[0], 3, signer=signer).serial == 4


def test_a_challenger_changes_nothing_that_serves(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)
    before = read_pointer(store, acme)

    set_challenger(store, acme, two_releases[1], 0, signer=signer)

    assert read_pointer(store, acme) == before


def test_a_challenger_set_with_a_stale_serial_is_refused(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    """F22."""
    set_challenger(store, acme, two_releases[0], 0, signer=signer)

    for act in (
        lambda: set_challenger(store, acme, two_releases[1], 0, signer=signer),
        lambda: clear_challenger(store, acme, 0, signer=signer),
    ):
        with pytest.raises(PointerMoved):
            act()

    assert read_challenger(store, acme) == two_releases[0]


def test_a_challenger_that_would_not_load_is_refused(
    store: Store,
    acme: Tenant,
    two_releases: Two,
    signer: Signer,
    publish: Publish,
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    shutil.rmtree(folder_of(store, replace(publish(store), version=2)))

    for wrong in (two_releases[1], ReleaseRef(9, "0" * 64), ReleaseRef(1, "0" * 64)):
        with pytest.raises(ArtifactError):
            set_challenger(store, acme, wrong, 0, signer=signer)

    assert read_challenger(store, acme) is None


def test_a_release_of_another_tenant_is_no_challenger(
    store: Store, two_releases: Two, signer: Signer
) -> None:
    """P10."""
    with pytest.raises(ArtifactMissing):
        set_challenger(store, Tenant("evil"), two_releases[0], 0, signer=signer)


def test_an_untrusted_signer_sets_nothing(
    store: Store, acme: Tenant, two_releases: Two, untrusted_signer: Signer
) -> None:
    with pytest.raises(ArtifactUntrusted):
        set_challenger(store, acme, two_releases[0], 0, signer=untrusted_signer)

    assert not challenger_file(store).exists()


def test_a_replayed_challenger_is_refused(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    """P7."""
    set_challenger(store, acme, two_releases[0], 0, signer=signer)
    old = challenger_file(store).read_bytes()
    before = clear_challenger(store, acme, 1, signer=signer)
    challenger_file(store).write_bytes(old)

    with pytest.raises(ArtifactUntrusted, match="older"):
        get_challenger(store, acme, not_below=before.serial)


def test_an_alias_that_was_read_before_and_is_missing_is_an_error(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    before = set_challenger(store, acme, two_releases[0], 0, signer=signer)
    challenger_file(store).unlink()

    with pytest.raises(ArtifactMissing):
        get_challenger(store, acme, not_below=before.serial)
    assert set_challenger(store, acme, two_releases[0], 0, signer=signer).serial == 2


def test_a_broken_challenger_is_reported_and_replaced_with_a_higher_serial(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    set_challenger(store, acme, two_releases[0], 0, signer=signer)
    challenger_file(store).write_bytes(b"torn")

    with pytest.raises(ArtifactCorrupt):
        read_challenger(store, acme)
    assert set_challenger(store, acme, two_releases[1], 0, signer=signer).serial == 2


def test_promoting_the_challenger_clears_the_alias(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer
) -> None:
    """Issue: promotion is one call."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    set_challenger(store, acme, two_releases[1], 0, signer=signer)

    pointer = promote_challenger(store, acme, get_challenger(store, acme), 1, signer=signer)

    assert read_pointer(store, acme) == pointer
    assert (pointer.ref, pointer.previous) == (two_releases[1], (two_releases[0],))
    assert read_challenger(store, acme) is None
    with pytest.raises(ArtifactMissing, match="challenger"):
        promote_challenger(store, acme, get_challenger(store, acme), 2, signer=signer)


def test_a_model_has_a_champion_and_a_challenger_of_its_own(
    store: Store, acme: Tenant, publish: Publish, signer: Signer
) -> None:
    first, second = publish(store), publish(store)
    set_model_alias(store, acme, MODEL, Alias.CHAMPION, first, 0, signer=signer)
    set_model_alias(store, acme, MODEL, Alias.CHALLENGER, second, 0, signer=signer)

    assert read_model_alias(store, acme, MODEL, Alias.CHAMPION) == first
    assert read_model_alias(store, acme, MODEL, Alias.CHALLENGER) == second
    clear_model_alias(store, acme, MODEL, Alias.CHALLENGER, 1, signer=signer)
    assert read_model_alias(store, acme, MODEL, Alias.CHALLENGER) is None
    assert get_alias(store, acme, MODEL, Alias.CHALLENGER).serial == 2


def test_a_version_of_another_model_or_tenant_gets_no_alias(
    store: Store, acme: Tenant, publish: Publish, signer: Signer
) -> None:
    """P10."""
    for foreign in (publish(store, tenant="evil"), publish(store, model="other")):
        with pytest.raises(ArtifactUntrusted):
            set_model_alias(store, acme, MODEL, Alias.CHAMPION, foreign, 0, signer=signer)

    assert not alias_file(store).exists()


def test_a_version_that_does_not_open_gets_no_alias(
    store: Store,
    acme: Tenant,
    publish: Publish,
    signer: Signer,
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    ref = publish(store)
    file = folder_of(store, ref) / "config.json"
    file.chmod(0o644)
    file.write_bytes(b"{}")

    with pytest.raises(ArtifactCorrupt):
        set_model_alias(store, acme, MODEL, Alias.CHAMPION, ref, 0, signer=signer)


@pytest.mark.parametrize(
    "elsewhere", ["challenger", "another tenant", "challenger of the tenant", "pointer"]
)
def test_a_signed_alias_is_valid_only_in_its_own_place(
    store: Store, acme: Tenant, publish: Publish, signer: Signer, elsewhere: str
) -> None:
    """P10: an alias signed for one place is invalid in another."""
    set_model_alias(store, acme, MODEL, Alias.CHAMPION, publish(store), 0, signer=signer)
    publish(store, tenant="evil")
    place, read = {
        "challenger": (
            alias_file(store, "challenger"),
            lambda: read_model_alias(store, acme, MODEL, Alias.CHALLENGER),
        ),
        "another tenant": (
            alias_file(store, tenant="evil"),
            lambda: read_model_alias(store, Tenant("evil"), MODEL, Alias.CHAMPION),
        ),
        "challenger of the tenant": (challenger_file(store), lambda: read_challenger(store, acme)),
        "pointer": (challenger_file(store).with_name("CURRENT"), lambda: read_pointer(store, acme)),
    }[elsewhere]
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(alias_file(store), place)

    with pytest.raises(ArtifactUntrusted):
        read()
