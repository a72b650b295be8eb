"""Description of a model: its manifest, its files, and its aliases and references.

No model is decoded, and no path of this machine is shown. A broken version is listed with its
problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ensemble.errors import ArtifactError, ArtifactInUse, ArtifactMissing
from ensemble.store.bundles.list import BundleListing, list_bundles
from ensemble.store.bundles.manifest import FileEntry
from ensemble.store.bundles.metadata import Metadata
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.layout import Store, bundle_parts
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.references import (
    References,
    StoredItem,
    find_references,
)
from ensemble.store.releases.aliases import Alias, read_challenger, read_model_alias
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release_file import read_release

__all__ = [
    "BundleInfo",
    "describe_bundle",
    "list_models",
    "resolve_bundle",
]

MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """Description of one version of a model (S4-05, S4-06).

    If the manifest is not trusted, the fields that come from it are empty.

    Attributes:
        created_at: UTC.
        file_hash: SHA-256 of the manifest, which contains the hashes of the files.
        files: all files except the manifest.
        libraries: library -> version with which the model was made.
        training_data_hash: SHA-256 of the training data, as the recipe computes it.
        training: everything that the recipe recorded.
        metadata: type, parameters, and notes of the user.
        last_modified: time of the manifest on disk, UTC; for display only.
        path: relative to the store's root.
        is_shipped: shipped with Axon, so it cannot be deleted.
        aliases: champion, challenger, both or none.
        in_use: it may not be deleted.
        why_in_use: reason in words, "" if it is not in use.
        problem: known problem, "" for none. A version without a problem may still fail to load.
    """

    model_name: ModelName
    tenant_id: Tenant
    version: int
    created_at: str
    file_hash: str
    files: tuple[FileEntry, ...]
    libraries: Mapping[str, str]
    training_data_hash: str
    feature_schema: str
    training: Mapping[str, Any]
    metadata: Metadata
    size_bytes: int
    last_modified: str
    path: str
    is_shipped: bool
    aliases: tuple[Alias, ...]
    in_use: bool
    why_in_use: str
    problem: str

    @property
    def size_mb(self) -> float:
        """Megabytes of all files but the manifest."""
        return self.size_bytes / MEGABYTE

    @property
    def ref(self) -> BundleRef:
        """Reference with which the bundle is opened."""
        return BundleRef(self.tenant_id, self.model_name, self.version, self.file_hash)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of S4, flat, for JSON: the same in the terminal and over HTTP."""
        metadata = self.metadata
        return {
            "model_name": str(self.model_name),
            "tenant_id": str(self.tenant_id),
            "version": self.version,
            "label": metadata.label,
            "created_at": self.created_at,
            "model_type": metadata.model_type,
            "model_module": metadata.model_module,
            "file_hash": self.file_hash,
            "files": [asdict(file) for file in self.files],
            "libraries": dict(self.libraries),
            "model_params": dict(metadata.model_params),
            "user_metadata": dict(metadata.user_metadata),
            "feature_names": list(metadata.feature_names),
            "feature_schema": self.feature_schema,
            "training_data_hash": self.training_data_hash,
            "training": dict(self.training),
            "origin": dict(metadata.origin),
            "size_bytes": self.size_bytes,
            "size_mb": self.size_mb,
            "last_modified": self.last_modified,
            "path": self.path,
            "aliases": [str(alias) for alias in self.aliases],
            "in_use": self.in_use,
            "why_in_use": self.why_in_use,
            "is_shipped": self.is_shipped,
            "problem": self.problem,
        }


def describe_bundle(
    store: Store, tenant: Tenant, model: ModelName, which: int | Alias | None = None
) -> BundleInfo:
    """Describe one version of a model, chosen as in `resolve_bundle`.

    Raises:
        ArtifactMissing: there is no such model or version, or the alias is not set.
        ArtifactError: an alias is broken.
    """
    ref = resolve_bundle(store, tenant, model, which)
    for info in list_models(store, tenant, model):
        if info.ref == ref:
            return info
    raise ArtifactMissing(str(ref))  # an alias or release names a version that was removed by hand


