"""Releases and the pointer: two acts, one lock, one direction of time."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
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
from ensemble.store import canonical
from ensemble.store import release as releasing
from ensemble.store.layout import Store
from ensemble.store.load import open_bundle
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.publish import sweep_staging
from ensemble.store.release import list_bundles, list_releases, promote, publish_release, read_pointer, read_release

FUSION = {"weights": {"anomaly-flow": 1.0}, "prior": 0.01}


@pytest.fixture
def release_of(acme: Tenant, now: datetime) -> Callable[..., ReleaseRef]:
    """`release_of(store, bundle, ...)`: a release of acme's."""
    return lambda store, *bundles, **more: publish_release(store, acme, bundles, FUSION, notes="toy", now=now, **more)


@pytest.fixture
def two_releases(store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]) -> tuple[ReleaseRef, ReleaseRef]:
    """Two published releases of acme, of which neither is promoted."""
    return release_of(store, publish(store, 1.0)), release_of(store, publish(store, 2.0))


def pointer_file(store: Store) -> Path:
    return store.state / "tenants" / "acme" / "CURRENT"


def release_file(store: Store, serial: int = 1) -> Path:
    return store.state / "tenants" / "acme" / "releases" / f"{serial}.json"


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_release_is_read_back_as_it_was_published(
    store: Store, acme: Tenant, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    flow, process = publish(store), publish(store, model="anomaly-process")

    release = read_release(store, acme, release_of(store, flow, process))

    assert release.bundles == {ModelName("anomaly-flow"): flow, ModelName("anomaly-process"): process}
    assert (release.tenant, release.serial, release.fusion, release.notes) == (acme, 1, FUSION, "toy")
    assert release.created_at == "2026-11-20T08:15:00Z"


def test_the_files_are_as_the_design_says(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    promote(store, acme, two_releases[1], 0)

    assert json.loads(pointer_file(store).read_bytes()) == {
        "format": 1,
        "release": 2,
        "release_sha256": two_releases[1].sha256,
        "serial": 1,
    }
    release = json.loads(release_file(store).read_bytes())
    assert set(release) == {"format", "tenant", "serial", "created_at", "bundles", "fusion", "notes"}
    assert set(release["bundles"]["anomaly-flow"]) == {"tenant", "version", "manifest_sha256"}


@pytest.mark.usefixtures("two_releases")
def test_publishing_points_nothing_at_what_is_published(store: Store, acme: Tenant) -> None:
    """DESIGN, decision 2."""
    with pytest.raises(ArtifactMissing, match="CURRENT"):
        read_pointer(store, acme)


def test_releases_count_over_both_roots(two_roots: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]) -> None:
    shipped = Store(two_roots.shipped, None)
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
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef], folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    bundle = publish(store)
    overwrite(folder_of(store, bundle) / "CARD.md", b"# A toi\n")

    with pytest.raises(ArtifactCorrupt):
        release_of(store, bundle)


