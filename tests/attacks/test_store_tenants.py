"""Two tenants of any names in one store (P10, N-14).

No file of one tenant is read, listed or removed for the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given

from ensemble.errors import ArtifactCorrupt, ArtifactMissing, MalformedEvent
from ensemble.store.audit_log import read_audit
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files.safe_read import open_directory, read_bounded
from ensemble.store.layout import Store, bundle_parts
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.operations.deletion import apply_retention, delete_bundle, delete_release
from ensemble.store.operations.describe import describe_bundle, list_models
from ensemble.store.operations.quarantine import list_quarantine, quarantine_bundle, quarantine_file
from ensemble.store.releases.aliases import (
    Alias,
    read_challenger,
    read_model_alias,
    set_challenger,
    set_model_alias,
)
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote
from ensemble.store.releases.release_file import read_release
from tests.support.tenant_pairs import SIGNER, TRUST, pairs, populated_store

pytestmark = pytest.mark.usefixtures("no_fsync")


@contextmanager
def touched() -> Iterator[set[Path]]:
    """Record every path that is opened, listed or moved inside the block."""
    paths: set[Path] = set()
    original_open, original_rename = os.open, Path.rename

    def opening(name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = original_open(name, flags, mode, dir_fd=dir_fd)
        paths.add(Path(f"/proc/self/fd/{fd}").readlink())
        return fd

    def renaming(self: Path, target: Path) -> Path:
        paths.add(self)
        return original_rename(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opening)
        patch.setattr(Path, "rename", renaming)
        yield paths


@example(("a", "a_b"))
@example(("a_b", "a"))
@given(pairs)
def test_nothing_of_one_tenant_is_visible_to_another_or_opened_for_it(
    pair: tuple[str, str],
) -> None:
    """P10: by any function of the store, for any pair of names."""
    try:
        owner, guest = Tenant(pair[0]), Tenant(pair[1])
    except MalformedEvent:
        return
    if owner == guest:
        return
    model = ModelName(owner)
    with populated_store(owner, model) as (store, ref, release):
        theirs = BundleRef(guest, model, ref.version, ref.manifest_sha256)
        home, quarantine = store.state / "tenants" / owner, store.state / ".quarantine" / owner
        before = sorted(path for root in (home, quarantine) for path in root.rglob("*"))
        with touched() as paths:
            assert list_models(Store(store.state, None, TRUST), guest) == ()
            assert list_releases(store, guest) == ()
            assert list_quarantine(store, guest) == ()
            assert read_challenger(store, guest) is None
            assert read_model_alias(store, guest, model, Alias.CHAMPION) is None
            assert read_audit(store, guest, limit=100) == ()
            for act in (
                lambda: describe_bundle(store, guest, model),
                lambda: open_bundle(store, theirs),
                lambda: read_pointer(store, guest),
                lambda: read_release(store, guest, release),
                lambda: delete_bundle(store, guest, model, ref.version),
                lambda: delete_release(store, guest, release.serial),
                lambda: promote(store, guest, release, 0, signer=SIGNER),
                lambda: set_challenger(store, guest, release, 0, signer=SIGNER),
                lambda: set_model_alias(
                    store, guest, model, Alias.CHAMPION, theirs, 0, signer=SIGNER
                ),
                lambda: quarantine_bundle(store, guest, model, ref.version, "", even_in_use=True),
            ):
                with pytest.raises(ArtifactMissing):
                    act()
        assert not [
            path for path in paths if path.is_relative_to(home) or path.is_relative_to(quarantine)
        ]
        assert apply_retention(store, guest, newest=1).bundles == ()
        quarantine_file(store, guest, b"x", "", what="a file")
        assert sorted(
            path for root in (home, quarantine) for path in root.rglob("*") if path.name != ".lock"
        ) == [path for path in before if path.name != ".lock"]
        assert open_bundle(store, ref)


CLIMBING = ["..", ".", "", "../a", "a/../a", "a/bundles", "/", "a\0", "../../etc"]


@pytest.mark.parametrize("name", CLIMBING, ids=ascii)
def test_an_unchecked_name_opens_nothing(name: str) -> None:
    """N-14: also where code has not made a `Tenant` of the text."""
    with populated_store(Tenant("a"), ModelName("a")) as (store, _, _), touched() as paths:
        with (
            pytest.raises(ArtifactCorrupt),
            open_directory(store.state, *bundle_parts(name, "a"), what=""),
        ):  # type: ignore[arg-type]
            pytest.fail("a folder was opened")
        with (
            open_directory(store.state, "tenants", what="") as tenants,
            pytest.raises(ArtifactCorrupt),
        ):
            read_bounded(tenants, name, limit=1 << 20, what="")

    assert paths == {store.state, store.state / "tenants"}
