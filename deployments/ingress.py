"""The HTTP door: routes, one fan-out under one deadline, fusion.

Every answer, an error too, is JSON with a stable code and never a path, a traceback or another error's text.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments import wire
from deployments.batching import MicroBatcher
from deployments.fanout import FanOut, LayerCall
from deployments.following import ReleaseFollower
from deployments.openapi import document
from deployments.settings import Settings
from ensemble.errors import BodyTooLarge, EventError
from ensemble.events import Kind
from ensemble.loading import FusionLoader
from ensemble.store.layout import Store

__all__ = ["Ingress", "IngressApp"]

logger = logging.getLogger("ray.serve")
JSON = "application/json"
UNPROCESSABLE = 422
MOST_DIGITS = 18  # of a length; Python refuses to read a number of 5,000
_STATUS_OF_CODE = {"MALFORMED_JSON": 400, "BODY_TOO_LARGE": 413}  # every other mistake of the caller is 422


class IngressApp:
    """Composes the layers into one score, over HTTP.

    Args:
        settings: as JSON values.
        handles: layer -> handle of its deployment.
    """

    def __init__(self, settings: Mapping[str, Any], handles: Mapping[str, Any]) -> None:
        self._settings = Settings.model_validate(settings)
        store = Store(self._settings.state, self._settings.shipped)
        self._fan_out = FanOut(
            calls={layer: _call_of(handle) for layer, handle in handles.items()},
            states={layer: handle.state.remote for layer, handle in handles.items()},
            deadline_s=self._settings.ingress.deadline_ms / 1000.0,
            fusion_settings=self._settings.fusion,
        )
        self._follower = ReleaseFollower(self._fan_out, FusionLoader(store, self._settings.store.tenant))
        self._batchers = {
            (kind, explain): MicroBatcher(
                self._scorer(kind, explain=explain),
                batch_size=self._settings.ingress.events_per_flush,
                in_flight=self._settings.ingress.flushes_in_flight,
            )
            for kind in Kind
            for explain in (False, True)
        }
        self._started = time.time()
        self._openapi = wire.encode(document(self._settings.ingress.max_events))

    def __serve_build_asgi_app__(self) -> Starlette:
        """The ASGI application, made inside the replica: msgspec's decoders do not pickle."""
        return Starlette(
            routes=[
                Route("/", self._describe),
                Route("/health", self._health),
                Route("/openapi.json", self._document),
                Route("/v1/status", self._status),
                Route("/v1/score", self._score_one, methods=["POST"]),
                Route("/v1/score/batch", self._score_batch, methods=["POST"]),
            ],
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refuse_route, EventError: _refuse_event, Exception: _fail},
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._follower.start()
        yield

    def _scorer(
        self, kind: Kind, *, explain: bool
    ) -> Callable[[Sequence[tuple[wire.EventRequest, float]]], Awaitable[Sequence[wire.Verdict | EventError]]]:
        async def score(waiting: Sequence[tuple[wire.EventRequest, float]]) -> Sequence[wire.Verdict | EventError]:
            return await self._answers(kind, [event for event, _ in waiting], explain=explain, since=waiting[0][1])

        return score

    async def _answers(
        self, kind: Kind, events: Sequence[wire.EventRequest], *, explain: bool, since: float
    ) -> list[wire.Verdict | EventError]:
        """An answer for each event, in order; `since` is when the oldest of them came (monotonic seconds)."""
        batch, places, refused = wire.to_batch(kind, events)
        answers: list[Any] = [refused.get(place) for place in range(len(events))]
        if places:
            verdicts = await self._fan_out.score(batch, explain=explain, since=since)
            elapsed_ms = round((time.monotonic() - since) * 1000.0, 3)
            for place, answer in zip(places, wire.answers(batch, verdicts, explain=explain, elapsed_ms=elapsed_ms), strict=True):
                answers[place] = answer
        return answers

    async def _score_one(self, request: Request) -> Response:
        since = time.monotonic()
        event = wire.parse_event(await self._body(request))
        answer = await self._batchers[wire.kind_of(event), _asks_to_explain(request)].submit((event, since))
        if isinstance(answer, EventError):
            raise answer
        return Response(wire.encode(answer), media_type=JSON)

    async def _score_batch(self, request: Request) -> Response:
        since, explain = time.monotonic(), _asks_to_explain(request)
        parsed = wire.parse_batch(await self._body(request), limit=self._settings.ingress.max_events)
        results: list[Any] = [_row_error(*event) if isinstance(event, tuple) else None for event in parsed]

        async def answer_kind(kind: Kind) -> None:
            places = [place for place, event in enumerate(parsed) if not isinstance(event, tuple) and wire.kind_of(event) is kind]
            if not places:
                return
            events = [parsed[place] for place in places]
            for place, answer in zip(places, await self._answers(kind, events, explain=explain, since=since), strict=True):  # type: ignore[arg-type]
                results[place] = _row_error(parsed[place].id, answer) if isinstance(answer, EventError) else answer  # type: ignore[union-attr]

        await asyncio.gather(*(answer_kind(kind) for kind in Kind))
        return Response(wire.encode(wire.BatchAnswer(results, *wire.least_of(results))), media_type=JSON)

    async def _body(self, request: Request) -> bytes:
        """The body, refused as soon as it passes the limit; Starlette's own limit answers in plain text, without a code."""
        limit = self._settings.ingress.max_body_bytes
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and (len(announced) > MOST_DIGITS or int(announced) > limit):
            raise BodyTooLarge(limit)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise BodyTooLarge(limit)
        return bytes(body)

    async def _describe(self, _: Request) -> Response:
        body = {
            "service": "axon",
            "version": version("axon"),
            "about": "One threat score from several detectors, and an honest word on how many of them looked.",
            "score": "POST /v1/score, POST /v1/score/batch",
            "state": "GET /health, GET /v1/status",
            "contract": "GET /openapi.json",
        }
        return Response(wire.encode(body), media_type=JSON)

    async def _health(self, _: Request) -> Response:
        return Response(wire.encode((await self._fan_out.system()).health()), media_type=JSON)

    async def _status(self, _: Request) -> Response:
        body = (await self._fan_out.system()).detail() | {
            "version": version("axon"),
            "tenant": self._settings.store.tenant,
            "uptime_s": round(time.time() - self._started, 1),
            "deadline_ms": self._settings.ingress.deadline_ms,
            "max_events": self._settings.ingress.max_events,
        }
        return Response(wire.encode(body), media_type=JSON)

    async def _document(self, _: Request) -> Response:
        return Response(self._openapi, media_type=JSON)