def test_the_bundle_of_another_tenant_needs_a_lender(
    store: Store, acme: Tenant, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    """P10: a release is the one place where tenants could reach each other's models."""
    lent = publish(store, tenant="shared")

    with pytest.raises(ArtifactUntrusted, match="another tenant"):
        release_of(store, lent)
    with pytest.raises(ArtifactUntrusted):
        release_of(store, lent, lenders=frozenset({Tenant("share")}))
    ref = release_of(store, lent, lenders=frozenset({Tenant("shared")}))

    assert read_release(store, acme, ref).bundles[lent.model] == lent


def test_a_release_has_one_bundle_a_model_and_at_least_one(
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    with pytest.raises(ValueError, match="two bundles"):
        release_of(store, publish(store), publish(store))
    with pytest.raises(ValueError, match="no bundle"):
        release_of(store)


def test_a_release_too_long_to_be_read_is_not_published(
    store: Store, acme: Tenant, publish: Callable[..., BundleRef], now: datetime
) -> None:
    with pytest.raises(ArtifactCorrupt, match="allowed"):
        publish_release(store, acme, [publish(store)], {"weights": ["x" * (64 << 10)]}, notes="", now=now)

    assert list_releases(store, acme) == ()


def test_a_release_that_exists_is_never_replaced(
    store: Store, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F22."""
    release_of(store, publish(store))
    before = release_file(store).read_bytes()
    monkeypatch.setattr(releasing, "next_serial", lambda *_, **__: 1)

    with pytest.raises(VersionExists, match="release 1"):
        release_of(store, publish(store))

    assert release_file(store).read_bytes() == before


def test_the_first_promotion_expects_zero_and_the_serial_rises(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]
) -> None:
    first, second = two_releases

    assert promote(store, acme, first, 0).serial == 1
    assert promote(store, acme, second, 1).serial == 2
    assert read_pointer(store, acme).ref == second


def test_rolling_back_is_a_newer_pointer_to_an_older_release(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]
) -> None:
    """P8."""
    first, second = two_releases
    promote(store, acme, first, 0)
    promote(store, acme, second, 1)

    pointer = promote(store, acme, first, 2)

    assert (pointer.release, pointer.serial) == (1, 3)
    assert read_pointer(store, acme) == pointer


@pytest.mark.parametrize("expected", [0, 2, -1, 99])
def test_a_promotion_that_saw_another_pointer_is_refused(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], expected: int
) -> None:
    promote(store, acme, two_releases[0], 0)

    with pytest.raises(PointerMoved) as refused:
        promote(store, acme, two_releases[1], expected)

    assert (refused.value.expected_serial, refused.value.actual_serial) == (expected, 1)
    assert read_pointer(store, acme).ref == two_releases[0]


def test_of_promotions_at_the_same_moment_one_wins(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    """F22: compare and swap under the lock."""
    start = threading.Barrier(6)

    def one(_: int) -> bool:
        start.wait()
        try:
            promote(store, acme, two_releases[0], 0)
        except PointerMoved:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(one, range(6)))

    assert won.count(True) == 1
    assert read_pointer(store, acme).serial == 1


def test_a_reader_during_promotions_always_sees_a_whole_pointer_and_a_rising_serial(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]
) -> None:
    promote(store, acme, two_releases[0], 0)
    done = threading.Event()

    def read_all() -> list[int]:
        seen = [0]
        while not done.is_set():
            seen.append(read_pointer(store, acme, not_below=seen[-1]).serial)
        return seen

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_all)
        try:
            for serial in range(1, 60):
                promote(store, acme, two_releases[serial % 2], serial)
        finally:
            done.set()

    assert len(set(reading.result())) > 1


def test_a_pointer_of_the_state_wins_over_the_shipped_one(
    two_roots: Store, acme: Tenant, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    shipped = Store(two_roots.shipped, None)
    ref = release_of(shipped, publish(shipped, 1.0))
    promote(shipped, acme, ref, 0)
    assert read_pointer(two_roots, acme).serial == 1

    own = promote(two_roots, acme, release_of(two_roots, publish(two_roots, 2.0)), 1)

    assert own.serial == 2
    assert read_pointer(two_roots, acme) == own
    assert read_pointer(shipped, acme).serial == 1


def test_a_broken_pointer_is_not_replaced_by_the_shipped_one(
    two_roots: Store, acme: Tenant, publish: Callable[..., BundleRef], release_of: Callable[..., ReleaseRef]
) -> None:
    """F19: breaking one file would be a roll back that nobody asked for."""
    shipped = Store(two_roots.shipped, None)
    promote(shipped, acme, release_of(shipped, publish(shipped)), 0)
    promote(two_roots, acme, release_of(two_roots, publish(two_roots)), 1)
    overwrite(pointer_file(two_roots), b"")

    with pytest.raises(ArtifactCorrupt, match="CURRENT"):
        read_pointer(two_roots, acme)


def test_an_old_pointer_that_comes_back_is_untrusted(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    """F19, TUF rollback: also when the pointer is deleted, so that a lower one shows."""
    promote(store, acme, two_releases[0], 0)
    old = pointer_file(store).read_bytes()
    seen = promote(store, acme, two_releases[1], 1).serial
    overwrite(pointer_file(store), old)

    assert read_pointer(store, acme).serial == 1
    with pytest.raises(ArtifactUntrusted, match="older than 2"):
        read_pointer(store, acme, not_below=seen)


def test_a_release_that_would_not_load_is_not_promoted(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    promote(store, acme, two_releases[0], 0)
    broken = read_release(store, acme, two_releases[1]).bundles[ModelName("anomaly-flow")]
    (folder_of(store, broken) / "config.json").unlink()

    with pytest.raises(ArtifactMissing, match=r"config\.json"):
        promote(store, acme, two_releases[1], 1)

    assert read_pointer(store, acme).serial == 1


def test_a_release_is_promoted_by_its_digest(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    with pytest.raises(ArtifactCorrupt, match="sha256"):
        promote(store, acme, ReleaseRef(1, two_releases[1].sha256), 0)
    with pytest.raises(ArtifactMissing, match="release 9"):
        promote(store, acme, ReleaseRef(9, two_releases[1].sha256), 0)


def test_every_flipped_byte_of_a_release_is_caught(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    """F5, P3."""
    pointer = promote(store, acme, two_releases[0], 0)
    whole = release_file(store).read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        overwrite(release_file(store), flipped)
        with pytest.raises(ArtifactCorrupt):
            read_release(store, acme, pointer)


def test_a_flipped_bit_of_the_pointer_is_caught_or_leads_to_the_same_release(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]
) -> None:
    """P3. Only its own serial is not covered by a digest yet: a signature will cover it."""
    pointer = promote(store, acme, two_releases[0], 0)
    whole = pointer_file(store).read_bytes()
    passed = []
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        overwrite(pointer_file(store), flipped)
        try:
            found = read_pointer(store, acme)
            read_release(store, acme, found)
        except (ArtifactCorrupt, ArtifactMissing, ArtifactIncompatible):
            continue
        passed.append(position)
        assert found.ref == pointer.ref

    assert len(passed) <= 1  # the one digit of the serial


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}\n",
        b"null\n",
        b'{"format":1,"release":1,"release_sha256":"' + b"0" * 64 + b'","serial":1,"serial":2}\n',
        b'{"format":1,"release":1,"release_sha256":"' + b"0" * 64 + b'","serial":1,"x":0}\n',
        b'{"format":1,"release":0,"release_sha256":"' + b"0" * 64 + b'","serial":1}\n',
        b'{"format":1,"release":"../1","release_sha256":"' + b"0" * 64 + b'","serial":1}\n',
        b" " * 1025,
    ],
    ids=["empty", "no fields", "null", "repeated key", "extra field", "release 0", "climbing", "too long"],
)
def test_a_pointer_that_we_would_not_write_is_refused(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], data: bytes
) -> None:
    """F18."""
    promote(store, acme, two_releases[0], 0)
    overwrite(pointer_file(store), data)

    with pytest.raises(ArtifactCorrupt):
        read_pointer(store, acme)


def test_a_pointer_of_another_format_is_incompatible(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    promote(store, acme, two_releases[0], 0)
    overwrite(pointer_file(store), canonical.encode({"format": 2}))

    with pytest.raises(ArtifactIncompatible):
        read_pointer(store, acme)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/etc/passwd")], ids=["pipe", "link"])
@pytest.mark.usefixtures("two_releases")
def test_a_pointer_that_is_no_file_is_refused(store: Store, acme: Tenant, make: Callable[[Path], None]) -> None:
    """F13, F15."""
    make(pointer_file(store))

    with pytest.raises(ArtifactCorrupt, match="CURRENT"):
        read_pointer(store, acme)


def test_the_release_of_another_tenant_is_untrusted(store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef]) -> None:
    """F18: pointer and release copied into another tenant's directory."""
    promote(store, acme, two_releases[0], 0)
    shutil.copytree(store.state / "tenants" / "acme", store.state / "tenants" / "evil")
    evil = Tenant("evil")

    with pytest.raises(ArtifactUntrusted):
        read_release(store, evil, read_pointer(store, evil))


RELEASE_EDITS = {
    "extra field": lambda value: value.update(extra=1),
    "extra field of a bundle": lambda value: value["bundles"]["anomaly-flow"].update(path="/tmp/x"),  # noqa: S108
    "tenant of a bundle climbs": lambda value: value["bundles"]["anomaly-flow"].update(tenant="../.."),
    "model climbs": lambda value: value["bundles"].update({"../x": value["bundles"]["anomaly-flow"]}),
    "version is text": lambda value: value["bundles"]["anomaly-flow"].update(version="1"),
    "no bundles": lambda value: value.update(bundles={}),
    "time": lambda value: value.update(created_at="yesterday"),
    "fusion is a list": lambda value: value.update(fusion=[]),
}


@pytest.mark.parametrize("edit", RELEASE_EDITS.values(), ids=RELEASE_EDITS.keys())
@pytest.mark.usefixtures("two_releases")
def test_a_release_that_we_would_not_write_is_refused(store: Store, acme: Tenant, edit: Callable[[dict[str, Any]], object]) -> None:
    """F18: read by number, where no digest helps."""
    value = json.loads(release_file(store).read_bytes())
    edit(value)
    overwrite(release_file(store), canonical.encode(value))

    with pytest.raises(ArtifactCorrupt):
        read_release(store, acme, 1)


def test_lists_show_the_newest_first_and_say_what_is_broken(
    two_roots: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    """S4-03; C-22: a file without its metadata was listed under tenant None."""
    shipped = Store(two_roots.shipped, None)
    release_of(shipped, publish(shipped))
    release_of(two_roots, publish(two_roots))
    broken = publish(two_roots)
    (folder_of(two_roots, broken) / "manifest.json").unlink()
    (two_roots.state / "tenants" / "acme" / "bundles" / "NOT A MODEL").mkdir()
    (two_roots.state / "tenants" / "acme" / "bundles" / "anomaly-flow" / "007").mkdir()
    overwrite(release_file(two_roots, 2), b"{}\n")

    bundles, releases = list_bundles(two_roots, acme), list_releases(two_roots, acme)

    assert [(b.ref.version, b.is_shipped, bool(b.problem)) for b in bundles] == [(3, False, True), (2, False, False), (1, True, False)]
    assert [(r.ref.serial, r.is_shipped, bool(r.problem)) for r in releases] == [(2, False, True), (1, True, False)]
    assert bundles[1].size_bytes > 0
    assert open_bundle(two_roots, bundles[1].ref)


def test_a_tenant_without_models_has_empty_lists(store: Store, publish: Callable[..., BundleRef]) -> None:
    publish(store, tenant="a_b")

    assert list_bundles(store, Tenant("a")) == ()
    assert list_releases(store, Tenant("a_b")) == ()


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_promotion_killed_at_any_step_leaves_the_old_pointer_or_the_new(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    die_at: Callable[..., bool],
    now: datetime,
    *,
    power_cut: bool,
    tmp_path: Path,
) -> None:
    """P4, F21: and whatever the pointer says opens."""
    promote(store, acme, two_releases[0], 0)
    serials = []
    for k in range(100):
        copy = Store(tmp_path / f"copy{k}", None)
        shutil.copytree(store.state, copy.state)
        survived = die_at(k, lambda: promote(copy, acme, two_releases[1], 1), power_cut=power_cut)  # noqa: B023

        pointer = read_pointer(copy, acme)
        for bundle in read_release(copy, acme, pointer).bundles.values():
            open_bundle(copy, bundle)
        serials.append(pointer.serial)
        assert pointer.ref == two_releases[pointer.serial - 1]
        assert promote(copy, acme, two_releases[0], pointer.serial).serial == pointer.serial + 1
        sweep_staging(copy, now=now + timedelta(days=36_500))
        assert list((copy.state / ".staging").iterdir()) == []
        if survived:
            break

    assert survived
    assert len(serials) > 12
    assert serials == sorted(serials)
    assert set(serials) == {1, 2}


def test_a_release_killed_at_any_step_is_there_or_not(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    die_at: Callable[..., bool],
    tmp_path: Path,
) -> None:
    """P4."""
    bundle = publish(store)
    counts = []
    for k in range(100):
        copy = Store(tmp_path / f"copy{k}", None)
        shutil.copytree(store.state, copy.state)
        survived = die_at(k, lambda: release_of(copy, bundle), power_cut=True)  # noqa: B023

        listed = list_releases(copy, acme)
        assert [listing.problem for listing in listed] == [""] * len(listed)
        counts.append(len(listed))
        if survived:
            break

    assert survived
    assert counts == sorted(counts)
    assert set(counts) == {0, 1}


def test_the_pointer_is_on_the_disk_before_its_name_and_the_name_before_the_answer(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], steps_of: Callable[[Callable[[], object]], list[str]]
) -> None:
    """P4: without the last fsync a power cut undoes a promotion that was reported as done."""
    steps = steps_of(lambda: promote(store, acme, two_releases[0], 0))

    moved = steps.index("replace CURRENT")
    assert steps.index("flock") < steps.index("write CURRENT") < steps.index("fsync CURRENT") < moved
    assert steps[moved + 1] == "fsync acme"
