"""The routes of training jobs: submit, list, poll and cancel; no request waits for a fit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope as AsgiScope

from deployments.config import Settings
from deployments.management import job_responses, request_bodies
from deployments.management.contract import CHANGING, ROW, done
from deployments.management.job_records import JobRecord
from deployments.management.jobs import Jobs, TrainingSpec
from deployments.management.request_parsing import (
    BodyReader,
    new_model_name,
    reject_unknown_query,
    require_own_tenant,
    tenant_of,
)
from deployments.management.sent_rows import SentRows
from deployments.management.store_executor import StoreExecutor, with_timeout
from deployments.web import (
    READING_ERRORS,
    Answer,
    Body,
    ErrorBody,
    Scope,
    ScopedRoute,
    actor_of,
    allows,
    as_json,
    path_parameter,
    reject_scope,
)
from ensemble.errors import FeatureMismatch, MalformedEvent, VersionExists
from ensemble.features.tabular import NETWORK_FEATURES, Missing
from ensemble.store import Actor, Metadata, ModelName, Store, Tenant, list_bundles
from ensemble.training.data.tabular_rows import LEAST_ROWS

__all__ = ["JobRoutes"]

MODEL_SUBPATHS = frozenset({"info", "versions", "promote", "challenger", "load", "detect"})
# name of a field in errors of the trainer -> its name in the body
_PLACES = {"rows": "network_data", "metadata": "user_metadata"}

JOB = path_parameter(
    "id",
    {"type": "string", "pattern": "^[0-9a-f]{32}$"},
    "Id of the job, from `POST /models/train`",
    "0" * 32,
)
LOCATION = {"Location": {"description": "Path of the job", "schema": {"type": "string"}}}
OF_JOB = ("UNKNOWN_JOB", "MALFORMED_EVENT", "STORE_UNAVAILABLE", "STORE_FULL")


@dataclass(frozen=True, slots=True)
class JobRoutes:
    """The routes of training jobs.

    Attributes:
        jobs: accepts jobs and holds their records.
        executor: runs work on the store.
        read_body: reads JSON bodies.
        settings: limits.
    """

    jobs: Jobs
    executor: StoreExecutor
    read_body: BodyReader
    settings: Settings
    _submitting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        return [
            ScopedRoute(
                "/train",
                self._train,
                needs=Scope.TRAIN,
                methods=["POST"],
                tag="jobs",
                summary="Train a detector on rows of declared features",
                body=Body(
                    request_bodies.TrainRequest,
                    {"rows": {"network_data": [dict(ROW)] * LEAST_ROWS, "version": "2026-11"}},
                ),
                answers={
                    202: Answer(
                        job_responses.Job, "Accepted; poll it at Location", headers=LOCATION
                    )
                },
                errors=[
                    *READING_ERRORS,
                    *CHANGING,
                    "FEATURE_MISMATCH",
                    "TOO_MANY_ROWS",
                    "TRAINING_ERROR",
                    "RESERVED_NAME",
                    "UNKNOWN_TENANT",
                    "VERSION_EXISTS",
                    "JOB_QUOTA",
                    "SIGNING_REFUSED",
                ],
            ),
            ScopedRoute(
                "/jobs",
                self._list,
                needs=Scope.READ,
                tag="jobs",
                summary="List the training jobs of the tenant, newest first",
                answers=done(job_responses.JobList),
                errors=["MALFORMED_EVENT", "STORE_UNAVAILABLE", "STORE_FULL"],
            ),
            OneJobRoute(
                "/jobs/{id}",
                self._get,
                needs=Scope.READ,
                tag="jobs",
                summary="Show the state of a job",
                parameters=[JOB],
                answers=done(job_responses.Job),
                errors=OF_JOB,
            ),
            OneJobRoute(
                "/jobs/{id}",
                self._cancel,
                needs=Scope.TRAIN,
                methods=["DELETE"],
                tag="jobs",
                summary="Cancel a job; a job that has ended is not changed",
                parameters=[JOB],
                answers=done(job_responses.Job),
                errors=OF_JOB,
            ),
        ]

    async def _train(self, request: Request) -> Response:
        reject_unknown_query(request)
        body = await self.read_body.rows(request, request_bodies.RowsToTrain)
        may_promote = allows(request.scope, Scope.MANAGE)
        if body.promote and not may_promote:
            return reject_scope(request, Scope.MANAGE)
        tenant, model, actor = (
            require_own_tenant(request, body.tenant_id),
            new_model_name(body.name),
            actor_of(request),
        )
        features = NETWORK_FEATURES if body.features is None else body.features
        spec = TrainingSpec(
            rows=SentRows(body.network_data),
            as_champion=may_promote if body.promote is None else body.promote,
            model=model,
            features=features,
            missing=Missing(body.missing),
            label=body.version or "",
            user_metadata=body.user_metadata,
        )
        async with self._submitting:  # or two requests with one label would both find it unused
            await self._require_new_label(tenant, model, spec.label, actor)
            try:
                record = await with_timeout(
                    self.jobs.submit(tenant, spec, actor), self.settings.management.store_within_s
                )
            except (FeatureMismatch, MalformedEvent) as refused:
                raise _with_body_fields(refused) from None
        response = as_json(_response(record), 202)
        response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{record.id}"
        return response

    async def _list(self, request: Request) -> Response:
        reject_unknown_query(request)
        records = await with_timeout(
            self.jobs.list(tenant_of(request)), self.settings.management.store_within_s
        )
        return as_json(job_responses.JobList([_response(record) for record in records]))

    async def _get(self, request: Request) -> Response:
        reject_unknown_query(request)
        job = self.jobs.get(tenant_of(request), request.path_params["id"])
        return as_json(_response(await with_timeout(job, self.settings.management.store_within_s)))

    async def _cancel(self, request: Request) -> Response:
        reject_unknown_query(request)
        job = self.jobs.cancel(tenant_of(request), request.path_params["id"])
        return as_json(_response(await with_timeout(job, self.settings.management.store_within_s)))

    async def _require_new_label(
        self, tenant: Tenant, model: ModelName, label: str, actor: Actor
    ) -> None:
        """Refuse a label that a version has, or that an unfinished job will give to one.

        Raises:
            VersionExists: the label is in use.
        """
        if not label:
            return
        waiting = await with_timeout(
            self.jobs.list(tenant), self.settings.management.store_within_s
        )
        is_known = any(
            (job.model, job.label) == (model, label) and not job.has_ended for job in waiting
        )
        if is_known or await self.executor.run(
            actor, lambda store: label in _labels(store, tenant, model)
        ):
            raise VersionExists(f"version {label} of {model}")


class OneJobRoute(ScopedRoute):
    """A route of one job; it leaves `/jobs/info` and the like to the routes of models.

    Those refuse it, because `jobs` is a reserved name.
    """

    def matches(self, scope: AsgiScope) -> tuple[Match, AsgiScope]:
        """Match as Starlette does, but not the last segment of a route of models."""
        match, found = super().matches(scope)
        is_other = match is not Match.NONE and found["path_params"]["id"] in MODEL_SUBPATHS
        return (Match.NONE, {}) if is_other else (match, found)


def _labels(store: Store, tenant: Tenant, model: ModelName) -> set[str]:
    manifests = [listing.manifest for listing in list_bundles(store, tenant, model)]
    return {Metadata.of(manifest.training).label for manifest in manifests if manifest is not None}


def _with_body_fields(
    refused: FeatureMismatch | MalformedEvent,
) -> FeatureMismatch | MalformedEvent:
    """Return the same error with the field named as in the body."""
    first, bracket, rest = refused.field.partition("[")
    return type(refused)(_PLACES.get(first, first) + bracket + rest, refused.problem)


def _response(record: JobRecord) -> job_responses.Job:
    return job_responses.Job(
        id=record.id,
        status=str(record.status),
        stage=record.stage,
        progress=record.progress,
        model_name=record.model,
        label=record.label,
        rows=record.rows,
        features=list(record.features),
        promote=record.as_champion,
        submitted_by=record.submitted_by,
        submitted_at=record.submitted_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
        model_version=record.version or None,
        sha256=record.manifest_sha256,
        is_champion=record.is_champion,
        error=ErrorBody(record.code, record.message) if record.code else None,
    )
