"""References: releases and bundles that a pointer, challenger or alias of any tenant names.

Reference check before deletion. It fails closed: if any pointer, challenger or alias of any tenant
cannot be verified, or the release that serves is missing or unreadable, nothing is deleted. The
bundles of a release are read from its file without a check of the signature, because a reference
too many does no harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ensemble.errors import ArtifactError, ArtifactInUse, ArtifactMissing, ArtifactUnreadable
from ensemble.store.files.safe_read import list_names, open_directory
from ensemble.store.layout import (
    POINTER,
    POINTER_COPY,
    RELEASE_SUFFIX,
    Store,
    bundle_parts,
    release_parts,
    serials_in,
    tenant_parts,
)
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.aliases import Alias, read_challenger, read_model_alias
from ensemble.store.releases.pointer import Pointer, read_pointer
from ensemble.store.releases.release_file import parse_release, read_release_bytes

__all__ = ["References", "StoredItem", "bundles_of_releases", "find_references", "list_tenants"]

UNKNOWN = (
    "the references cannot be determined; repair the broken pointer, challenger or alias first"
)
# a version of a model, or a release if the model is None
Key = tuple[Tenant, ModelName | None, int]


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One version of a model, or one release if `model` is None."""

    tenant: Tenant
    model: ModelName | None
    serial: int

    def __str__(self) -> str:
        return f"release {self.serial}" if self.model is None else f"{self.model}/{self.serial}"

    @property
    def parts(self) -> tuple[str, ...]:
        """Path from a root to the directory that contains the item."""
        return (
            release_parts(self.tenant)
            if self.model is None
            else bundle_parts(self.tenant, self.model)
        )

    @property
    def suffix(self) -> str:
        """Ending of the file name after the number."""
        return RELEASE_SUFFIX if self.model is None else ""

    @property
    def key(self) -> Key:
        """The item as a dictionary key."""
        return (self.tenant, self.model, self.serial)

    @property
    def name(self) -> str:
        """Name in its directory."""
        return f"{self.serial}{self.suffix}"


@dataclass(frozen=True, slots=True)
class References:
    """Items that may not be deleted.

    Attributes:
        reasons: item -> why it is needed; no reason names a tenant.
    """

    reasons: Mapping[Key, str]

    def reason(self, entry: StoredItem) -> str:
        """Return why `entry` is needed, "" if it is not."""
        return self.reasons.get(entry.key, "")


def list_tenants(store: Store) -> tuple[Tenant, ...]:
    """List the tenants with a directory in either root, by name."""
    names = {name for root in store.roots for name in _names_in(root, "tenants")}
    return tuple(sorted(Tenant(name) for name in names if Tenant.is_one(name)))


def find_references(store: Store, *, what: str) -> References:
    """Find all references. A caller that deletes by them holds `atomic.IN_USE` exclusively.

    Raises:
        ArtifactInUse: they cannot be determined, so `what` must not be deleted.
        ArtifactError: a directory cannot be read.
    """
    try:
        return References(_reasons(store))
    except _UnknownError:
        raise ArtifactInUse(what, UNKNOWN) from None


def bundles_of_releases(store: Store, tenant: Tenant, *, but: frozenset[int]) -> frozenset[Key]:
    """Collect the bundles of a tenant's releases, serving or not, except the releases `but`.

    Raises:
        ArtifactInUse: a release exists but cannot be read.
    """
    numbers = {
        serial
        for root in store.roots
        for serial in serials_in(root, release_parts(tenant), suffix=RELEASE_SUFFIX)
    }
    try:
        named = [
            ref
            for number in numbers - but
            for ref in _bundles_of(store, tenant, number, is_live=False)
        ]
    except _UnknownError:
        raise ArtifactInUse("anything", UNKNOWN) from None
    return frozenset((ref.tenant, ref.model, ref.version) for ref in named)


class _UnknownError(Exception):
    """The references cannot be determined."""


def _reasons(store: Store) -> dict[Key, str]:
    reasons: dict[Key, str] = {}
    for tenant in list_tenants(store):
        for ref, why in _releases_named(store, tenant):
            reasons.setdefault((tenant, None, ref.serial), why)
            for bundle in _bundles_of(store, tenant, ref.serial, is_live=why == _SERVES):
                reasons.setdefault((bundle.tenant, bundle.model, bundle.version), why)
        for bundle, alias in _models_named(store, tenant):
            reasons.setdefault(
                (bundle.tenant, bundle.model, bundle.version), f"it is the {alias} of its model"
            )
    return reasons


_SERVES = "it serves"
_BEFORE = "it could be rolled back to"
_CHALLENGES = "it is the challenger, or part of it"


def _releases_named(store: Store, tenant: Tenant) -> Iterator[tuple[ReleaseRef, str]]:
    if pointer := _pointer(store, tenant):
        yield pointer.ref, _SERVES
        yield from ((ref, _BEFORE) for ref in pointer.previous)
    try:
        challenger = read_challenger(store, tenant)
    except ArtifactError:
        raise _UnknownError from None
    if challenger:
        yield challenger, _CHALLENGES


def _pointer(store: Store, tenant: Tenant) -> Pointer | None:
    names = _names_in(store.state, *tenant_parts(tenant))
    # a lost pointer: replicas still serve the release that it named
    if POINTER_COPY in names and POINTER not in names:
        raise _UnknownError
    try:
        return read_pointer(store, tenant)
    except ArtifactMissing:
        return None
    except ArtifactError:
        raise _UnknownError from None


def _bundles_of(store: Store, tenant: Tenant, serial: int, *, is_live: bool) -> Iterator[BundleRef]:
    """Yield the bundles of a release in either root; its signature is not checked."""
    is_found = False
    for root in store.roots:
        try:
            text = read_release_bytes(root, tenant, serial).partition(b"\n")[0] + b"\n"
            yield from parse_release(text, tenant, serial).bundles.values()
            is_found = True
        except ArtifactMissing:
            continue
        except ArtifactError as error:
            if is_live or isinstance(error, ArtifactUnreadable):
                raise _UnknownError from None
    if is_live and not is_found:  # a lost release: replicas still serve it from memory
        raise _UnknownError


def _models_named(store: Store, tenant: Tenant) -> Iterator[tuple[BundleRef, Alias]]:
    for model in _models_with_aliases(store, tenant):
        for alias in Alias:
            try:
                ref = read_model_alias(store, tenant, model, alias)
            except ArtifactError:
                raise _UnknownError from None
            if ref:
                yield ref, alias


def _models_with_aliases(store: Store, tenant: Tenant) -> list[ModelName]:
    names = {
        name for root in store.roots for name in _names_in(root, *tenant_parts(tenant), "aliases")
    }
    return sorted(ModelName(name) for name in names if ModelName.is_one(name))


def _names_in(root: Path, *parts: str) -> list[str]:
    try:
        with open_directory(root, *parts, what="/".join(parts)) as directory:
            return list_names(directory, what="/".join(parts))
    except ArtifactMissing:
        return []
