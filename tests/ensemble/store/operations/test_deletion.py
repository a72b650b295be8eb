"""Deletion and retention: never a version in use, never in doubt, and no number is reused."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactInUse, ArtifactMissing
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.deletion import apply_retention, delete_bundle, delete_release
from ensemble.store.releases import release as releasing
from ensemble.store.releases.aliases import Alias, set_challenger, set_model_alias
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer

MODEL = ModelName("anomaly-flow")
Publish = Callable[..., BundleRef]
Two = tuple[ReleaseRef, ReleaseRef]


def versions(store: Store, tenant: str = "acme") -> list[int]:
    return [one.ref.version for one in list_bundles(store, Tenant(tenant), MODEL)]


def releases(store: Store, tenant: str = "acme") -> list[int]:
    return [one.ref.serial for one in list_releases(store, Tenant(tenant))]


def test_a_version_is_deleted_and_its_number_is_not_reused(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    """Tombstone: "version 2" in a ticket means one model forever."""
    publish(store)
    publish(store)
    delete_bundle(store, acme, MODEL, 2)

    assert versions(store) == [1]
    assert publish(store).version == 3
    delete_bundle(store, acme, MODEL, 1)
    delete_bundle(store, acme, MODEL, 3)
    assert publish(store).version == 4
    assert list((store.state / ".staging").iterdir()) == []


def test_a_release_is_deleted_and_its_number_is_not_reused(
    store: Store,
    acme: Tenant,
    two_releases: Two,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
) -> None:
    delete_release(store, acme, two_releases[1].serial)

    assert releases(store) == [1]
    assert release_of(store, publish(store)).serial == 3
    assert open_bundle(store, list_bundles(store, acme)[0].ref), "its bundles stay"


def test_a_broken_tombstone_stops_the_publisher_before_a_number_is_used_twice(
    store: Store, acme: Tenant, publish: Publish
) -> None:
    publish(store)
    publish(store)
    delete_bundle(store, acme, MODEL, 2)
    (store.state / "tenants" / "acme" / "bundles" / "anomaly-flow" / "GONE").write_bytes(b"torn")

    with pytest.raises(ArtifactCorrupt, match="GONE"):
        publish(store)


@pytest.mark.parametrize(
    "role", ["serves", "before", "challenger", "champion of its model", "lent to another tenant"]
)
def test_a_referenced_version_is_not_deleted(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
    now: datetime,
    role: str,
) -> None:
    """F22: the version that serves (409), one to roll back to, and a challenger are not deleted."""
    ref = publish(store)
    spare = release_of(store, publish(store))
    release = release_of(store, ref)
    match role:
        case "serves":
            promote(store, acme, release, 0, signer=signer)
        case "before":
            newer = release_of(store, publish(store))
            promote(store, acme, release, 0, signer=signer)
            promote(store, acme, newer, 1, signer=signer)
        case "challenger":
            set_challenger(store, acme, release, 0, signer=signer)
        case "champion of its model":
            set_model_alias(store, acme, MODEL, Alias.CHAMPION, ref, 0, signer=signer)
        case "lent to another tenant":
            theirs = Tenant("banks")
            lent = publish_release(
                store,
                theirs,
                [ref],
                {},
                notes="",
                now=now,
                signer=signer,
                parents=frozenset({acme}),
            )
            promote(store, theirs, lent, 0, signer=signer)

    with pytest.raises(ArtifactInUse) as refusal:
        delete_bundle(store, acme, MODEL, ref.version)
    if role in {"serves", "before", "challenger"}:
        with pytest.raises(ArtifactInUse):
            delete_release(store, acme, release.serial)
    apply_retention(store, acme, newest=1)

    assert open_bundle(store, ref)
    assert "banks" not in str(refusal.value), "P10: who else needs it is nobody's business"
    assert spare.serial not in releases(store)


def test_deleting_a_missing_version_creates_nothing(store: Store, publish: Publish) -> None:
    publish(store)

    for tenant, version in (("acme", 2), ("nobody", 1)):
        with pytest.raises(ArtifactMissing):
            delete_bundle(store, Tenant(tenant), MODEL, version)
        with pytest.raises(ArtifactMissing):
            delete_release(store, Tenant(tenant), version)
    apply_retention(store, Tenant("nobody"), newest=1)

    assert [path.name for path in (store.state / "tenants").iterdir()] == ["acme"]


def test_a_shipped_version_is_not_deleted(
    two_roots: Store, acme: Tenant, publish: Publish, release_of: Callable[..., ReleaseRef]
) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)  # type: ignore[arg-type]
    release_of(shipped, publish(shipped))

    with pytest.raises(ArtifactInUse, match="came with Axon"):
        delete_bundle(two_roots, acme, MODEL, 1)
    with pytest.raises(ArtifactInUse, match="came with Axon"):
        delete_release(two_roots, acme, 1)
    assert apply_retention(two_roots, acme, newest=1).bundles == ()
    assert versions(two_roots) == [1]


def test_a_broken_version_can_be_deleted(
    store: Store, acme: Tenant, publish: Publish, folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    (folder_of(store, publish(store)) / "manifest.json").unlink()

    delete_bundle(store, acme, MODEL, 1)

    assert versions(store) == []


SPOILS = {
    "a torn pointer": lambda home: (home / "CURRENT").write_bytes(b"torn"),
    "a lost pointer": lambda home: (home / "CURRENT").unlink(),
    "a torn challenger": lambda home: (home / "CHALLENGER").write_bytes(b"torn"),
    "a torn release that serves": lambda home: [
        (home / "releases" / "1.json").chmod(0o644),
        (home / "releases" / "1.json").write_bytes(b"{"),
    ],
    "a lost release that serves": lambda home: (home / "releases" / "1.json").unlink(),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
def test_nothing_is_deleted_while_references_cannot_be_determined(
    store: Store,
    acme: Tenant,
    two_releases: Two,
    publish: Publish,
    signer: Signer,
    spoil: Callable[[Path], object],
) -> None:
    """The version that serves is not deleted even if its pointer is broken."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    publish(store, tenant="other")
    spoil(store.state / "tenants" / "acme")

    for tenant, act in (
        ("acme", lambda: delete_bundle(store, acme, MODEL, 1)),
        ("other", lambda: delete_bundle(store, Tenant("other"), MODEL, 1)),
        ("acme", lambda: apply_retention(store, acme, newest=1)),
    ):
        with pytest.raises(ArtifactInUse, match="cannot be determined"):
            act()
        assert versions(store, tenant)


