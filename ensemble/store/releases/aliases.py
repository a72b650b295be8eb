"""Aliases: the challenger release, and the champion and challenger version of a model.

The champion is what serves: the release that a tenant's pointer names, and of a model the bundle in
that release. A challenger is evaluated in shadow; callers never get its verdicts. A model outside
all releases, e.g. a tenant's own tabular detector, has files of its own for champion and
challenger. Each file is a signed reference with a rising serial, so a replayed old file is noticed.
A cleared alias is a newer file that names nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from ensemble.errors import ArtifactMissing, ArtifactUntrusted
from ensemble.store.audit_log import Action, AuditedAction
from ensemble.store.bundles.open import open_bundle
from ensemble.store.files import canonical_json
from ensemble.store.files.canonical_json import Serial, refuse_other_format
from ensemble.store.layout import CHALLENGER, Store, alias_parts, tenant_parts
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.pointer import Pointer
from ensemble.store.releases.release import pointer_lock, promote, prove_release
from ensemble.store.releases.signed_ref import SignedRef
from ensemble.store.signing import Document, Signer

__all__ = [
    "Alias",
    "AliasTarget",
    "clear_challenger",
    "clear_model_alias",
    "get_alias",
    "get_challenger",
    "promote_challenger",
    "read_challenger",
    "read_model_alias",
    "set_challenger",
    "set_model_alias",
]

FORMAT: Final = 1
ALIAS_LIMIT_BYTES = 1 << 10  # with the longest names about 450


class Alias(StrEnum):
    """An alias of a version or release."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """Target of an alias.

    Attributes:
        number: of the release, or version of the bundle; 0 for no target.
        sha256: of the release's bytes or of the bundle's manifest; "" for no target.
        serial: of the alias itself, 0 if it was never set. A change must name the serial that it
            replaces.
    """

    number: int
    sha256: str
    serial: int


_NEVER_SET = AliasTarget(0, "", 0)


def read_challenger(store: Store, tenant: Tenant) -> ReleaseRef | None:
    """Return the release of a tenant that is evaluated in shadow, None if there is none.

    Raises:
        ArtifactError: the alias is broken, unreadable or untrusted.
    """
    found = get_challenger(store, tenant)
    return ReleaseRef(found.number, found.sha256) if found.number else None


def get_challenger(store: Store, tenant: Tenant, *, not_below: int = 0) -> AliasTarget:
    """Read the challenger of a tenant with the serial of the alias.

    `not_below` and errors are as in `read_pointer`, except that a missing file is no error.
    """
    return _read(store, _of_release(tenant), not_below)


def set_challenger(
    store: Store, tenant: Tenant, release: ReleaseRef, expected_serial: int, *, signer: Signer
) -> AliasTarget:
    """Evaluate `release` in shadow, after proving it and every bundle of it.

    Args:
        store: its `state` gets the alias.
        tenant: owner of the alias.
        release: one of this tenant.
        expected_serial: serial of the alias that the caller read; 0 if it was missing or broken.
        signer: signs the alias; the store must trust its key.

    Raises:
        PointerMoved: the alias has another serial than the caller expects.
        ArtifactError: the release belongs to another tenant or cannot be loaded, or the store
            does not trust the signer.
        OSError: the disk is full or failing; the alias is unchanged.
    """
    with (
        AuditedAction(store, tenant, Action.SET_ALIAS, f"{Alias.CHALLENGER}: {release}") as act,
        pointer_lock(store, tenant),
    ):
        prove_release(store, tenant, release)
        named = AliasTarget(release.serial, release.sha256, 0)
        return _move(
            store,
            _of_release(tenant),
            named,
            expected_serial,
            signer,
            act,
            f"{Alias.CHALLENGER}: {release}",
        )


def clear_challenger(
    store: Store, tenant: Tenant, expected_serial: int, *, signer: Signer
) -> AliasTarget:
    """Stop the shadow evaluation; arguments and errors as in `set_challenger`."""
    with (
        AuditedAction(store, tenant, Action.CLEAR_ALIAS, Alias.CHALLENGER) as act,
        pointer_lock(store, tenant),
    ):
        return _move(
            store, _of_release(tenant), _NEVER_SET, expected_serial, signer, act, Alias.CHALLENGER
        )


def promote_challenger(
    store: Store,
    tenant: Tenant,
    challenger: AliasTarget,
    expected_serial: int,
    *,
    signer: Signer,
    at_once: bool = False,
) -> Pointer:
    """Make the challenger the release in use, and clear the alias.

    After a crash in between the challenger serves already, and only the alias is left to clear.

    Args:
        store: as in `promote`.
        tenant: as in `promote`.
        challenger: what the caller read with `get_challenger`.
        expected_serial: serial of the pointer that the caller read.
        signer: as in `promote`.
        at_once: as in `promote`.

    Raises:
        ArtifactMissing: there is no challenger.
        PointerMoved: another promotion came first; or another challenger was set meanwhile, which
            stays, while `challenger` is promoted.
    """
    if not challenger.number:
        raise ArtifactMissing(f"a challenger of tenant {tenant}")
    pointer = promote(
        store,
        tenant,
        ReleaseRef(challenger.number, challenger.sha256),
        expected_serial,
        signer=signer,
        at_once=at_once,
    )
    clear_challenger(store, tenant, challenger.serial, signer=signer)
    return pointer


def read_model_alias(
    store: Store, tenant: Tenant, model: ModelName, alias: Alias
) -> BundleRef | None:
    """Return the version of a model that has an alias, None if no version has it.

    Raises:
        ArtifactError: the alias is broken, unreadable or untrusted.
    """
    found = get_alias(store, tenant, model, alias)
    return BundleRef(tenant, model, found.number, found.sha256) if found.number else None


def get_alias(
    store: Store, tenant: Tenant, model: ModelName, alias: Alias, *, not_below: int = 0
) -> AliasTarget:
    """Read an alias of a model with the serial of the alias; errors as in `get_challenger`."""
    return _read(store, _of_model(tenant, model, alias), not_below)


def set_model_alias(
    store: Store,
    tenant: Tenant,
    model: ModelName,
    alias: Alias,
    ref: BundleRef,
    expected_serial: int,
    *,
    signer: Signer,
) -> AliasTarget:
    """Give an alias to one version of a model, after proving it.

    The other arguments and the errors are as in `set_challenger`.
    """
    with (
        AuditedAction(store, tenant, Action.SET_ALIAS, f"{alias}: {ref}") as act,
        pointer_lock(store, tenant),
    ):
        if (ref.tenant, ref.model) != (tenant, model):
            raise ArtifactUntrusted(str(ref), "belongs to another tenant, or is another model")
        open_bundle(store, ref)
        named = AliasTarget(ref.version, ref.manifest_sha256, 0)
        return _move(
            store,
            _of_model(tenant, model, alias),
            named,
            expected_serial,
            signer,
            act,
            f"{alias}: {ref}",
        )


def clear_model_alias(
    store: Store,
    tenant: Tenant,
    model: ModelName,
    alias: Alias,
    expected_serial: int,
    *,
    signer: Signer,
) -> AliasTarget:
    """Clear an alias of a model; errors as in `set_challenger`."""
    with (
        AuditedAction(store, tenant, Action.CLEAR_ALIAS, f"{alias}: {model}") as act,
        pointer_lock(store, tenant),
    ):
        return _move(
            store,
            _of_model(tenant, model, alias),
            _NEVER_SET,
            expected_serial,
            signer,
            act,
            f"{alias}: {model}",
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Place of an alias; `model` is None for the challenger release.

    The signed text repeats all fields, so that no file can be passed off as another.
    """

    tenant: Tenant
    model: ModelName | None
    alias: Alias

    @property
    def ref(self) -> SignedRef[AliasTarget]:
        parts = (
            tenant_parts(self.tenant)
            if self.model is None
            else alias_parts(self.tenant, self.model)
        )
        name = CHALLENGER if self.model is None else str(self.alias)
        return SignedRef(
            parts, name, f"{name}.copy", Document.ALIAS, ALIAS_LIMIT_BYTES, self._parse
        )

    def text_of(self, named: AliasTarget) -> bytes:
        return canonical_json.encode(
            {
                "format": FORMAT,
                "tenant": self.tenant,
                "model": self.model or "",
                "alias": self.alias,
                "number": named.number,
                "sha256": named.sha256,
                "serial": named.serial,
            }
        )

    def _parse(self, text: bytes, what: str) -> AliasTarget:
        value = canonical_json.decode(text, what=what)
        refuse_other_format(value, FORMAT, what=what)
        found = canonical_json.to_dataclass(value, _AliasFile, what=what)
        if (found.tenant, found.model, found.alias) != (self.tenant, self.model or "", self.alias):
            raise ArtifactUntrusted(what, "is another alias, or that of another tenant or model")
        return AliasTarget(found.number, found.sha256, found.serial)


@dataclass(frozen=True, slots=True)
class _AliasFile:
    format: int
    tenant: Tenant
    model: str
    alias: str
    number: Annotated[int, Meta(ge=0, lt=10**15)]
    sha256: Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
    serial: Serial


def _of_release(tenant: Tenant) -> _Place:
    return _Place(tenant, None, Alias.CHALLENGER)


def _of_model(tenant: Tenant, model: ModelName, alias: Alias) -> _Place:
    return _Place(tenant, model, alias)


def _read(store: Store, place: _Place, not_below: int) -> AliasTarget:
    try:
        return place.ref.read(store, not_below=not_below)
    except ArtifactMissing:
        if not_below:
            raise  # the reader has read it before
        return _NEVER_SET


def _move(
    store: Store,
    place: _Place,
    named: AliasTarget,
    expected_serial: int,
    signer: Signer,
    act: AuditedAction,
    what: str,
) -> AliasTarget:
    return place.ref.move(
        store,
        expected_serial,
        lambda serial, _: place.text_of(replace(named, serial=serial)),
        signer=signer,
        act=act,
        what=what,
    )
