"""Faults of files: each fault of each file that a reader opens is one named error with its cause.

Here are the files of the store: pointer, release, manifest and payloads, read in that order.
test_model_faults.py is about what the layers do with the error. F5 in full is in
attacks/test_bit_flips.py, F18 and F19 are in attacks/test_tuf_names.py, F21 is in
test_crash_points.py, F6, F22 and F23 are in ensemble/store, and the names of F24 in test_names.py.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactUnreadable,
)
from ensemble.store.bundles.manifest import PAYLOAD
from ensemble.store.bundles.open import OpenedBundle, open_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer
from tests.support.file_faults import FILE_FAULTS

pytestmark = pytest.mark.usefixtures("no_fsync")

FLOW, PROCESS = ModelName("anomaly-flow"), ModelName("anomaly-process")
BUNDLE = "bundles/anomaly-flow/1"
CHAIN = [
    "CURRENT",
    "releases/1.json",
    f"{BUNDLE}/manifest.json",
    *(f"{BUNDLE}/{name}" for name in PAYLOAD),
]
FOLDERS = ["", "releases", "bundles", "bundles/anomaly-flow", BUNDLE]


@dataclass(frozen=True)
class ServingStore:
    """A store with a serving release of acme with two models, and one of tenant `other`."""

    store: Store
    bundles: dict[ModelName, BundleRef]

    @property
    def home(self) -> Path:
        return self.store.state / "tenants" / "acme"

    def load(self, tenant: str = "acme", model: ModelName = FLOW) -> OpenedBundle:
        """Load a model through all files, as every reader does."""
        release = read_release(self.store, Tenant(tenant), read_pointer(self.store, Tenant(tenant)))
        return open_bundle(self.store, release.bundles[model])


@pytest.fixture
def serving(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    now: datetime,
    signer: Signer,
) -> ServingStore:
    other = Tenant("other")
    theirs = publish_release(
        store, other, [publish(store, tenant="other")], {}, notes="", now=now, signer=signer
    )
    promote(store, other, theirs, 0, signer=signer)
    bundles = {FLOW: publish(store), PROCESS: publish(store, model=PROCESS)}
    promote(store, acme, release_of(store, *bundles.values()), 0, signer=signer)
    return ServingStore(store, bundles)


@pytest.mark.parametrize(("spoil", "expected"), FILE_FAULTS.values(), ids=FILE_FAULTS.keys())
@pytest.mark.parametrize("file", CHAIN)
def test_every_fault_of_every_file_is_a_named_error_and_affects_no_other_model(
    serving: ServingStore,
    file: str,
    spoil: Callable[[Path], object],
    expected: tuple[type[ArtifactError], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P1, P2: no array is decoded; other models and tenants open as before."""
    monkeypatch.setattr(safetensors.numpy, "load", lambda _: pytest.fail("decoded"))
    untouched = {
        name: open_bundle(serving.store, ref).files for name, ref in serving.bundles.items()
    }
    spoil(serving.home / file)

    with pytest.raises(expected) as refused:
        serving.load()

    assert refused.value.code in {"ARTIFACT_MISSING", "ARTIFACT_CORRUPT", "ARTIFACT_UNTRUSTED"}
    assert str(serving.store.state) not in str(refused.value)
    assert open_bundle(serving.store, serving.bundles[PROCESS]).files == untouched[PROCESS]
    assert serving.load("other")


