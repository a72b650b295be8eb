"""Crash points (P4): a kill before any change to the disk leaves the old or the new state."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ensemble.errors import ArtifactError
from ensemble.runtime.controls import change_controls, read_controls
from ensemble.store.audit_log import read_audit, verify_audit
from ensemble.store.bundles.codecs import decode_parts
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files.atomic import sweep_staging
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.operations.archive import export_release, import_archive
from ensemble.store.operations.deletion import apply_retention, delete_bundle, delete_release
from ensemble.store.operations.quarantine import list_quarantine, quarantine_bundle
from ensemble.store.releases.aliases import clear_challenger, get_challenger, set_challenger
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer

pytestmark = [pytest.mark.forks, pytest.mark.usefixtures("no_fsync")]

BROKEN = {"empty": b"", "cut": b'{"at_once":false,"format":2,', "without a signature": b"{}\n"}


class DieAt:
    """An action in a child process that is killed before its k-th change to the disk.

    The store changes the disk only through `os` and `fcntl` (`ensemble/store/files/atomic.py`), so
    wrappers around these see every step. The child is a fork: a step costs milliseconds, so every
    step can be tried.
    """

    CHANGES = (
        "open",
        "write",
        "fsync",
        "fchmod",
        "mkdir",
        "chmod",
        "rename",
        "replace",
        "unlink",
        "rmdir",
    )

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def __call__(self, k: int, act: Callable[[], object], *, power_cut: bool = False) -> bool:
        """Run `act` up to step k, and return whether it finished before that step.

        A power cut removes what was written but not yet fsynced.
        """
        child = os.fork()
        if child == 0:
            self._die(k, act, power_cut=power_cut)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the action raised"
        return not os.WIFSIGNALED(status)

    def record(self, act: Callable[[], object]) -> list[str]:
        """Run `act` and list its steps in order, e.g. `fsync manifest.json`."""
        steps: list[str] = []
        with self._monkeypatch.context() as patch:
            self._record_steps(lambda step, _: steps.append(step), patch.setattr)
            act()
        return steps

    def _die(self, k: int, act: Callable[[], object], *, power_cut: bool) -> None:
        steps = 0
        # inode -> a duplicate descriptor, and the number of bytes that are already on the disk
        unsafe: dict[int, tuple[int, int]] = {}

        def before(step: str, fd: int | None) -> None:
            nonlocal steps
            if steps == k:
                for descriptor, safe in unsafe.values() if power_cut else ():
                    os.ftruncate(descriptor, safe)
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
            if fd is not None and step.startswith("write"):
                unsafe.setdefault(os.fstat(fd).st_ino, (os.dup(fd), os.fstat(fd).st_size))
            if fd is not None and step.startswith("fsync"):
                unsafe.pop(os.fstat(fd).st_ino, None)

        try:
            self._record_steps(before, setattr)
            act()
        except BaseException:  # noqa: BLE001  # the child must not continue as a second pytest
            os._exit(1)
        os._exit(0)

    def _record_steps(
        self, before: Callable[[str, int | None], None], patch: Callable[[Any, str, Any], None]
    ) -> None:
        for name in self.CHANGES:
            patch(os, name, self._wrapped(name, getattr(os, name), before))
        lock = fcntl.flock
        patch(fcntl, "flock", lambda *args: (before("flock", None), lock(*args))[1])

    @staticmethod
    def _wrapped(
        name: str, honest: Callable[..., Any], before: Callable[[str, int | None], None]
    ) -> Callable[..., Any]:
        def watched(target: Any, *args: Any, **kwargs: Any) -> Any:
            if name == "open" and not args[0] & os.O_CREAT:
                return honest(target, *args, **kwargs)  # reading changes nothing
            fd = target if isinstance(target, int) else None
            path = Path(
                Path(f"/proc/self/fd/{fd}").readlink()
                if fd is not None
                else args[0]
                if name in {"rename", "replace"}
                else target
            )
            before(f"{name} {'staged' if path.parent.name == '.staging' else path.name}", fd)
            return honest(target, *args, **kwargs)

        return watched


@pytest.fixture
def die_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    return DieAt(monkeypatch)


@pytest.fixture
def steps_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], list[str]]:
    return DieAt(monkeypatch).record


def test_every_byte_of_a_bundle_is_on_the_disk_before_its_name(
    store: Store,
    publish: Callable[..., BundleRef],
    steps_of: Callable[[Callable[[], object]], list[str]],
) -> None:
    """P4: fsync of every file and of the folder before the rename, of the parent after it."""
    steps = steps_of(lambda: publish(store))

    written = [step for step in steps if step.startswith(("write", "fsync", "rename"))]
    renamed = written.index("rename 1")
    files = ["CARD.md", "config.json", "golden.json", "model.safetensors", "manifest.json"]
    for name in files:
        assert written.index(f"write {name}") < written.index(f"fsync {name}") < renamed
    assert written.index("write manifest.json") > max(
        written.index(f"fsync {name}") for name in files[:-1]
    )
    assert written[renamed - 1] == "fsync staged"
    assert written[renamed + 1 :] == [
        "fsync anomaly-flow",
        "write audit.jsonl",
        "fsync audit.jsonl",
        "fsync var",
    ]
    assert written.index("fsync audit.jsonl") < renamed, (
        "P31: the audit line of the begin comes before anything that a reader can see"
    )


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_publisher_killed_at_any_step_leaves_the_old_or_the_new(
    store: Store,
    publish: Callable[..., BundleRef],
    now: datetime,
    die_at: Callable[..., bool],
    *,
    power_cut: bool,
    tmp_path: Path,
) -> None:
    """P4, F21: SIGKILL before the k-th step for every k; a power cut also loses unsynced bytes."""
    first = publish(store, 1.0)
    versions_after = []
    for k in range(200):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(k, lambda: publish(copy, 2.0), power_cut=power_cut)  # noqa: B023

        listed = list_bundles(copy, first.tenant)
        assert [listing.problem for listing in listed] == [""] * len(listed)
        assert [
            decode_parts(open_bundle(copy, listing.ref).files).config["value"] for listing in listed
        ] in ([1.0], [2.0, 1.0])
        versions_after.append(len(listed))
        if survived:
            break
        # the lock of the killed publisher is free
        assert publish(copy, 3.0).version == len(listed) + 1
        sweep_staging(copy.state, now_s=(now + timedelta(days=36_500)).timestamp())
        assert list((copy.state / ".staging").iterdir()) == []

    assert survived
    assert len(versions_after) > 25
    assert versions_after == sorted(versions_after)  # old until one step, then new
    assert set(versions_after) == {1, 2}


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_promotion_killed_at_any_step_leaves_the_old_pointer_or_the_new(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    die_at: Callable[..., bool],
    now: datetime,
    signer: Signer,
    *,
    power_cut: bool,
    tmp_path: Path,
) -> None:
    """P4, F21: the pointer names a release that can be opened."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    serials = []
    for k in range(100):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(
            k,
            lambda: promote(copy, acme, two_releases[1], 1, signer=signer),  # noqa: B023
            power_cut=power_cut,
        )

        pointer = read_pointer(copy, acme)
        unpromoted = Store(tmp_path / f"spoilt{k}", None, store.trust)
        shutil.copytree(copy.state, unpromoted.state)
        # a pointer that breaks before the next promotion
        (unpromoted.state / "tenants" / "acme" / "CURRENT").write_bytes(b"")
        assert promote(unpromoted, acme, two_releases[0], 0, signer=signer).serial > pointer.serial
        for bundle in read_release(copy, acme, pointer).bundles.values():
            open_bundle(copy, bundle)
        serials.append(pointer.serial)
        assert pointer.ref == two_releases[pointer.serial - 1]
        assert (
            promote(copy, acme, two_releases[0], pointer.serial, signer=signer).serial
            > pointer.serial
        )
        sweep_staging(copy.state, now_s=(now + timedelta(days=36_500)).timestamp())
        assert list((copy.state / ".staging").iterdir()) == []
        if survived:
            break

    assert survived
    assert len(serials) > 12
    assert serials == sorted(serials)
    assert set(serials) == {1, 2}