Ingress = serve.ingress()(IngressApp)  # the plain class stays, for whoever wants the routes without Ray


def _call_of(handle: Any) -> LayerCall:  # noqa: ANN401  # Serve's handle builds its methods on the fly
    return handle.score.remote  # type: ignore[no-any-return]


def _asks_to_explain(request: Request) -> bool:
    return request.query_params.get("explain", "").lower() in {"true", "1"}


def _row_error(event_id: str, error: EventError) -> wire.RowError:
    return wire.RowError(event_id, wire.ErrorBody(error.code, str(error), error.field))


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if given.isascii() and given.isprintable() and 0 < len(given) <= 128 else uuid.uuid4().hex  # noqa: PLR2004  # a line in a log


def _error(request: Request, status: int, code: str, message: str, field: str = "") -> Response:
    request_id = _request_id(request)
    body = wire.ErrorAnswer(wire.ErrorBody(code, message, field, request_id))
    return Response(wire.encode(body), status, media_type=JSON, headers={"X-Request-ID": request_id})


async def _refuse_event(request: Request, error: Exception) -> Response:
    if not isinstance(error, EventError):
        raise error
    return _error(request, _STATUS_OF_CODE.get(error.code, UNPROCESSABLE), error.code, str(error), error.field)


async def _refuse_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, message = {
        404: ("NOT_FOUND", "there is no such route; GET / lists them"),
        405: ("METHOD_NOT_ALLOWED", "this route does not take that method"),
    }.get(status, ("HTTP_ERROR", "the request cannot be answered"))
    return _error(request, status, code, message)


async def _fail(request: Request, error: Exception) -> Response:
    """The edge: whatever was not foreseen becomes a 500 with an id that the log knows."""
    response = _error(request, 500, "INTERNAL_ERROR", "something failed inside; the log has it under this request id")
    logger.error("request_failed", exc_info=error, extra={"request_id": response.headers["X-Request-ID"]})
    return response
