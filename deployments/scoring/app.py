"""The scoring application: its routes, and the parts behind them, which are all made here.

Every response, an error too, is JSON with a stable code, and never contains a path, a traceback or
another error's text.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from deployments.config import Settings, Tenants
from deployments.observability import Meter, RayMeter
from deployments.scoring import verdict_wire, wire
from deployments.scoring.bulk_gate import BulkGate, gather_all
from deployments.scoring.examples import ATTACK, SHELL, VERDICT
from deployments.scoring.fast_path import SCORE, FastPathApp, score_body
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.metrics_page import TextMeter, metrics_routes
from deployments.scoring.monitor import Monitor
from deployments.scoring.named_deadline import DEADLINE, deadline_of
from deployments.scoring.openapi import document
from deployments.scoring.operator_routes import OperatorRoutes
from deployments.scoring.predict import CLASSIFIER, Predictor, PredictRoutes
from deployments.scoring.retro_rescorer import RetroRescorer
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.shedding import is_shed, overloaded
from deployments.scoring.status_schema import Limits, Service
from deployments.scoring.tenants import TenantPipelines
from deployments.web import (
    EXCEPTION_HANDLERS,
    JSON,
    READING_ERRORS,
    Answer,
    Authenticator,
    Body,
    BrowserGuard,
    ErrorBody,
    Scope,
    ScopedRoute,
    as_json,
    caller_of,
    decode_apart,
    docs_routes,
    encode,
    query_parameter,
    read_json,
    ref,
)
from ensemble.errors import EventError, MalformedEvent
from ensemble.events import Kind

__all__ = ["Ingress", "IngressApp"]

ABOUT = "One threat score from several detectors, and the share of them that contributed."
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
EXPLAIN = query_parameter(
    "explain",
    {"type": "string", "enum": ["true", "false", "1", "0"], "default": "false"},
    "Also explain the score of each layer, which takes longer. Case does not matter.",
)
EVENTS = {
    "a flow": {"kind": "flow", "id": "ddos", "host": "web-1", "features": ATTACK},
    "a process start": SHELL,
}


class IngressApp:
    """The scoring application, as a plain class.

    Args:
        settings: as JSON values.
        handles: layer -> handle of its deployment.
        meter: where metrics are recorded; None for Ray's.
    """

    def __init__(
        self, settings: Mapping[str, Any], handles: Mapping[str, Any], meter: Meter | None = None
    ) -> None:
        self._settings = Settings.model_validate(settings)
        limits, state = self._settings.ingress, self._settings.state
        self._meter = TextMeter(_replica(), meter or RayMeter())
        metrics = ScoringMetrics(self._meter)
        tenants = Tenants(self._settings)
        self._authenticator = Authenticator.from_settings(self._settings, tenants, self._meter)
        self._layers = LayerClient(
            handles,
            deadline_s=limits.deadline_ms / 1000.0,
            guard=self._settings.guard,
            metrics=metrics,
        )
        disabled, every_s = self._settings.controls.disabled, self._settings.controls.look_every_s
        self._switches = LayerSwitches(self._layers, state, frozenset(disabled), self._meter)
        self._spool = RetroSpool(self._settings.retro, state / "retro")
        self._bulk = BulkGate(limits, self._meter)
        self._pipelines = TenantPipelines(
            self._settings,
            tenants,
            self._layers,
            self._bulk,
            self._switches,
            self._spool,
            metrics,
            has_many=lambda: self._authenticator.has_many_tenants,
        )
        self._rescorer = RetroRescorer(self._spool, self._pipelines)
        self._monitor = Monitor(
            self._switches, self._pipelines, self._spool, metrics, every_s=every_s
        )
        self._operator_routes = OperatorRoutes(
            handles, self._pipelines, self._switches, self._spool, self._settings
        )
        self._predictor = Predictor(handles.get(CLASSIFIER), limits, self._meter)
        self._predict_routes = PredictRoutes(
            self._predictor, self._pipelines, self._authenticator, self._bulk, limits
        )
        self._routes = self._all_routes()
        self._openapi = encode(document(self._routes, limits.max_events, limits.max_body_bytes))

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application, made inside the replica: msgspec's decoders do not pickle."""
        return FastPathApp(
            self._pipelines,
            limit_bytes=self._settings.ingress.max_body_bytes,
            authenticator=self._authenticator,
            guard=BrowserGuard.from_settings(self._settings),
            routes=self._routes,
            lifespan=self._lifespan,
            exception_handlers=EXCEPTION_HANDLERS,
        )

    def _all_routes(self) -> list[ScopedRoute]:
        return [
            ScopedRoute(
                "/",
                self._describe,
                needs=Scope.READ,
                tag="state",
                summary="Show the service: its release, models, routes and limits",
                answers={200: Answer(Service, "The service")},
            ),
            *docs_routes("Axon", lambda: self._openapi),
            *metrics_routes(self._meter),
            *self._operator_routes.routes(),
            ScopedRoute(
                SCORE,
                self._score_one,
                needs=Scope.SCORE,
                methods=["POST"],
                tag="scoring",
                summary="Score one event",
                parameters=[EXPLAIN, DEADLINE],
                body=Body(ref("Event"), EVENTS),
                answers={200: Answer(verdict_wire.Verdict, "The verdict", example=VERDICT)},
                errors=[*READING_ERRORS, "FEATURE_MISMATCH", "OVERLOADED"],
            ),
            ScopedRoute(
                "/v1/score/batch",
                self._score_batch,
                needs=Scope.SCORE,
                methods=["POST"],
                tag="scoring",
                summary="Score a batch; an invalid event gets an error at its position",
                parameters=[EXPLAIN, DEADLINE],
                body=Body(wire.BatchRequest, {"both kinds": {"events": list(EVENTS.values())}}),
                answers={200: Answer(verdict_wire.VerdictBatch, "The verdicts, in order")},
                errors=[*READING_ERRORS, "TOO_MANY_EVENTS", "OVERLOADED"],
            ),
            *self._predict_routes.routes(),
        ]

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._authenticator.start()
        # before the pipelines: a layer that an operator disabled is never called
        await self._switches.reload()
        await self._pipelines.start()
        await self._spool.start()
        await self._rescorer.start()
        await self._monitor.start()  # last: Serve logs only warnings while this runs
        try:
            yield
        finally:
            await self._rescorer.stop()
            await self._spool.stop()
            await self._monitor.stop()
            await self._pipelines.stop()
            await self._authenticator.stop()

    async def _score_one(self, request: Request) -> Response:
        explain, tenant = _is_explained(request), caller_of(request.scope).tenant
        body = await self._body(request)
        headers = request.scope["headers"]
        verdict = await score_body(self._pipelines, tenant, body, headers, explain=explain)
        return Response(verdict, media_type=JSON)

    async def _score_batch(self, request: Request) -> Response:
        since, explain = time.monotonic(), _is_explained(request)
        parse = partial(wire.parse_batch, limit=self._settings.ingress.max_events)
        parsed = await decode_apart(parse, await self._body(request))
        caller = caller_of(request.scope)
        await self._authenticator.consume(caller, len(parsed))
        pipeline = await self._pipelines.for_tenant(caller.tenant)
        results: list[Any] = [
            _row_error(*event) if isinstance(event, tuple) else None for event in parsed
        ]
        default_s = self._settings.ingress.batch_deadline_ms / 1000.0
        deadline = deadline_of(request.scope["headers"], since=since, default_s=default_s)
        self._bulk.admit(caller.tenant, len(parsed), deadline.ends)

        async def score_part(kind: Kind, places: Sequence[int]) -> None:
            events: list[Any] = [parsed[place] for place in places]
            tenants = [caller.tenant] * len(events)
            async with self._bulk.place(caller.tenant, len(events), deadline.ends):
                verdicts = await pipeline.score_events(
                    kind, events, tenants, deadline, explain=explain
                )
            for place, event, verdict in zip(places, events, verdicts, strict=True):
                results[place] = (
                    _row_error(event.id, verdict) if isinstance(verdict, EventError) else verdict
                )

        parts = _parts_of(parsed, self._bulk.part_events)
        await gather_all(score_part(kind, places) for kind, places in parts)
        if all(is_shed(result) for result in results):
            raise overloaded()
        return Response(
            encode(verdict_wire.VerdictBatch(results, *verdict_wire.worst_of(results))),
            media_type=JSON,
        )

    async def _body(self, request: Request) -> bytes:
        """Read the body; Starlette's own limit responds in plain text, without a code."""
        return await read_json(
            request.scope["headers"], request.receive, self._settings.ingress.max_body_bytes
        )

    async def _describe(self, request: Request) -> Response:
        limits = self._settings.ingress
        pipeline = await self._pipelines.for_tenant(caller_of(request.scope).tenant)
        status = await pipeline.status()
        service = Service(
            service="axon",
            version=version("axon"),
            about=ABOUT,
            model_version=status.release,
            models=status.health().available_models,
            limits=Limits(
                max_events=limits.max_events,
                max_body_bytes=limits.max_body_bytes,
                deadline_ms=limits.deadline_ms,
            ),
            routes=[
                f"{method} {route.path}"
                for route in self._routes
                for method in sorted(route.methods or ())
                if method != "HEAD"
            ],
        )
        return as_json(service)


