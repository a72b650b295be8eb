"""List of bundles, newest first by serial; a broken or untrusted version has its problem.

Only manifests are read. `open_bundle` proves whether a listed bundle opens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store.bundles.manifest import MANIFEST_LIMIT_BYTES, Manifest, parse_manifest
from ensemble.store.bundles.open import refuse_other_bundle
from ensemble.store.files.safe_read import (
    list_names,
    modified_at,
    open_directory,
    read_bounded,
    sha256_of,
)
from ensemble.store.layout import MANIFEST, Store, bundle_parts, serials_in, tenant_parts
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.signing import Document, Trust

__all__ = ["BundleListing", "list_bundles"]


@dataclass(frozen=True, slots=True)
class BundleListing:
    """A bundle as it is in the store.

    Attributes:
        ref: with the digest of its manifest, "" if that cannot be read.
        created_at: UTC, "" if the manifest cannot be read or trusted.
        size_bytes: of the files that the manifest names, 0 if it cannot be read or trusted.
        is_shipped: shipped with Axon, so it cannot be deleted.
        problem: what is wrong with the manifest, "" for nothing known.
        manifest: after its proof; None if there is a problem.
        modified_s: time of the manifest on disk, seconds since 1970; 0.0 if unknown.
    """

    ref: BundleRef
    created_at: str
    size_bytes: int
    is_shipped: bool
    problem: str
    manifest: Manifest | None
    modified_s: float


def list_bundles(
    store: Store, tenant: Tenant, model: ModelName | None = None
) -> tuple[BundleListing, ...]:
    """List a tenant's bundles in both roots: models by name, versions newest first.

    Args:
        store: both roots are listed.
        tenant: owner of the bundles.
        model: only this model; None for all.
    """
    found = [
        _bundle(
            store.trust,
            root,
            BundleRef(tenant, name, version, ""),
            is_shipped=root is store.shipped,
        )
        for root in store.roots
        for name in (_models(root, tenant) if model is None else (model,))
        for version in serials_in(root, bundle_parts(tenant, name))
    ]
    return tuple(
        sorted(
            found, key=lambda listing: (listing.ref.model, -listing.ref.version, listing.is_shipped)
        )
    )


def _models(root: Path, tenant: Tenant) -> list[ModelName]:
    try:
        with open_directory(root, *tenant_parts(tenant), "bundles", what="bundles") as directory:
            return [
                ModelName(name)
                for name in list_names(directory, what="bundles")
                if ModelName.is_one(name)
            ]
    except ArtifactMissing:
        return []


def _bundle(trust: Trust, root: Path, ref: BundleRef, *, is_shipped: bool) -> BundleListing:
    what = f"{ref}/{MANIFEST}"
    digest, modified_s = "", 0.0
    try:
        with open_directory(
            root, *bundle_parts(ref.tenant, ref.model), str(ref.version), what=str(ref)
        ) as directory:
            data = read_bounded(directory, MANIFEST, limit=MANIFEST_LIMIT_BYTES, what=what)
            modified_s = modified_at(directory, MANIFEST)
        digest = sha256_of(data)
        manifest = parse_manifest(trust.prove(data, Document.MANIFEST, what=what), what=what)
        refuse_other_bundle(manifest, ref, what)
    except ArtifactError as error:
        stored = BundleRef(ref.tenant, ref.model, ref.version, digest)
        return BundleListing(stored, "", 0, is_shipped, str(error), None, modified_s)
    stored = BundleRef(ref.tenant, ref.model, ref.version, digest)
    return BundleListing(
        stored, manifest.created_at, manifest.size_bytes, is_shipped, "", manifest, modified_s
    )