def test_a_release_whose_publisher_is_killed_at_any_step_is_complete_or_absent(
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
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
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


def test_a_pointer_is_on_the_disk_before_its_name_and_its_name_before_the_response(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    steps_of: Callable[[Callable[[], object]], list[str]],
    signer: Signer,
) -> None:
    """P4: without the last fsync a power cut undoes a promotion that was reported as done."""
    steps = steps_of(lambda: promote(store, acme, two_releases[0], 0, signer=signer))

    moved = steps.index("replace CURRENT")
    assert (
        steps.index("flock") < steps.index("write CURRENT") < steps.index("fsync CURRENT") < moved
    )
    assert steps[moved + 1] == "fsync acme"


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_the_repair_of_a_broken_pointer_killed_at_any_step_can_be_repeated(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    die_at: Callable[..., bool],
    signer: Signer,
    *,
    broken: bytes,
    tmp_path: Path,
) -> None:
    """P4, P7.

    The pointer stays broken or is repaired. The next serial is above every serial that a reader
    may have read.
    """
    promote(store, acme, two_releases[0], 0, signer=signer)
    newest = promote(store, acme, two_releases[1], 1, signer=signer)
    pointer_file = Path("tenants") / "acme" / "CURRENT"
    (store.state / pointer_file).write_bytes(broken)
    serials = []
    for k in range(100):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(
            k,
            lambda: promote(copy, acme, two_releases[1], 0, signer=signer),  # noqa: B023
            power_cut=True,
        )

        try:
            pointer = read_pointer(copy, acme, not_below=newest.serial)
        except ArtifactError:
            assert (copy.state / pointer_file).read_bytes() == broken
            pointer = None
        serials.append(pointer.serial if pointer else 0)
        again = promote(copy, acme, two_releases[1], serials[-1], signer=signer)
        assert again.serial > max(serials[-1], newest.serial)
        assert again.previous == (two_releases[0],)
        if survived:
            break

    assert survived
    assert serials == sorted(serials)
    assert set(serials) == {0, 3}


@pytest.mark.parametrize(
    ("act", "power_cut", "stride"),
    [
        ("delete", True, 1),
        ("delete release", False, 1),
        ("retention", True, 3),  # it does the other two, one after the other
    ],
    ids=["delete, power cut", "delete release, killed", "retention, power cut"],
)
def test_a_deletion_killed_at_any_step_leaves_each_item_complete_or_absent(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    die_at: Callable[..., bool],
    now: datetime,
    signer: Signer,
    *,
    act: str,
    power_cut: bool,
    stride: int,
    tmp_path: Path,
) -> None:
    """P4, F21: what serves stays, no item is incomplete, and no number is used again."""
    promote(store, acme, two_releases[1], 0, signer=signer)
    model = publish(store, 3.0).model
    remove = {
        "delete": lambda copy: delete_bundle(copy, acme, model, 3),
        "delete release": lambda copy: delete_release(copy, acme, 1),
        "retention": lambda copy: apply_retention(copy, acme, newest=1),
    }[act]
    found = []
    for k in range(0, 300, stride):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(k, lambda: remove(copy), power_cut=power_cut)  # noqa: B023

        bundles, releases = list_bundles(copy, acme), list_releases(copy, acme)
        assert not [one.problem for one in (*bundles, *releases) if one.problem]
        assert all(open_bundle(copy, one.ref) for one in bundles)
        for release in (read_pointer(copy, acme).ref, *(one.ref for one in releases)):
            for bundle in read_release(copy, acme, release).bundles.values():
                assert act == "delete release" or open_bundle(copy, bundle)
        found.append((len(bundles), len(releases)))
        assert (publish(copy).version, release_of(copy, bundles[-1].ref).serial) == (4, 3)
        sweep_staging(copy.state, now_s=(now + timedelta(days=36_500)).timestamp())
        assert list((copy.state / ".staging").iterdir()) == []
        assert verify_audit(copy).problems == ()
        if survived:
            break

    assert survived
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (
        (3, 2),
        {"delete": (2, 2), "delete release": (3, 1), "retention": (2, 1)}[act],
    )


def test_an_import_killed_at_any_step_leaves_complete_models_or_none(
    store: Store,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    die_at: Callable[..., bool],
    now: datetime,
    signer: Signer,
    tmp_path: Path,
) -> None:
    """P4: the release comes last, so no release names a missing model."""
    data = export_release(
        store,
        Tenant("acme"),
        release_of(store, publish(store, 1.0), publish(store, 2.0, model="behavior-flow")),
    )
    banks = Tenant("banks")
    found = []
    for k in range(0, 300, 2):  # every other step: the tests of publication try each one
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        survived = die_at(
            k,
            lambda: import_archive(copy, banks, data, now=now, signer=signer, quota=None),  # noqa: B023
            power_cut=True,
        )

        bundles, releases = list_bundles(copy, banks), list_releases(copy, banks)
        assert not [one.problem for one in (*bundles, *releases) if one.problem]
        for one in releases:
            assert all(
                open_bundle(copy, ref)
                for ref in read_release(copy, banks, one.ref).bundles.values()
            )
        found.append((len(bundles), len(releases)))
        if survived:
            break

    assert survived
    assert found == sorted(found)
    assert set(found) == {(0, 0), (1, 0), (2, 0), (2, 1)}


def test_a_quarantine_killed_at_any_step_leaves_the_bundle_in_exactly_one_place(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    die_at: Callable[..., bool],
    tmp_path: Path,
) -> None:
    """P4: the bundle is evidence, so it is never lost; and it is never in both places."""
    ref = publish(store)
    found = []
    for k in range(200):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(
            k,
            lambda: quarantine_bundle(copy, acme, ref.model, 1, "why", even_in_use=False),  # noqa: B023
            power_cut=True,
        )

        quarantined = [one.is_there for one in list_quarantine(copy, acme)]
        found.append((len(list_bundles(copy, acme)), any(quarantined)))
        assert publish(copy).version == 2
        if survived:
            break

    assert survived
    assert list(dict.fromkeys(found)) == [(1, False), (0, True)]


@pytest.mark.parametrize("power_cut", [False, True], ids=["killed", "power cut"])
def test_a_challenger_killed_at_any_step_is_the_old_one_or_the_new(
    store: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    die_at: Callable[..., bool],
    signer: Signer,
    *,
    power_cut: bool,
    tmp_path: Path,
) -> None:
    """P4: and its serial only rises."""
    set_challenger(store, acme, two_releases[0], 0, signer=signer)
    found = []
    for k in range(100):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(
            k,
            lambda: set_challenger(copy, acme, two_releases[1], 1, signer=signer),  # noqa: B023
            power_cut=power_cut,
        )

        challenger = get_challenger(copy, acme)
        assert challenger.sha256 == two_releases[challenger.serial - 1].sha256
        assert (
            clear_challenger(copy, acme, challenger.serial, signer=signer).serial
            > challenger.serial
        )
        found.append(challenger.serial)
        if survived:
            break

    assert survived
    assert found == sorted(found)
    assert set(found) == {1, 2}


def test_every_bundle_that_a_crash_leaves_visible_has_an_audit_line(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    die_at: Callable[..., bool],
    tmp_path: Path,
) -> None:
    """P31: no action is without its line, whenever its process dies."""
    publish(store, 1.0)
    outcomes = []
    for k in range(200):
        copy = Store(tmp_path / f"copy{k}", None, store.trust)
        shutil.copytree(store.state, copy.state)
        survived = die_at(k, lambda: publish(copy, 2.0), power_cut=True)  # noqa: B023

        lines = {entry.what: entry for entry in read_audit(copy, acme, limit=10)}
        for one in list_bundles(copy, acme):
            assert lines[str(one.ref)].digest == one.ref.manifest_sha256
        second = lines.get("anomaly-flow/2")
        outcomes.append("" if second is None else second.outcome)
        assert publish(copy, 3.0)
        assert verify_audit(copy).problems == ()
        if survived:
            break

    assert survived
    assert list(dict.fromkeys(outcomes)) == ["", "begun", "done"]


def test_a_crash_at_any_step_leaves_the_old_switches_or_the_new(
    tmp_path: Path,
    die_at: Callable[..., bool],
    steps_of: Callable[[Callable[[], object]], list[str]],
) -> None:
    """P4, F21: a kill or a power cut before each change to the disk."""
    old = change_controls(tmp_path, lambda now: now.with_disabled("anomaly"))
    new = old.with_disabled("behavior")
    outcomes = set()

    def back_to_old() -> None:
        change_controls(tmp_path, lambda _: old)

    for power_cut in (False, True):
        k, is_done = 0, False
        while not is_done:
            back_to_old()
            is_done = die_at(
                k, lambda: change_controls(tmp_path, lambda _: new), power_cut=power_cut
            )
            found = read_controls(tmp_path)
            assert found in (old, new), (k, power_cut)
            outcomes.add(found.disabled)
            k += 1

    assert outcomes == {old.disabled, new.disabled}
    assert "fsync controls.json" in steps_of(lambda: change_controls(tmp_path, lambda _: old))
