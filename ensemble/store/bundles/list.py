"""Listing of bundles; broken or untrusted versions are shown with what is wrong.

Newest first, by serial. A model that has been listed is not a model that loads; `load.open_bundle`
proves that.
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
    """A bundle as it lies in the store.

    Attributes:
        ref: with the digest of the manifest that lies there, "" where none can be read.
        created_at: UTC, "" where the manifest cannot be read or trusted.
        size_bytes: of the files that the manifest names, 0 where it cannot be read.
        is_shipped: came with Axon; not ours to delete.
        problem: what is wrong with the manifest, "" where nothing is known.
        manifest: as it was proven; None where there is a problem.
        modified_s: when the manifest was last changed, by the disk, in seconds since 1970; 0.0
            where nobody can say.
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
    """The bundles of `tenant` in both roots.

    Models by name, versions newest first; one model's where `model` is given.
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
        as_it_lies = BundleRef(ref.tenant, ref.model, ref.version, digest)
        return BundleListing(as_it_lies, "", 0, is_shipped, str(error), None, modified_s)
    as_it_lies = BundleRef(ref.tenant, ref.model, ref.version, digest)
    return BundleListing(
        as_it_lies, manifest.created_at, manifest.size_bytes, is_shipped, "", manifest, modified_s
    )
