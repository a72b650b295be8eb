"""Quarantine.

What is hostile is kept for who looks at it, and is nowhere that anything else looks.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.errors import ArtifactInUse, ArtifactMissing, QuotaExceeded
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
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


def test_a_version_is_set_aside_with_its_reason_and_its_number_never_comes_back(
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


def test_nobody_but_who_set_it_aside_can_enter(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    publish(store)
    quarantine_bundle(store, acme, MODEL, 1, "", even_in_use=False)

    assert stat.S_IMODE(place(store).stat().st_mode) == 0o700


def test_what_serves_is_set_aside_only_by_who_says_so(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """An attack that serves is the one case in which no model is better than this one."""
    promote(store, acme, release_of(store, publish(store)), 0, signer=signer)

    with pytest.raises(ArtifactInUse):
        quarantine_bundle(store, acme, MODEL, 1, "hostile", even_in_use=False)
    assert list_bundles(store, acme)
    assert list_quarantine(store, acme) == ()
    (store.state / "tenants" / "acme" / "CURRENT").write_bytes(b"torn")

    assert quarantine_bundle(store, acme, MODEL, 1, "hostile", even_in_use=True).is_there
    assert list_bundles(store, acme) == ()


def test_a_file_that_was_handed_in_is_kept_as_it_came(store: Store, acme: Tenant) -> None:
    one = quarantine_file(store, acme, b"\x80evil", "nobody signed it", what="an archive")

    assert (one.what, one.is_there, (place(store) / "file").read_bytes()) == (
        "an archive",
        True,
        b"\x80evil",
    )


def test_the_newest_comes_first_and_a_broken_note_is_told(store: Store, acme: Tenant) -> None:
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


def test_no_tenant_sees_what_was_set_aside_of_another(store: Store, acme: Tenant) -> None:
    """P10."""
    quarantine_file(store, acme, b"x", "", what="an archive")

    assert list_quarantine(store, Tenant("acm")) == ()
    assert "acme" in list_tenants(store)


def test_what_is_set_aside_does_not_fill_the_disk(
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
