"""The HTTP door: routes, one fan-out under one deadline, fusion.

Every answer, an error too, is JSON with a stable code and never a path, a traceback or another error's text.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments import wire
from deployments.batching import MicroBatcher
from deployments.edge import JSON, REFUSALS, as_json
from deployments.fanout import FanOut, LayerCall
from deployments.following import ReleaseFollower
from deployments.openapi import document
from deployments.operating import OperatorRoutes
from deployments.retro import Retro
from deployments.settings import Settings
from deployments.shortcut import ShortcutApp, read_body
from deployments.stores import lineage_of
from deployments.switches import Switches
from deployments.telemetry import Meter, RayMeter
from deployments.watch import IngressTelemetry, Watch
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.offers import FusionLoader

__all__ = ["Ingress", "IngressApp"]

SCORE = "/v1/score"


class IngressApp:
    """Composes the layers into one score, over HTTP.

    Args:
        settings: as JSON values.
        handles: layer -> handle of its deployment.
        meter: where metrics are recorded; None for Ray's.
    """

    def __init__(self, settings: Mapping[str, Any], handles: Mapping[str, Any], meter: Meter | None = None) -> None:
        self._settings = Settings.model_validate(settings)
        meter = meter or RayMeter()
        telemetry = IngressTelemetry(meter)
        self._fan_out = FanOut(
            calls={layer: _call_of(handle) for layer, handle in handles.items()},
            states={layer: handle.state.remote for layer, handle in handles.items()},
            deadline_s=self._settings.ingress.deadline_ms / 1000.0,
            fusion_settings=self._settings.fusion,
            guard=self._settings.guard,
            rollout=self._settings.rollout,
            observer=telemetry,
        )
        self._switches = switches = Switches(self._fan_out, self._settings.state, frozenset(self._settings.controls.disabled), meter)
        self._follower = ReleaseFollower(self._fan_out, FusionLoader(lineage_of(self._settings)), switches)
        self._batchers = {
            (kind, explain): MicroBatcher(
                self._scorer(kind, explain=explain),
                batch_size=self._settings.ingress.events_per_flush,
                in_flight=self._settings.ingress.flushes_in_flight,
            )
            for kind in Kind
            for explain in (False, True)
        }
        self._answering = 0  # batches of callers that wait now
        self._retro = Retro(
            self._settings.retro,
            self._settings.state / "retro",
            rescore=lambda kind, events: self._answers(kind, events, explain=False, since=time.monotonic(), is_second_look=True),
            coverage_of=self._fan_out.coverage_of,
            is_busy=lambda: self._answering > 0,
        )
        self._started = time.monotonic()
        look_every_s = self._settings.controls.look_every_s
        self._watch = Watch(switches, telemetry, self._fan_out.system, meter, every_s=look_every_s, retro=self._retro.counts)
        self._operating = OperatorRoutes(
            layers=list(handles),
            tests={layer: lambda handle=handle: handle.test.remote() for layer, handle in handles.items()},  # type: ignore[misc]  # mypy loses the default
            see=self._fan_out.system,
            switches=switches,
            is_ready=lambda: self._follower.has_looked,
            facts=self._facts,
            test_within_s=self._settings.controls.test_within_s,
        )
        self._openapi = wire.encode(document(self._settings.ingress.max_events))

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application, made inside the replica: msgspec's decoders do not pickle."""
        return ShortcutApp(
            SCORE,
            self._answer_plain,
            limit=self._settings.ingress.max_body_bytes,
            routes=[
                Route("/", self._describe),
                Route("/openapi.json", self._document),
                *self._operating.routes(),
                Route(SCORE, self._score_one, methods=["POST"]),
                Route("/v1/score/batch", self._score_batch, methods=["POST"]),
            ],
            lifespan=self._lifespan,
            exception_handlers=REFUSALS,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._switches.look()  # first: what an operator switched off is not asked, not even once
        await self._follower.start()
        await self._retro.start()
        await self._watch.start()  # last: Serve lets only warnings into the log while this runs
        try:
            yield
        finally:
            await self._retro.stop()
            await self._watch.stop()

    def _scorer(
        self, kind: Kind, *, explain: bool
    ) -> Callable[[Sequence[tuple[wire.EventRequest, float]]], Awaitable[Sequence[wire.Verdict | EventError]]]:
        async def score(waiting: Sequence[tuple[wire.EventRequest, float]]) -> Sequence[wire.Verdict | EventError]:
            return await self._answers_to_callers(kind, [event for event, _ in waiting], explain=explain, since=waiting[0][1])

        return score

    async def _answers(
        self, kind: Kind, events: Sequence[wire.EventRequest], *, explain: bool, since: float, is_second_look: bool = False
    ) -> list[wire.Verdict | EventError]:
        """An answer for each event, in order; `since` is when the oldest of them came (monotonic seconds)."""
        batch, places, refused = wire.to_batch(kind, events)
        answers: list[Any] = [refused.get(place) for place in range(len(events))]
        if places:
            groups = await self._fan_out.score(batch, explain=explain, since=since, is_second_look=is_second_look)
            elapsed_ms = round((time.monotonic() - since) * 1000.0, 3)
            for place, answer in zip(places, wire.answers(batch, groups, explain=explain, elapsed_ms=elapsed_ms), strict=True):
                answers[place] = answer
        return answers

    async def _answers_to_callers(
        self, kind: Kind, events: Sequence[wire.EventRequest], *, explain: bool, since: float
    ) -> list[wire.Verdict | EventError]:
        """Likewise, for callers: second looks wait meanwhile, and what only a part of the ensemble saw is kept for one."""
        self._answering += 1
        try:
            answers = await self._answers(kind, events, explain=explain, since=since)
        finally:
            self._answering -= 1
        self._retro.offer(events, answers)
        return answers

    async def _answer_plain(self, body: bytes) -> bytes:
        return await self._answer_one(body, explain=False)

    async def _answer_one(self, body: bytes, *, explain: bool) -> bytes:
        since = time.monotonic()
        event = wire.parse_event(body)
        answer = await self._batchers[wire.kind_of(event), explain].submit((event, since))
        if isinstance(answer, EventError):
            raise answer
        return wire.encode(answer)

    async def _score_one(self, request: Request) -> Response:
        return Response(await self._answer_one(await self._body(request), explain=_asks_to_explain(request)), media_type=JSON)

    async def _score_batch(self, request: Request) -> Response:
        since, explain = time.monotonic(), _asks_to_explain(request)
        parsed = wire.parse_batch(await self._body(request), limit=self._settings.ingress.max_events)
        results: list[Any] = [_row_error(*event) if isinstance(event, tuple) else None for event in parsed]

        async def answer_kind(kind: Kind) -> None:
            places = [place for place, event in enumerate(parsed) if not isinstance(event, tuple) and wire.kind_of(event) is kind]
            if not places:
                return
            events = [parsed[place] for place in places]
            for place, answer in zip(places, await self._answers_to_callers(kind, events, explain=explain, since=since), strict=True):  # type: ignore[arg-type]
                results[place] = _row_error(parsed[place].id, answer) if isinstance(answer, EventError) else answer  # type: ignore[union-attr]

        await asyncio.gather(*(answer_kind(kind) for kind in Kind))
        return Response(wire.encode(wire.BatchAnswer(results, *wire.least_of(results))), media_type=JSON)

    async def _body(self, request: Request) -> bytes:
        """Starlette's own limit answers in plain text, without a code."""
        return await read_body(request.scope["headers"], request.receive, self._settings.ingress.max_body_bytes)

    async def _describe(self, _: Request) -> Response:
        body = {
            "service": "axon",
            "version": version("axon"),
            "about": "One threat score from several detectors, and an honest word on how many of them looked.",
            "score": "POST /v1/score, POST /v1/score/batch",
            "state": "GET /health, GET /ready, GET /v1/status, GET /v1/layers; GET /v2/health/live, GET /v2/health/ready",
            "switches": "POST /v1/layers/{layer}/test, /v1/layers/{layer}/disable, /v1/layers/{layer}/enable, /v1/layers/{layer}/reset",
            "contract": "GET /openapi.json",
        }
        return as_json(body)

    def _facts(self) -> dict[str, Any]:
        return {
            "tenant": self._settings.store.tenant,
            **self._follower.facts,
            "retro": asdict(self._retro.counts()),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "deadline_ms": self._settings.ingress.deadline_ms,
            "max_events": self._settings.ingress.max_events,
        }

    async def _document(self, _: Request) -> Response:
        return Response(self._openapi, media_type=JSON)


Ingress = serve.ingress()(IngressApp)  # the plain class stays, for whoever wants the routes without Ray


def _call_of(handle: Any) -> LayerCall:  # noqa: ANN401  # Serve's handle builds its methods on the fly
    return handle.score.remote  # type: ignore[no-any-return]


def _asks_to_explain(request: Request) -> bool:
    return request.query_params.get("explain", "").lower() in {"true", "1"}


def _row_error(event_id: str, error: EventError) -> wire.RowError:
    return wire.RowError(event_id, wire.ErrorBody(error.code, str(error), error.field))