@pytest.mark.parametrize("place", [*CHAIN, *FOLDERS])
def test_a_denied_permission_is_reported_and_not_as_a_missing_file(
    serving: ServingStore, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F12: for every file and every folder on the path.

    The test replaces `os.open`, because no permission is denied to root.
    """
    denied = (serving.home / place).name
    honest = os.open

    def denying(path: str, *args: Any, **kwargs: Any) -> int:
        if path == denied:
            raise OSError(errno.EACCES, "denied", "/secret/path")
        return honest(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denying)

    with pytest.raises(ArtifactUnreadable, match="permission") as refused:
        serving.load()

    assert "/secret" not in str(refused.value)
    assert refused.value.cause == "files"


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["open", "read"])
@pytest.mark.parametrize("file", CHAIN)
def test_a_failed_read_is_repeated_once_and_then_reported(
    serving: ServingStore, file: str, step: str, fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F14: a second failure is a named error; the next load, without a failure, succeeds."""
    name = Path(file).name
    honest = getattr(os, step)
    left = 1

    def failing(target: str | int, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        reached = (
            target if isinstance(target, str) else Path(f"/proc/self/fd/{target}").readlink().name
        )
        if reached == name and left:
            left -= 1
            raise OSError(fault, "failing")
        return honest(target, *args, **kwargs)

    monkeypatch.setattr(os, step, failing)
    assert serving.load()

    left = 2
    with pytest.raises(ArtifactUnreadable, match=errno.errorcode[fault]):
        serving.load()
    assert serving.load()


def test_a_file_that_is_still_being_written_is_rejected_until_it_is_complete(
    serving: ServingStore,
) -> None:
    """F4: Axon never writes under a final name, but a copy tool of the operator may."""
    path = serving.home / BUNDLE / "model.safetensors"
    content = path.read_bytes()
    half_is_written, may_finish = threading.Event(), threading.Event()

    def copy_slowly() -> None:
        path.chmod(0o644)
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            half_is_written.set()
            may_finish.wait()
            file.write(content[len(content) // 2 :])

    writer = threading.Thread(target=copy_slowly)
    writer.start()
    half_is_written.wait()

    try:
        with pytest.raises(ArtifactCorrupt, match="Model file corrupted"):
            serving.load()
    finally:
        may_finish.set()
        writer.join()
    assert serving.load().files["model.safetensors"] == content


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "tenants").rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("step", ["write", "fsync", "open", "mkdir", "rename", "replace"])
@pytest.mark.parametrize("act", ["bundle", "release", "promotion"])
def test_a_full_disk_publishes_nothing_and_does_not_affect_what_serves(
    serving: ServingStore,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
    act: str,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F20: ENOSPC at the k-th step of its kind, for every k.

    What a reader opens is complete, and staging is empty.
    """
    second = release_of(serving.store, *serving.bundles.values())
    acts = {
        "bundle": lambda: publish(serving.store, 2.0),
        "release": lambda: release_of(serving.store, *serving.bundles.values()),
        "promotion": lambda: promote(
            serving.store, acme, second, read_pointer(serving.store, acme).serial, signer=signer
        ),
    }
    before = read_pointer(serving.store, acme), list_releases(serving.store, acme)
    honest = getattr(os, step)
    for k in range(100):
        left = k

        def filling(target: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            is_change = step != "open" or (args and args[0] & os.O_CREAT)
            if is_change and left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            left -= bool(is_change)
            return honest(target, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, step, filling)
            try:
                acts[act]()
            except OSError:
                # the last fsync comes after the rename: then the item exists, but a power cut may
                # still remove it
                if step != "fsync":
                    assert (
                        read_pointer(serving.store, acme),
                        list_releases(serving.store, acme),
                    ) == before
                assert [
                    line.problem for line in list_releases(serving.store, acme) if line.problem
                ] == []
                assert serving.load()
                assert list((serving.store.state / ".staging").glob("*")) == []
            else:
                break

    assert k < 99
    assert acts[act]()  # nothing left behind prevents it


def test_the_clock_of_a_writer_does_not_decide_the_order(
    serving: ServingStore,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    signer: Signer,
    now: datetime,
) -> None:
    """F24, T4: a release of today may follow one of the year 2126; the serial is the order."""
    later = publish_release(
        serving.store,
        acme,
        [publish(serving.store)],
        {},
        notes="",
        now=now + timedelta(days=36_525),
        signer=signer,
    )
    sooner = publish_release(
        serving.store, acme, [publish(serving.store)], {}, notes="", now=now, signer=signer
    )

    assert (later.serial, sooner.serial) == (2, 3)
    assert list_releases(serving.store, acme)[0].ref == sooner
    os.utime(serving.home / "releases" / "2.json", (2**33, 2**33))
    assert list_releases(serving.store, acme)[0].ref == sooner


def test_the_next_publisher_removes_the_staging_of_a_killed_one(
    serving: ServingStore, publish: Callable[..., BundleRef]
) -> None:
    """F21: the age is measured with the clock of the file system that dated the files."""
    staging = serving.store.state / ".staging"
    for name, age_s in {"dead": 3700, "alive": 60}.items():
        place = staging / name
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"half")
        dated = place.stat().st_mtime - age_s
        os.utime(place, (dated, dated))

    publish(serving.store)

    assert [path.name for path in staging.iterdir()] == ["alive"]
