"""Export and import of a bundle, or of a release with all its bundles, as one file.

An export contains the files of the store with their signatures. An import proves them like any
other file of the store: a trusted key must have signed them, or a trusted digest must pin them.
Sizes come from the proven manifest before anything is decompressed, and nothing is decoded before
its digest is checked. An imported bundle becomes the next version of the importing tenant, signed
by the importer, with a record of its origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ensemble.errors import ArtifactCorrupt, ArtifactError
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.codecs import GOLDEN, decode_golden, decode_parts
from ensemble.store.bundles.manifest import (
    MANIFEST_LIMIT_BYTES,
    FileEntry,
    Manifest,
    parse_manifest,
)
from ensemble.store.bundles.open import OpenedBundle, open_bundle
from ensemble.store.bundles.publish import publish_files
from ensemble.store.bundles.quota import Quota
from ensemble.store.files.safe_read import sha256_of
from ensemble.store.files.tar import Unpacker, pack
from ensemble.store.layout import MANIFEST, Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.release import publish_release
from ensemble.store.releases.release_file import (
    RELEASE_LIMIT_BYTES,
    Release,
    parse_any_release,
    read_release,
    read_release_bytes,
)
from ensemble.store.signing import Document, Signer, Trust, signed_by

__all__ = ["ARCHIVE_LIMIT_BYTES", "Imported", "export_bundle", "export_release", "import_archive"]

ARCHIVE_LIMIT_BYTES = 1 << 30  # of all files together, unpacked; one file of a bundle may be as big
_RELEASE = "release.json"
_WHAT = "the archive"


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import.

    Attributes:
        bundles: new versions of the importing tenant, by model.
        release: new release of them; None if the archive contained a single bundle.
        origin: tenant, and release or bundle, of the export, e.g. `banks: anomaly-flow/3`.
    """

    bundles: tuple[BundleRef, ...]
    release: ReleaseRef | None
    origin: str


def export_bundle(store: Store, ref: BundleRef) -> bytes:
    """Pack a bundle into one file; the same bundle gives the same bytes.

    Raises:
        ArtifactError: it cannot be opened.
    """
    return pack(_files_of(open_bundle(store, ref)))


def export_release(store: Store, tenant: Tenant, which: ReleaseRef) -> bytes:
    """Pack a release and all its bundles, inherited ones included, into one file.

    Raises:
        ArtifactError: it, or one of its bundles, cannot be opened.
    """
    release = read_release(store, tenant, which)
    bundles = [open_bundle(store, ref) for _, ref in sorted(release.bundles.items())]
    return pack(
        [
            (_RELEASE, _signed_release(store, tenant, which)),
            *(file for bundle in bundles for file in _files_of(bundle)),
        ]
    )


def import_archive(
    store: Store,
    tenant: Tenant,
    data: bytes,
    *,
    now: datetime,
    signer: Signer,
    quota: Quota | None,
    limit_bytes: int = ARCHIVE_LIMIT_BYTES,
) -> Imported:
    """Publish the content of an archive as the next versions of `tenant`; nothing is promoted.

    The whole archive is proven before its first bundle is published. A crash in between leaves
    bundles that no release names; retention deletes them.

    Args:
        store: its `state` is written, and its trust decides.
        tenant: owner of the new versions.
        data: the archive; the caller limits its length.
        now: time of publication, with its time zone.
        signer: signs the new versions; the store must trust its key.
        quota: limits on models and versions; None for no limit.
        limit_bytes: limit on all files together, unpacked.

    Raises:
        ArtifactUntrusted: no trusted key signed the content, and no trusted digest pins it.
        ArtifactCorrupt: no export would have written it, or it has more than `limit_bytes`.
        ArtifactIncompatible: it has another format.
        QuotaExceeded: the quota is reached; the bundles that still fitted are published.
        OSError: the disk is full or failing; some bundles may be published.
    """
    with AuditedAction(store, tenant, Action.IMPORT, _WHAT, sha256_of(data)) as act:
        release, bundles = _unpacked(data, store.trust, limit_bytes)
        for bundle in bundles:  # raises if readers could not decode it; the bytes are proven
            decode_parts(bundle.files)
            decode_golden(bundle.files[GOLDEN])
        origin = (
            f"{release.tenant}: release {release.serial}"
            if release
            else f"{bundles[0].ref.tenant}: {bundles[0].ref}"
        )
        act.begin(what=f"from {origin}")
        refs = tuple(
            publish_files(
                store,
                tenant,
                bundle.ref.model,
                bundle.files,
                libraries=bundle.manifest.libraries,
                feature_schema=bundle.manifest.feature_schema,
                training=_with_origin(bundle),
                now=now,
                signer=signer,
                quota=quota,
            )
            for bundle in bundles
        )
        if release is None:
            return Imported(refs, None, origin)
        notes = f"imported from {origin}" + (f"; {release.notes}" if release.notes else "")
        return Imported(
            refs,
            publish_release(
                store, tenant, refs, release.fusion, notes=notes, now=now, signer=signer
            ),
            origin,
        )


