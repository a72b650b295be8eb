"""Releases: bundles that serve together, with the fusion that was fitted to exactly these.

Publishing and promoting a release are two actions (DESIGN, decision 2). A release never changes.
Promoting moves the tenant's pointer, under a lock, if its serial is the one that the caller read.
Rolling back promotes an older release for all traffic at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from ensemble.errors import ArtifactError, ArtifactMissing, ArtifactUntrusted, PointerMoved
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files import atomic
from ensemble.store.files.canonical_json import timestamp
from ensemble.store.layout import RELEASE_SUFFIX, Store, next_serial, release_parts, tenant_parts
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.list import list_releases
from ensemble.store.releases.pointer import Pointer, move_pointer, read_pointer
from ensemble.store.releases.release_file import (
    RELEASE_LIMIT_BYTES,
    Release,
    encode_release,
    parse_release,
    read_release,
)
from ensemble.store.signing import Document, Signer, signed_for

__all__ = [
    "pointer_lock",
    "promote",
    "prove_release",
    "publish_release",
    "roll_back",
]


def publish_release(
    store: Store,
    tenant: Tenant,
    bundles: Iterable[BundleRef],
    fusion: Mapping[str, Any],
    *,
    notes: str,
    now: datetime,
    signer: Signer,
    parents: frozenset[Tenant] = frozenset(),
) -> ReleaseRef:
    """Write the next release of a tenant into `store.state`, after proving every bundle.

    Args:
        store: its `state` gets the release; serials rise over both of its roots.
        tenant: owner of the release.
        bundles: at most one of each model.
        fusion: fitted to these bundles; JSON.
        notes: reason for the release.
        now: time of publication, with its time zone.
        signer: signs the release; the store must trust its key.
        parents: other tenants whose bundles this release may use; none by default.

    Raises:
        ArtifactError: a bundle is missing or broken, as in `open_bundle`.
        ArtifactUntrusted: a bundle belongs to a tenant that is not a parent, or the store does not
            trust the signer.
        ArtifactCorrupt: the release is too long.
        ValueError: no bundle, two of one model, or a fusion that is not plain JSON.
        VersionExists: a publisher outside the lock, e.g. on another machine, was first.
        OSError: the disk is full or failing; nothing was published, unless only the last fsync
            failed.
    """
    chosen = _one_a_model(bundles)
    with AuditedAction(store, tenant, Action.PUBLISH_RELEASE, "release") as act:
        for ref in chosen.values():
            if ref.tenant != tenant and ref.tenant not in parents:
                raise ArtifactUntrusted(str(ref), "belongs to another tenant")
        home = atomic.make_directory(store.state, *release_parts(tenant))
        # under the lock no other process deletes the bundles
        with atomic.staging(store.state) as staged, pointer_lock(store, tenant):
            for ref in chosen.values():
                open_bundle(store, ref)
            serial = next_serial(store, release_parts(tenant), suffix=RELEASE_SUFFIX)
            text = encode_release(Release(tenant, serial, timestamp(now), chosen, fusion, notes))
            parse_release(text, tenant, serial)  # raises if readers could not parse it
            data = signed_for(
                store.trust,
                signer,
                text,
                Document.RELEASE,
                limit=RELEASE_LIMIT_BYTES,
                what=f"release {serial}",
            )
            name = f"{serial}{RELEASE_SUFFIX}"
            digest = atomic.write_new(staged, name, data)
            act.begin(what=f"release {serial}", digest=digest)
            atomic.place_new(staged / name, home / name, what=f"release {serial}")
    return ReleaseRef(serial, digest)


def promote(
    store: Store,
    tenant: Tenant,
    release: ReleaseRef,
    expected_serial: int,
    *,
    signer: Signer,
    at_once: bool = False,
) -> Pointer:
    """Make `release` the one in use, after proving it and every bundle of it.

    Args:
        store: its `state` gets the pointer, whichever root has the release.
        tenant: owner of the pointer.
        release: one of this tenant.
        expected_serial: serial of the pointer that the caller read; 0 if it was missing or broken.
            A broken pointer is replaced.
        signer: signs the pointer; the store must trust its key.
        at_once: the release gets all traffic at once, without a canary rollout.

    Returns:
        The new pointer; its serial is higher than all before it.

    Raises:
        PointerMoved: another promotion came first; read the pointer again.
        ArtifactError: the release or one of its bundles cannot be loaded, or the store does not
            trust the signer; the pointer is unchanged.
        OSError: the disk is full or failing. The pointer is unchanged, unless only the last fsync
            failed: then it has moved, and a power cut may undo that.
    """
    with (
        AuditedAction(store, tenant, Action.PROMOTE, str(release)) as act,
        pointer_lock(store, tenant),
    ):
        prove_release(store, tenant, release)
        return move_pointer(
            store, tenant, release, expected_serial, signer=signer, at_once=at_once, act=act
        )


def roll_back(
    store: Store, tenant: Tenant, expected_serial: int, *, signer: Signer, to: int | None = None
) -> Pointer:
    """Roll back to an earlier release, all traffic at once, by a newer pointer.

    Args:
        store: its `state` gets the pointer.
        tenant: owner of the pointer.
        expected_serial: serial of the pointer that the caller read.
        signer: signs the pointer; the store must trust its key.
        to: number of an earlier release; None for the last one in use before that can be loaded.

    Returns:
        The new pointer; its serial is higher than all before it. It names the releases before
        `to`, so that another rollback goes further back.

    Raises:
        ArtifactMissing: there is no earlier release, or none with that number.
        PointerMoved: another promotion came first; read the pointer again.
        ArtifactError: none of them can be loaded; the error is that of release `to`, or of the last
            one in use.
    """
    with (
        AuditedAction(
            store, tenant, Action.ROLL_BACK, "pointer" if to is None else f"release {to}"
        ) as act,
        pointer_lock(store, tenant),
    ):
        pointer = read_pointer(store, tenant)
        if pointer.serial != expected_serial:
            raise PointerMoved(expected_serial, pointer.serial)
        chosen = _loading(store, tenant, _earlier_releases(store, tenant, pointer, to))
        return move_pointer(
            store, tenant, chosen, expected_serial, signer=signer, at_once=True, act=act
        )


@contextmanager
def pointer_lock(store: Store, tenant: Tenant) -> Iterator[None]:
    """Lock a tenant's pointer and aliases for a change.

    Meanwhile no other process can move them or delete what they name.
    """
    home = atomic.make_directory(store.state, *tenant_parts(tenant))
    with atomic.shared(store.state, atomic.IN_USE), atomic.exclusive(home):
        yield


def prove_release(store: Store, tenant: Tenant, release: ReleaseRef) -> None:
    """Prove a release and every bundle of it, to the last byte.

    Raises:
        ArtifactError: it cannot be loaded.
    """
    for ref in read_release(store, tenant, release).bundles.values():
        open_bundle(store, ref)


def _earlier_releases(
    store: Store, tenant: Tenant, pointer: Pointer, to: int | None
) -> list[ReleaseRef]:
    """List the candidates of a rollback, the preferred one first."""
    if to is None:
        found = list(pointer.previous)
    else:
        # the state root wins over the shipped one, and the digests in the pointer over both
        by_number = {one.ref.serial: one.ref for one in reversed(list_releases(store, tenant))}
        by_number |= {ref.serial: ref for ref in pointer.previous}
        found = [by_number[to]] if to in by_number and to < pointer.release else []
    if not found:
        raise ArtifactMissing(
            "a release before this one" if to is None else f"an earlier release {to}"
        )
    return found


def _loading(store: Store, tenant: Tenant, releases: Iterable[ReleaseRef]) -> ReleaseRef:
    errors: list[ArtifactError] = []
    for ref in releases:
        try:
            prove_release(store, tenant, ref)
        except ArtifactError as refusal:
            errors.append(refusal)
        else:
            return ref
    raise errors[0]


def _one_a_model(bundles: Iterable[BundleRef]) -> dict[ModelName, BundleRef]:
    chosen: dict[ModelName, BundleRef] = {}
    for ref in bundles:
        if ref.model in chosen:
            raise ValueError(f"two bundles of {ref.model} in one release")
        chosen[ref.model] = ref
    if not chosen:
        raise ValueError("a release needs at least one bundle")
    return chosen
