"""Attacks of The Update Framework on a store in which the attacker can write every file (P9).

The attacker has neither the key nor the trust list, unless a test states it.
Source: TUF specification, section 1.5.2, "Goals to protect against specific attacks".
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactUntrusted, PointerMoved
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files import canonical_json
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.aliases import set_challenger
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import promote, publish_release
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Document, Signer, Trust

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def serving(
    store: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> Store:
    """A store in which release 1 of acme is promoted and release 2 is published."""
    promote(store, acme, two_releases[0], 0, signer=signer)
    return store


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every text that is parsed as JSON."""
    texts: list[str] = []
    loads = json.loads
    monkeypatch.setattr(
        json, "loads", lambda text, **options: texts.append(text) or loads(text, **options)
    )
    return texts


def home(store: Store, tenant: str = "acme") -> Path:
    return store.state / "tenants" / tenant


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.chmod(0o644)
    path.write_bytes(data)


def load(store: Store, tenant: Tenant, *, not_below: int = 0) -> dict[str, float]:
    """Load pointer, release and bundles as every reader does, and map each model to its value."""
    release = read_release(store, tenant, read_pointer(store, tenant, not_below=not_below))
    return {
        ref.model: canonical_json.decode(open_bundle(store, ref).files["config.json"], what="")[
            "value"
        ]
        for ref in release.bundles.values()
    }


def forged(
    store: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    now: datetime,
    key: Signer,
    tmp_path: Path,
) -> Store:
    """Replace the store by one of the attacker, with correct digests, signed with `key`."""
    theirs = Store(tmp_path / "theirs", None, Trust({key.key_id: key.public}, frozenset()))
    evil = publish(theirs, 666.0, signer=key)
    promote(
        theirs,
        acme,
        publish_release(theirs, acme, [evil], {}, notes="", now=now, signer=key),
        0,
        signer=key,
    )
    shutil.rmtree(store.state)
    shutil.copytree(theirs.state, store.state)
    return theirs


def test_arbitrary_installation_is_refused(
    serving: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    now: datetime,
    untrusted_signer: Signer,
    tmp_path: Path,
    parsed: list[str],
) -> None:
    """A complete and consistent model of the attacker is not even parsed without a trusted key."""
    theirs = forged(serving, acme, publish, now, untrusted_signer, tmp_path)
    assert load(theirs, acme) == {"anomaly-flow": 666.0}  # correct except for its key
    release, bundle = list_releases(theirs, acme)[0].ref, list_bundles(theirs, acme)[0].ref
    parsed.clear()

    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        read_pointer(serving, acme)
    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        read_release(serving, acme, release)
    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        open_bundle(serving, bundle)
    assert parsed == []


@pytest.mark.parametrize(
    "file", ["CURRENT", "releases/1.json", "bundles/anomaly-flow/1/manifest.json"]
)
def test_a_stripped_signature_is_an_arbitrary_installation(
    serving: Store, acme: Tenant, file: str
) -> None:
    """The same bytes without a signature: there is no mode for unsigned files."""
    put(home(serving) / file, (home(serving) / file).read_bytes().partition(b"\n")[0] + b"\n")

    with pytest.raises(ArtifactError):
        load(serving, acme)
    with pytest.raises(ArtifactUntrusted, match="not signed"):
        serving.trust.prove((home(serving) / file).read_bytes(), Document.POINTER, what=file)


def test_no_file_in_the_store_extends_the_trust_list(
    serving: Store, acme: Tenant, untrusted_signer: Signer
) -> None:
    """DESIGN, decision 11: no reader opens a trust list, a key or a pin in the store."""
    for place in (serving.state, home(serving), home(serving) / "releases"):
        put(place / "trust.yaml", f'keys: {{"{untrusted_signer.key_id}": "x"}}\n'.encode())
        put(place / "signing.key", untrusted_signer.to_pem())
    text = (home(serving) / "CURRENT").read_bytes().partition(b"\n")[0] + b"\n"
    put(home(serving) / "CURRENT", untrusted_signer.sign(text, Document.POINTER))

    with pytest.raises(ArtifactUntrusted, match=untrusted_signer.key_id):
        load(serving, acme)


