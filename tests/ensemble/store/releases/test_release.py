"""Releases and the pointer: publication, promotion, their lock, and rising serials."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactIncompatible,
    ArtifactMissing,
    ArtifactUntrusted,
    PointerMoved,
    VersionExists,
)
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files import canonical_json
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases import release as releasing
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import Pointer, read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Document, Signer, Trust

FUSION = {"weights": {"anomaly-flow": 1.0}, "prior": 0.01}


def pointer_file(store: Store) -> Path:
    return store.state / "tenants" / "acme" / "CURRENT"


def release_file(store: Store, serial: int = 1) -> Path:
    return store.state / "tenants" / "acme" / "releases" / f"{serial}.json"


def text_of(path: Path) -> dict[str, Any]:
    """Text of a signed file, without its signature."""
    text, signature = path.read_bytes().splitlines()
    assert signature.startswith(b"ed25519 ")
    return json.loads(text)


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_release_is_read_back_as_it_was_published(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
) -> None:
    flow, process = publish(store), publish(store, model="anomaly-process")

    release = read_release(store, acme, release_of(store, flow, process))

    assert release.bundles == {
        ModelName("anomaly-flow"): flow,
        ModelName("anomaly-process"): process,
    }
    assert (release.tenant, release.serial, release.fusion, release.notes) == (
        acme,
        1,
        FUSION,
        "toy",
    )
    assert release.created_at == "2026-11-20T08:15:00Z"


def test_the_files_are_as_the_design_says(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)
    promote(store, acme, two_releases[1], 1, signer=signer, at_once=True)

    assert text_of(pointer_file(store)) == {
        "format": 2,
        "tenant": "acme",
        "release": 2,
        "release_sha256": two_releases[1].sha256,
        "serial": 2,
        "previous": [{"release": 1, "sha256": two_releases[0].sha256}],
        "at_once": True,
    }
    release = text_of(release_file(store))
    assert set(release) == {
        "format",
        "tenant",
        "serial",
        "created_at",
        "bundles",
        "fusion",
        "notes",
    }
    assert set(release["bundles"]["anomaly-flow"]) == {"tenant", "version", "manifest_sha256"}


@pytest.mark.usefixtures("two_releases")
def test_publishing_points_nothing_at_what_is_published(store: Store, acme: Tenant) -> None:
    """DESIGN, decision 2."""
    with pytest.raises(ArtifactMissing, match="CURRENT"):
        read_pointer(store, acme)


def test_releases_count_over_both_roots(
    two_roots: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    bundle = publish(shipped)
    assert release_of(shipped, bundle).serial == 1

    assert release_of(two_roots, bundle).serial == 2
    assert list_releases(two_roots, bundle.tenant)[0].ref.serial == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ref: replace(ref, version=9),
        lambda ref: replace(ref, manifest_sha256="0" * 64),
        lambda ref: replace(ref, model=ModelName("other")),
    ],
    ids=["no such version", "other digest", "no such model"],
)
def test_a_release_of_a_bundle_that_does_not_open_is_not_published(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    spoil: Callable[[BundleRef], BundleRef],
) -> None:
    with pytest.raises(ArtifactError):
        release_of(store, spoil(publish(store)))

    assert list_releases(store, acme) == ()


def test_a_release_of_a_broken_bundle_is_not_published(
    store: Store,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    bundle = publish(store)
    overwrite(folder_of(store, bundle) / "CARD.md", b"# A toi\n")

    with pytest.raises(ArtifactCorrupt):
        release_of(store, bundle)


def test_a_bundle_of_another_tenant_is_refused_unless_the_tenant_is_a_parent(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
) -> None:
    """P10: only through a release could a tenant reach another tenant's models."""
    lent = publish(store, tenant="shared")

    with pytest.raises(ArtifactUntrusted, match="another tenant"):
        release_of(store, lent)
    with pytest.raises(ArtifactUntrusted):
        release_of(store, lent, parents=frozenset({Tenant("share")}))
    ref = release_of(store, lent, parents=frozenset({Tenant("shared")}))

    assert read_release(store, acme, ref).bundles[lent.model] == lent


