"""Bit flips (P3): one flipped bit in any file of a model or release is rejected before decoding.

The tests flip a random bit of every byte of each small shipped file, and of many positions of each
large one. A digest or a signature rejects the file, so no decoder reads a flipped byte (P2).
Without that, a decoded flip kills one process in seven and silently changes the scores of another
one in nine (RELIABILITY, fact 1).
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.numpy

from deployments.config.settings import ROOT
from deployments.config.trust import read_trust_file
from ensemble.errors import ArtifactError
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer

IS_LONG = os.environ.get("AXON_VERIFY") == "1"
SMALL_BYTES = (32 << 10) if IS_LONG else (8 << 10)  # up to this size every byte is flipped
POSITIONS = 5000 if IS_LONG else 300  # in a larger file
SEED = 20261120
DEFAULT = Tenant("default")

SHIPPED = ROOT / "artifacts" / "tenants" / "default"
CURRENT = Store(ROOT / "artifacts", None, read_trust_file(ROOT / "configs" / "trust.yaml").trust())


BUNDLE_FILES = [
    pytest.param(line.ref, path.name, id=f"{line.ref}-{path.name}")
    for line in list_bundles(CURRENT, DEFAULT)
    for path in sorted((SHIPPED / "bundles" / line.ref.model / str(line.ref.version)).iterdir())
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A writable copy of the shipped models."""
    root = tmp_path_factory.mktemp("flipped") / "artifacts"
    shutil.copytree(ROOT / "artifacts", root)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Store(root, None, CURRENT.trust)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The inputs of both decoders, in order."""
    inputs: list[bytes] = []
    loads, arrays = json.loads, safetensors.numpy.load
    monkeypatch.setattr(
        json,
        "loads",
        lambda text, **options: inputs.append(text.encode()) or loads(text, **options),
    )
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: inputs.append(data) or arrays(data))
    return inputs


def flips(path: Path) -> Iterator[int]:
    """Flip one bit after the other in `path`, yield its byte's position, and restore it."""
    chance = random.Random(SEED)  # noqa: S311  # repeatable, not secret
    original = path.read_bytes()
    is_small = len(original) <= SMALL_BYTES
    positions = (
        range(len(original))
        if is_small
        else sorted({0, len(original) - 1, *chance.sample(range(len(original)), POSITIONS)})
    )
    fd = os.open(path, os.O_WRONLY)
    try:
        for position in positions:
            os.pwrite(fd, bytes([original[position] ^ 1 << chance.randrange(8)]), position)
            yield position
            os.pwrite(fd, original[position : position + 1], position)
    finally:
        os.close(fd)


def accepted(path: Path, read: Callable[[], object]) -> tuple[int, list[int]]:
    """Count the flips tried in `path`, and list the positions that `read` accepted."""
    tried, accepted_at = 0, []
    for position in flips(path):
        tried += 1
        try:
            read()
        except ArtifactError:
            continue
        accepted_at.append(position)
    return tried, accepted_at


@pytest.mark.parametrize(("ref", "name"), BUNDLE_FILES)
def test_every_flipped_bit_of_a_bundle_is_rejected_before_decoding(
    copy: Store, ref: BundleRef, name: str, decoded: list[bytes]
) -> None:
    """P2, P3: no more than the verified manifest is parsed."""
    folder = copy.state / "tenants" / ref.tenant / "bundles" / ref.model / str(ref.version)
    manifest = (folder / "manifest.json").read_bytes().partition(b"\n")[0] + b"\n"

    tried, taken = accepted(folder / name, lambda: open_bundle(copy, ref))

    assert tried >= min(POSITIONS, (folder / name).stat().st_size)
    assert taken == []
    assert set(decoded) <= (set() if name == "manifest.json" else {manifest})
    assert open_bundle(copy, ref)  # every bit was restored


def test_every_flipped_bit_of_the_shipped_release_is_rejected_before_parsing(
    copy: Store, decoded: list[bytes]
) -> None:
    """P2, P3: with the digest from the pointer, or with its number alone, verified by its pin."""
    ref = read_pointer(copy, DEFAULT).ref
    path = copy.state / "tenants" / "default" / "releases" / f"{ref.serial}.json"
    decoded.clear()

    for which in (ref, ref.serial):
        # the lambda is called before the next iteration
        tried, taken = accepted(path, lambda: read_release(copy, DEFAULT, which))  # noqa: B023
        assert tried == path.stat().st_size
        assert taken == []

    assert decoded == []


def test_every_flipped_bit_of_the_shipped_pointer_is_rejected_before_parsing(
    copy: Store, decoded: list[bytes]
) -> None:
    """P2, P3: also of its serial, which no digest in another file covers."""
    path = copy.state / "tenants" / "default" / "CURRENT"

    tried, taken = accepted(path, lambda: read_pointer(copy, DEFAULT))

    assert tried == path.stat().st_size
    assert taken == []
    assert decoded == []


SIGNED = {
    "CURRENT": "CURRENT",
    "release": "releases/1.json",
    "manifest": "bundles/anomaly-flow/1/manifest.json",
}


@pytest.mark.parametrize("file", SIGNED.values(), ids=SIGNED.keys())
@pytest.mark.usefixtures("no_fsync")
def test_a_flip_in_a_signed_file_or_its_signature_is_rejected(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
    decoded: list[bytes],
    file: str,
) -> None:
    """P3: by the signature alone, without a digest.

    All eight bits of every byte of the signature are tried, because base64 has unused bits.
    """
    bundle = publish(store)
    release = release_of(store, bundle)
    promote(store, acme, release, 0, signer=signer)
    path = store.state / "tenants" / "acme" / file
    path.chmod(0o644)
    original = path.read_bytes()
    read: dict[str, Callable[[], object]] = {
        SIGNED["CURRENT"]: lambda: read_pointer(store, acme),
        SIGNED["release"]: lambda: read_release(store, acme, 1),
        SIGNED["manifest"]: lambda: open_bundle(store, bundle),
    }
    assert read[file]()
    decoded.clear()

    accepted_at = []
    for position in range(len(original)):
        for bit in range(8) if position > original.index(b"\n") else (position % 8,):
            path.write_bytes(
                original[:position]
                + bytes([original[position] ^ 1 << bit])
                + original[position + 1 :]
            )
            try:
                read[file]()
            except ArtifactError:
                continue
            accepted_at.append((position, bit))

    assert accepted_at == []
    assert decoded == []
