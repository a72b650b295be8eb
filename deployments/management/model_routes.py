"""The routes of models: list, inspect, promote, delete, export and import.

A model of a layer serves as part of a release, so its versions are inspected here and promoted
there. Inherited models can be inspected; a change answers that they do not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from deployments.config.settings import Settings
from deployments.config.tenants import Tenants
from deployments.config.trust import read_signer
from deployments.management import requests, responses
from deployments.management.contract import (
    CHANGING,
    MODEL,
    NUMBER,
    OF_MODEL,
    READING_STORE,
    SIGNING,
    done,
)
from deployments.management.request import (
    DEFAULT_ENTRIES,
    RESERVED,
    BodyReader,
    actor_of,
    model_of,
    parse_number,
    reject_unknown_query,
    requested_limit,
    requested_version,
    require_own_tenant,
    tenant_of,
)
from deployments.management.store_executor import StoreExecutor
from deployments.observability.log import log_event
from deployments.web import (
    READING_ERRORS,
    Answer,
    Body,
    Scope,
    ScopedRoute,
    as_json,
    path_parameter,
    query_parameter,
    read_body,
)
from ensemble.errors import (
    ArtifactMissing,
    EnsembleError,
    MalformedEvent,
    UnsupportedMediaType,
)
from ensemble.layers.catalog import layers_by_model
from ensemble.store import (
    Alias,
    AliasTarget,
    ModelName,
    ModelRegistry,
    Quota,
    Store,
    VisibleModel,
)

__all__ = ["ARCHIVE", "ModelRoutes", "quota_of"]

ARCHIVE = "application/octet-stream"
VERSION_OR_ALIAS = query_parameter(
    "version",
    {"type": "string", "pattern": f"^([1-9][0-9]{{0,14}}|{'|'.join(Alias)})$"},
    "A number, or an alias; without it the champion, or the newest",
)
LIMIT = query_parameter(
    "limit",
    {"type": "string", "pattern": "^([1-9][0-9]{0,2}|1000)$", "default": str(DEFAULT_ENTRIES)},
    "How many, newest first",
)
UNPACKED = (
    8  # times its own length that an archive may hold; ours are arrays, which pack by a third
)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ModelRoutes:
    """The routes that look at models and change which of them there are.

    Attributes:
        executor: runs work on the store.
        tenants: the parents whose models a tenant inherits.
        settings: limits.
    """

    executor: StoreExecutor
    tenants: Tenants
    settings: Settings

    def first_routes(self) -> list[ScopedRoute]:
        """Those whose paths are words.

        They come before any with a model's name in the same place.
        """
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
                        "Only the caller's own; another is answered with 404",
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
                summary="The audit log: each change with its actor, digest, time and address",
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
                summary="Delete unreferenced releases and versions, keeping the newest",
                body=Body(requests.Retention, {"the last ten": {"keep": 10}}),
                answers=done(responses.Retained),
                errors=[*READING_ERRORS, *CHANGING, "ARTIFACT_IN_USE"],
            ),
            ScopedRoute(
                "/import",
                self._import,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="models",
                summary="Import an archive as the next versions of the tenant; nothing is promoted",
                about="Trusted only as far as a trusted key or digest vouches for it here.",
                body=Body({"type": "string", "format": "binary"}, media=ARCHIVE),
                answers={201: Answer(responses.ImportedModels, "The imported versions")},
                errors=[
                    *CHANGING,
                    "BODY_TOO_LARGE",
                    "UNSUPPORTED_MEDIA_TYPE",
                    "SIGNING_REFUSED",
                    "QUOTA_EXCEEDED",
                    "VERSION_EXISTS",
                ],
            ),
        ]

    def routes(self) -> list[ScopedRoute]:
        """Those of one model."""
        moving = [*READING_ERRORS, *SIGNING, *OF_MODEL, "SERVED_BY_RELEASE"]
        return [
            ScopedRoute(
                "/{name}/info",
                self._info,
                needs=Scope.READ,
                tag="models",
                summary="All that is known of one version",
                parameters=[MODEL, VERSION_OR_ALIAS],
                answers=done(responses.ModelInfo),
                errors=[*READING_STORE, *OF_MODEL],
            ),
            ScopedRoute(
                "/{name}/versions",
                self._versions,
                needs=Scope.READ,
                tag="models",
                summary="The versions of one model, newest first",
                parameters=[MODEL],
                answers=done(responses.ModelVersions),
                errors=[*READING_STORE, *OF_MODEL],
            ),
            ScopedRoute(
                "/{name}/versions/{version}/export",
                self._export,
                needs=Scope.MANAGE,
                tag="models",
                summary="One version as one file",
                parameters=[MODEL, path_parameter("version", NUMBER, "Its number", "1")],
                answers={
                    200: Answer({"type": "string", "format": "binary"}, "The archive", ARCHIVE)
                },
                errors=[*READING_STORE, *OF_MODEL],
            ),
            ScopedRoute(
                "/{name}/promote",
                self._promote,
                needs=Scope.MANAGE,
                methods=["POST"],
                tag="models",
                summary="Promote a version: it serves from then on",
                parameters=[MODEL],
                body=Body(requests.VersionPromotion, {"the challenger": {"alias": "challenger"}}),
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
                body=Body(requests.SetChallengerVersion, {"the second": {"version": 2}}),
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
                summary="Delete one version, for good; never one that serves",
                parameters=[
                    MODEL,
                    query_parameter("version", NUMBER, "Its number; no default", required=True),
                ],
                answers=done(responses.Deleted),
                errors=[*CHANGING, *OF_MODEL, "ARTIFACT_IN_USE", "METHOD_NOT_ALLOWED"],
            ),
        ]

    async def _list(self, request: Request) -> Response:
        reject_unknown_query(request, "tenant_id")
        tenant = require_own_tenant(request, request.query_params.get("tenant_id"))
        models = await self._run(request, lambda registry: registry.models())
        limits = responses.Limits(
            self.settings.ingress.max_events,
            self.settings.management.max_rows,
            self.settings.management.max_body_bytes,
        )
        return as_json(responses.ModelList(str(tenant), _summaries(models), limits))

    async def _info(self, request: Request) -> Response:
        reject_unknown_query(request, "version")
        model, which = model_of(request), requested_version(request)
        found = await self._run(request, lambda registry: registry.describe(model, which))
        return as_json(responses.info_of(found.info, shared=found.is_inherited))

    async def _versions(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        found = await self._run(request, lambda registry: registry.models(model))
        if not found:
            raise ArtifactMissing(f"model {model}")
        return as_json(responses.ModelVersions(str(model), _summaries(found)))

    async def _export(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        version = parse_number(request.path_params["version"], "version")
        _, data = await self._run(request, lambda registry: registry.export(model, version))
        name = f"{model}-{version}.axon"  # a slug and a number: nothing to quote
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Content-Type-Options": "nosniff",
        }
        return Response(data, media_type=ARCHIVE, headers=headers)

    async def _import(self, request: Request) -> Response:
        reject_unknown_query(request)
        _refuse_other_media(request)
        limit_bytes = self.settings.management.max_import_bytes
        data = await read_body(request.scope["headers"], request.receive, limit_bytes)
        done = await self._run(
            request,
            lambda registry: registry.import_archive(data, limit_bytes=UNPACKED * limit_bytes),
        )
        entries = [responses.Entry(str(ref.model), ref.version) for ref in done.bundles]
        release = done.release.serial if done.release else None
        return as_json(responses.ImportedModels(entries, release, done.origin), 201)

    async def _promote(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        body = await BodyReader(requests.VersionPromotion, self._limit)(request)
        if (body.version is UNSET) == (body.alias is UNSET):
            raise MalformedEvent("version", "say either a version or an alias")
        version = None if body.version is UNSET else int(body.version)

        def promote(registry: ModelRegistry) -> AliasTarget:
            if version is None:
                return registry.promote_challenger_of(model)
            return registry.set_alias(model, Alias.CHAMPION, version)

        return _moved(model, Alias.CHAMPION, await self._run(request, promote))

    async def _set_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        version = int(
            (await BodyReader(requests.SetChallengerVersion, self._limit)(request)).version
        )
        target = await self._run(
            request, lambda registry: registry.set_alias(model, Alias.CHALLENGER, version)
        )
        return _moved(model, Alias.CHALLENGER, target)

    async def _clear_challenger(self, request: Request) -> Response:
        reject_unknown_query(request)
        model = model_of(request)
        target = await self._run(
            request, lambda registry: registry.set_alias(model, Alias.CHALLENGER, None)
        )
        return _moved(model, Alias.CHALLENGER, target)

    async def _delete(self, request: Request) -> Response:
        reject_unknown_query(request, "version")
        tenant, model = tenant_of(request), model_of(request)
        named = request.query_params.get("version")
        if named is None:
            raise MalformedEvent(
                "version", "say which version; the latest is not meant by saying nothing"
            )
        version = parse_number(named, "version")
        about = {"model": model, "tenant": tenant, "version": version}
        try:
            await self._run(request, lambda registry: registry.delete(model, version))
        except ArtifactMissing:
            raise  # nobody's model: nothing was tried
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
        keep = int((await BodyReader(requests.Retention, self._limit)(request)).keep)
        gone = await self._run(request, lambda registry: registry.retain(keep))
        models = [responses.Entry(str(entry.model), entry.serial) for entry in gone.bundles]
        return as_json(responses.Retained(keep, [entry.serial for entry in gone.releases], models))

    async def _audit(self, request: Request) -> Response:
        reject_unknown_query(request, "limit")
        limit = requested_limit(request)
        entries = await self._run(request, lambda registry: registry.audit(limit))
        return as_json(responses.AuditLog([responses.audited(entry) for entry in entries]))

    async def _run(self, request: Request, work: Callable[[ModelRegistry], Result]) -> Result:
        return await self.executor.run(
            actor_of(request), lambda store: work(self._registry(store, request))
        )

    def _registry(self, store: Store, request: Request) -> ModelRegistry:
        tenant, *parents = self.tenants.lineage(tenant_of(request))
        return ModelRegistry(
            store,
            tenant,
            read_signer,
            parents=tuple(parents),
            layer_models=frozenset(layers_by_model()),
            quota=quota_of(self.settings),
        )

    @property
    def _limit(self) -> int:
        return self.settings.management.max_body_bytes


class OneModelRoute(ScopedRoute):
    """A route of which nothing but the name of a model is the path.

    A word of another route is none of its business.
    """

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        """As Starlette's, but for those words."""
        match, found = super().matches(scope)
        is_other = match is not Match.NONE and found["path_params"]["name"] in RESERVED
        return (Match.NONE, {}) if is_other else (match, found)


def quota_of(settings: Settings) -> Quota:
    """How many models and versions a tenant may keep."""
    return Quota(settings.management.versions_per_model, settings.management.models_per_tenant)


def _summaries(models: list[VisibleModel]) -> list[responses.ModelSummary]:
    return [responses.summary_of(one.info, shared=one.is_inherited) for one in models]


def _moved(model: ModelName, alias: Alias, target: AliasTarget) -> Response:
    version = target.number or None
    return as_json(responses.AliasMoved(str(model), alias, version, target.sha256, target.serial))


def _refuse_other_media(request: Request) -> None:
    for name, known in (("Content-Type", ("", ARCHIVE)), ("Content-Encoding", ("", "identity"))):
        if request.headers.get(name, "").split(";", 1)[0].strip().lower() not in known:
            raise UnsupportedMediaType(name)