# tests use the plain class, without Ray
Ingress = serve.ingress()(IngressApp)


def _replica() -> str:
    try:
        return str(serve.get_replica_context().replica_tag)
    except RayServeException:
        return "local"  # without Serve there is one process


def _is_explained(request: Request) -> bool:
    """Whether the query requests an explanation; read strictly, so that a typo is an error.

    Raises:
        MalformedEvent: it is neither true nor false.
    """
    value = request.query_params.get("explain", "false").lower()
    if value not in _BOOLEANS:
        raise MalformedEvent("explain", "must be true or false")
    return _BOOLEANS[value]


def _parts_of(
    parsed: Sequence[wire.EventRequest | tuple[str, EventError]], size: int
) -> Iterator[tuple[Kind, Sequence[int]]]:
    """The places of the valid events of a batch, by kind, in equal parts of at most `size`."""
    for kind in Kind:
        places = [
            place
            for place, event in enumerate(parsed)
            if not isinstance(event, tuple) and wire.kind_of(event) is kind
        ]
        if not places:
            continue
        parts = math.ceil(len(places) / size)
        step = math.ceil(len(places) / parts)
        for start in range(0, len(places), step):
            yield kind, places[start : start + step]


def _row_error(event_id: str, error: EventError) -> verdict_wire.RowError:
    return verdict_wire.RowError(event_id, ErrorBody(error.code, str(error), error.field))
