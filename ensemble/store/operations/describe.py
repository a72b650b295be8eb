"""Description of a model: its manifest, its files, and what names it.

Nothing here decodes a model, and no path of this machine is told. What is broken is shown with what
is wrong.
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
    """S4-05 and S4-06, of one version of a model.

    Attributes:
        created_at: UTC, "" where the manifest cannot be trusted; so with everything that the
            manifest says.
        file_hash: SHA-256 of the manifest, which holds those of the files.
        files: all but the manifest.
        libraries: library -> version that made it.
        training_data_hash: SHA-256 of what it was trained on, as its recipe counts it.
        training: all that its recipe remembered.
        metadata: type, parameters, and what its user said.
        last_modified: of the manifest, UTC, by the disk; for people.
        path: from the store's root.
        is_shipped: came with Axon; not ours to delete.
        aliases: words that stand for this version: champion, challenger.
        in_use: it may not be deleted.
        why_in_use: in words, "" where it is not.
        problem: what is wrong with it, "" where nothing is known. A model that has been
            described is not a model that loads.
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
        """To open it by."""
        return BundleRef(self.tenant_id, self.model_name, self.version, self.file_hash)

    def to_dict(self) -> dict[str, Any]:
        """The fields of S4, flat, as JSON has them: the same in the terminal and over HTTP."""
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
    """One version of a model: by number, by alias, or as in `resolve_bundle`.

    Raises:
        ArtifactMissing: there is no such model or version, or nothing has that alias.
        ArtifactError: an alias is broken.
    """
    ref = resolve_bundle(store, tenant, model, which)
    for info in list_models(store, tenant, model):
        if info.ref == ref:
            return info
    raise ArtifactMissing(str(ref))  # an alias or a release names what somebody took away by hand


def resolve_bundle(
    store: Store, tenant: Tenant, model: ModelName, which: int | Alias | None = None
) -> BundleRef:
    """Which version is meant, with the digest of the manifest that lies there; it is not opened.

    The champion of a model is the one in the release that serves; where that names none, the one
    that was given the word. Without
    `which` it is the champion; where there is none, the highest version that is not visibly broken.

    Raises:
        ArtifactMissing: there is no such model or version, or nothing has that alias.
        ArtifactError: an alias, or the release that serves, is broken.
    """
    known = {
        listing.ref.version: listing for listing in reversed(list_bundles(store, tenant, model))
    }  # of twins that of the state root
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

    Within a model the order is that of the numbers, whatever the clocks of their publishers said.
    """
    listings = list_bundles(store, tenant, model)
    if not listings:
        return ()
    references = _references(store)
    words = {
        name: _words(store, tenant, name) for name in {listing.ref.model for listing in listings}
    }
    infos = [
        _info(listing, references, words[listing.ref.model].get(listing.ref, ()))
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
        else "what serves cannot be told now"
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


def _words(store: Store, tenant: Tenant, model: ModelName) -> dict[BundleRef, tuple[Alias, ...]]:
    """Version -> its aliases.

    One that is broken names nothing here, and says so where it is asked for by name.
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
    if ref and ref.tenant == tenant:  # one that is lent is listed with its owner
        return ref
    return read_model_alias(store, tenant, model, alias)


def _release_of(store: Store, tenant: Tenant, alias: Alias) -> ReleaseRef | None:
    if alias is Alias.CHALLENGER:
        return read_challenger(store, tenant)
    try:
        return read_pointer(store, tenant).ref
    except ArtifactMissing:
        return None
