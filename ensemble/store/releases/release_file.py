"""File of a release: its fields, its text, and its reader, which checks signature and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactMissing,
    ArtifactUntrusted,
    MalformedEvent,
)
from ensemble.store.files import canonical_json
from ensemble.store.files.canonical_json import Serial, Sha256, is_timestamp, refuse_other_format
from ensemble.store.files.safe_read import open_directory, read_bounded, sha256_of
from ensemble.store.layout import RELEASE_SUFFIX, Store, release_parts
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.pointer import Pointer
from ensemble.store.signing import Document

__all__ = [
    "RELEASE_LIMIT_BYTES",
    "Release",
    "encode_release",
    "parse_any_release",
    "parse_release",
    "read_release",
    "read_release_bytes",
]

FORMAT: Final = 1
RELEASE_LIMIT_BYTES = 64 << 10  # names, weights and thresholds; a manifest has the same limit


@dataclass(frozen=True, slots=True)
class Release:
    """A release: the models, fusion and thresholds that serve together.

    Attributes:
        created_at: time of publication, UTC; for display, never for ordering.
        bundles: model -> its one bundle.
        fusion: weights, prior and thresholds, as JSON; `ensemble.fusion` defines the content.
        notes: reason for the release, from its publisher.
    """

    tenant: Tenant
    serial: int
    created_at: str
    bundles: Mapping[ModelName, BundleRef]
    fusion: Mapping[str, Any]
    notes: str


def read_release(store: Store, tenant: Tenant, which: Pointer | ReleaseRef | int) -> Release:
    """Read a release and prove it by signature or pin, and by the digest in `which`, if any.

    A number alone means the release in the first root that has it.

    Raises:
        ArtifactMissing: no root has it.
        ArtifactCorrupt: its bytes are not those published, or it is too long.
        ArtifactUnreadable: it exists, but permission is denied or the disk fails.
        ArtifactUntrusted: no trusted key signed it, or it belongs to another tenant or number.
        ArtifactIncompatible: it has another format.
    """
    ref = which.ref if isinstance(which, Pointer) else which
    serial = ref if isinstance(ref, int) else ref.serial
    refusal: ArtifactError = ArtifactMissing(f"release {serial}")
    for root in store.roots:
        try:
            data = read_release_bytes(root, tenant, serial)
            if isinstance(ref, ReleaseRef):
                _refuse_other_digest(data, ref)
            return parse_release(
                store.trust.prove(data, Document.RELEASE, what=f"release {serial}"), tenant, serial
            )
        except ArtifactMissing:
            continue
        except ArtifactError as error:
            if isinstance(ref, int):
                raise
            refusal = error  # the other root may have the release that the digest names
    raise refusal


def read_release_bytes(root: Path, tenant: Tenant, serial: int) -> bytes:
    """Read the file of a release in one root, without proving it."""
    what = f"release {serial}"
    with open_directory(root, *release_parts(tenant), what=what) as directory:
        return read_bounded(
            directory, f"{serial}{RELEASE_SUFFIX}", limit=RELEASE_LIMIT_BYTES, what=what
        )


def encode_release(release: Release) -> bytes:
    """Encode a release as canonical JSON."""
    bundles = {
        model: {
            "tenant": ref.tenant,
            "version": ref.version,
            "manifest_sha256": ref.manifest_sha256,
        }
        for model, ref in release.bundles.items()
    }
    return canonical_json.encode(
        {
            "format": FORMAT,
            "tenant": release.tenant,
            "serial": release.serial,
            "created_at": release.created_at,
            "bundles": bundles,
            "fusion": dict(release.fusion),
            "notes": release.notes,
        }
    )


def parse_release(data: bytes, tenant: Tenant, serial: int) -> Release:
    """Parse proven `data`, which must be the release `serial` of this tenant.

    Raises:
        ArtifactIncompatible: it has another format.
        ArtifactUntrusted: it belongs to another tenant or number.
        ArtifactCorrupt: `encode_release` would not have written it.
    """
    what = f"release {serial}"
    release = parse_any_release(data, what=what)
    if (release.tenant, release.serial) != (tenant, serial):
        raise ArtifactUntrusted(what, "is the release of another tenant, or of another number")
    return release


def parse_any_release(data: bytes, *, what: str) -> Release:
    """Parse the proven text of a release of any tenant; errors as in `parse_release`."""
    if len(data) > RELEASE_LIMIT_BYTES:
        raise ArtifactCorrupt(what, f"is {len(data):,} bytes, allowed are {RELEASE_LIMIT_BYTES:,}")
    value = canonical_json.decode(data, what=what)
    refuse_other_format(value, FORMAT, what=what)
    found = canonical_json.to_dataclass(value, _ReleaseFile, what=what)
    if not is_timestamp(found.created_at):
        raise ArtifactCorrupt(what, "created_at is not a time like 2026-11-20T08:15:00Z")
    if not found.bundles:
        raise ArtifactCorrupt(what, "names no bundle")
    try:
        bundles = {
            ModelName(name): _ref(ModelName(name), line) for name, line in found.bundles.items()
        }
    except MalformedEvent:
        raise ArtifactCorrupt(what, "has a model name that is not valid") from None
    return Release(found.tenant, found.serial, found.created_at, bundles, found.fusion, found.notes)


@dataclass(frozen=True, slots=True)
class _BundleLine:
    tenant: Tenant
    version: Serial
    manifest_sha256: Sha256


@dataclass(frozen=True, slots=True)
class _ReleaseFile:
    format: int
    tenant: Tenant
    serial: Serial
    created_at: str
    bundles: dict[str, _BundleLine]
    fusion: dict[str, Any]
    notes: str


def _ref(model: ModelName, line: _BundleLine) -> BundleRef:
    return BundleRef(line.tenant, model, line.version, line.manifest_sha256)


def _refuse_other_digest(data: bytes, ref: ReleaseRef) -> None:
    found = sha256_of(data)
    if found != ref.sha256:
        raise ArtifactCorrupt(str(ref), f"sha256 is {found[:12]}, expected {ref.sha256[:12]}")