@pytest.mark.parametrize(
    "file",
    [
        "CURRENT",
        "releases/1.json",
        "bundles/anomaly-flow/1/manifest.json",
        "bundles/anomaly-flow/1/CARD.md",
    ],
)
def test_endless_data_is_not_read(
    serving: Store, acme: Tenant, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a terabyte is rejected by its size, before any byte is read."""
    path = home(serving) / file
    path.chmod(0o644)
    os.truncate(path, 1 << 40)  # sparse
    read_bytes = 0
    original = os.read

    def counting(fd: int, n: int) -> bytes:
        nonlocal read_bytes
        data = original(fd, n)
        if Path(f"/proc/self/fd/{fd}").readlink() == path:
            read_bytes += len(data)
        return data

    monkeypatch.setattr(os, "read", counting)

    with pytest.raises(ArtifactCorrupt, match="1,099,511,627,776 bytes"):
        load(serving, acme)
    assert read_bytes == 0


def test_fast_forward_needs_the_key(
    serving: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """A very high serial would block later promotions; the signature protects the serial."""
    path = home(serving) / "CURRENT"
    put(path, path.read_bytes().replace(b'"serial":1', b'"serial":999999999999999'))

    with pytest.raises(ArtifactUntrusted, match="is invalid"):
        read_pointer(serving, acme)
    assert promote(serving, acme, two_releases[1], 0, signer=signer).serial == 2


def test_fast_forward_by_another_tenants_pointer_is_refused(
    serving: Store, acme: Tenant, publish: Callable[..., BundleRef], now: datetime, signer: Signer
) -> None:
    """A pointer with a higher serial and a valid signature names its tenant."""
    busy = Tenant("busy")
    release = publish_release(
        serving, busy, [publish(serving, tenant="busy")], {}, notes="", now=now, signer=signer
    )
    for serial in range(5):
        promote(serving, busy, release, serial, signer=signer)
    put(home(serving) / "CURRENT", (home(serving, "busy") / "CURRENT").read_bytes())

    with pytest.raises(ArtifactUntrusted, match="another tenant"):
        read_pointer(serving, acme)


def test_a_reader_of_the_newer_pointer_rejects_an_older_one(
    serving: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """Rollback attack: the signature of the old pointer is valid, but its serial is lower."""
    old = (home(serving) / "CURRENT").read_bytes()
    newer = promote(serving, acme, two_releases[1], 1, signer=signer)
    put(home(serving) / "CURRENT", old)

    with pytest.raises(ArtifactUntrusted, match="older than 2"):
        load(serving, acme, not_below=newer.serial)


def test_a_freeze_ends_at_the_next_promotion(
    serving: Store, acme: Tenant, two_releases: tuple[ReleaseRef, ReleaseRef], signer: Signer
) -> None:
    """An attacker who restores the old pointer delays readers only until they read a newer one.

    A reader that never read the newer one cannot detect it, because a pointer has no expiry
    (docs/security.md). The promoter detects that the pointer is not the expected one.
    """
    old = (home(serving) / "CURRENT").read_bytes()
    promoted = promote(serving, acme, two_releases[1], 1, signer=signer)
    put(home(serving) / "CURRENT", old)

    with pytest.raises(PointerMoved):
        promote(serving, acme, two_releases[1], promoted.serial, signer=signer)
    again = promote(
        serving, acme, two_releases[1], read_pointer(serving, acme).serial, signer=signer
    )

    # above the serial of the lost pointer, so its readers accept the new one
    assert again.serial > promoted.serial
    assert load(serving, acme, not_below=promoted.serial) == {"anomaly-flow": 2.0}


def test_mix_and_match_of_files_is_refused(serving: Store, acme: Tenant) -> None:
    """F19: the arrays of one version with the configuration of another, both once signed."""
    bundles = home(serving) / "bundles" / "anomaly-flow"
    put(bundles / "1" / "config.json", (bundles / "2" / "config.json").read_bytes())

    with pytest.raises(ArtifactCorrupt, match="Model file corrupted"):
        load(serving, acme)


@pytest.mark.parametrize("what", ["releases/{}.json", "bundles/anomaly-flow/{}/manifest.json"])
def test_mix_and_match_of_signed_documents_is_refused(
    serving: Store, acme: Tenant, what: str
) -> None:
    """F19: another document of the same kind under the name of the one in use."""
    put(home(serving) / what.format(1), (home(serving) / what.format(2)).read_bytes())

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        load(serving, acme)
    digest = sha256((home(serving) / what.format(1)).read_bytes()).hexdigest()
    read = {
        "releases/{}.json": lambda: read_release(serving, acme, ReleaseRef(1, digest)),
        "bundles/anomaly-flow/{}/manifest.json": lambda: open_bundle(
            serving, BundleRef(acme, ModelName("anomaly-flow"), 1, digest)
        ),
    }
    with pytest.raises(ArtifactUntrusted, match="another"):  # also with the matching digest
        read[what]()


def test_the_manifest_of_another_tenant_is_refused(
    serving: Store,
    acme: Tenant,
    publish: Callable[..., BundleRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    """P10, F18: a complete signed model of tenant `other` in the folder of acme."""
    theirs = publish(serving, 666.0, tenant="other")
    folder = home(serving) / "bundles" / "anomaly-flow" / "1"
    shutil.rmtree(folder)
    shutil.copytree(folder_of(serving, theirs), folder)

    with pytest.raises(ArtifactCorrupt, match="sha256"):
        load(serving, acme)
    with pytest.raises(ArtifactUntrusted, match="another bundle"):
        open_bundle(serving, replace(theirs, tenant=acme))


SERVED = {
    Document.POINTER: "CURRENT",
    Document.RELEASE: "releases/1.json",
    Document.MANIFEST: "bundles/anomaly-flow/1/manifest.json",
}
DOCUMENTS = SERVED | {Document.ALIAS: "CHALLENGER"}


@pytest.mark.parametrize("signed_as", Document)
@pytest.mark.parametrize("passed_as", Document)
def test_a_document_is_not_passed_off_as_another_kind(
    serving: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    signer: Signer,
    signed_as: Document,
    passed_as: Document,
) -> None:
    """The signature covers the kind: a signed release is never valid as a pointer."""
    set_challenger(serving, acme, two_releases[1], 0, signer=signer)
    data = (home(serving) / DOCUMENTS[signed_as]).read_bytes()

    if signed_as is passed_as:
        assert serving.trust.prove(data, passed_as, what="it")
    else:
        with pytest.raises(ArtifactUntrusted, match="is invalid"):
            serving.trust.prove(data, passed_as, what="it")


def test_a_pointer_that_was_signed_as_a_release_is_refused(
    serving: Store, acme: Tenant, signer: Signer
) -> None:
    path = home(serving) / "CURRENT"
    put(path, signer.sign(path.read_bytes().partition(b"\n")[0] + b"\n", Document.RELEASE))

    with pytest.raises(ArtifactUntrusted):
        load(serving, acme)


def test_without_a_compromised_key_in_the_trust_list_nothing_that_it_signed_is_valid(
    serving: Store,
    acme: Tenant,
    two_releases: tuple[ReleaseRef, ReleaseRef],
    signer: Signer,
    untrusted_signer: Signer,
) -> None:
    """Key compromise: the removal of one line rejects everything that the key ever signed."""
    without = replace(
        serving, trust=Trust({untrusted_signer.key_id: untrusted_signer.public}, frozenset())
    )
    assert load(serving, acme)

    for read in (
        lambda: read_pointer(without, acme),
        lambda: read_release(without, acme, two_releases[0]),
        lambda: open_bundle(without, list_bundles(serving, acme)[0].ref),
    ):
        with pytest.raises(ArtifactUntrusted, match=signer.key_id):
            read()
    assert all(
        signer.key_id in line.problem
        for line in (*list_bundles(without, acme), *list_releases(without, acme))
    )


def test_the_removal_of_a_compromised_key_does_not_affect_pinned_files(
    serving: Store, acme: Tenant
) -> None:
    """A pin is a digest: it stays valid without any key, for exactly those bytes."""
    files = [home(serving) / file for file in SERVED.values()]
    pinned = replace(
        serving, trust=Trust({}, frozenset(sha256(path.read_bytes()).hexdigest() for path in files))
    )

    assert load(pinned, acme) == {"anomaly-flow": 1.0}
    for path in files:
        put(path, path.read_bytes().replace(b'"format":', b'"format": '))
        with pytest.raises(ArtifactError):
            load(pinned, acme)


def test_a_signature_is_not_valid_for_another_text(serving: Store, acme: Tenant) -> None:
    path = home(serving) / "releases" / "1.json"
    text, signature = path.read_bytes().splitlines(keepends=True)
    put(path, canonical_json.encode(json.loads(text) | {"notes": "mine"}) + signature)

    with pytest.raises(ArtifactUntrusted, match="is invalid"):
        read_release(serving, acme, 1)
