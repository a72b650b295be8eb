"""Quarantine: hostile files are stored for an investigation, where no reader finds them."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.errors import ArtifactInUse, ArtifactMissing, QuotaExceeded
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import Actor, Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations import quarantine
from ensemble.store.operations.describe import list_models
from ensemble.store.operations.quarantine import (
    Quarantined,
    list_quarantine,
    quarantine_bundle,
    quarantine_file,
)
from ensemble.store.operations.references import list_tenants
from ensemble.store.releases.release import promote
from ensemble.store.signing import Signer

MODEL = ModelName("anomaly-flow")
Publish = Callable[..., BundleRef]


def place(store: Store, number: int = 1) -> Path:
    return store.state / ".quarantine" / "acme" / str(number)


def test_a_quarantined_version_has_its_reason_and_its_number_is_not_reused(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    own = replace(store, actor=Actor("amy", "terminal"), clock=lambda: 1_795_000_000.0)
    publish(own)
    ref = publish(own)

    one = quarantine_bundle(
        own, acme, MODEL, 2, "its card names another data set", even_in_use=False
    )

    assert one == Quarantined(
        1,
        "anomaly-flow/2",
        ref.manifest_sha256,
        "its card names another data set",
        "amy",
        "2026-11-18T11:06:40Z",
        is_there=True,
    )
    assert list_quarantine(own, acme) == (one,)
    assert [info.version for info in list_models(own, acme)] == [1]
    with pytest.raises(ArtifactMissing):
        open_bundle(own, ref)
    assert publish(own).version == 3
    assert (place(own) / "bundle" / "manifest.json").exists()


def test_only_the_owner_may_enter_the_quarantine(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    publish(store)
    quarantine_bundle(store, acme, MODEL, 1, "", even_in_use=False)

    assert stat.S_IMODE(place(store).stat().st_mode) == 0o700


def test_a_version_that_serves_is_quarantined_only_on_request(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """A hostile model that serves is the one case where no model is better."""
    promote(store, acme, release_of(store, publish(store)), 0, signer=signer)

    with pytest.raises(ArtifactInUse):
        quarantine_bundle(store, acme, MODEL, 1, "hostile", even_in_use=False)
    assert list_bundles(store, acme)
    assert list_quarantine(store, acme) == ()
    (store.state / "tenants" / "acme" / "CURRENT").write_bytes(b"torn")

    assert quarantine_bundle(store, acme, MODEL, 1, "hostile", even_in_use=True).is_there
    assert list_bundles(store, acme) == ()


def test_an_imported_file_is_quarantined_unchanged(store: Store, acme: Tenant) -> None:
    one = quarantine_file(store, acme, b"\x80evil", "nobody signed it", what="an archive")

    assert (one.what, one.is_there, (place(store) / "file").read_bytes()) == (
        "an archive",
        True,
        b"\x80evil",
    )


def test_the_newest_comes_first_and_a_broken_record_is_reported(store: Store, acme: Tenant) -> None:
    for number in range(3):
        quarantine_file(store, acme, b"x", str(number), what="an archive")
    note = place(store, 2) / "about.json"
    note.chmod(0o600)
    note.write_bytes(b"{}")
    (place(store, 1) / "file").unlink()

    assert [
        (one.number, one.is_there, bool(one.problem)) for one in list_quarantine(store, acme)
    ] == [
        (3, True, False),
        (2, True, True),
        (1, False, False),
    ]


def test_a_tenant_lists_only_its_own_quarantine(store: Store, acme: Tenant) -> None:
    """P10."""
    quarantine_file(store, acme, b"x", "", what="an archive")

    assert list_quarantine(store, Tenant("acm")) == ()
    assert "acme" in list_tenants(store)


def test_the_quarantine_of_a_tenant_is_bounded(
    store: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST", 2)
    publish(store)
    for _ in range(2):
        quarantine_file(store, acme, b"x", "", what="an archive")

    with pytest.raises(QuotaExceeded):
        quarantine_file(store, acme, b"x", "", what="an archive")
    with pytest.raises(QuotaExceeded):
        quarantine_bundle(store, acme, MODEL, 1, "", even_in_use=False)
    assert list_bundles(store, acme)


def test_the_bytes_of_a_quarantine_are_bounded(
    store: Store, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MOST_BYTES", 5000)
    quarantine_file(store, acme, b"x" * 4000, "", what="an archive")

    with pytest.raises(QuotaExceeded):
        quarantine_file(store, acme, b"x" * 1000, "", what="an archive")

    assert len(list_quarantine(store, acme)) == 1
    assert quarantine_file(store, Tenant("other"), b"x" * 1000, "", what="an archive").is_there


def test_what_is_in_quarantine_counts_for_the_quota_of_its_tenant(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    """B12: a version moved there would otherwise make room for the next one, without end."""
    publish(store)
    quota = Quota(versions_per_model=9, models_per_tenant=9, bytes_per_tenant=8000)
    quarantine_file(store, acme, b"x" * 8000, "", what="an archive")

    with pytest.raises(QuotaExceeded, match="bytes of models"):
        publish(store, quota=quota)
