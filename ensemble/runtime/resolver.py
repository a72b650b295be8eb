"""Resolution of releases: the one that the pointer names, and its fallbacks (N-05).

The order is: the tenant's release; the releases that served before it; then those of its parents,
e.g. its group and the generic tenant. The pointer contains the digests of the earlier releases, so
a pointer proves each of them. The challenger of the serving tenant is resolved too: it never
serves, it is only evaluated in shadow.

A pointer is remembered as long as the same keys are trusted. So a pointer that becomes unreadable
changes nothing, and an older one in its place is refused; both are reported.
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
    """A release whose file was read and verified.

    Attributes:
        release: as it was published.
        sha256: digest of its file, 64 hexadecimal digits.
        is_wanted: whether the serving tenant's pointer names it.
    """

    release: Release
    sha256: str
    is_wanted: bool

    @property
    def name(self) -> str:
        """`<tenant>/<serial>`."""
        return f"{self.release.tenant}/{self.release.serial}"


@dataclass(frozen=True, slots=True)
class ResolvedReleases:
    """The releases that may serve, as of one reading of the pointers.

    Attributes:
        store: the store with the keys that were trusted at that time.
        wanted: name of the release that the serving tenant's pointer names, "" if no pointer
            could be read.
        pointer: that pointer, `<tenant>#<serial>`, "" for none.
        at_once: the promoter wants the release to get all traffic at once.
        releases: those that could be read, in order of preference; at least one.
        problem: what is wrong with the pointer, also if a remembered one is used, or why the
            wanted release is not in `releases`.
        challenger: the shadow challenger; None if there is none, or none that could be read.
    """

    store: Store
    wanted: str
    pointer: str
    at_once: bool
    releases: tuple[ResolvedRelease, ...]
    problem: ArtifactError | None
    challenger: ResolvedRelease | None = None


class ReleaseSource(Protocol):
    """Source of the releases that may serve."""

    def resolve(self) -> ResolvedReleases:
        """Resolve the releases that may serve now.

        Raises:
            ArtifactError: no release at all can be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class PinnedRelease:
    """One release by its digest, independent of the pointers, e.g. that of an old verdict.

    Attributes:
        open_store: opens the store with the keys that are trusted now.
        tenant: owner of the release.
        ref: its number, and the digest of its file.
    """

    open_store: Callable[[], Store]
    tenant: Tenant
    ref: ReleaseRef

    def resolve(self) -> ResolvedReleases:
        """Read the release, without fallbacks.

        Raises:
            ArtifactError: it is missing, has another digest, or is not signed by a trusted key.
        """
        store = self.open_store()
        pinned = ResolvedRelease(
            read_release(store, self.tenant, self.ref), self.ref.sha256, is_wanted=True
        )
        return ResolvedReleases(
            store, pinned.name, "", at_once=True, releases=(pinned,), problem=None
        )


class ReleaseResolver:
    """Resolves the releases of a tenant and its parents, and remembers the pointers it has read.

    Args:
        open_store: opens the store with the keys that are trusted now; called at every
            resolution, so that a removed key takes effect.
        tenants: the tenant, then its parents, the nearest first.
    """

    def __init__(self, open_store: Callable[[], Store], tenants: Sequence[str]) -> None:
        self._open_store, self._tenants = open_store, tuple(Tenant(name) for name in tenants)
        self._pointers: dict[Tenant, Pointer] = {}
        self._trust: Trust | None = None  # under which the pointers were read

    def resolve(self) -> ResolvedReleases:
        """Resolve the releases that may serve now.

        Raises:
            ArtifactError: no release at all can be read; the error is that of the tenant itself.
        """
        store = self._open_store()
        if store.trust != self._trust:  # a removed key takes its pointers and serials with it
            self._trust, self._pointers = store.trust, {}
        serving: _TenantPointer | None = None  # the first tenant that has a pointer, or should
        releases: dict[str, ResolvedRelease] = {}
        problems: list[ArtifactError] = []
        for tenant in self._tenants:
            one = self._pointer(store, tenant)
            serving = serving or (one if one.pointer or one.problem else None)
            problems += [one.problem] if one.problem else []
            for ref in one.refs:
                try:
                    found = ResolvedRelease(
                        read_release(store, tenant, ref),
                        ref.sha256,
                        is_wanted=one is serving and one.wants(ref),
                    )
                except ArtifactError as error:
                    problems.append(error)
                else:
                    releases.setdefault(found.name, found)
        if serving is None or not releases:
            raise problems[0] if problems else ArtifactMissing(POINTER)
        return self._resolved(store, serving, tuple(releases.values()), problems)

    @staticmethod
    def _resolved(
        store: Store,
        serving: _TenantPointer,
        releases: tuple[ResolvedRelease, ...],
        problems: Sequence[ArtifactError],
    ) -> ResolvedReleases:
        problem = serving.problem or (None if releases[0].is_wanted else problems[0])
        pointer, tenant = serving.pointer, serving.tenant
        if pointer is None or serving.is_stand_in:
            return ResolvedReleases(
                store, "", "", at_once=False, releases=releases, problem=problem
            )
        return ResolvedReleases(
            store,
            f"{tenant}/{pointer.release}",
            f"{tenant}#{pointer.serial}",
            pointer.at_once,
            releases,
            problem,
            _challenger(store, tenant),
        )

    def _pointer(self, store: Store, tenant: Tenant) -> _TenantPointer:
        """Read the tenant's pointer; the remembered or the shipped one replaces a broken one."""
        remembered = self._pointers.get(tenant)
        try:
            pointer = read_pointer(store, tenant, not_below=remembered.serial if remembered else 0)
        except ArtifactMissing as error:
            # a tenant that never had a pointer inherits from its parents; that is no problem
            return _TenantPointer(tenant, remembered, error if remembered else None)
        except ArtifactError as error:
            found = remembered or _shipped_pointer(store, tenant)
            return _TenantPointer(tenant, found, error, is_stand_in=remembered is None)
        newest = self._pointers.get(tenant)
        # an abandoned resolution may end after a later one
        if newest is None or newest.serial <= pointer.serial:
            self._pointers[tenant] = pointer
        return _TenantPointer(tenant, pointer, None)


@dataclass(frozen=True, slots=True)
class _TenantPointer:
    """A tenant's pointer: as read, as remembered, or the shipped one as a stand-in."""

    tenant: Tenant
    pointer: Pointer | None
    problem: ArtifactError | None
    is_stand_in: bool = False

    @property
    def refs(self) -> tuple[ReleaseRef, ...]:
        """The releases it names, in order of preference."""
        return () if self.pointer is None else (self.pointer.ref, *self.pointer.previous)

    def wants(self, ref: ReleaseRef) -> bool:
        """Whether `ref` is the release that was promoted last."""
        return self.pointer is not None and not self.is_stand_in and ref == self.pointer.ref


def _challenger(store: Store, tenant: Tenant) -> ResolvedRelease | None:
    """Read the tenant's challenger; None if it cannot be read, which affects no serving release."""
    try:
        ref = read_challenger(store, tenant)
        if ref is None:
            return None
        release = read_release(store, tenant, ref)
    except ArtifactError:
        return None
    return ResolvedRelease(release, ref.sha256, is_wanted=False)


def _shipped_pointer(store: Store, tenant: Tenant) -> Pointer | None:
    if store.shipped is None:
        return None
    try:
        return read_pointer(Store(store.shipped, None, store.trust), tenant)
    except ArtifactError:
        return None