def _unpacked(
    data: bytes, trust: Trust, limit_bytes: int
) -> tuple[Release | None, list[OpenedBundle]]:
    """Read an archive: documents are proven before they are parsed, files before decoding."""
    packed = Unpacker(data, what=_WHAT)
    name, document = packed.first(limit=max(RELEASE_LIMIT_BYTES, MANIFEST_LIMIT_BYTES))
    room = _Room(limit_bytes)
    if name != _RELEASE:
        bundles = [_bundle(packed, name, document, trust, room)]
        packed.end()
        return None, bundles
    release = parse_any_release(
        trust.prove(document, Document.RELEASE, what=_RELEASE), what=_RELEASE
    )
    bundles = []
    for model, ref in sorted(release.bundles.items()):
        name, document = packed.first(limit=MANIFEST_LIMIT_BYTES)
        bundle = _bundle(packed, name, document, trust, room)
        if bundle.ref != ref:
            raise ArtifactCorrupt(f"{model}/{MANIFEST}", "is not the one that the release names")
        bundles.append(bundle)
    packed.end()
    return release, bundles


class _Room:
    """Budget of bytes that may still be unpacked."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = self._left_bytes = limit_bytes

    def consume(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ArtifactCorrupt(_WHAT, f"has more than {self._limit_bytes:,} bytes")


def _bundle(
    packed: Unpacker, name: str, document: bytes, trust: Trust, room: _Room
) -> OpenedBundle:
    manifest = parse_manifest(
        trust.prove(document, Document.MANIFEST, what=MANIFEST), what=MANIFEST
    )
    ref = BundleRef(manifest.tenant, manifest.model, manifest.serial, sha256_of(document))
    if name != _path(manifest, MANIFEST):
        raise ArtifactCorrupt(_WHAT, "has another name for a bundle than its manifest")
    room.consume(manifest.size_bytes)
    return OpenedBundle(
        ref,
        manifest,
        {entry.name: _proven(packed, manifest, entry) for entry in manifest.files},
        document,
    )


def _proven(packed: Unpacker, manifest: Manifest, entry: FileEntry) -> bytes:
    data = packed.next(_path(manifest, entry.name), entry.size_bytes)
    if (found := sha256_of(data)) != entry.sha256:
        raise ArtifactCorrupt(
            _path(manifest, entry.name),
            f"sha256 is {found[:12]}, published was {entry.sha256[:12]}",
        )
    return data


def _files_of(bundle: OpenedBundle) -> Iterator[tuple[str, bytes]]:
    yield _path(bundle.manifest, MANIFEST), bundle.signed
    yield from (
        (_path(bundle.manifest, entry.name), bundle.files[entry.name])
        for entry in bundle.manifest.files
    )


def _path(manifest: Manifest, name: str) -> str:
    return f"{manifest.model}/{name}"


def _signed_release(store: Store, tenant: Tenant, which: ReleaseRef) -> bytes:
    for root in store.roots:
        with suppress(ArtifactError):  # the other root may have the release with this digest
            data = read_release_bytes(root, tenant, which.serial)
            if sha256_of(data) == which.sha256:
                return data
    raise ArtifactCorrupt(str(which), "changed while it was read")


def _with_origin(bundle: OpenedBundle) -> Mapping[str, Any]:
    ref = bundle.ref
    origin = {
        "tenant": ref.tenant,
        "model": ref.model,
        "version": ref.version,
        "manifest_sha256": ref.manifest_sha256,
        "created_at": bundle.manifest.created_at,
        "signed_by": signed_by(bundle.signed),
    }
    return {**bundle.manifest.training, "origin": origin}
