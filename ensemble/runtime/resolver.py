"""The resolver: the release that the pointer names, and its substitutes (N-05).

The rungs, from the top: the tenant's release; the releases that were in use before it; the same of
its parents, e.g. of its group and
of the generic tenant. The pointer carries the digests of the earlier releases, so every rung is
proven by a pointer.
Beside them stands the challenger of the tenant in charge, if it has one: it serves in nobody's
place and is only to be tried in shadow.
A pointer that was seen once is remembered, for as long as the same keys are trusted: one that is
torn later changes nothing, and an
older one that comes back is refused; both are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store import (
    POINTER,
    Pointer,
    Release,
    ReleaseRef,
    Store,
    Tenant,
    Trust,
    read_challenger,
    read_pointer,
    read_release,
)

__all__ = [
    "PinnedRelease",
    "ReleaseResolver",
    "ReleaseSource",
    "ResolvedRelease",
    "ResolvedReleases",
]


@dataclass(frozen=True, slots=True)
class ResolvedRelease:
    """A release that was read and proven.

    Attributes:
        release: as it was published.
        sha256: of its file, 64 hexadecimal digits: no other release has it.
        is_wanted: whether it is the one that somebody wants now.
        is_challenger: whether it is the one that is to be tried in shadow.
    """

    release: Release
    sha256: str
    is_wanted: bool
    is_challenger: bool = False

    @property
    def name(self) -> str:
        """`<tenant>/<serial>`."""
        return f"{self.release.tenant}/{self.release.serial}"


@dataclass(frozen=True, slots=True)
class ResolvedReleases:
    """What one look at the pointers found.

    Attributes:
        wanted: name of the release that the pointer in charge names, "" where no pointer could
            be read.
        pointer: which pointer that is, `<tenant>#<serial>`, "" where none.
        at_once: the promoter wants the release to take all traffic at once.
        releases: those that could be read, the most wanted first.
        challenger: the release that is to be tried in shadow; None where there is none, or none
            that could be read.
        trouble: what is wrong with the pointer, also where a remembered one stands in, or why
            the wanted release is not among them.
    """

    wanted: str
    pointer: str
    at_once: bool
    releases: tuple[ResolvedRelease, ...]
    trouble: ArtifactError | None
    challenger: ResolvedRelease | None = None


class ReleaseSource(Protocol):
    """Where the releases that may serve come from."""

    @property
    def open_store(self) -> Callable[[], Store]:
        """The store as it is trusted now."""
        ...

    def look(self) -> ResolvedReleases:
        """The releases that may serve now.

        Raises:
            ArtifactError: no release at all can be had.
        """
        ...


@dataclass(frozen=True, slots=True)
class PinnedRelease:
    """This very release, whatever the pointers say: the one that an old verdict was made by.

    Attributes:
        open_store: the store as it is trusted now.
        tenant: whose release.
        ref: its number, and the digest of its file.
    """

    open_store: Callable[[], Store]
    tenant: Tenant
    ref: ReleaseRef

    def look(self) -> ResolvedReleases:
        """The release, and nothing in its place.

        Raises:
            ArtifactError: it is not there, has another digest, or nobody we trust signed it.
        """
        candidate = ResolvedRelease(
            read_release(self.open_store(), self.tenant, self.ref), self.ref.sha256, is_wanted=True
        )
        return ResolvedReleases(
            candidate.name, "", at_once=True, releases=(candidate,), trouble=None
        )


class ReleaseResolver:
    """A tenant and its parents, with the pointers this process has seen of them.

    Args:
        open_store: the store as it is trusted now; called at every look, so that a key taken
            away is gone.
        tenants: the tenant, then its parents, the nearest first.
    """

    def __init__(self, open_store: Callable[[], Store], tenants: Sequence[str]) -> None:
        self.open_store, self._tenants = open_store, tuple(Tenant(name) for name in tenants)
        self._seen: dict[Tenant, Pointer] = {}
        self._trust: Trust | None = None  # under which these were seen

    def look(self) -> ResolvedReleases:
        """The releases that may serve now.

        Raises:
            ArtifactError: no release at all can be had; the error is that of the tenant itself.
        """
        store = self.open_store()
        if (
            store.trust != self._trust
        ):  # what a key that is gone signed is forgotten, its serial too
            self._trust, self._seen = store.trust, {}
        charge: _Found | None = None  # the first tenant that has a pointer, or should have one
        found: dict[str, ResolvedRelease] = {}
        troubles: list[ArtifactError] = []
        for tenant in self._tenants:
            one = self._pointer(store, tenant)
            charge = charge or (one if one.pointer or one.trouble else None)
            troubles += [one.trouble] if one.trouble else []
            for ref in one.refs:
                try:
                    candidate = ResolvedRelease(
                        read_release(store, tenant, ref),
                        ref.sha256,
                        is_wanted=one is charge and one.names(ref),
                    )
                except ArtifactError as error:
                    troubles.append(error)
                else:
                    found.setdefault(candidate.name, candidate)
        if charge is None or not found:
            raise troubles[0] if troubles else ArtifactMissing(POINTER)
        releases = tuple(found.values())
        trouble = charge.trouble or (None if releases[0].is_wanted else troubles[0])
        if charge.pointer is None or charge.is_stand_in:
            return ResolvedReleases("", "", at_once=False, releases=releases, trouble=trouble)
        pointer, tenant = charge.pointer, charge.tenant
        challenger = _challenger(store, tenant)
        return ResolvedReleases(
            f"{tenant}/{pointer.release}",
            f"{tenant}#{pointer.serial}",
            pointer.at_once,
            releases,
            trouble,
            challenger,
        )

    def _pointer(self, store: Store, tenant: Tenant) -> _Found:
        """The tenant's pointer, and what is wrong with it.

        A broken one is replaced by what was seen before, or by the shipped one.
        """
        seen = self._seen.get(tenant)
        try:
            pointer = read_pointer(store, tenant, not_below=seen.serial if seen else 0)
        except ArtifactMissing as error:
            return _Found(
                tenant, seen, error if seen else None
            )  # a tenant without a pointer of its own simply lives on its parents'
        except ArtifactError as error:
            return _Found(
                tenant, seen or _shipped_pointer(store, tenant), error, is_stand_in=seen is None
            )
        known = self._seen.get(tenant)
        if (
            known is None or known.serial <= pointer.serial
        ):  # a look that was given up may end after a later one
            self._seen[tenant] = pointer
        return _Found(tenant, pointer, None)


@dataclass(frozen=True, slots=True)
class _Found:
    """A tenant's pointer.

    As it lies there, as it was seen before, or the shipped one in its place.
    """

    tenant: Tenant
    pointer: Pointer | None
    trouble: ArtifactError | None
    is_stand_in: bool = False

    @property
    def refs(self) -> tuple[ReleaseRef, ...]:
        """The releases it leads to, the most wanted first."""
        return () if self.pointer is None else (self.pointer.ref, *self.pointer.previous)

    def names(self, ref: ReleaseRef) -> bool:
        """Whether `ref` is what somebody wants now."""
        return self.pointer is not None and not self.is_stand_in and ref == self.pointer.ref


def _challenger(store: Store, tenant: Tenant) -> ResolvedRelease | None:
    """The tenant's challenger.

    One that cannot be had is no trouble of what serves: whoever asks how it does finds it missing.
    """
    try:
        ref = read_challenger(store, tenant)
        return (
            ResolvedRelease(
                read_release(store, tenant, ref), ref.sha256, is_wanted=False, is_challenger=True
            )
            if ref
            else None
        )
    except ArtifactError:
        return None


def _shipped_pointer(store: Store, tenant: Tenant) -> Pointer | None:
    if store.shipped is None:
        return None
    try:
        return read_pointer(Store(store.shipped, None, store.trust), tenant)
    except ArtifactError:
        return None
