"""Releases: which bundles serve together, with the fusion that was fitted to exactly these.

Publishing a release and promoting it are two acts (DESIGN, decision 2). A release never changes;
promoting moves the tenant's pointer, under a lock, if it stands where the caller saw it. Rolling
back is promoting an older release, at once.
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
    """Write the next release of `tenant` into `store.state`; every bundle is proven first.

    Args:
        store: its `state` gets the release; serials rise over both of its roots.
        tenant: who owns the release.
        bundles: at most one a model.
        fusion: fitted to these bundles; JSON.
        notes: why this release, in the publisher's words.
        now: when, with its time zone.
        signer: signs the release; its key must be one that the store trusts.
        parents: other tenants whose bundles this release may use; none by default.

    Raises:
        ArtifactError: a bundle is missing or broken, as `open_bundle` says it.
        ArtifactUntrusted: a bundle of a tenant that is not a parent, or a signer that the store
            does not trust.
        ArtifactCorrupt: the release would be too long to be read.
        ValueError: no bundle at all, two of one model, or a fusion that is not plain JSON.
        VersionExists: somebody whom our lock does not reach was first.
        OSError: the disk is full or failing; nothing was published, unless only the last fsync
            failed.
    """
    chosen = _one_a_model(bundles)
    with AuditedAction(store, tenant, Action.PUBLISH_RELEASE, "release") as act:
        for ref in chosen.values():
            if ref.tenant != tenant and ref.tenant not in parents:
                raise ArtifactUntrusted(str(ref), "belongs to another tenant")
        home = atomic.make_directory(store.state, *release_parts(tenant))
        with (
            atomic.staging(store.state) as staged,
            pointer_lock(store, tenant),
        ):  # from here on nobody removes what it names
            for ref in chosen.values():
                open_bundle(store, ref)
            serial = next_serial(store, release_parts(tenant), suffix=RELEASE_SUFFIX)
            text = encode_release(Release(tenant, serial, timestamp(now), chosen, fusion, notes))
            parse_release(text, tenant, serial)  # what could not be read back is not published
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
        store: its `state` gets the pointer, wherever the release lies.
        tenant: whose pointer moves.
        release: of this tenant.
        expected_serial: of the pointer the caller saw; 0 where there was none, or none that
            could be read and proven: a
            broken pointer is replaced, and holds nobody up.
        signer: signs the pointer; its key must be one that the store trusts.
        at_once: the release is to take all traffic at once, not in measured steps.

    Returns:
        The new pointer, whose serial is above every one before.

    Raises:
        PointerMoved: another promotion came first; look again.
        ArtifactError: the release or a bundle of it would not load, or the store does not trust
            the signer; the pointer stays.
        OSError: the disk is full or failing; the pointer stays, unless only the last fsync
            failed: then it has moved, and a
            power cut may undo that.
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
    """Roll back at once, by a newer pointer: to a named release, or to the last that loads.

    Args:
        store: its `state` gets the pointer.
        tenant: whose pointer moves.
        expected_serial: of the pointer the caller saw.
        signer: signs the pointer; its key must be one that the store trusts.
        to: number of an earlier release; None for the last of those in use before that would load.

    Returns:
        The new pointer, whose serial is above every one before. It names the releases before it, so
        that one can go further back.

    Raises:
        ArtifactMissing: there is no earlier release, or none of that number.
        PointerMoved: another promotion came first; look again.
        ArtifactError: none of them would load; the error is that of the last one in use, or of
            the one that was named.
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
    """Hold what a mover of the tenant's pointer or aliases must hold.

    Nobody moves them beside it, and nobody removes what they name.
    """
    home = atomic.make_directory(store.state, *tenant_parts(tenant))
    with atomic.shared(store.state, atomic.IN_USE), atomic.exclusive(home):
        yield


def prove_release(store: Store, tenant: Tenant, release: ReleaseRef) -> None:
    """Prove a release and every bundle of it, to the last byte.

    Raises:
        ArtifactError: it would not load.
    """
    for ref in read_release(store, tenant, release).bundles.values():
        open_bundle(store, ref)


def _earlier_releases(
    store: Store, tenant: Tenant, pointer: Pointer, to: int | None
) -> list[ReleaseRef]:
    """What may be rolled back to, the first that loads."""
    if to is None:
        found = list(pointer.previous)
    else:
        by_number = {
            one.ref.serial: one.ref for one in reversed(list_releases(store, tenant))
        }  # the state root's before the shipped one
        by_number |= {
            ref.serial: ref for ref in pointer.previous
        }  # these digests a pointer has proven
        found = [by_number[to]] if to in by_number and to < pointer.release else []
    if not found:
        raise ArtifactMissing(
            "a release before this one" if to is None else f"release {to}, from before this one,"
        )
    return found


def _loading(store: Store, tenant: Tenant, releases: Iterable[ReleaseRef]) -> ReleaseRef:
    user_errors: list[ArtifactError] = []
    for ref in releases:
        try:
            prove_release(store, tenant, ref)
        except ArtifactError as refusal:
            user_errors.append(refusal)
        else:
            return ref
    raise user_errors[0]


def _one_a_model(bundles: Iterable[BundleRef]) -> dict[ModelName, BundleRef]:
    chosen: dict[ModelName, BundleRef] = {}
    for ref in bundles:
        if ref.model in chosen:
            raise ValueError(f"two bundles of {ref.model} in one release")
        chosen[ref.model] = ref
    if not chosen:
        raise ValueError("a release of no bundle detects nothing")
    return chosen
