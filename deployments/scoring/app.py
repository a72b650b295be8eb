"""The HTTP door: routes, one fan-out under one deadline, fusion.

Every answer, an error too, is JSON with a stable code and never a path, a traceback or another
error's text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope as AsgiScope

from deployments.config.settings import Settings
from deployments.config.tenants import Tenants
from deployments.config.trusted_store import TrustedStore
from deployments.observability.metrics import Meter, RayMeter
from deployments.scoring import wire
from deployments.scoring.fast_path import ShortcutApp
from deployments.scoring.guarded_call import LayerCall
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.metrics_page import BothMeters, TextMeter, metrics_routes
from deployments.scoring.monitor import IngressTelemetry, Monitor
from deployments.scoring.openapi import document
from deployments.scoring.operator_routes import OperatorRoutes
from deployments.scoring.pipeline import FanOut
from deployments.scoring.predict import CLASSIFIER, ClassifyCall, Predictor, PredictRoutes
from deployments.scoring.release_watcher import ReleaseWatcher
from deployments.scoring.retro import Retro
from deployments.scoring.status import EnsembleStatus
from deployments.scoring.status_schema import Service
from deployments.scoring.tenants import View, Views
from deployments.web import (
    EXCEPTION_HANDLERS,
    JSON,
    Caller,
    ErrorBody,
    GateKeeper,
    Scope,
    ScopedRoute,
    as_json,
    caller_of,
    docs_routes,
    encode,
    read_json,
)
from deployments.web.openapi import secured
from ensemble.errors import EventError, MalformedEvent
from ensemble.events import Kind
from ensemble.runtime.release_fusion import FusionResolver
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.names import Tenant

__all__ = ["Ingress", "IngressApp"]

SCORE = "/v1/score"
_ANSWERS = {"true": True, "1": True, "false": False, "0": False}


class IngressApp:
    """Composes the layers into one score, over HTTP.

    Args:
        settings: as JSON values.
        handles: layer -> handle of its deployment.
        meter: where metrics are recorded; None for Ray's.
    """

    def __init__(
        self, settings: Mapping[str, Any], handles: Mapping[str, Any], meter: Meter | None = None
    ) -> None:
        self._settings = Settings.model_validate(settings)
        text = TextMeter(_replica())
        meter = BothMeters(meter or RayMeter(), text)
        self._telemetry = IngressTelemetry(meter)
        self._asked = LayerClient(
            calls={layer: _call_of(handle) for layer, handle in handles.items()},
            states={layer: handle.state.remote for layer, handle in handles.items()},
            deadline_s=self._settings.ingress.deadline_ms / 1000.0,
            guard=self._settings.guard,
            observer=self._telemetry,
        )
        self._tenancy = Tenants(self._settings)
        self._keeper = GateKeeper(self._settings, self._tenancy, meter)
        self._switches = LayerSwitches(
            self._asked, self._settings.state, frozenset(self._settings.controls.disabled), meter
        )
        self._views = Views(
            self._new_view, self._tenancy, most=self._settings.store.tenants_at_once
        )
        self._retro = Retro(
            self._settings.retro,
            self._settings.state / "retro",
            rescore=self._rescore,
            coverage_of=self._coverage_of,
            is_busy=lambda: self._views.is_answering,
        )
        self._started = time.monotonic()
        look_every_s = self._settings.controls.look_every_s
        self._watch = Monitor(
            self._switches,
            self._telemetry,
            self._see,
            meter,
            every_s=look_every_s,
            retro=self._retro.counts,
        )
        self._operating = OperatorRoutes(
            layers=list(handles),
            tests={
                layer: lambda handle=handle: handle.test.remote()  # type: ignore[misc]  # mypy loses the default
                for layer, handle in handles.items()
            },
            see=self._see,
            switches=self._switches,
            is_ready=lambda: self._views.home.follower.has_looked,
            facts=self._facts,
            test_within_s=self._settings.controls.test_within_s,
        )
        limits = self._settings.ingress
        predictor = Predictor(_classify_of(handles), limits, meter)
        self._predicting = PredictRoutes(predictor, self._views.of, self._keeper.gate, limits)
        self._text = text.text
        self._routes = self._all_routes()
        needs = {
            (route.path, method.lower()): route.needs
            for route in self._routes
            for method in route.methods or ()
        }
        self._openapi = encode(secured(document(limits.max_events, limits.max_body_bytes), needs))

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application, made inside the replica: msgspec's decoders do not pickle."""
        return ShortcutApp(
            SCORE,
            self._answer_plain,
            needs=Scope.SCORE,
            limit=self._settings.ingress.max_body_bytes,
            gate=self._keeper.gate,
            routes=self._routes,
            lifespan=self._lifespan,
            exception_handlers=EXCEPTION_HANDLERS,
        )

    def _all_routes(self) -> list[ScopedRoute]:
        return [
            ScopedRoute("/", self._describe, needs=Scope.READ),
            ScopedRoute("/openapi.json", self._document, needs=None),
            *docs_routes("openapi.json", "Axon"),
            *metrics_routes(self._text),
            *self._operating.routes(),
            ScopedRoute(SCORE, self._score_one, needs=Scope.SCORE, methods=["POST"]),
            ScopedRoute("/v1/score/batch", self._score_batch, needs=Scope.SCORE, methods=["POST"]),
            *self._predicting.routes(),
        ]

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._keeper.start()
        await (
            self._switches.look()
        )  # first of the ensemble: what an operator switched off is not asked, not even once
        await self._views.start()
        await self._retro.start()
        await self._watch.start()  # last: Serve lets only warnings into the log while this runs
        try:
            yield
        finally:
            await self._retro.stop()
            await self._watch.stop()
            await self._views.stop()
            await self._keeper.stop()

    def _new_view(self, tenant: Tenant) -> View:
        """The ensemble as `tenant` and those who live on its models see it."""
        fan_out = FanOut(
            self._asked,
            tenant=tenant,
            fusion_settings=self._settings.fusion,
            rollout=self._settings.rollout,
            observer=self._telemetry,
        )
        lineage = ReleaseResolver(TrustedStore(self._settings), self._tenancy.lineage(tenant))
        follower = ReleaseWatcher(fan_out, FusionResolver(lineage), self._switches)
        return View(tenant, fan_out, follower, self._settings.ingress, self._retro.offer)

    async def _rescore(
        self, tenant: str, kind: Kind, events: Sequence[wire.EventRequest]
    ) -> Sequence[wire.Verdict | EventError]:
        return await (await self._views.of(tenant or self._tenancy.generic)).rescore(kind, events)

    async def _coverage_of(self, kind: Kind) -> float:
        return await self._views.home.fan_out.coverage_of(kind)

    async def _see(self, tenant: Tenant | None = None) -> EnsembleStatus:
        return await (await self._views.of(tenant or self._tenancy.generic)).fan_out.system()

    async def _answer_plain(self, scope: AsgiScope, body: bytes) -> bytes:
        return await self._answer_one(caller_of(scope), body, explain=False)

    async def _answer_one(self, caller: Caller, body: bytes, *, explain: bool) -> bytes:
        since = time.monotonic()
        event = wire.parse_event(body)
        view = await self._views.of(caller.tenant)
        return encode(await view.answer(event, caller.tenant, explain=explain, since=since))

    async def _score_one(self, request: Request) -> Response:
        body = await self._body(request)
        return Response(
            await self._answer_one(
                caller_of(request.scope), body, explain=_asks_to_explain(request)
            ),
            media_type=JSON,
        )

    async def _score_batch(self, request: Request) -> Response:
        since, explain = time.monotonic(), _asks_to_explain(request)
        parsed = wire.parse_batch(
            await self._body(request), limit=self._settings.ingress.max_events
        )
        caller = caller_of(request.scope)
        await self._keeper.gate.charge(caller, len(parsed))
        view = await self._views.of(caller.tenant)
        results: list[Any] = [
            _row_error(*event) if isinstance(event, tuple) else None for event in parsed
        ]

        async def answer_kind(kind: Kind) -> None:
            places = [
                place
                for place, event in enumerate(parsed)
                if not isinstance(event, tuple) and wire.kind_of(event) is kind
            ]
            if not places:
                return
            events: list[Any] = [parsed[place] for place in places]
            answers = await view.answers(
                kind, events, [caller.tenant] * len(events), explain=explain, since=since
            )
            for place, event, answer in zip(places, events, answers, strict=True):
                results[place] = (
                    _row_error(event.id, answer) if isinstance(answer, EventError) else answer
                )

        await asyncio.gather(*(answer_kind(kind) for kind in Kind))
        return Response(encode(wire.BatchAnswer(results, *wire.least_of(results))), media_type=JSON)

    async def _body(self, request: Request) -> bytes:
        """Starlette's own limit answers in plain text, without a code."""
        return await read_json(
            request.scope["headers"], request.receive, self._settings.ingress.max_body_bytes
        )

    async def _describe(self, request: Request) -> Response:
        limits, view = self._settings.ingress, await self._see(caller_of(request.scope).tenant)
        body: Service = {
            "service": "axon",
            "version": version("axon"),
            "about": "One threat score from several detectors, and an honest word on how many of them looked.",
            "model_version": view.release,
            "models": view.health()["available_models"],
            "limits": {
                "max_events": limits.max_events,
                "max_body_bytes": limits.max_body_bytes,
                "deadline_ms": limits.deadline_ms,
            },
            "routes": [
                f"{method} {route.path}"
                for route in self._routes
                for method in sorted(route.methods or ())
                if method != "HEAD"
            ],
        }
        return as_json(body)

    async def _facts(self, tenant: Tenant) -> dict[str, Any]:
        view = await self._views.of(tenant)
        agreement = view.fan_out.agreement
        return {
            "tenant": str(tenant),
            "lives_on": str(view.tenant),
            **view.follower.facts,
            "challenger": None if agreement is None else asdict(agreement),
            "retro": asdict(self._retro.counts()),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "deadline_ms": self._settings.ingress.deadline_ms,
            "max_events": self._settings.ingress.max_events,
        }

    async def _document(self, _: Request) -> Response:
        return Response(self._openapi, media_type=JSON)


Ingress = serve.ingress()(
    IngressApp
)  # the plain class stays, for whoever wants the routes without Ray


# Serve's handle builds its methods on the fly
def _call_of(handle: Any) -> LayerCall:  # noqa: ANN401
    return handle.score.remote  # type: ignore[no-any-return]


def _classify_of(handles: Mapping[str, Any]) -> ClassifyCall | None:
    return handles[CLASSIFIER].classify.remote if CLASSIFIER in handles else None


def _replica() -> str:
    try:
        return str(serve.get_replica_context().replica_tag)
    except RayServeException:
        return "local"  # without Serve there is one


def _asks_to_explain(request: Request) -> bool:
    """What the query says; read strictly, for who misspells it would miss the explanation and not know why.

    Raises:
        MalformedEvent: it says something else.
    """
    asked = request.query_params.get("explain", "false").lower()
    if asked not in _ANSWERS:
        raise MalformedEvent("explain", "must be true or false")
    return _ANSWERS[asked]


def _row_error(event_id: str, error: EventError) -> wire.RowError:
    return wire.RowError(event_id, ErrorBody(error.code, str(error), error.field))
