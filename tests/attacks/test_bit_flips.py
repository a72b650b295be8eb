"""Bit flips (P3): one flipped bit in any file of a model or release is rejected before decoding.

The shipped models are the ground: a random bit of every byte of each small file, and of many
positions of each large one. A digest or a signature rejects the file, so no decoder reads a flipped
byte (P2). Without that, a decoded flip kills one process in seven and silently changes the scores
of another one in nine (RELIABILITY, fact 1).
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
SMALL_BYTES = (32 << 10) if IS_LONG else (8 << 10)  # of a file this long every byte is flipped
POSITIONS = 5000 if IS_LONG else 300  # of a longer one
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
    """The shipped models, writable."""
    root = tmp_path_factory.mktemp("flipped") / "artifacts"
    shutil.copytree(ROOT / "artifacts", root)
    for path in root.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Store(root, None, CURRENT.trust)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Tripwires before both decoders: what they were given, in order."""
    seen: list[bytes] = []
    loads, arrays = json.loads, safetensors.numpy.load
    monkeypatch.setattr(
        json, "loads", lambda text, **options: seen.append(text.encode()) or loads(text, **options)
    )
    monkeypatch.setattr(safetensors.numpy, "load", lambda data: seen.append(data) or arrays(data))
    return seen


def flips(path: Path) -> Iterator[int]:
    """Flips one bit after the other in `path`, and puts each back.

    Yields the byte that is wrong now.
    """
    chance = random.Random(SEED)  # noqa: S311  # repeatable, not secret
    whole = path.read_bytes()
    is_small = len(whole) <= SMALL_BYTES
    positions = (
        range(len(whole))
        if is_small
        else sorted({0, len(whole) - 1, *chance.sample(range(len(whole)), POSITIONS)})
    )
    fd = os.open(path, os.O_WRONLY)
    try:
        for position in positions:
            os.pwrite(fd, bytes([whole[position] ^ 1 << chance.randrange(8)]), position)
            yield position
            os.pwrite(fd, whole[position : position + 1], position)
    finally:
        os.close(fd)


def accepted(path: Path, read: Callable[[], object]) -> tuple[int, list[int]]:
    """How many flips were tried in `path`, and at which bytes `read` took one."""
    tried, taken = 0, []
    for position in flips(path):
        tried += 1
        try:
            read()
        except ArtifactError:
            continue
        taken.append(position)
    return tried, taken


@pytest.mark.parametrize(("ref", "name"), BUNDLE_FILES)
def test_every_flipped_bit_of_a_bundle_is_refused_undecoded(
    copy: Store, ref: BundleRef, name: str, decoded: list[bytes]
) -> None:
    """P2, P3: at most the proven manifest is parsed."""
    folder = copy.state / "tenants" / ref.tenant / "bundles" / ref.model / str(ref.version)
    manifest = (folder / "manifest.json").read_bytes().partition(b"\n")[0] + b"\n"

    tried, taken = accepted(folder / name, lambda: open_bundle(copy, ref))

    assert tried >= min(POSITIONS, (folder / name).stat().st_size)
    assert taken == []
    assert set(decoded) <= (set() if name == "manifest.json" else {manifest})
    assert open_bundle(copy, ref)  # and every bit was put back


def test_every_flipped_bit_of_the_shipped_release_is_refused_unparsed(
    copy: Store, decoded: list[bytes]
) -> None:
    """P2, P3.

    Read by the pointer's digest, and read by its number alone, where only the pin proves it.
    """
    ref = read_pointer(copy, DEFAULT).ref
    path = copy.state / "tenants" / "default" / "releases" / f"{ref.serial}.json"
    decoded.clear()

    for which in (ref, ref.serial):
        # called before the next one
        tried, taken = accepted(path, lambda: read_release(copy, DEFAULT, which))  # noqa: B023
        assert tried == path.stat().st_size
        assert taken == []

    assert decoded == []


def test_every_flipped_bit_of_the_shipped_pointer_is_refused_unparsed(
    copy: Store, decoded: list[bytes]
) -> None:
    """P2, P3: its own serial too, which no digest elsewhere covers."""
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
def test_every_byte_of_a_signed_file_and_every_bit_of_its_signature_counts(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    release_of: Callable[..., ReleaseRef],
    signer: Signer,
    decoded: list[bytes],
    file: str,
) -> None:
    """P3.

    By the signature alone, where no digest is known. All eight bits of its line: base64 has some
    that decode to nothing.
    """
    bundle = publish(store)
    release = release_of(store, bundle)
    promote(store, acme, release, 0, signer=signer)
    path = store.state / "tenants" / "acme" / file
    path.chmod(0o644)
    whole = path.read_bytes()
    read: dict[str, Callable[[], object]] = {
        SIGNED["CURRENT"]: lambda: read_pointer(store, acme),
        SIGNED["release"]: lambda: read_release(store, acme, 1),
        SIGNED["manifest"]: lambda: open_bundle(store, bundle),
    }
    assert read[file]()
    decoded.clear()

    taken = []
    for position in range(len(whole)):
        for bit in range(8) if position > whole.index(b"\n") else (position % 8,):
            path.write_bytes(
                whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :]
            )
            try:
                read[file]()
            except ArtifactError:
                continue
            taken.append((position, bit))

    assert taken == []
    assert decoded == []
