"""The routes of models: list, inspect, promote, delete, and the audit log.

A model of a layer serves as part of a release, so its versions are inspected here and promoted
there. Inherited models can be inspected, but not changed: a change is answered with 404.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from deployments.config import Settings
from deployments.management import request_bodies, responses
from deployments.management.caller_registry import CallerRegistry
from deployments.management.contract import (
    CHANGING,
    MODEL,
    NUMBER,
    OF_MODEL,
    READING_STORE,
    SIGNING,
    done,
)
from deployments.management.request_parsing import (
    DEFAULT_ENTRIES,
    RESERVED,
    BodyReader,
    model_of,
    parse_number,
    reject_unknown_query,
    requested_limit,
    requested_version,
    require_own_tenant,
    tenant_of,
)
from deployments.observability import log_event
from deployments.web import (
    READING_ERRORS,
    Body,
    Scope,
    ScopedRoute,
    as_json,
    query_parameter,
)
from ensemble.errors import ArtifactMissing, EnsembleError, MalformedEvent
from ensemble.store import Alias, AliasTarget, ModelName, ModelRegistry, VisibleModel

__all__ = ["ModelRoutes"]

VERSION_OR_ALIAS = query_parameter(
    "version",
    {"type": "string", "pattern": f"^([1-9][0-9]{{0,14}}|{'|'.join(Alias)})$"},
    "Number or alias; default: the champion, or else the newest",
)
LIMIT = query_parameter(
    "limit",
    {"type": "string", "pattern": "^([1-9][0-9]{0,2}|1000)$", "default": str(DEFAULT_ENTRIES)},
    "Number of entries, newest first",
)


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """The routes that list and inspect models, move their aliases and delete them.

    Attributes:
        registry: runs work on the registry of the caller's tenant.
        read_body: reads JSON bodies.
        settings: limits.
    """

    registry: CallerRegistry
    read_body: BodyReader
    settings: Settings

    def first_routes(self) -> list[ScopedRoute]:
        """The routes whose path begins with a word; they come before those of a model's name."""
        return [
            ScopedRoute(
                "/",
                self._list,
                needs=Scope.READ,
                tag="models",
                summary=(
                    "List the models that the tenant has or inherits, newest first, and the limits"
                ),
                parameters=[
                    query_parameter(
                        "tenant_id",
                        {"type": "string"},
                        "The caller's own tenant; any other gets 404",
                    )
                ],
                answers=done(responses.ModelList),
                errors=[*READING_STORE, "UNKNOWN_TENANT"],
            ),
            ScopedRoute(
                "/audit",
                self._audit,
                needs=Scope.READ,
                tag="models",
                summary="List the audit log: each change with its actor, digest, time and address",
                parameters=[LIMIT],
                answers=done(responses.AuditLog),
                errors=READING_STORE,
            ),
            ScopedRoute(
                "/retention",
                self._retain,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="models",
                summary="Delete unreferenced releases and versions, keeping the newest N",
                body=Body(request_bodies.Retention, {"the last ten": {"keep": 10}}),
                answers=done(responses.Retained),
                errors=[*READING_ERRORS, *CHANGING, "ARTIFACT_IN_USE"],
            ),
        ]

    def routes(self) -> list[ScopedRoute]:
        """The routes whose path begins with a model's name."""
        moving = [*READING_ERRORS, *SIGNING, *OF_MODEL, "SERVED_BY_RELEASE"]
        return [
            ScopedRoute(
                "/{name}/info",
                self._info,
                needs=Scope.READ,
                tag="models",
                summary="Describe one version of a model",
                parameters=[MODEL, VERSION_OR_ALIAS],
                answers=done(responses.ModelInfo),
                errors=[*READING_STORE, *OF_MODEL],
            ),
            ScopedRoute(
                "/{name}/versions",
                self._versions,
                needs=Scope.READ,
                tag="models",
                summary="List the versions of one model, newest first",
                parameters=[MODEL],
                answers=done(responses.ModelVersions),
                errors=[*READING_STORE, *OF_MODEL],
            ),
            ScopedRoute(
                "/{name}/promote",
                self._promote,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="models",
                summary="Promote a version: it serves from now on",
                parameters=[MODEL],
                body=Body(
                    request_bodies.VersionPromotion, {"the challenger": {"alias": "challenger"}}
                ),
                answers=done(responses.AliasMoved),
                errors=moving,
            ),
            ScopedRoute(
                "/{name}/challenger",
                self._set_challenger,
                needs=Scope.MANAGE,
                methods=["PUT"],
                tag="models",
                summary="Give a version the alias challenger",
                parameters=[MODEL],
                body=Body(request_bodies.SetChallengerVersion, {"the second": {"version": 2}}),
                answers=done(responses.AliasMoved),
                errors=moving,
            ),
            ScopedRoute(
                "/{name}/challenger",
                self._clear_challenger,
                needs=Scope.MANAGE,
                methods=["DELETE"],
                tag="models",
                summary="Clear the alias challenger",
                parameters=[MODEL],
                answers=done(responses.AliasMoved),
                errors=[*SIGNING, *OF_MODEL, "SERVED_BY_RELEASE"],
            ),
            OneModelRoute(
                "/{name}",
                self._delete,
                needs=Scope.MANAGE,
                methods=["DELETE"],
                tag="models",
                summary="Delete one version permanently; a version in use is refused",
                parameters=[
                    MODEL,
                    query_parameter("version", NUMBER, "Number of the version", required=True),
                ],
                answers=done(responses.Deleted),
                errors=[*CHANGING, *OF_MODEL, "ARTIFACT_IN_USE", "METHOD_NOT_ALLOWED"],
            ),
        ]

    async def _list(self, request: Request) -> Response:
        reject_unknown_query(request, "tenant_id")
        tenant = require_own_tenant(request, request.query_params.get("tenant_id"))
        models = await self.registry.run(request, lambda registry: registry.models())
        limits = responses.Limits(
            self.settings.ingress.max_events,
            self.settings.management.max_rows,
            self.settings.management.max_body_bytes,
        )
        return as_json(responses.ModelList(str(tenant), _summaries(models), limits))

    async def _info(self, request: Request) -> Response:
        reject_unknown_query(request, "version")
        model, which = model_of(request), requested_version(request)
        found = await self.registry.run(request, lambda registry: registry.describe(model, which))
        return as_json(responses.info_of(found.info, shared=found.is_inherited))

    async def _versions(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        found = await self.registry.run(request, lambda registry: registry.models(model))
        if not found:
            raise ArtifactMissing(f"model {model}")
        return as_json(responses.ModelVersions(str(model), _summaries(found)))

    async def _promote(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        body = await self.read_body(request, request_bodies.VersionPromotion)
        if (body.version is UNSET) == (body.alias is UNSET):
            raise MalformedEvent("version", "give either a version or an alias")
        version = None if body.version is UNSET else int(body.version)

        def promote(registry: ModelRegistry) -> AliasTarget:
            if version is None:
                return registry.promote_challenger_of(model)
            return registry.set_alias(model, Alias.CHAMPION, version)

        return _moved(model, Alias.CHAMPION, await self.registry.run(request, promote))

    async def _set_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        version = int((await self.read_body(request, request_bodies.SetChallengerVersion)).version)
        target = await self.registry.run(
            request, lambda registry: registry.set_alias(model, Alias.CHALLENGER, version)
        )
        return _moved(model, Alias.CHALLENGER, target)

    async def _clear_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        target = await self.registry.run(
            request, lambda registry: registry.set_alias(model, Alias.CHALLENGER, None)
        )
        return _moved(model, Alias.CHALLENGER, target)

    async def _delete(self, request: Request) -> Response:
        reject_unknown_query(request, "version")
        tenant, model = tenant_of(request), model_of(request)
        named = request.query_params.get("version")
        if named is None:
            raise MalformedEvent("version", "is required: a deletion has no default version")
        version = parse_number(named, "version")
        about = {"model": model, "tenant": tenant, "version": version}
        try:
            await self.registry.run(request, lambda registry: registry.delete(model, version))
        except ArtifactMissing:
            raise  # no such version: nothing was tried
        except EnsembleError as error:
            log_event(
                logging.WARNING,
                "model_delete_failed",
                about | {"code": error.code},
                f"Failed to delete model: {model}",
            )
            raise
        log_event(logging.INFO, "model_deleted", about, "Model deleted successfully")
        return as_json(responses.Deleted(str(model), version))

    async def _retain(self, request: Request) -> Response:
        reject_unknown_query(request)
        newest = int((await self.read_body(request, request_bodies.Retention)).keep)
        deleted = await self.registry.run(request, lambda registry: registry.retain(newest))
        releases = [entry.serial for entry in deleted.releases]
        versions = [responses.Entry(str(entry.model), entry.serial) for entry in deleted.bundles]
        return as_json(responses.Retained(newest, releases, versions))

    async def _audit(self, request: Request) -> Response:
        reject_unknown_query(request, "limit")
        limit = requested_limit(request)
        entries = await self.registry.run(request, lambda registry: registry.audit(limit))
        return as_json(responses.AuditLog([responses.audited(entry) for entry in entries]))


class OneModelRoute(ScopedRoute):
    """A route whose whole path is a model's name; the reserved words are left to other routes."""

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        """Match as Starlette does, but not a reserved word."""
        match, found = super().matches(scope)
        is_other = match is not Match.NONE and found["path_params"]["name"] in RESERVED
        return (Match.NONE, {}) if is_other else (match, found)


def _summaries(models: list[VisibleModel]) -> list[responses.ModelSummary]:
    return [responses.summary_of(one.info, shared=one.is_inherited) for one in models]


def _moved(model: ModelName, alias: Alias, target: AliasTarget) -> Response:
    version = target.number or None
    return as_json(responses.AliasMoved(str(model), alias, version, target.sha256, target.serial))