def resolve_bundle(
    store: Store, tenant: Tenant, model: ModelName, which: int | Alias | None = None
) -> BundleRef:
    """Find a version and the digest of its manifest; the bundle is not opened.

    The champion of a model is the version in the release that serves; if the release does not
    include the model, the version with the alias `champion`.

    Args:
        store: both roots are searched.
        tenant: owner of the model.
        model: its name.
        which: number or alias; None for the champion, or else the highest version that is not
            visibly broken.

    Raises:
        ArtifactMissing: there is no such model or version, or the alias is not set.
        ArtifactError: an alias, or the release that serves, is broken.
    """
    known = {
        listing.ref.version: listing for listing in reversed(list_bundles(store, tenant, model))
    }  # the state root wins over the shipped one
    if not known:
        raise ArtifactMissing(f"model {model}")
    if isinstance(which, int):
        if which not in known:
            raise ArtifactMissing(f"{model}/{which}")
        return known[which].ref
    if ref := _named(store, tenant, model, which or Alias.CHAMPION):
        return ref
    if which is not None:
        raise ArtifactMissing(f"a {which} of model {model}")
    return max(known.values(), key=lambda listing: (not listing.problem, listing.ref.version)).ref


def list_models(
    store: Store, tenant: Tenant, model: ModelName | None = None
) -> tuple[BundleInfo, ...]:
    """List versions of a tenant or of one model, newest model first (S4-03).

    Versions of a model are ordered by number, because the clocks of publishers may differ.
    """
    listings = list_bundles(store, tenant, model)
    if not listings:
        return ()
    references = _references(store)
    aliases = {
        name: _aliases(store, tenant, name) for name in {listing.ref.model for listing in listings}
    }
    infos = [
        _info(listing, references, aliases[listing.ref.model].get(listing.ref, ()))
        for listing in listings
    ]
    newest: dict[ModelName, str] = {}
    for info in infos:  # the first of each model has the highest number
        newest.setdefault(info.model_name, info.created_at)
    by_name = sorted(infos, key=lambda info: (info.model_name, -info.version, info.is_shipped))
    return tuple(sorted(by_name, key=lambda info: newest[info.model_name], reverse=True))


def _info(
    listing: BundleListing, references: References | None, aliases: tuple[Alias, ...]
) -> BundleInfo:
    ref, manifest = listing.ref, listing.manifest
    why = (
        references.reason(StoredItem(ref.tenant, ref.model, ref.version))
        if references
        else "the references cannot be determined"
    )
    training = manifest.training if manifest else {}
    return BundleInfo(
        model_name=ref.model,
        tenant_id=ref.tenant,
        version=ref.version,
        created_at=listing.created_at,
        file_hash=ref.manifest_sha256,
        files=manifest.files if manifest else (),
        libraries=manifest.libraries if manifest else {},
        training_data_hash=training.get("data_sha256", ""),
        feature_schema=manifest.feature_schema if manifest else "",
        training=training,
        metadata=Metadata.of(training),
        size_bytes=listing.size_bytes,
        last_modified=timestamp(datetime.fromtimestamp(listing.modified_s, UTC))
        if listing.modified_s
        else "",
        path="/".join((*bundle_parts(ref.tenant, ref.model), str(ref.version))),
        is_shipped=listing.is_shipped,
        aliases=aliases,
        in_use=bool(why) or listing.is_shipped,
        why_in_use=why or ("it came with Axon" if listing.is_shipped else ""),
        problem=listing.problem,
    )


def _references(store: Store) -> References | None:
    try:
        return find_references(store, what="anything")
    except ArtifactInUse:
        return None


def _aliases(store: Store, tenant: Tenant, model: ModelName) -> dict[BundleRef, tuple[Alias, ...]]:
    """Map each version to its aliases.

    A broken alias is ignored here; requesting a version by that alias raises its error.
    """
    found: dict[BundleRef, tuple[Alias, ...]] = {}
    for alias in Alias:
        try:
            ref = _named(store, tenant, model, alias)
        except ArtifactError:
            continue
        if ref:
            found[ref] = (*found.get(ref, ()), alias)
    return found


def _named(store: Store, tenant: Tenant, model: ModelName, alias: Alias) -> BundleRef | None:
    release = _release_of(store, tenant, alias)
    ref = read_release(store, tenant, release).bundles.get(model) if release else None
    if ref and ref.tenant == tenant:  # an inherited one is listed with its owner
        return ref
    return read_model_alias(store, tenant, model, alias)


def _release_of(store: Store, tenant: Tenant, alias: Alias) -> ReleaseRef | None:
    if alias is Alias.CHALLENGER:
        return read_challenger(store, tenant)
    try:
        return read_pointer(store, tenant).ref
    except ArtifactMissing:
        return None
