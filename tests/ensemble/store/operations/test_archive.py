"""Export and import as one file: proven content is imported, and nothing else."""

from __future__ import annotations

import gzip
import io
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactUntrusted, QuotaExceeded
from ensemble.store.audit_log import read_audit
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.open import open_bundle
from ensemble.store.bundles.quota import Quota
from ensemble.store.files.tar import Unpacker, pack
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations import archive
from ensemble.store.operations.archive import (
    Imported,
    export_bundle,
    export_release,
    import_archive,
)
from ensemble.store.operations.describe import describe_bundle
from ensemble.store.releases.release import promote
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer, Trust

Publish = Callable[..., BundleRef]
Import = Callable[..., Imported]
MODEL, BANKS = ModelName("anomaly-flow"), Tenant("banks")


@pytest.fixture
def bring(now: datetime, signer: Signer) -> Import:
    """`bring(store, tenant, data)`: import with the key of the tests."""
    return lambda store, tenant, data, **more: import_archive(
        store, tenant, data, **({"now": now, "signer": signer, "quota": None} | more)
    )


@pytest.fixture
def other(tmp_path: Path, store: Store) -> Store:
    """Another machine's store, which trusts the same key."""
    return Store(tmp_path / "elsewhere", None, store.trust)


def members(data: bytes) -> dict[str, bytes]:
    """By the tar of the standard library: name -> content, in order."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def test_an_exported_bundle_is_imported_as_the_importers_own(
    store: Store, other: Store, publish: Publish, bring: Import
) -> None:
    ref = publish(store, pictures={"roc.png": b"\x89PNG"})
    publish(other, tenant="banks")

    imported = bring(other, BANKS, export_bundle(store, ref))

    (new,) = imported.bundles
    assert (new.tenant, new.model, new.version, imported.release) == (
        "banks",
        "anomaly-flow",
        2,
        None,
    )
    assert open_bundle(other, new).files == open_bundle(store, ref).files
    assert describe_bundle(other, BANKS, MODEL, 2).metadata.origin == {
        "tenant": "acme",
        "model": "anomaly-flow",
        "version": 1,
        "manifest_sha256": ref.manifest_sha256,
        "created_at": "2026-11-20T08:15:00Z",
        "signed_by": next(iter(store.trust.keys)),
    }


def test_an_exported_release_is_imported_with_all_its_bundles(
    store: Store,
    other: Store,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    bring: Import,
    signer: Signer,
) -> None:
    release = release_of(
        store,
        publish(store),
        publish(store, model="behavior-flow"),
        publish(store, model="b-process"),
    )

    imported = bring(other, BANKS, export_release(store, Tenant("acme"), release))

    assert imported.release == ReleaseRef(1, imported.release.sha256)  # type: ignore[union-attr]
    assert imported.origin == "acme: release 1"
    found = read_release(other, BANKS, imported.release)  # type: ignore[arg-type]
    assert tuple(found.bundles.values()) == imported.bundles
    assert found.fusion == read_release(store, Tenant("acme"), release).fusion
    assert found.notes == "imported from acme: release 1; toy"
    assert promote(other, BANKS, imported.release, 0, signer=signer).serial == 1  # type: ignore[arg-type]


def test_the_same_bundle_is_the_same_file(store: Store, publish: Publish) -> None:
    ref = publish(store)

    assert export_bundle(store, ref) == export_bundle(store, ref)


def test_any_tar_program_lists_an_archive(store: Store, publish: Publish, tmp_path: Path) -> None:
    ref = publish(store, model="m" * 63, pictures={"p" * 59 + ".png": b"\x89PNG"})
    (tmp_path / "a.tar.gz").write_bytes(export_bundle(store, ref))

    listed = subprocess.run(
        ["tar", "tzf", tmp_path / "a.tar.gz"], capture_output=True, text=True, check=True
    )

    assert listed.stderr == ""
    assert listed.stdout.split() == [
        f"{ref.model}/manifest.json",
        *(f"{ref.model}/{name}" for name in sorted(open_bundle(store, ref).files)),
    ]


def test_a_shipped_bundle_is_trusted_by_its_pin(
    store: Store, other: Store, publish: Publish, bring: Import, untrusted_signer: Signer
) -> None:
    theirs = replace(
        store, trust=Trust({untrusted_signer.key_id: untrusted_signer.public}, frozenset())
    )
    ref = publish(theirs, signer=untrusted_signer)
    pinned = replace(other, trust=replace(other.trust, pinned=frozenset({ref.manifest_sha256})))

    assert bring(pinned, BANKS, export_bundle(theirs, ref)).bundles[0].version == 1


def test_an_archive_without_a_trusted_signature_is_refused_before_decoding(
    store: Store,
    other: Store,
    publish: Publish,
    bring: Import,
    untrusted_signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Issue: a model file from outside."""
    theirs = replace(
        store, trust=Trust({untrusted_signer.key_id: untrusted_signer.public}, frozenset())
    )
    data = export_bundle(theirs, publish(theirs, signer=untrusted_signer))
    monkeypatch.setattr(archive, "decode_parts", lambda _: pytest.fail("it was decoded"))

    with pytest.raises(ArtifactUntrusted):
        bring(other, BANKS, data)

    assert list_bundles(other, BANKS) == ()
    (entry,) = read_audit(other, BANKS, limit=9)
    assert (entry.act, entry.outcome, entry.code, entry.digest) == (
        "import",
        "failed",
        "ARTIFACT_UNTRUSTED",
        sha256(data).hexdigest(),
    )


