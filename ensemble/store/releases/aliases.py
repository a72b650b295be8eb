"""Aliases: the challenger release, and the champion and challenger version of a model.

The champion is what serves: of a tenant the release that its pointer names, of a model the bundle
in that release. A challenger is tried in shadow; it answers nobody. A model that no release names,
e.g. a tenant's own tabular detector, has its champion and challenger in files of their own. Each
file is a signed reference, with a serial that rises, so that an old one that comes back is noticed.
Clearing an alias is a newer file that names nothing.
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
ALIAS_LIMIT_BYTES = 1 << 10  # with the longest names some 450


class Alias(StrEnum):
    """The words that may stand for a version."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True, slots=True)
class AliasTarget:
    """What an alias names.

    Attributes:
        number: of the release, or version of the bundle; 0 where it names nothing.
        sha256: of the release's bytes or of the bundle's manifest, "" where it names nothing.
        serial: of the alias itself, 0 where it was never set; who changes it says which one
            they saw.
    """

    number: int
    sha256: str
    serial: int


_NEVER_SET = AliasTarget(0, "", 0)


def read_challenger(store: Store, tenant: Tenant) -> ReleaseRef | None:
    """The release of `tenant` that is tried in shadow; None where there is none.

    Raises:
        ArtifactError: the file is there, and broken, unreadable, or signed by nobody we trust.
    """
    found = get_challenger(store, tenant)
    return ReleaseRef(found.number, found.sha256) if found.number else None


def get_challenger(store: Store, tenant: Tenant, *, not_below: int = 0) -> AliasTarget:
    """The same with the alias's own serial.

    `not_below` and errors as in `read_pointer`, but that a missing file is no error.
    """
    return _read(store, _of_release(tenant), not_below)


def set_challenger(
    store: Store, tenant: Tenant, release: ReleaseRef, expected_serial: int, *, signer: Signer
) -> AliasTarget:
    """Try `release` in shadow, after proving it and every bundle of it.

    Args:
        store: its `state` gets the alias.
        tenant: whose.
        release: of this tenant.
        expected_serial: of the alias the caller saw; 0 where there was none, or none that could
            be read and proven.
        signer: signs it; its key must be one that the store trusts.

    Raises:
        PointerMoved: the alias stands elsewhere than the caller saw it.
        ArtifactError: the release is not one of this tenant, or would not load, or the store
            does not trust the signer.
        OSError: the disk is full or failing; the alias stays.
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
    """Try no release any more; arguments and errors as in `set_challenger`."""
    with (
        AuditedAction(store, tenant, Action.CLEAR_ALIAS, Alias.CHALLENGER) as act,
        pointer_lock(store, tenant),
    ):
        return _move(
            store, _of_release(tenant), _NEVER_SET, expected_serial, signer, act, Alias.CHALLENGER
        )


def promote_challenger(
    store: Store, tenant: Tenant, expected_serial: int, *, signer: Signer, at_once: bool = False
) -> Pointer:
    """Make the challenger the release in use, and clear the alias: nothing is tried beside itself.

    Who dies in between leaves a challenger that is in use already; to clear it is all that is left
    to do. `expected_serial` is that of the pointer; the rest is as in `promote`.

    Raises:
        ArtifactMissing: there is no challenger.
        PointerMoved: another promotion came first, or another challenger was set meanwhile:
            then this one is promoted, and that one stays.
    """
    current = get_challenger(store, tenant)
    if not current.number:
        raise ArtifactMissing(f"a challenger of tenant {tenant}")
    pointer = promote(
        store,
        tenant,
        ReleaseRef(current.number, current.sha256),
        expected_serial,
        signer=signer,
        at_once=at_once,
    )
    clear_challenger(store, tenant, current.serial, signer=signer)
    return pointer


def read_model_alias(
    store: Store, tenant: Tenant, model: ModelName, alias: Alias
) -> BundleRef | None:
    """The version of `model` that was given the word `alias`; None where none was.

    Raises:
        ArtifactError: the file is there, and broken, unreadable, or signed by nobody we trust.
    """
    found = get_alias(store, tenant, model, alias)
    return BundleRef(tenant, model, found.number, found.sha256) if found.number else None


def get_alias(
    store: Store, tenant: Tenant, model: ModelName, alias: Alias, *, not_below: int = 0
) -> AliasTarget:
    """The same with the alias's own serial."""
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
    """Give the word `alias` to one version of `model`, after proving it.

    The rest, and the errors, are as in `set_challenger`.
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
    """Take the word from whichever version has it."""
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
    """Whose alias, of what, which word.

    All of it stands in the signed text, so that no file can be passed off as another.
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
            raise  # it was there
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