def test_a_release_whose_key_is_not_trusted_any_more_still_protects_its_bundles(
    store: Store, acme: Tenant, two_releases: Two, signer: Signer, untrusted_signer: Signer
) -> None:
    """In doubt an item is in use: the release's text is read without a check of the signature."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    path = store.state / "tenants" / "acme" / "releases" / "1.json"
    path.chmod(0o644)
    path.write_bytes(
        path.read_bytes().replace(signer.key_id.encode(), untrusted_signer.key_id.encode())
    )

    with pytest.raises(ArtifactInUse):
        delete_bundle(store, acme, MODEL, 1)
    delete_bundle(store, acme, MODEL, 2)


def test_retention_spares_the_newest_of_each_model_and_the_rest_stays_complete(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    made = [release_of(store, publish(store, float(number))) for number in range(8)]
    publish(store, model="other")
    publish(store, tenant="a")
    for serial, number in enumerate([1, 3, 0]):
        promote(store, acme, made[number], serial, signer=signer)

    removed = apply_retention(store, acme, newest=3)

    assert releases(store) == [8, 7, 6, 1]
    assert versions(store) == [8, 7, 6, 1]
    assert [str(one) for one in (*removed.releases, *removed.bundles)] == [
        *(f"release {n}" for n in (2, 3, 4, 5)),
        *(f"anomaly-flow/{n}" for n in (2, 3, 4, 5)),
    ]
    for release in releases(store):
        assert all(
            open_bundle(store, ref) for ref in read_release(store, acme, release).bundles.values()
        )
    assert versions(store, "a") == [1]
    assert apply_retention(store, acme, newest=3).bundles == ()


def test_retention_below_one_is_refused(store: Store, acme: Tenant) -> None:
    with pytest.raises(ValueError, match="at least one"):
        apply_retention(store, acme, newest=0)


def test_a_deletion_during_a_promotion_never_removes_what_serves(
    store: Store,
    acme: Tenant,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """F22: one of the two wins; either way the bundles of the pointer exist."""
    for round_ in range(10):
        ref = publish(store, float(round_))
        release = release_of(store, ref)
        try:
            serial = read_pointer(store, acme).serial
        except ArtifactMissing:
            serial = 0

        def attempt(act: Callable[[], object]) -> str:
            try:
                act()
            except ArtifactError as refusal:
                return refusal.code
            return "done"

        with ThreadPoolExecutor(2) as pool:
            outcomes = list(
                pool.map(
                    attempt,
                    [
                        lambda: promote(store, acme, release, serial, signer=signer),  # noqa: B023
                        lambda: delete_bundle(store, acme, MODEL, ref.version),  # noqa: B023
                    ],
                )
            )

        assert outcomes in (["done", "ARTIFACT_IN_USE"], ["ARTIFACT_MISSING", "done"])
        if outcomes[0] == "done":
            for bundle in read_release(store, acme, read_pointer(store, acme)).bundles.values():
                open_bundle(store, bundle)


def test_a_bundle_that_another_tenant_is_promoting_is_not_deleted(
    store: Store,
    acme: Tenant,
    publish: Publish,
    signer: Signer,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F22 for two tenants with separate locks: no deletion between the proof and the pointer."""
    banks, ref = Tenant("banks"), publish(store)
    lent = publish_release(
        store, banks, [ref], {}, notes="", now=now, signer=signer, parents=frozenset({acme})
    )
    user_errors: list[type[BaseException]] = []

    def delete() -> None:
        try:
            delete_bundle(store, acme, MODEL, 1)
        except ArtifactError as refusal:
            user_errors.append(type(refusal))

    deleter, prove = threading.Thread(target=delete), releasing.prove_release

    def proven(*args: object) -> None:
        prove(*args)  # type: ignore[arg-type]
        deleter.start()
        deleter.join(timeout=0.3)  # long enough to delete, if it may

    monkeypatch.setattr(releasing, "prove_release", proven)
    promote(store, banks, lent, 0, signer=signer)
    deleter.join()

    assert user_errors == [ArtifactInUse]
    assert open_bundle(store, ref)