def test_an_importer_with_an_untrusted_key_publishes_nothing(
    store: Store, other: Store, publish: Publish, bring: Import, untrusted_signer: Signer
) -> None:
    with pytest.raises(ArtifactUntrusted):
        bring(other, BANKS, export_bundle(store, publish(store)), signer=untrusted_signer)

    assert list_bundles(other, BANKS) == ()


def repacked(
    change: Callable[[dict[str, bytes]], list[tuple[str, bytes]]],
) -> Callable[[bytes], bytes]:
    return lambda data: pack(change(members(data)))


def foreign(
    change: Callable[[tarfile.TarInfo], object], content: bytes = b""
) -> Callable[[bytes], bytes]:
    """Put an entry of another kind, as the standard tar writes it, before the archive's files."""

    def make(data: bytes) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
            odd = tarfile.TarInfo("anomaly-flow/manifest.json")
            odd.size = len(content)
            change(odd)
            tar.addfile(odd, io.BytesIO(content))
            for name, text in members(data).items():
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
        return out.getvalue()

    return make


def owned(data: bytes) -> bytes:
    """The same files, the first with an owner: a header that no export writes, signed content."""
    plain = bytearray(gzip.decompress(data))
    entry = tarfile.TarInfo.frombuf(bytes(plain[:512]), "ascii", "strict")
    entry.uid = 1000
    plain[:512] = entry.tobuf(tarfile.USTAR_FORMAT)
    return gzip.compress(bytes(plain))


def _set(field: str, value: object) -> Callable[[tarfile.TarInfo], object]:
    return lambda entry: setattr(entry, field, value)


