"""A tenant's pointer: the small signed file that names the serving release and earlier ones.

It is a signed reference: its serial rises with every promotion, so rolling back to an older release
writes a newer pointer. Its copy, PROMOTED, preserves the earlier releases in case CURRENT is broken
or lost.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from ensemble.errors import ArtifactCorrupt, ArtifactUntrusted
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.files import canonical_json
from ensemble.store.files.canonical_json import Serial, Sha256, refuse_other_format
from ensemble.store.layout import POINTER, POINTER_COPY, Store, tenant_parts
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.releases.signed_ref import SignedRef
from ensemble.store.signing import Document, Signer

__all__ = ["Pointer", "has_pointer", "move_pointer", "read_pointer"]

FORMAT: Final = 2
POINTER_LIMIT_BYTES = 1 << 10  # four earlier releases, longest numbers and names: about 850
EARLIER_RELEASES = 4  # RELIABILITY P8: with the one in use, the last five


@dataclass(frozen=True, slots=True)
class Pointer:
    """The release in use.

    Attributes:
        release: serial of the release.
        release_sha256: digest of the release's bytes.
        serial: of the pointer itself; higher than that of every earlier promotion.
        previous: older releases that were in use before, the last one first, at most four.
            Replicas fall back to them if `release` cannot be loaded. After a rollback the newer
            release is not among them, because it was left for a reason.
        at_once: the release gets all traffic at once, without a canary rollout.
    """

    release: int
    release_sha256: str
    serial: int
    previous: tuple[ReleaseRef, ...] = ()
    at_once: bool = False

    @property
    def ref(self) -> ReleaseRef:
        """Reference to the release."""
        return ReleaseRef(self.release, self.release_sha256)


def read_pointer(store: Store, tenant: Tenant, *, not_below: int = 0) -> Pointer:
    """Read the pointer of the state root, or the shipped one if `state` has none.

    Args:
        store: its roots are tried in order.
        tenant: owner of the pointer.
        not_below: highest pointer serial that the reader has read before; 0 for none.

    Raises:
        ArtifactError: as in `SignedRef.read`.
    """
    return _signed_ref(tenant).read(store, not_below=not_below)


def has_pointer(store: Store, tenant: Tenant) -> bool:
    """Whether a pointer file exists, valid or not.

    A tenant with a broken pointer must not be served by its parent's release instead.
    """
    return any(
        os.path.lexists(root.joinpath(*tenant_parts(tenant), POINTER)) for root in store.roots
    )


def move_pointer(
    store: Store,
    tenant: Tenant,
    release: ReleaseRef,
    expected_serial: int,
    *,
    signer: Signer,
    at_once: bool = False,
    act: AuditedAction | None = None,
) -> Pointer:
    """Point to `release`. The caller holds the tenant's lock and has proven the release.

    Args:
        store: its `state` gets the pointer.
        tenant: owner of the pointer.
        release: one of this tenant.
        expected_serial: serial of the pointer that the caller read; 0 if it was missing or broken.
        signer: signs the pointer; the store must trust its key.
        at_once: as in `Pointer`.
        act: audited action that this is part of; None for a promotion of its own.

    Raises:
        PointerMoved: the pointer has another serial than the caller expects.
        ArtifactIncompatible: a newer Axon wrote the pointer; it is not replaced.
        ArtifactUntrusted: the store does not trust the signer.
    """

    def text_of(serial: int, before: Pointer | None) -> bytes:
        return _encode(
            Pointer(release.serial, release.sha256, serial, _earlier(before, release), at_once),
            tenant,
        )

    with (
        nullcontext(act)
        if act
        else AuditedAction(store, tenant, Action.PROMOTE, str(release)) as part
    ):
        return _signed_ref(tenant).move(
            store, expected_serial, text_of, signer=signer, act=part, what=str(release)
        )


def _signed_ref(tenant: Tenant) -> SignedRef[Pointer]:
    return SignedRef(
        tenant_parts(tenant),
        POINTER,
        POINTER_COPY,
        Document.POINTER,
        POINTER_LIMIT_BYTES,
        lambda text, what: _parse(text, tenant, what),
    )


def _earlier(before: Pointer | None, release: ReleaseRef) -> tuple[ReleaseRef, ...]:
    """Return the fallbacks of `release`, which follows the pointer `before`."""
    if before is None:
        return ()
    used = (before.ref, *before.previous)
    return tuple(ref for ref in used if ref.serial < release.serial)[:EARLIER_RELEASES]


@dataclass(frozen=True, slots=True)
class _ReleaseLine:
    release: Serial
    sha256: Sha256


@dataclass(frozen=True, slots=True)
class _PointerFile:
    format: int
    tenant: Tenant
    release: Serial
    release_sha256: Sha256
    serial: Serial
    previous: Annotated[tuple[_ReleaseLine, ...], Meta(max_length=EARLIER_RELEASES)]
    at_once: bool


@dataclass(frozen=True, slots=True)
class _PointerFile1:
    """Format 1, of Axon 0.1.

    It is unsigned, so it is read only if pinned; its tenant is in the release that it names.
    """

    format: int
    release: Serial
    release_sha256: Sha256
    serial: Serial


def _encode(pointer: Pointer, tenant: Tenant) -> bytes:
    return canonical_json.encode(
        {
            "format": FORMAT,
            "tenant": tenant,
            "release": pointer.release,
            "release_sha256": pointer.release_sha256,
            "serial": pointer.serial,
            "previous": [{"release": ref.serial, "sha256": ref.sha256} for ref in pointer.previous],
            "at_once": pointer.at_once,
        }
    )


def _parse(text: bytes, tenant: Tenant, what: str) -> Pointer:
    value = canonical_json.decode(text, what=what)
    if isinstance(value, dict) and value.get("format") == 1:
        old = canonical_json.to_dataclass(value, _PointerFile1, what=what)
        return Pointer(old.release, old.release_sha256, old.serial)
    refuse_other_format(value, FORMAT, what=what)
    found = canonical_json.to_dataclass(value, _PointerFile, what=what)
    # another tenant's higher serial would make readers refuse this tenant's own: TUF's
    # fast-forward attack
    if found.tenant != tenant:
        raise ArtifactUntrusted(what, "is the pointer of another tenant")
    earlier = tuple(ReleaseRef(line.release, line.sha256) for line in found.previous)
    if len({found.release, *(ref.serial for ref in earlier)}) != 1 + len(earlier):
        raise ArtifactCorrupt(what, "names a release twice")
    return Pointer(found.release, found.release_sha256, found.serial, earlier, found.at_once)