def test_a_bundle_of_a_release_being_published_is_not_deleted(
    store: Store,
    acme: Tenant,
    publish: Publish,
    signer: Signer,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No bundle goes between its proof and the release, a parent's bundle neither."""
    banks, ref = Tenant("banks"), publish(store)
    kept = publish(store)
    deleter, prove = (
        threading.Thread(target=apply_retention, args=(store, acme), kwargs={"newest": 1}),
        releasing.open_bundle,
    )

    def proven(*args: object) -> object:
        bundle = prove(*args)  # type: ignore[arg-type]
        deleter.start()
        deleter.join(timeout=0.3)  # long enough to delete, if it may
        return bundle

    with monkeypatch.context() as patch:
        patch.setattr(releasing, "open_bundle", proven)
        release = publish_release(
            store, banks, [ref], {}, notes="", now=now, signer=signer, parents=frozenset({acme})
        )
    deleter.join()

    releasing.prove_release(store, banks, release)
    assert open_bundle(store, kept)


def test_a_full_disk_deletes_nothing(
    store: Store, acme: Tenant, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F20: without room for the tombstone and the audit line the version stays complete."""
    publish(store)
    ref = publish(store)
    honest = os.write
    failures = 0
    for k in range(100):
        left = k

        def filling(fd: int, data: bytes) -> int:
            nonlocal left
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= 1
            return honest(fd, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", filling)
            try:
                delete_bundle(store, acme, MODEL, 2)
            except OSError:
                failures += 1
            else:
                break
        assert open_bundle(store, ref)

    assert failures == 2
    assert versions(store) == [1]
