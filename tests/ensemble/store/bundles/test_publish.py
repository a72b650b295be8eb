"""Publication: after any fault the old versions are intact, and the new one complete or absent."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactIncompatible,
    ArtifactUntrusted,
    QuotaExceeded,
    VersionExists,
)
from ensemble.model import Parts
from ensemble.store.bundles import publish as publishing
from ensemble.store.bundles.codecs import decode_parts, encode_parts
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.files import atomic
from ensemble.store.files.atomic import sweep_staging
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef
from ensemble.store.operations.deletion import delete_bundle


def leftovers(store: Store) -> list[Path]:
    return list((store.state / ".staging").iterdir())


def everything(root: Path) -> dict[str, bytes]:
    """Every published file below `root`, by path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "tenants").rglob("*"))
        if path.is_file()
    }


def test_versions_count_up_from_one(store: Store, publish: Callable[..., BundleRef]) -> None:
    assert [publish(store).version for _ in range(3)] == [1, 2, 3]


def test_the_tenth_version_comes_after_the_ninth(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    """F24: order is the number, not the text; "10" < "9" as text."""
    versions = [publish(store).version for _ in range(11)]

    assert versions[-1] == 11
    assert [listing.ref.version for listing in list_bundles(store, publish(store).tenant)][:4] == [
        12,
        11,
        10,
        9,
    ]


def test_times_of_files_do_not_decide_the_order(
    store: Store, publish: Callable[..., BundleRef], folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    """C-22: "latest" by mtime changes with a restore or a touch."""
    first = publish(store)
    publish(store)
    os.utime(folder_of(store, first), (2**33, 2**33))

    assert publish(store).version == 3


def test_versions_rise_over_both_roots(two_roots: Store, publish: Callable[..., BundleRef]) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    assert [publish(shipped).version for _ in range(2)] == [1, 2]

    assert publish(two_roots).version == 3
    assert publish(two_roots).version == 4
    assert (
        publish(shipped).version == 3
    )  # the shipped store does not know the host's own versions; the digest distinguishes them


def test_publishing_writes_nothing_into_the_shipped_root(
    two_roots: Store, publish: Callable[..., BundleRef]
) -> None:
    publish(Store(two_roots.shipped, None, two_roots.trust))
    before = everything(two_roots.shipped)

    publish(two_roots)

    assert everything(two_roots.shipped) == before


def test_versions_of_tenants_are_counted_separately(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    """C-22: tenant "a" matched the files of tenant "a_b"."""
    assert publish(store, tenant="a_b").version == 1
    assert publish(store, tenant="a").version == 1
    assert publish(store, tenant="a", model="anomaly-process").version == 1


def test_published_files_are_read_only_and_nothing_is_left_in_staging(
    store: Store, publish: Callable[..., BundleRef], folder_of: Callable[[Store, BundleRef], Path]
) -> None:
    folder = folder_of(store, publish(store, pictures={"roc.png": b"\x89PNG"}))

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(
        ["CARD.md", "config.json", "golden.json", "manifest.json", "model.safetensors", "roc.png"],
        0o444,
    )
    assert leftovers(store) == []


def test_a_picture_comes_back(store: Store, publish: Callable[..., BundleRef]) -> None:
    assert (
        open_bundle(store, publish(store, pictures={"roc.png": b"\x89PNG"})).files["roc.png"]
        == b"\x89PNG"
    )


@pytest.mark.parametrize(
    "name",
    ["../roc.png", "roc.svg", "CARD.md", "model.safetensors", "manifest.json", "ROC.PNG", ".png"],
)
def test_a_picture_cannot_have_a_name_of_another_path(
    store: Store, publish: Callable[..., BundleRef], name: str
) -> None:
    with pytest.raises(ArtifactCorrupt):
        publish(store, pictures={name: b"x"})

    assert not store.state.exists()


def test_a_model_that_could_not_be_loaded_is_not_published(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    """F9: a NaN weight is found by the publisher, not by the replica."""
    with pytest.raises(ArtifactIncompatible, match="array weights"):
        publish(store, float("nan"))

    assert not store.state.exists()


def test_a_training_record_without_its_seed_is_not_published(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    with pytest.raises(ArtifactCorrupt, match=r"training\.seed"):
        publish(store, training={"recipe": "toy", "data_sha256": "", "rows": 1})

    assert leftovers(store) == []
    assert list_bundles(store, publish(store).tenant)[0].ref.version == 1


def test_a_publisher_does_not_follow_a_link_in_the_store(
    store: Store, publish: Callable[..., BundleRef], tmp_path: Path
) -> None:
    """F15."""
    outside = tmp_path / "outside"
    outside.mkdir()
    publish(store)
    shutil.rmtree(store.state / "tenants" / "acme" / "bundles")
    (store.state / "tenants" / "acme" / "bundles").symlink_to(outside)

    with pytest.raises(ArtifactUntrusted):
        publish(store)

    assert list(outside.iterdir()) == []


def test_publishers_at_the_same_moment_get_a_version_each(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    """F22: no publisher loses its model, and no version is two models."""
    start = threading.Barrier(6)

    def one(value: float) -> tuple[float, BundleRef]:
        start.wait()
        return value, publish(store, value)

    with ThreadPoolExecutor(6) as pool:
        published = list(pool.map(one, range(6)))

    assert sorted(ref.version for _, ref in published) == [1, 2, 3, 4, 5, 6]
    assert all(
        decode_parts(open_bundle(store, ref).files).config["value"] == value
        for value, ref in published
    )


@pytest.mark.parametrize("empty", [False, True], ids=["published", "empty directory"])
def test_a_version_that_exists_is_never_replaced(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch, *, empty: bool
) -> None:
    """F22: outside the lock (NFS) the rename decides. It would silently replace an empty folder."""
    first = publish(store, 1.0)
    if empty:
        (store.state / "tenants" / "acme" / "bundles" / "anomaly-flow" / "2").mkdir()
    monkeypatch.setattr(publishing, "next_serial", lambda *_: 2 if empty else 1)

    with pytest.raises(VersionExists):
        publish(store, 2.0)

    assert decode_parts(open_bundle(store, first).files).config["value"] == 1.0
    assert leftovers(store) == []


def test_a_rename_that_loses_the_race_raises_version_exists(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F22: the version appears between the check and the rename."""
    publish(store, 1.0)
    taken = store.state / "tenants" / "acme" / "bundles" / "anomaly-flow" / "2"
    honest = os.rename

    def late(staged: Path, final: Path) -> None:
        taken.mkdir()
        (taken / "manifest.json").touch()
        honest(staged, final)

    monkeypatch.setattr(os, "rename", late)

    with pytest.raises(VersionExists, match="anomaly-flow/2"):
        publish(store, 2.0)


def test_a_full_disk_publishes_nothing_and_leaves_nothing(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F20: ENOSPC at the k-th write, for every k."""
    ref = publish(store, 1.0)
    before = everything(store.state)
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
                publish(store, 2.0)
            except OSError:
                failures += 1
            else:
                break
        assert everything(store.state) == before
        assert leftovers(store) == []

    assert failures == 6  # four files, the manifest, and the line of the audit log that comes first
    assert open_bundle(store, ref)


def test_a_short_write_is_finished(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: honest(fd, data[:7]))

    assert open_bundle(store, publish(store))


def test_the_sweeper_removes_leftovers_after_an_hour_and_spares_live_publishers(
    store: Store, publish: Callable[..., BundleRef], now: datetime
) -> None:
    """F21."""
    publish(store)
    for name, age in {"dead": 3700, "alive": 60, "from-the-future": -7200}.items():
        place = store.state / ".staging" / name
        place.mkdir()
        (place / "model.safetensors").write_bytes(b"half")
        os.utime(place, (now.timestamp() - age,) * 2)

    assert sweep_staging(store.state, now_s=now.timestamp()) == 2
    assert [path.name for path in leftovers(store)] == ["alive"]


def test_sweeping_an_empty_store_removes_nothing(store: Store, now: datetime) -> None:
    assert sweep_staging(store.state, now_s=now.timestamp()) == 0
    assert not store.state.exists()


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    """F15: O_EXCL; an existing file or link of that name is not written to."""
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for name in ("there", "link"):
        with pytest.raises(FileExistsError):
            atomic.write_new(tmp_path, name, b"new")

    assert (tmp_path / "there").read_bytes() == b"old"
    assert not (tmp_path / "nowhere").exists()


def test_a_bundle_that_could_not_be_read_back_is_not_published(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An array named like the format's own field is written silently, and then does not load."""
    unreadable = encode_parts(Parts({"__metadata__": np.zeros(2)}, {}))
    monkeypatch.setattr(publishing, "encode_parts", lambda _: unreadable)

    with pytest.raises(ArtifactCorrupt):
        publish(store)

    assert not store.state.exists()


def test_a_quota_limits_versions_and_models_of_a_tenant(
    store: Store, publish: Callable[..., BundleRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """I13: refused before the payload is written; other tenants are not affected."""
    quota = Quota(versions_per_model=2, models_per_tenant=2)
    for model in ("a", "a", "b", "b"):
        publish(store, model=model, quota=quota)
    before = everything(store.state)
    monkeypatch.setattr(atomic, "write_new", lambda *_, **__: pytest.fail("it was written"))

    with pytest.raises(QuotaExceeded, match="versions of a"):
        publish(store, model="a", quota=quota)
    with pytest.raises(QuotaExceeded, match="models of tenant acme"):
        publish(store, model="c", quota=quota)

    monkeypatch.undo()
    assert everything(store.state) == before
    assert leftovers(store) == []
    assert publish(store, model="c", tenant="other", quota=quota).version == 1


def test_a_quota_limits_the_bytes_of_a_tenant(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    """B12: versions were counted, not bytes: a tenant could store 41 GB."""
    first = publish(store, model="a")
    taken = sum(
        path.stat().st_size
        for path in store.state.rglob("*")
        if path.is_file() and "bundles" in path.parts
    )
    full = Quota(versions_per_model=9, models_per_tenant=9, bytes_per_tenant=taken + 1)

    with pytest.raises(QuotaExceeded, match="bytes of models of tenant acme"):
        publish(store, model="b", quota=full)

    assert leftovers(store) == []
    assert publish(store, model="b", tenant="other", quota=full).version == 1
    delete_bundle(store, first.tenant, first.model, first.version)
    assert publish(store, model="b", quota=full).version == 1


def test_deleted_and_shipped_versions_do_not_count_for_the_quota(
    two_roots: Store, publish: Callable[..., BundleRef]
) -> None:
    shipped = Store(two_roots.shipped, None, two_roots.trust)
    publish(shipped, model="a")
    quota = Quota(versions_per_model=1, models_per_tenant=1)
    first = publish(two_roots, model="b", quota=quota)

    delete_bundle(two_roots, first.tenant, first.model, first.version)

    assert publish(two_roots, model="a", quota=quota).version == 2


def test_publishers_at_once_do_not_publish_beyond_the_quota(
    store: Store, publish: Callable[..., BundleRef]
) -> None:
    start = threading.Barrier(6)

    def one(value: float) -> bool:
        start.wait()
        try:
            publish(store, value, quota=Quota(3, 1))
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(one, range(6))) == 3


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (-1, 1)])
def test_a_quota_below_one_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Quota(*counts)