HOSTILE = {
    "nothing": lambda _: b"",
    "no gzip": lambda _: b"PK\x03\x04" + bytes(1000),
    "an empty gzip": lambda _: gzip.compress(b""),
    "cut short": lambda data: data[:-9],
    "without its checksum": lambda data: data[:-8],
    "trailing bytes": lambda data: data + b"x",
    "a second member behind it": lambda data: data + gzip.compress(b"x"),
    "trailing zeros inside": lambda data: gzip.compress(gzip.decompress(data) + bytes(512)),
    "a file more": repacked(lambda files: [*files.items(), ("anomaly-flow/extra.png", b"x")]),
    "a file less": repacked(lambda files: list(files.items())[:-1]),
    "a file twice": repacked(lambda files: [*list(files.items())[:2], *list(files.items())[1:]]),
    "another order": repacked(
        lambda files: [next(iter(files.items())), *reversed(list(files.items())[1:])]
    ),
    "a changed manifest": repacked(
        lambda files: [
            (name, data.replace(b'"recipe":"toy"', b'"recipe":"fox"'))
            for name, data in files.items()
        ]
    ),
    "a changed file": repacked(
        lambda files: [(name, data.replace(b"# A toy", b"# A fox")) for name, data in files.items()]
    ),
    "a longer file": repacked(
        lambda files: [
            (name, data + b" " * name.endswith("CARD.md")) for name, data in files.items()
        ]
    ),
    "a path that climbs": repacked(
        lambda files: [
            (name.replace("anomaly-flow/", "../x/"), data) for name, data in files.items()
        ]
    ),
    "an absolute path": repacked(
        lambda files: [("/" + name, data) for name, data in files.items()]
    ),
    "another model's name": repacked(
        lambda files: [
            (name.replace("anomaly-flow", "other"), data) for name, data in files.items()
        ]
    ),
    "another file in a file's place": repacked(
        lambda files: [(name.replace("CARD", "FARD"), data) for name, data in files.items()]
    ),
    "a link": foreign(
        lambda entry: (_set("type", tarfile.SYMTYPE)(entry), _set("linkname", "/etc/passwd")(entry))
    ),
    "a device": foreign(_set("type", tarfile.CHRTYPE)),
    "a manifest of gigabytes": foreign(
        _set("name", "anomaly-flow/manifest.json"), b" " * (1 << 20)
    ),
    "a manifest of nobody": foreign(_set("name", "anomaly-flow/manifest.json"), b"{}\n"),
    "a release in front": foreign(_set("name", "release.json"), b"{}\n"),
    "another owner": foreign(_set("uid", 1000)),
    "another owner of what is signed": owned,
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_no_export_wrote_publishes_nothing(
    store: Store, other: Store, publish: Publish, bring: Import, spoil: Callable[[bytes], bytes]
) -> None:
    data = export_bundle(store, publish(store))
    assert spoil(data) != data

    with pytest.raises((ArtifactCorrupt, ArtifactUntrusted)):
        bring(other, BANKS, spoil(data))

    assert list_bundles(other, BANKS) == ()
    assert not (other.state / ".staging").exists()


def test_a_decompression_bomb_is_not_decompressed(
    store: Store, other: Store, publish: Publish, bring: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F16: a gigabyte of zeros in a megabyte; no more is decompressed than the proven sizes say."""
    honest = export_bundle(store, publish(store))
    (name, manifest), *_ = members(honest).items()
    squeeze = zlib.compressobj(wbits=31)
    bomb = squeeze.compress(gzip.decompress(pack([(name, manifest)]))[:-1024]) + b"".join(
        squeeze.compress(bytes(1 << 20)) for _ in range(64)
    )
    given_out = 0
    more = Unpacker._more

    def counted(self: Unpacker, most: int) -> bytes:
        nonlocal given_out
        piece = more(self, most)
        given_out += len(piece)
        return piece

    monkeypatch.setattr(Unpacker, "_more", counted)

    with pytest.raises(ArtifactCorrupt):
        bring(other, BANKS, bomb + squeeze.flush())

    assert given_out < 1 << 16


def test_an_archive_over_the_limit_is_refused_by_the_proven_sizes(
    store: Store, other: Store, publish: Publish, bring: Import
) -> None:
    ref = publish(store)
    size = open_bundle(store, ref).manifest.size_bytes

    assert bring(other, BANKS, export_bundle(store, ref), limit_bytes=size)
    with pytest.raises(ArtifactCorrupt, match="more than"):
        bring(other, BANKS, export_bundle(store, ref), limit_bytes=size - 1)


def test_a_release_whose_bundle_was_exchanged_for_another_signed_one_is_refused(
    store: Store,
    other: Store,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    bring: Import,
) -> None:
    """F19: mix and match; every part of it is signed."""
    first, second = publish(store, 1.0), publish(store, 2.0)
    files = members(export_release(store, first.tenant, release_of(store, first)))

    with pytest.raises(ArtifactCorrupt, match="not the one that the release names"):
        bring(
            other,
            BANKS,
            pack(
                [
                    ("release.json", files["release.json"]),
                    *members(export_bundle(store, second)).items(),
                ]
            ),
        )

    assert list_bundles(other, BANKS) == ()


def test_a_quota_holds_for_what_is_imported(
    store: Store, other: Store, publish: Publish, bring: Import
) -> None:
    """I13."""
    data = export_bundle(store, publish(store))
    bring(other, BANKS, data, quota=Quota(1, 1))

    with pytest.raises(QuotaExceeded):
        bring(other, BANKS, data, quota=Quota(1, 1))


def test_a_bundle_that_does_not_open_is_not_exported(
    store: Store,
    publish: Publish,
    release_of: Callable[..., ReleaseRef],
    folder_of: Callable[[Store, BundleRef], Path],
) -> None:
    ref = publish(store)
    release = release_of(store, ref)
    (folder_of(store, ref) / "CARD.md").unlink()

    with pytest.raises(ArtifactError):
        export_bundle(store, ref)
    with pytest.raises(ArtifactError):
        export_release(store, ref.tenant, release)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a/b", "release.json", "m/CARD.md", "m" * 63 + "/" + "p" * 63]),
            st.binary(max_size=2000),
        ),
        max_size=6,
    )
)
def test_packed_files_are_unpacked(files: list[tuple[str, bytes]]) -> None:
    unpacker = Unpacker(pack(files), what="it")

    assert [(name, unpacker.next(name, len(data))) for name, data in files] == files
    unpacker.end()


@given(st.data())
def test_a_flipped_bit_is_detected_or_changes_nothing(data: st.DataObject) -> None:
    """The same content can be compressed in several ways; the unpacked content must be equal."""
    files = [("m/a", bytes(range(100)) + bytes(70_000)), ("m/b", b"x" * 300)]
    packed = bytearray(pack(files))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    try:
        unpacker = Unpacker(bytes(packed), what="it")
        found = [(name, unpacker.next(name, len(text))) for name, text in files]
        unpacker.end()
    except ArtifactCorrupt:
        return

    assert found == files
