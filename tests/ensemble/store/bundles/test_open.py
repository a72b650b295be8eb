"""Opening a bundle: every fault of a file is refused before anything is decoded."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactIncompatible,
    ArtifactMissing,
    ArtifactUnreadable,
    ArtifactUntrusted,
    InsufficientMemory,
)
from ensemble.model import Parts
from ensemble.store.bundles.codecs import decode_golden, decode_parts
from ensemble.store.bundles.manifest import PAYLOAD
from ensemble.store.bundles.open import MEMORY_FACTOR, open_bundle
from ensemble.store.files import canonical_json
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.signing import Document, Signer, Trust

ALL_FILES = [*PAYLOAD, "manifest.json"]


@pytest.fixture
def bundle(
    store: Store, publish: Callable[..., BundleRef], folder_of: Callable[[Store, BundleRef], Path]
) -> tuple[BundleRef, Path]:
    """A published bundle: its reference and its directory."""
    ref = publish(store, 1.0)
    return ref, folder_of(store, ref)


def fail(
    monkeypatch: pytest.MonkeyPatch, step: str, name: str, fault: int, *, times: int
) -> list[str]:
    """Make `os.open` or `os.read` of the file `name` fail a number of times; list the failures."""
    honest = getattr(os, step)
    failed: list[str] = []

    def failing(target: str | int, *args: Any, **kwargs: Any) -> Any:
        if (target if isinstance(target, str) else name_of(target)) == name and len(failed) < times:
            failed.append(name)
            raise OSError(fault, "failing")
        return honest(target, *args, **kwargs)

    monkeypatch.setattr(os, step, failing)
    return failed


def name_of(fd: int) -> str:
    return Path(f"/proc/self/fd/{fd}").readlink().name


def overwrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def resign(
    folder: Path, ref: BundleRef, signer: Signer, change: Callable[[dict[str, Any]], object]
) -> BundleRef:
    """Change the manifest as a trusted publisher could, and return a reference to the result."""
    value = json.loads((folder / "manifest.json").read_bytes().splitlines()[0])
    change(value)
    data = signer.sign(canonical_json.encode(value), Document.MANIFEST)
    overwrite(folder / "manifest.json", data)
    return replace(ref, manifest_sha256=sha256(data).hexdigest())


def test_a_bundle_opens_as_it_was_published(
    store: Store, bundle: tuple[BundleRef, Path], parts_of: Callable[[float], Parts]
) -> None:
    ref, _ = bundle

    proven = open_bundle(store, ref)

    assert proven.ref == ref
    assert proven.notes == ()
    assert proven.manifest.serial == 1
    assert set(proven.files) == set(PAYLOAD)
    assert decode_parts(proven.files).config == parts_of(1.0).config
    assert decode_golden(proven.files["golden.json"]).scores == (0.25,)


def test_a_bundle_of_either_root_opens(two_roots: Store, publish: Callable[..., BundleRef]) -> None:
    """A release may mix shipped bundles and its own."""
    shipped = publish(Store(two_roots.shipped, None, two_roots.trust), 1.0)
    own = publish(two_roots, 2.0)

    assert (shipped.version, own.version) == (1, 2)
    assert open_bundle(two_roots, shipped).manifest.serial == 1
    assert open_bundle(two_roots, own).manifest.serial == 2


def test_the_digest_decides_where_both_roots_have_the_version(
    two_roots: Store, publish: Callable[..., BundleRef]
) -> None:
    """An upgrade may ship a version number that this host has used already."""
    own = publish(Store(two_roots.state, None, two_roots.trust), 1.0)
    shipped = publish(Store(two_roots.shipped, None, two_roots.trust), 2.0)

    assert own.version == shipped.version
    assert decode_parts(open_bundle(two_roots, own).files).config["value"] == 1.0
    assert decode_parts(open_bundle(two_roots, shipped).files).config["value"] == 2.0


def test_a_broken_copy_is_reported_if_the_other_root_has_none(
    two_roots: Store,
    publish: Callable[..., BundleRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    ref = publish(two_roots)
    (folder_of(two_roots, ref) / "config.json").unlink()

    with pytest.raises(ArtifactMissing, match=r"anomaly-flow/1/config\.json"):
        open_bundle(two_roots, ref)


@pytest.mark.parametrize(
    "field",
    [{"version": 9}, {"tenant": Tenant("other")}, {"model": ModelName("behavior-flow")}],
    ids=str,
)
def test_a_bundle_in_no_root_is_missing(
    store: Store, bundle: tuple[BundleRef, Path], field: dict[str, Any]
) -> None:
    """F1."""
    with pytest.raises(ArtifactMissing):
        open_bundle(store, replace(bundle[0], **field))


def test_a_missing_store_is_empty(
    tmp_path: Path, trust: Trust, bundle: tuple[BundleRef, Path]
) -> None:
    with pytest.raises(ArtifactMissing):
        open_bundle(Store(tmp_path / "nowhere", tmp_path / "nowhere-else", trust), bundle[0])


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_named(store: Store, bundle: tuple[BundleRef, Path], name: str) -> None:
    """F2."""
    ref, folder = bundle
    (folder / name).unlink()

    with pytest.raises(ArtifactMissing, match=f"anomaly-flow/1/{name}"):
        open_bundle(store, ref)


CUTS = {
    "to nothing": lambda _: b"",
    "to one byte": lambda data: data[:1],
    "to half": lambda data: data[: len(data) // 2],
}
CUTS |= {"by one byte": lambda data: data[:-1], "longer by one": lambda data: data + b"\n"}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize("name", ALL_FILES)
def test_a_file_of_another_length_is_corrupt(
    store: Store, bundle: tuple[BundleRef, Path], name: str, cut: Callable[[bytes], bytes]
) -> None:
    """F3: a compressed joblib cut by its last byte loads (RELIABILITY, fact 2)."""
    ref, folder = bundle
    overwrite(folder / name, cut((folder / name).read_bytes()))

    reason = (
        "Model file corrupted: is .* bytes, (published were|allowed are)"
        if name in PAYLOAD
        else "sha256"
    )  # only the digest of a manifest is known
    with pytest.raises(ArtifactCorrupt, match=f"anomaly-flow/1/{name}: {reason}"):
        open_bundle(store, ref)


def test_the_length_is_compared_before_a_byte_is_read(
    store: Store, bundle: tuple[BundleRef, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F3, F16: a file of the wrong length is not even hashed."""
    ref, folder = bundle
    overwrite(folder / "CARD.md", b"x" * 1000)
    read = []
    honest = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: read.append(name_of(fd)) or honest(fd, n))

    with pytest.raises(ArtifactCorrupt, match="1,000 bytes"):
        open_bundle(store, ref)

    assert set(read) == {"manifest.json"}