def test_a_release_has_one_bundle_a_model_and_at_least_one(
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    with pytest.raises(ValueError, match="two bundles"):
        release_of(store, publish(store), publish(store))
    with pytest.raises(ValueError, match="at least one bundle"):
        release_of(store)


def test_a_release_too_long_to_be_read_is_not_published(
    store: Store, acme: Tenant, publish: Callable[..., BundleRef], now: datetime, signer: Signer
) -> None:
    with pytest.raises(ArtifactCorrupt, match="allowed"):
        publish_release(
            store,
            acme,
            [publish(store)],
            {"weights": ["x" * (64 << 10)]},
            notes="",
            now=now,
            signer=signer,
        )

    assert list_releases(store, acme) == ()


def test_a_release_that_exists_is_never_replaced(
    store: Store,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F22."""
    release_of(store, publish(store))
    before = release_file(store).read_bytes()
    monkeypatch.setattr(releasing, "next_serial", lambda *_, **__: 1)

    with pytest.raises(VersionExists, match="release 1"):
        release_of(store, publish(store))

    assert release_file(store).read_bytes() == before


def test_the_first_promotion_expects_zero_and_the_serial_rises(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    first, second = two_releases

    assert promote(store, acme, first, 0, signer=signer).serial == 1
    assert promote(store, acme, second, 1, signer=signer).serial == 2
    assert read_pointer(store, acme).ref == second


def test_rolling_back_is_a_newer_pointer_to_an_older_release(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """P8."""
    first, second = two_releases
    promote(store, acme, first, 0, signer=signer)
    promote(store, acme, second, 1, signer=signer)

    pointer = promote(store, acme, first, 2, signer=signer)

    assert (pointer.release, pointer.serial) == (1, 3)
    assert read_pointer(store, acme) == pointer


@pytest.mark.parametrize("expected", [0, 2, -1, 99])
def test_a_promotion_with_a_stale_serial_is_refused(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    expected: int,
    signer: Signer,
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)

    with pytest.raises(PointerMoved) as refused:
        promote(store, acme, two_releases[1], expected, signer=signer)

    assert (refused.value.expected_serial, refused.value.actual_serial) == (expected, 1)
    assert read_pointer(store, acme).ref == two_releases[0]


def test_one_of_concurrent_promotions_wins(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """F22: compare and swap under the lock."""
    start = threading.Barrier(6)

    def one(_: int) -> bool:
        start.wait()
        try:
            promote(store, acme, two_releases[0], 0, signer=signer)
        except PointerMoved:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(one, range(6)))

    assert won.count(True) == 1
    assert read_pointer(store, acme).serial == 1


def test_a_reader_during_promotions_gets_complete_pointers_with_rising_serials(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)
    done = threading.Event()

    def read_all() -> list[int]:
        serials = [0]
        while not done.is_set():
            serials.append(read_pointer(store, acme, not_below=serials[-1]).serial)
        return serials

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_all)
        try:
            for serial in range(1, 60):
                promote(store, acme, two_releases[serial % 2], serial, signer=signer)
        finally:
            done.set()

    assert len(set(reading.result())) > 1


def test_a_pointer_of_the_state_wins_over_the_shipped_one(
    two_roots: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    ref = release_of(shipped, publish(shipped, 1.0))
    promote(shipped, acme, ref, 0, signer=signer)
    assert read_pointer(two_roots, acme).serial == 1

    own = promote(two_roots, acme, release_of(two_roots, publish(two_roots, 2.0)), 1, signer=signer)

    assert own.serial == 2
    assert read_pointer(two_roots, acme) == own
    assert read_pointer(shipped, acme).serial == 1


def test_a_broken_pointer_is_not_replaced_by_the_shipped_one(
    two_roots: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """F19: otherwise a broken file would cause a rollback that no operator requested."""
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    promote(shipped, acme, release_of(shipped, publish(shipped)), 0, signer=signer)
    promote(two_roots, acme, release_of(two_roots, publish(two_roots)), 1, signer=signer)
    overwrite(pointer_file(two_roots), b"")

    with pytest.raises(ArtifactCorrupt, match="CURRENT"):
        read_pointer(two_roots, acme)


def test_an_old_pointer_that_comes_back_is_untrusted(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """F19, TUF rollback: also if the pointer is deleted and the shipped one has a lower serial."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    old = pointer_file(store).read_bytes()
    before = promote(store, acme, two_releases[1], 1, signer=signer).serial
    overwrite(pointer_file(store), old)

    assert read_pointer(store, acme).serial == 1
    with pytest.raises(ArtifactUntrusted, match="older than 2"):
        read_pointer(store, acme, not_below=before)


def test_a_release_that_would_not_load_is_not_promoted(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
    signer: Signer,
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)
    broken = read_release(store, acme, two_releases[1]).bundles[ModelName("anomaly-flow")]
    (folder_of(store, broken) / "config.json").unlink()

    with pytest.raises(ArtifactMissing, match=r"config\.json"):
        promote(store, acme, two_releases[1], 1, signer=signer)

    assert read_pointer(store, acme).serial == 1


def test_a_release_is_promoted_by_its_digest(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    with pytest.raises(ArtifactCorrupt, match="sha256"):
        promote(store, acme, ReleaseRef(1, two_releases[1].sha256), 0, signer=signer)
    with pytest.raises(ArtifactMissing, match="release 9"):
        promote(store, acme, ReleaseRef(9, two_releases[1].sha256), 0, signer=signer)


def test_every_flipped_byte_of_a_release_is_caught(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """F5, P3."""
    pointer = promote(store, acme, two_releases[0], 0, signer=signer)
    whole = release_file(store).read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        overwrite(release_file(store), flipped)
        with pytest.raises(ArtifactCorrupt):
            read_release(store, acme, pointer)


def test_every_flipped_byte_of_a_pointer_is_caught(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """P3: the signature line too; no other file has a digest of the pointer."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    whole = pointer_file(store).read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        overwrite(pointer_file(store), flipped)
        with pytest.raises((ArtifactCorrupt, ArtifactUntrusted)):
            read_pointer(store, acme)


POINTER_EDITS: dict[str, Callable[[bytes], bytes]] = {
    "no fields": lambda _: b"{}\n",
    "null": lambda _: b"null\n",
    "repeated key": lambda text: text.replace(b'"serial":1', b'"serial":1,"serial":1'),
    "extra field": lambda text: text.replace(b'"serial":1', b'"serial":1,"x":0'),
    "release 0": lambda text: text.replace(b'"release":1', b'"release":0'),
    "climbing": lambda text: text.replace(b'"release":1', b'"release":"../1"'),
    "at_once is a number": lambda text: text.replace(b'"at_once":false', b'"at_once":0'),
    "names itself as earlier": lambda text: text.replace(
        b"[]", b'[{"release":1,"sha256":"%s"}]' % text.split(b'sha256":"')[1][:64]
    ),
    "five earlier ones": lambda text: text.replace(
        b"[]",
        b"[%s]" % b",".join(b'{"release":%d,"sha256":"%s"}' % (n, b"0" * 64) for n in range(2, 7)),
    ),
}


@pytest.mark.parametrize("edit", POINTER_EDITS.values(), ids=POINTER_EDITS.keys())
def test_a_signed_pointer_that_the_encoder_would_not_write_is_refused(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    edit: Callable[[bytes], bytes],
    signer: Signer,
) -> None:
    """F18."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    text = pointer_file(store).read_bytes().partition(b"\n")[0] + b"\n"
    assert edit(text) != text
    overwrite(pointer_file(store), signer.sign(edit(text), Document.POINTER))

    with pytest.raises(ArtifactCorrupt):
        read_pointer(store, acme)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\n" * 3, b" " * 1025], ids=["empty", "no line", "empty lines", "too long"]
)
def test_a_file_that_is_not_a_pointer_is_refused(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    data: bytes,
    signer: Signer,
) -> None:
    """F3, F18."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    overwrite(pointer_file(store), data)

    with pytest.raises((ArtifactCorrupt, ArtifactUntrusted)):
        read_pointer(store, acme)


def test_a_pointer_of_another_format_is_incompatible_and_is_not_promoted_over(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """A newer Axon wrote it, and its additional fields must not be lost."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    newer = signer.sign(canonical_json.encode({"format": 3}), Document.POINTER)
    overwrite(pointer_file(store), newer)

    with pytest.raises(ArtifactIncompatible, match="format 3"):
        read_pointer(store, acme)
    with pytest.raises(ArtifactIncompatible):
        promote(store, acme, two_releases[1], 0, signer=signer)
    assert pointer_file(store).read_bytes() == newer


def test_the_pointer_of_format_1_that_was_shipped_is_still_read(
    store: Store, acme: Tenant, trust: Trust
) -> None:
    """An old format stays readable; format 1 is unsigned, so only if it is pinned."""
    golden = b'{"format":1,"release":3,"release_sha256":"' + b"5a" * 32 + b'","serial":2}\n'
    pointer_file(store).parent.mkdir(parents=True)
    pointer_file(store).write_bytes(golden)
    pinning = replace(store, trust=replace(trust, pinned=frozenset({sha256(golden).hexdigest()})))

    assert read_pointer(pinning, acme) == Pointer(3, "5a" * 32, 2)
    with pytest.raises(ArtifactUntrusted, match="not signed"):
        read_pointer(store, acme)


def test_a_pointer_remembers_the_last_four_releases_before_it(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """P8: with the one in use, the last five."""
    releases = [release_of(store, publish(store, float(n))) for n in range(6)]
    for serial, release in enumerate(releases):
        pointer = promote(store, acme, release, serial, signer=signer)

    assert pointer.previous == tuple(reversed(releases[1:5]))
    assert read_pointer(store, acme) == pointer


def test_a_release_that_was_rolled_back_from_is_no_fallback(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    """P8: it was left for a reason; a new promotion makes it a fallback again."""
    first, second, third = (release_of(store, publish(store, float(n))) for n in range(3))
    for serial, release in enumerate((first, second, third)):
        promote(store, acme, release, serial, signer=signer)

    assert promote(store, acme, second, 3, signer=signer).previous == (first,)
    assert promote(store, acme, second, 4, signer=signer, at_once=True).previous == (first,)
    assert promote(store, acme, third, 5, signer=signer).previous == (second, first)
    assert promote(store, acme, first, 6, signer=signer).previous == ()


def test_a_first_own_promotion_remembers_the_shipped_release(
    two_roots: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    ref = release_of(shipped, publish(shipped))
    promote(shipped, acme, ref, 0, signer=signer)

    assert promote(
        two_roots, acme, release_of(two_roots, publish(two_roots)), 1, signer=signer
    ).previous == (ref,)


BREAK = {
    "empty": lambda path: overwrite(path, b""),
    "half": lambda path: overwrite(path, path.read_bytes()[:90]),
    "one bit": lambda path: overwrite(
        path, path.read_bytes().replace(b'"serial":2', b'"serial":3')
    ),
    "gone": lambda path: path.unlink(),
    "a link": lambda path: (path.rename(path.parent / "elsewhere"), path.symlink_to("elsewhere")),
    "unsigned": lambda path: overwrite(path, path.read_bytes().partition(b"\n")[0] + b"\n"),
}


@pytest.mark.parametrize("spoil", BREAK.values(), ids=BREAK.keys())
def test_a_broken_pointer_is_promoted_over_and_serials_go_on_rising(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    spoil: Callable[[Path], object],
    signer: Signer,
) -> None:
    """P7: a reader of serial 2 accepts the repair, and the earlier releases are still known."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    before = promote(store, acme, two_releases[1], 1, signer=signer)
    spoil(pointer_file(store))

    repaired = promote(store, acme, two_releases[1], 0, signer=signer)

    assert repaired.serial > before.serial
    assert repaired.previous == before.previous
    assert read_pointer(store, acme, not_below=before.serial) == repaired


def test_one_of_two_concurrent_repairs_of_a_pointer_wins(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    promote(store, acme, two_releases[0], 0, signer=signer)
    overwrite(pointer_file(store), b"")
    promote(store, acme, two_releases[0], 0, signer=signer)

    with pytest.raises(PointerMoved):
        promote(store, acme, two_releases[1], 0, signer=signer)


def test_a_key_that_the_store_does_not_trust_publishes_and_promotes_nothing(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    untrusted_signer: Signer,
    now: datetime,
) -> None:
    """P9: a file that no reader would load is not written, so a mistyped key harms no service."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    bundle = publish(store)

    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        publish(store, signer=untrusted_signer)
    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        publish_release(store, acme, [bundle], FUSION, notes="", now=now, signer=untrusted_signer)
    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        promote(store, acme, two_releases[1], 1, signer=untrusted_signer)

    assert len(list_releases(store, acme)) == 2
    assert read_pointer(store, acme).ref == two_releases[0]


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")], ids=["pipe", "link"]
)
@pytest.mark.usefixtures("two_releases")
def test_a_pointer_that_is_not_a_regular_file_is_refused(
    store: Store, acme: Tenant, make: Callable[[Path], None]
) -> None:
    """F13, F15."""
    make(pointer_file(store))

    with pytest.raises(ArtifactCorrupt, match="CURRENT"):
        read_pointer(store, acme)


def test_the_release_of_another_tenant_is_untrusted(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """F18: pointer and release copied into another tenant's directory."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    shutil.copytree(store.state / "tenants" / "acme", store.state / "tenants" / "evil")
    evil = Tenant("evil")

    with pytest.raises(ArtifactUntrusted, match="another tenant"):
        read_pointer(store, evil)
    with pytest.raises(ArtifactUntrusted, match="another tenant"):
        read_release(store, evil, two_releases[0])


RELEASE_EDITS = {
    "extra field": lambda value: value.update(extra=1),
    "extra field of a bundle": lambda value: value["bundles"]["anomaly-flow"].update(path="/tmp/x"),  # noqa: S108
    "tenant of a bundle climbs": lambda value: value["bundles"]["anomaly-flow"].update(
        tenant="../.."
    ),
    "model climbs": lambda value: value["bundles"].update(
        {"../x": value["bundles"]["anomaly-flow"]}
    ),
    "version is text": lambda value: value["bundles"]["anomaly-flow"].update(version="1"),
    "no bundles": lambda value: value.update(bundles={}),
    "time": lambda value: value.update(created_at="yesterday"),
    "fusion is a list": lambda value: value.update(fusion=[]),
}


@pytest.mark.parametrize("edit", RELEASE_EDITS.values(), ids=RELEASE_EDITS.keys())
@pytest.mark.usefixtures("two_releases")
def test_a_release_that_the_encoder_would_not_write_is_refused(
    store: Store, acme: Tenant, edit: Callable[[dict[str, Any]], object], signer: Signer
) -> None:
    """F18: read by number, without a digest."""
    value = text_of(release_file(store))
    edit(value)
    overwrite(release_file(store), signer.sign(canonical_json.encode(value), Document.RELEASE))

    with pytest.raises(ArtifactCorrupt):
        read_release(store, acme, 1)


def test_lists_show_the_newest_first_with_the_problems(
    two_roots: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    """S4-03; C-22: a file without its metadata was listed under tenant None."""
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    release_of(shipped, publish(shipped))
    release_of(two_roots, publish(two_roots))
    broken = publish(two_roots)
    (folder_of(two_roots, broken) / "manifest.json").unlink()
    (two_roots.state / "tenants" / "acme" / "bundles" / "NOT A MODEL").mkdir()
    (two_roots.state / "tenants" / "acme" / "bundles" / "anomaly-flow" / "007").mkdir()
    overwrite(release_file(two_roots, 2), b"{}\n")

    bundles, releases = list_bundles(two_roots, acme), list_releases(two_roots, acme)

    assert [(b.ref.version, b.is_shipped, bool(b.problem)) for b in bundles] == [
        (3, False, True),
        (2, False, False),
        (1, True, False),
    ]
    assert [(r.ref.serial, r.is_shipped, bool(r.problem)) for r in releases] == [
        (2, False, True),
        (1, True, False),
    ]
    assert bundles[1].size_bytes > 0
    assert open_bundle(two_roots, bundles[1].ref)


def test_a_tenant_without_models_has_empty_lists(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(store, tenant="a_b")

    assert list_bundles(store, Tenant("a")) == ()
    assert list_releases(store, Tenant("a_b")) == ()
