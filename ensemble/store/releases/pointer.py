"""A tenant's pointer: the small signed file that names the serving release and earlier ones.

It is a signpost: its serial rises with every promotion, so that rolling back to an older release is
a newer pointer. Its copy, PROMOTED, also keeps the earlier releases for the promoter who finds
CURRENT broken or gone.
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
POINTER_LIMIT_BYTES = (
    1 << 10
)  # with four earlier releases and the longest numbers and names it is some 850
EARLIER_RELEASES = 4  # RELIABILITY P8: with the one in use, the last five


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which release is in use.

    Attributes:
        release: serial of the release.
        release_sha256: digest of the release's bytes.
        serial: of the pointer itself; every promotion's is above all before it.
        previous: what to fall back to where `release` does not load: older releases that were
            in use before it, the last one
            first, at most four. After a roll-back the newer release is not among them: it was left
            for a reason.
        at_once: the promoter wants the release to take all traffic at once, not in measured steps.
    """

    release: int
    release_sha256: str
    serial: int
    previous: tuple[ReleaseRef, ...] = ()
    at_once: bool = False

    @property
    def ref(self) -> ReleaseRef:
        """The release it points to."""
        return ReleaseRef(self.release, self.release_sha256)


def read_pointer(store: Store, tenant: Tenant, *, not_below: int = 0) -> Pointer:
    """The pointer in use: that of `state`, or where it has none, the shipped one.

    Args:
        store: looked through in order.
        tenant: whose pointer.
        not_below: the highest pointer serial the reader has seen; 0 for a reader that has seen
            none.

    Raises:
        ArtifactError: there is none, it is broken, nobody we trust signed it, or an old one
            came back; as `SignedRef.read` says it.
    """
    return _signpost(tenant).read(store, not_below=not_below)


def has_pointer(store: Store, tenant: Tenant) -> bool:
    """Whether there is a pointer, whatever it is worth.

    A tenant whose pointer is broken does not live on somebody else's by that.
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
    """Point to `release`. Call it holding the tenant's lock; the release is proven by who calls.

    Args:
        store: its `state` gets the pointer.
        tenant: whose.
        release: of this tenant.
        expected_serial: of the pointer the caller saw; 0 where there was none, or none that
            could be read and proven.
        signer: signs it; its key must be one that the store trusts.
        at_once: as in `Pointer`.
        act: what this is a part of; a promotion of its own unless said otherwise.

    Raises:
        PointerMoved: the pointer stands elsewhere than the caller saw it.
        ArtifactIncompatible: the pointer is of a newer Axon, whose business it stays.
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
        return _signpost(tenant).move(
            store, expected_serial, text_of, signer=signer, act=part, what=str(release)
        )


def _signpost(tenant: Tenant) -> SignedRef[Pointer]:
    return SignedRef(
        tenant_parts(tenant),
        POINTER,
        POINTER_COPY,
        Document.POINTER,
        POINTER_LIMIT_BYTES,
        lambda text, what: _parse(text, tenant, what),
    )


def _earlier(before: Pointer | None, release: ReleaseRef) -> tuple[ReleaseRef, ...]:
    """What to fall back to from `release`, which comes after `before`."""
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

    Unsigned, so it is read only where it is pinned; its release says whose it is.
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
    if (
        found.tenant != tenant
        # another tenant's higher serial would make readers refuse this tenant's own (TUF: fast-
        # forward)
    ):
        raise ArtifactUntrusted(what, "is the pointer of another tenant")
    earlier = tuple(ReleaseRef(line.release, line.sha256) for line in found.previous)
    if len({found.release, *(ref.serial for ref in earlier)}) != 1 + len(earlier):
        raise ArtifactCorrupt(what, "names a release twice")
    return Pointer(found.release, found.release_sha256, found.serial, earlier, found.at_once)
