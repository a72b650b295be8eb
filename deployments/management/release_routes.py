"""The routes of releases: list, promote, roll back, and the challenger in shadow."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from deployments.management import request_bodies, responses
from deployments.management.caller_registry import CallerRegistry
from deployments.management.contract import NUMBER, READING_STORE, SIGNING, done
from deployments.management.request_parsing import (
    BodyReader,
    parse_number,
    reject_unknown_query,
    tenant_of,
)
from deployments.web import READING_ERRORS, Body, Scope, ScopedRoute, as_json, path_parameter
from ensemble.store import AliasTarget, Pointer, ReleaseOverview, Tenant

__all__ = ["ReleaseRoutes"]


@dataclass(frozen=True, slots=True)
class ReleaseRoutes:
    """The routes that list releases and move the pointer and the challenger of the caller's tenant.

    Attributes:
        registry: runs work on the registry of the caller's tenant.
        read_body: reads JSON bodies.
    """

    registry: CallerRegistry
    read_body: BodyReader

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
                answers=done(responses.ReleaseList),
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
                body=Body(
                    request_bodies.ReleasePromotion,
                    {"at once": {"at_once": True}},
                    is_required=False,
                ),
                answers=done(responses.PointerState),
                errors=moving,
            ),
            ScopedRoute(
                "/rollback",
                self._roll_back,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="releases",
                summary="Roll back to an earlier release, at once",
                body=Body(request_bodies.Rollback, {"to the one before": {}}, is_required=False),
                answers=done(responses.PointerState),
                errors=moving,
            ),
            ScopedRoute(
                "/challenger",
                self._challenger,
                needs=Scope.READ,
                tag="releases",
                summary="Name the release that is evaluated in shadow",
                answers=done(responses.ChallengerRelease),
                errors=READING_STORE,
            ),
            ScopedRoute(
                "/challenger",
                self._put_challenger,
                needs=Scope.MANAGE,
                methods=["PUT"],
                tag="releases",
                summary="Evaluate a release in shadow",
                body=Body(request_bodies.SetChallengerRelease, {"the second": {"release": 2}}),
                answers=done(responses.ChallengerRelease),
                errors=moving,
            ),
            ScopedRoute(
                "/challenger",
                self._delete_challenger,
                needs=Scope.MANAGE,
                methods=["DELETE"],
                tag="releases",
                summary="Stop the evaluation in shadow",
                answers=done(responses.ChallengerRelease),
                errors=SIGNING,
            ),
        ]

    async def _list(self, request: Request) -> Response:
        reject_unknown_query(request)
        tenant = tenant_of(request)
        overview, serving = await self.registry.run(
            request,
            lambda registry: (registry.overview(), self.registry.tenants.serving_tenant(tenant)),
        )
        return as_json(_listed(overview, tenant, serving))

    async def _promote(self, request: Request) -> Response:
        reject_unknown_query(request)
        number = parse_number(request.path_params["serial"], "serial")
        body = await self.read_body(
            request, request_bodies.ReleasePromotion, empty=request_bodies.ReleasePromotion
        )
        pointer = await self.registry.run(
            request, lambda registry: registry.promote(number, at_once=body.at_once)
        )
        return as_json(_moved(pointer))

    async def _roll_back(self, request: Request) -> Response:
        reject_unknown_query(request)
        body = await self.read_body(request, request_bodies.Rollback, empty=request_bodies.Rollback)
        to = None if body.to is None else int(body.to)
        return as_json(
            _moved(await self.registry.run(request, lambda registry: registry.roll_back(to)))
        )

    async def _challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        return as_json(
            _challenger(await self.registry.run(request, lambda registry: registry.challenger()))
        )

    async def _put_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        release = int((await self.read_body(request, request_bodies.SetChallengerRelease)).release)
        return as_json(await self._set_challenger(request, release))

    async def _delete_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        return as_json(await self._set_challenger(request, None))

    async def _set_challenger(
        self, request: Request, release: int | None
    ) -> responses.ChallengerRelease:
        return _challenger(
            await self.registry.run(request, lambda registry: registry.set_challenger(release))
        )


def _listed(overview: ReleaseOverview, tenant: Tenant, serving: Tenant) -> responses.ReleaseList:
    pointer, challenger = overview.pointer, overview.challenger
    releases = [
        responses.ReleaseSummary(
            release=one.ref.serial,
            sha256=one.ref.sha256,
            created_at=one.created_at,
            notes=one.notes,
            is_shipped=one.is_shipped,
            in_use=pointer is not None and one.ref == pointer.ref,
            is_challenger=challenger is not None and one.ref.serial == challenger.serial,
            problem="MODEL_LOAD_ERROR" if one.problem else "",
        )
        for one in overview.releases
    ]
    return responses.ReleaseList(
        tenant_id=str(tenant),
        serving_tenant=str(serving),
        release=pointer.release if pointer else None,
        pointer_serial=pointer.serial if pointer else 0,
        previous=[ref.serial for ref in pointer.previous] if pointer else [],
        challenger=challenger.serial if challenger else None,
        problem=overview.pointer_error.code if overview.pointer_error else "",
        challenger_problem=overview.challenger_error.code if overview.challenger_error else "",
        releases=releases,
    )


def _moved(pointer: Pointer) -> responses.PointerState:
    previous = [ref.serial for ref in pointer.previous]
    return responses.PointerState(
        pointer.release, pointer.release_sha256, pointer.serial, previous, pointer.at_once
    )


def _challenger(named: AliasTarget) -> responses.ChallengerRelease:
    return responses.ChallengerRelease(named.number or None, named.sha256, named.serial)
