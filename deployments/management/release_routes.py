"""The routes of releases.

Which one serves, which are there to roll back to, and which is tried in shadow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from deployments.config.settings import Settings
from deployments.config.tenants import Tenants
from deployments.config.trust import read_signer
from deployments.management import requests as asks
from deployments.management import responses as says
from deployments.management.contract import NUMBER, READING_STORE, SIGNING, done
from deployments.management.request import (
    BodyReader,
    actor_of,
    parse_number,
    reject_unknown_query,
    tenant_of,
)
from deployments.management.store_executor import StoreExecutor
from deployments.web import READING_ERRORS, Body, Scope, ScopedRoute, as_json, path_parameter
from ensemble.errors import ArtifactError, ArtifactMissing
from ensemble.store import (
    AliasTarget,
    Pointer,
    ReleaseRef,
    Store,
    Tenant,
    clear_challenger,
    get_challenger,
    has_pointer,
    list_releases,
    promote,
    promote_challenger,
    read_pointer,
    roll_back,
    set_challenger,
)

__all__ = ["ReleaseRoutes"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ReleaseRoutes:
    """The routes that look at releases and move the pointer and the challenger of the caller's tenant.

    Attributes:
        desk: does the work on the store.
        tenancy: says on whose release a tenant lives.
        settings: limits.
    """

    desk: StoreExecutor
    tenancy: Tenants
    settings: Settings

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        moving = [*READING_ERRORS, *SIGNING, "ARTIFACT_MISSING"]
        return [
            ScopedRoute(
                "/releases",
                self._list,
                needs=Scope.READ,
                tag="releases",
                summary="List the releases of the tenant, and which one serves",
                answers=done(says.ReleaseList),
                errors=READING_STORE,
            ),
            ScopedRoute(
                "/releases/{serial}/promote",
                self._promote,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="releases",
                summary="Promote a release, by a canary rollout or at once",
                parameters=[path_parameter("serial", NUMBER, "Number of the release", "1")],
                body=Body(asks.ReleasePromotion, {"at once": {"at_once": True}}, is_required=False),
                answers=done(says.PointerMovedTo),
                errors=moving,
            ),
            ScopedRoute(
                "/rollback",
                self._roll_back,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="releases",
                summary="Roll back to an earlier release, at once",
                body=Body(asks.Rollback, {"to the one before": {}}, is_required=False),
                answers=done(says.PointerMovedTo),
                errors=moving,
            ),
            ScopedRoute(
                "/challenger",
                self._challenger,
                needs=Scope.READ,
                tag="releases",
                summary="Which release is evaluated in shadow",
                answers=done(says.ChallengerRelease),
                errors=READING_STORE,
            ),
            ScopedRoute(
                "/challenger",
                self._try,
                needs=Scope.MANAGE,
                methods=["PUT"],
                tag="releases",
                summary="Evaluate a release in shadow",
                body=Body(asks.TriedRelease, {"the second": {"release": 2}}),
                answers=done(says.ChallengerRelease),
                errors=moving,
            ),
            ScopedRoute(
                "/challenger",
                self._try_none,
                needs=Scope.MANAGE,
                methods=["DELETE"],
                tag="releases",
                summary="Evaluate no release in shadow",
                answers=done(says.ChallengerRelease),
                errors=SIGNING,
            ),
        ]

    async def _list(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)
        return as_json(await self._ask(request, lambda store: _listed(store, tenant, self.tenancy)))

    async def _promote(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant, number = tenant_of(request), parse_number(request.path_params["serial"], "serial")
        asked = await BodyReader(asks.ReleasePromotion, self._limit, empty=asks.ReleasePromotion)(
            request
        )

        def point(store: Store) -> Pointer:
            ref, serial, signer = (
                _release(store, tenant, number),
                _pointer_serial(store, tenant),
                read_signer(store.trust),
            )
            if _is_challenger(store, tenant, ref):  # nothing is tried beside itself
                return promote_challenger(
                    store, tenant, serial, signer=signer, at_once=asked.at_once
                )
            return promote(store, tenant, ref, serial, signer=signer, at_once=asked.at_once)

        return as_json(_moved(await self._ask(request, point)))

    async def _roll_back(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)
        asked = await BodyReader(asks.Rollback, self._limit, empty=asks.Rollback)(request)

        def point(store: Store) -> Pointer:
            to = None if asked.to is None else int(asked.to)
            return roll_back(
                store,
                tenant,
                read_pointer(store, tenant).serial,
                signer=read_signer(store.trust),
                to=to,
            )

        return as_json(_moved(await self._ask(request, point)))

    async def _challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)
        return as_json(
            _tried(await self._ask(request, lambda store: get_challenger(store, tenant)))
        )

    async def _try(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)
        asked = await BodyReader(asks.TriedRelease, self._limit)(request)

        def point(store: Store) -> AliasTarget:
            ref = _release(store, tenant, int(asked.release))
            return set_challenger(
                store,
                tenant,
                ref,
                _challenger_serial(store, tenant),
                signer=read_signer(store.trust),
            )

        return as_json(_tried(await self._ask(request, point)))

    async def _try_none(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)

        def clear(store: Store) -> AliasTarget:
            return clear_challenger(
                store, tenant, _challenger_serial(store, tenant), signer=read_signer(store.trust)
            )

        return as_json(_tried(await self._ask(request, clear)))

    async def _ask(self, request: Request, work: Callable[[Store], Answer]) -> Answer:
        return await self.desk.ask(actor_of(request), work)

    @property
    def _limit(self) -> int:
        return self.settings.management.max_body_bytes


def _listed(store: Store, tenant: Tenant, tenancy: Tenants) -> says.ReleaseList:
    pointer, problem = _pointer(store, tenant)
    try:
        challenger = get_challenger(store, tenant).number
    except ArtifactError:
        challenger = 0
    releases = [
        says.ReleaseSummary(
            release=one.ref.serial,
            sha256=one.ref.sha256,
            created_at=one.created_at,
            notes=one.notes,
            is_shipped=one.is_shipped,
            in_use=pointer is not None and one.ref == pointer.ref,
            is_challenger=one.ref.serial == challenger,
            problem="MODEL_LOAD_ERROR" if one.problem else "",
        )
        for one in list_releases(store, tenant)
    ]
    return says.ReleaseList(
        tenant_id=str(tenant),
        lives_on=str(tenancy.charge(tenant)),
        release=pointer.release if pointer else None,
        pointer_serial=pointer.serial if pointer else 0,
        previous=[ref.serial for ref in pointer.previous] if pointer else [],
        challenger=challenger or None,
        problem=problem,
        releases=releases,
    )


def _pointer(store: Store, tenant: Tenant) -> tuple[Pointer | None, str]:
    """The tenant's own pointer, and the code of what is wrong with it.

    To have none is nothing wrong.
    """
    try:
        return read_pointer(store, tenant), ""
    except ArtifactError as error:
        return None, error.code if has_pointer(store, tenant) else ""


def _pointer_serial(store: Store, tenant: Tenant) -> int:
    """To move the pointer by; 0 where there is none, or a broken one, which is replaced."""
    pointer, _ = _pointer(store, tenant)
    return pointer.serial if pointer else 0


def _challenger_serial(store: Store, tenant: Tenant) -> int:
    """Likewise of the challenger."""
    try:
        return get_challenger(store, tenant).serial
    except ArtifactError:
        return 0


def _is_challenger(store: Store, tenant: Tenant, ref: ReleaseRef) -> bool:
    try:
        named = get_challenger(store, tenant)
    except ArtifactError:
        return False
    return (named.number, named.sha256) == (ref.serial, ref.sha256)


def _release(store: Store, tenant: Tenant, number: int) -> ReleaseRef:
    """The release of that number as it lies in the store; it is not proven here.

    Raises:
        ArtifactMissing: the tenant has none of that number.
    """
    known = {
        one.ref.serial: one.ref for one in reversed(list_releases(store, tenant))
    }  # of twins that of the state root
    if number not in known:
        raise ArtifactMissing(f"release {number}")
    return known[number]


def _moved(pointer: Pointer) -> says.PointerMovedTo:
    previous = [ref.serial for ref in pointer.previous]
    return says.PointerMovedTo(
        pointer.release, pointer.release_sha256, pointer.serial, previous, pointer.at_once
    )


def _tried(named: AliasTarget) -> says.ChallengerRelease:
    return says.ChallengerRelease(named.number or None, named.sha256, named.serial)