@pytest.mark.parametrize("name", ALL_FILES)
def test_every_flipped_byte_is_caught(
    store: Store, bundle: tuple[BundleRef, Path], name: str
) -> None:
    """F5, P3: one bit in every byte of every file; no position is left out."""
    ref, folder = bundle
    whole = (folder / name).read_bytes()
    accepted = []
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        overwrite(folder / name, flipped)
        try:
            open_bundle(store, ref)
        except ArtifactCorrupt:
            continue
        accepted.append(position)

    assert accepted == []


def link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unix_socket(path: Path) -> None:
    path.unlink()
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's address is at most 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "make", [link, hard_link, pipe, directory, unix_socket], ids=lambda make: make.__name__
)
@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
def test_links_and_other_kinds_of_files_are_refused(
    store: Store, bundle: tuple[BundleRef, Path], name: str, make: Callable[[Path], None]
) -> None:
    """F13, F15: and a pipe does not hang the reader."""
    ref, folder = bundle
    make(folder / name)

    with pytest.raises(ArtifactCorrupt, match=f"anomaly-flow/1/{name}"):
        open_bundle(store, ref)


def test_a_version_that_is_a_link_is_refused(store: Store, bundle: tuple[BundleRef, Path]) -> None:
    """F15: a process that can make a link in the store must not choose what is loaded."""
    ref, folder = bundle
    shutil.move(folder, folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")

    with pytest.raises(ArtifactCorrupt):
        open_bundle(store, ref)


@pytest.mark.parametrize("name", ["extra.pkl", ".hidden", "model.safetensors.bak", "manifest.sig"])
def test_a_file_that_was_not_published_is_refused(
    store: Store, bundle: tuple[BundleRef, Path], name: str
) -> None:
    ref, folder = bundle
    (folder / name).write_bytes(b"")

    with pytest.raises(ArtifactCorrupt, match="was not published"):
        open_bundle(store, ref)


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["1", *ALL_FILES])
def test_a_denied_permission_is_not_called_missing(
    store: Store,
    bundle: tuple[BundleRef, Path],
    name: str,
    fault: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F12: "missing" would mislead the operator. Injected, because root may read every file."""
    honest = os.open

    def denying(path: str, *args: Any, **kwargs: Any) -> int:
        if path == name:
            raise OSError(fault, "denied", "/secret/path")
        return honest(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", denying)

    with pytest.raises(ArtifactUnreadable, match="permission") as refused:
        open_bundle(store, bundle[0])

    assert "/secret" not in str(refused.value)
    assert refused.value.cause == "files"


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["open", "read"])
def test_a_transient_disk_error_is_retried_once(
    store: Store,
    bundle: tuple[BundleRef, Path],
    fault: int,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F14."""
    failed = fail(monkeypatch, step, "golden.json", fault, times=1)

    assert "golden.json" in open_bundle(store, bundle[0]).files
    assert len(failed) == 1


@pytest.mark.parametrize("fault", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", ["open", "read"])
def test_a_disk_that_fails_twice_is_reported(
    store: Store,
    bundle: tuple[BundleRef, Path],
    fault: int,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F14; further attempts are left to the slot, which knows the time."""
    failed = fail(monkeypatch, step, "golden.json", fault, times=100)

    with pytest.raises(ArtifactUnreadable, match=f"golden.json.*{errno.errorcode[fault]}"):
        open_bundle(store, bundle[0])

    assert len(failed) == 2


def test_a_permanent_error_is_not_retried(
    store: Store, bundle: tuple[BundleRef, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F12, F14: a denied permission is denied the second time too."""
    failed = fail(monkeypatch, "open", "golden.json", errno.EACCES, times=100)

    with pytest.raises(ArtifactUnreadable):
        open_bundle(store, bundle[0])

    assert len(failed) == 1


def test_a_failing_read_leaves_no_descriptor_open(
    store: Store, bundle: tuple[BundleRef, Path]
) -> None:
    ref, folder = bundle
    directory(folder / "model.safetensors")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(ArtifactCorrupt):
            open_bundle(store, ref)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_error_names_no_path(
    store: Store, bundle: tuple[BundleRef, Path], tmp_path: Path
) -> None:
    ref, folder = bundle
    (folder / "config.json").unlink()

    with pytest.raises(ArtifactError) as refused:
        open_bundle(store, ref)

    assert str(tmp_path) not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_the_manifest_of_another_version_is_untrusted(
    store: Store, bundle: tuple[BundleRef, Path]
) -> None:
    """F19: version 1 copied over as version 3, with a digest that fits."""
    ref, folder = bundle
    shutil.copytree(folder, folder.parent / "3")

    with pytest.raises(ArtifactUntrusted):
        open_bundle(store, replace(ref, version=3))


def test_the_bundle_of_another_tenant_is_untrusted(
    store: Store, bundle: tuple[BundleRef, Path]
) -> None:
    """F18."""
    ref, folder = bundle
    shutil.copytree(folder, store.state / "tenants" / "evil" / "bundles" / ref.model / "1")

    with pytest.raises(ArtifactUntrusted):
        open_bundle(store, replace(ref, tenant=Tenant("evil")))


def test_another_format_is_incompatible(
    store: Store, bundle: tuple[BundleRef, Path], signer: Signer
) -> None:
    ref, folder = bundle
    ref = resign(folder, ref, signer, lambda value: value.update(format=2))

    with pytest.raises(ArtifactIncompatible, match="format 2"):
        open_bundle(store, ref)


def test_another_library_version_is_a_note(
    store: Store, bundle: tuple[BundleRef, Path], signer: Signer
) -> None:
    """F6, C-21: arrays do not depend on the library, so the bundle is not refused.

    A format that a library reads into objects would have to refuse.
    """
    ref, folder = bundle
    ref = resign(
        folder,
        ref,
        signer,
        lambda value: value["libraries"].update({"scikit-learn": "1.3.0", "ancient": "0.1"}),
    )

    proven = open_bundle(store, ref)

    assert len(proven.notes) == 1
    assert proven.notes[0].startswith("made with scikit-learn 1.3.0, running 1.")


@pytest.mark.parametrize("in_place", [True, False], ids=["overwritten", "replaced"])
def test_a_file_swapped_after_the_proof_changes_nothing(
    store: Store, bundle: tuple[BundleRef, Path], *, in_place: bool
) -> None:
    """F23, C-30: the proven bytes are decoded, not the file."""
    ref, folder = bundle
    proven = open_bundle(store, ref)
    hostile = (folder / "hostile") if not in_place else (folder / "config.json")
    overwrite(folder / "config.json", b"")
    hostile.write_bytes(b'{"value":666}\n')
    hostile.rename(folder / "config.json")

    assert decode_parts(proven.files).config["value"] == 1.0


def test_a_file_swapped_between_check_and_read_is_the_old_one_or_refused(
    store: Store, bundle: tuple[BundleRef, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """F23: the swap happens after fstat, when a check of names would have passed already."""
    ref, folder = bundle
    target = folder / "config.json"
    whole = target.read_bytes()
    honest = os.fstat

    def swapping(fd: int) -> os.stat_result:
        found = honest(fd)
        if name_of(fd) == target.name:
            overwrite(target, whole.replace(b"1.0", b"6.6"))
        return found

    monkeypatch.setattr(os, "fstat", swapping)

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        open_bundle(store, ref)


def test_a_file_that_grows_while_it_is_read_is_refused(
    store: Store, bundle: tuple[BundleRef, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Endless data (TUF): one byte more than published is read, and no more."""
    ref, folder = bundle
    target = folder / "config.json"
    honest = os.fstat

    def growing(fd: int) -> os.stat_result:
        found = honest(fd)
        if name_of(fd) == target.name:
            overwrite(target, target.read_bytes() + b" " * 100_000)
        return found

    monkeypatch.setattr(os, "fstat", growing)

    with pytest.raises(ArtifactCorrupt, match="changed its size"):
        open_bundle(store, ref)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Tripwires: collect all input of the decoders."""
    seen: list[bytes] = []
    loads, arrays = json.loads, safetensors.numpy.load
    monkeypatch.setattr(
        json, "loads", lambda text, **kwargs: seen.append(text.encode()) or loads(text, **kwargs)
    )
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: seen.append(data) or arrays(data))
    return seen


@pytest.mark.parametrize("name", ALL_FILES)
def test_nothing_is_decoded_before_it_is_proven(
    store: Store, bundle: tuple[BundleRef, Path], name: str, decoded: list[bytes]
) -> None:
    """P2: the manifest is decoded after its proof, the payload not at all here."""
    ref, folder = bundle
    flipped = bytearray((folder / name).read_bytes())
    flipped[len(flipped) // 2] ^= 4
    overwrite(folder / name, flipped)

    with pytest.raises(ArtifactCorrupt):
        open_bundle(store, ref)

    manifest = (
        b""
        if name == "manifest.json"
        else (folder / "manifest.json").read_bytes().partition(b"\n")[0] + b"\n"
    )
    assert decoded == ([manifest] if manifest else [])


@pytest.mark.parametrize("spare", [-1, 0], ids=["one byte too little", "just enough"])
def test_a_bundle_that_would_not_fit_is_refused_before_a_payload_is_read(
    store: Store, bundle: tuple[BundleRef, Path], monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    """S1-11: the error has both numbers; otherwise the system would kill the process."""
    ref, folder = bundle
    needed = MEMORY_FACTOR * sum((folder / name).stat().st_size for name in PAYLOAD)
    read: list[str] = []
    honest = os.read
    monkeypatch.setattr(os, "read", lambda fd, n: read.append(name_of(fd)) or honest(fd, n))

    if spare < 0:
        with pytest.raises(InsufficientMemory, match="Insufficient memory") as refused:
            open_bundle(store, ref, available_bytes=lambda: needed - 1)
        assert (refused.value.needed_bytes, refused.value.available_bytes, refused.value.cause) == (
            needed,
            needed - 1,
            "resources",
        )
        assert set(read) == {"manifest.json"}
    else:
        assert open_bundle(store, ref, available_bytes=lambda: needed)


def test_memory_is_checked_only_if_there_is_a_bundle_to_load(
    store: Store, bundle: tuple[BundleRef, Path]
) -> None:
    """The other causes of S1-11 come first: a missing bundle needs no memory."""
    with pytest.raises(ArtifactMissing, match="Model not found: anomaly-flow/9"):
        open_bundle(store, replace(bundle[0], version=9), available_bytes=lambda: 0)
