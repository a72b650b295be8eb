"""Deletion of unreferenced versions and releases, one by one or by retention.

A version is deleted only by its number, never if it serves, can be rolled back to, is evaluated in
shadow, or was shipped with Axon. A tombstone is written first, so that the number is never used
again. Then the item moves to staging in one step and is removed there, by this process or, after a
crash, by the sweeper. A crash leaves the item complete or gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ensemble.errors import ArtifactError, ArtifactInUse, ArtifactMissing
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.manifest import MANIFEST_LIMIT_BYTES
from ensemble.store.bundles.quota import models_in_state
from ensemble.store.files import atomic
from ensemble.store.files.safe_read import open_directory, read_bounded, sha256_of
from ensemble.store.layout import (
    MANIFEST,
    TOMBSTONE,
    Store,
    encode_tombstone,
    highest_serial,
    serials_in,
    tenant_parts,
)
from ensemble.store.names import ModelName, Tenant
from ensemble.store.operations.references import (
    StoredItem,
    bundles_of_releases,
    find_references,
    list_tenants,
)
from ensemble.store.releases.release_file import RELEASE_LIMIT_BYTES

__all__ = [
    "Removed",
    "apply_retention",
    "delete_bundle",
    "delete_release",
    "deletion_lock",
    "digest_of",
    "leave_tombstone",
    "require_own",
]

SHIPPED = "it came with Axon"


@dataclass(frozen=True, slots=True)
class Removed:
    """The versions of models and the releases that retention deleted."""

    bundles: tuple[StoredItem, ...]
    releases: tuple[StoredItem, ...]


def delete_bundle(store: Store, tenant: Tenant, model: ModelName, version: int) -> None:
    """Delete one version of a model permanently, even a broken one.

    Raises:
        ArtifactMissing: there is no such version.
        ArtifactInUse: a pointer, challenger or alias of any tenant refers to it, the references
            cannot be determined, or it was shipped with Axon.
        ArtifactError: the tombstone or the audit log is broken.
        OSError: the disk fails; the version is complete or gone.
    """
    _delete(store, StoredItem(tenant, model, version))


def delete_release(store: Store, tenant: Tenant, serial: int) -> None:
    """Delete one release permanently; its bundles stay. Errors as in `delete_bundle`."""
    _delete(store, StoredItem(tenant, None, serial))


def apply_retention(store: Store, tenant: Tenant, *, newest: int) -> Removed:
    """Delete unreferenced releases and versions, keeping the `newest` of each kind.

    A version that a remaining release names stays, even if nothing points to that release.

    Raises:
        ArtifactInUse: the references cannot be determined.
        ArtifactError: a directory, a tombstone or the audit log cannot be read.
        OSError: the disk fails; some items may be gone already, each of them completely.
        ValueError: `newest` is less than one.
    """
    if newest < 1:
        raise ValueError("retention must leave at least one version")
    if tenant not in list_tenants(Store(store.state, None, store.trust)):
        return Removed((), ())
    with (
        AuditedAction(store, tenant, Action.RETENTION, f"keep {newest}") as act,
        deletion_lock(store, tenant),
    ):
        references = find_references(store, what="anything")
        releases = [
            one for one in _beyond(store, tenant, None, newest) if not references.reason(one)
        ]
        gone = frozenset(one.serial for one in releases)
        named = [
            bundles_of_releases(store, other, but=gone if other == tenant else frozenset())
            for other in list_tenants(store)
        ]
        old = [
            one
            for model in models_in_state(store, tenant)
            for one in _beyond(store, tenant, model, newest)
        ]
        bundles = [
            one
            for one in old
            if not references.reason(one) and not any(one.key in keys for keys in named)
        ]
        if releases or bundles:
            act.begin(what=f"keep {newest}: {len(releases)} releases and {len(bundles)} bundles go")
        # releases first, so that no release is left whose bundles are gone
        for entry in (*releases, *bundles):
            with AuditedAction(store, tenant, Action.DELETE, str(entry)) as part:
                _remove(store, entry, part)
    return Removed(tuple(bundles), tuple(releases))


@contextmanager
def deletion_lock(store: Store, tenant: Tenant) -> Iterator[None]:
    """Lock the store for a deletion.

    Meanwhile no pointer or alias of any tenant can move, and no other process writes for the
    tenant.
    """
    home = atomic.make_directory(store.state, *tenant_parts(tenant))
    with atomic.exclusive(store.state, atomic.IN_USE), atomic.exclusive(home):
        yield


def require_unreferenced(store: Store, entry: StoredItem) -> None:
    """Refuse to delete a referenced item. Call it under `deletion_lock`.

    Raises:
        ArtifactInUse: it is referenced, with the reason, or the references cannot be determined.
    """
    if why := find_references(store, what=str(entry)).reason(entry):
        raise ArtifactInUse(str(entry), why)


def require_own(store: Store, entry: StoredItem) -> None:
    """Refuse to delete an item that is not in the state root.

    Raises:
        ArtifactMissing: there is no item with that number.
        ArtifactInUse: it was shipped with Axon.
    """
    if entry.serial in serials_in(store.state, entry.parts, suffix=entry.suffix):
        return
    if store.shipped and entry.serial in serials_in(
        store.shipped, entry.parts, suffix=entry.suffix
    ):
        raise ArtifactInUse(str(entry), SHIPPED)
    raise ArtifactMissing(str(entry))


def _delete(store: Store, entry: StoredItem) -> None:
    with AuditedAction(store, entry.tenant, Action.DELETE, str(entry)) as act:
        # before the locks, which create the tenant's directory
        require_own(store, entry)
        with deletion_lock(store, entry.tenant):
            require_own(store, entry)
            require_unreferenced(store, entry)
            _remove(store, entry, act)


def _remove(store: Store, entry: StoredItem, act: AuditedAction) -> None:
    act.begin(what=str(entry), digest=digest_of(store, entry))
    with atomic.staging(store.state) as staged:
        leave_tombstone(store, entry)
        atomic.take_out(store.state.joinpath(*entry.parts, entry.name), staged / entry.name)


def _beyond(store: Store, tenant: Tenant, model: ModelName | None, newest: int) -> list[StoredItem]:
    """List the items in the state root that are older than the `newest`, the oldest first."""
    anything = StoredItem(tenant, model, 1)
    return [
        StoredItem(tenant, model, serial)
        for serial in serials_in(store.state, anything.parts, suffix=anything.suffix)[:-newest]
    ]


def leave_tombstone(store: Store, entry: StoredItem) -> None:
    """Record the highest number on disk before `entry` goes, so that no number is used twice."""
    home = atomic.make_directory(store.state, *entry.parts)
    text = encode_tombstone(highest_serial(store, entry.parts, suffix=entry.suffix))
    atomic.write_atomic(store.state, home / TOMBSTONE, text, mode=0o644)


def digest_of(store: Store, entry: StoredItem) -> str:
    """Hash the release, or the bundle's manifest, in the state root; "" if it is unreadable."""
    inner, name = (
        (entry.parts, entry.name) if entry.model is None else ((*entry.parts, entry.name), MANIFEST)
    )
    try:
        with open_directory(store.state, *inner, what=str(entry)) as directory:
            return sha256_of(
                read_bounded(
                    directory,
                    name,
                    limit=max(RELEASE_LIMIT_BYTES, MANIFEST_LIMIT_BYTES),
                    what=str(entry),
                )
            )
    except ArtifactError:
        return ""
