"""List of a tenant's releases, newest first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ArtifactError
from ensemble.store.files.safe_read import sha256_of
from ensemble.store.layout import RELEASE_SUFFIX, Store, release_parts, serials_in
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.releases.release_file import parse_release, read_release_bytes
from ensemble.store.signing import Document, Trust

__all__ = ["ReleaseListing", "list_releases"]


@dataclass(frozen=True, slots=True)
class ReleaseListing:
    """A release as it is in the store; fields as in `BundleListing`.

    Attributes:
        notes: reason for the release, from its publisher.
    """

    ref: ReleaseRef
    created_at: str
    notes: str
    is_shipped: bool
    problem: str


def list_releases(store: Store, tenant: Tenant) -> tuple[ReleaseListing, ...]:
    """List the releases of a tenant in both roots, newest first."""
    found = [
        _release(store.trust, root, tenant, serial, is_shipped=root is store.shipped)
        for root in store.roots
        for serial in serials_in(root, release_parts(tenant), suffix=RELEASE_SUFFIX)
    ]
    return tuple(sorted(found, key=lambda listing: (-listing.ref.serial, listing.is_shipped)))


def _release(
    trust: Trust, root: Path, tenant: Tenant, serial: int, *, is_shipped: bool
) -> ReleaseListing:
    digest = ""
    try:
        data = read_release_bytes(root, tenant, serial)
        digest = sha256_of(data)
        release = parse_release(
            trust.prove(data, Document.RELEASE, what=f"release {serial}"), tenant, serial
        )
    except ArtifactError as error:
        return ReleaseListing(ReleaseRef(serial, digest), "", "", is_shipped, str(error))
    return ReleaseListing(
        ReleaseRef(serial, digest), release.created_at, release.notes, is_shipped, ""
    )
