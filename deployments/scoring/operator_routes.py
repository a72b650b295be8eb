"""The routes for operators: how the ensemble stands, and the switches of its layers.

To look takes the scope `read`, to switch the scope `manage`; whether it lives and is ready may be
asked by anybody.
They can take layers away and give them back; they can neither bring a model nor make one trusted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.config.settings import Settings
from deployments.observability.log import log_event
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.status_schema import (
    Health,
    KindTest,
    LayerList,
    LayerTest,
    Live,
    Ready,
    Status,
    SwitchedLayer,
    Trouble,
)
from deployments.scoring.tenants import TenantPipelines
from deployments.web import (
    Answer,
    Scope,
    ScopedRoute,
    as_json,
    caller_of,
    describe_code,
    error_response,
    path_parameter,
)
from ensemble.errors import ArtifactError, LayerCrashed, LayerTimeout, LoadTimeout, UnknownLayer
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.controls import Controls
from ensemble.runtime.model_state import LoadFailure
from ensemble.store import Tenant

__all__ = ["OperatorRoutes"]

LAYER = path_parameter("layer", {"type": "string", "enum": list(LAYERS)}, "Its name", "behavior")
Endpoint = Callable[[Request], Awaitable[Response]]


class OperatorRoutes:
    """The status of the ensemble, and the switches of its layers.

    Args:
        handles: layer -> handle of its deployment, whose `test` changes nothing that serves.
        pipelines: report the status, by tenant.
        switches: what an operator may switch.
        spool: reports what became of degraded events.
        settings: limits.
    """

    def __init__(
        self,
        handles: Mapping[str, Any],  # Serve's handles make their methods on the fly
        pipelines: TenantPipelines,
        switches: LayerSwitches,
        spool: RetroSpool,
        settings: Settings,
    ) -> None:
        self._handles, self._pipelines, self._switches = handles, pipelines, switches
        self._spool, self._settings = spool, settings
        self._testing: set[str] = set()
        self._started = time.monotonic()

    def routes(self) -> list[ScopedRoute]:
        """All of them."""
        return [
            _state_route(
                "/health",
                self._health,
                "Is the ensemble complete? 200 as long as the process can answer",
                Health,
                needs=None,
            ),
            *(
                ScopedRoute(
                    path,
                    self._ready,
                    needs=needs,
                    tag="state",
                    summary=f"Can it score at all? 503 before the release was first read{name}",
                    answers={200: Answer(Ready, "Yes"), 503: Answer(Ready, "Not now")},
                )
                for path, needs, name in (
                    ("/ready", None, "; a degraded ensemble is ready"),
                    ("/v2/health/ready", Scope.READ, ", as the Open Inference Protocol names it"),
                )
            ),
            _state_route(
                "/v2/health/live",
                self._live,
                "Does the process answer? As the Open Inference Protocol names it",
                Live,
            ),
            _state_route(
                "/v1/status",
                self._status,
                "Status, version, reason, since when and problem of each layer by kind of event, "
                "and all else",
                Status,
            ),
            _state_route(
                "/v1/layers", self._list, "The layers, and whether each has a model", LayerList
            ),
            _switch_route(
                "test",
                self._test,
                "Test a layer's initialisation; nothing that serves changes",
                LayerTest,
                error="TEST_RUNNING",
            ),
            _switch_route(
                "disable",
                self._disable,
                "Disable a layer: here at once, everywhere within seconds, also after a restart",
            ),
            _switch_route("enable", self._enable, "Enable a layer again"),
            _switch_route(
                "reset", self._reset, "Clear a layer's failures: circuit breaker and backoff"
            ),
        ]

    async def _health(self, _: Request) -> Response:
        return as_json((await (await self._pipelines.for_tenant()).status()).health())

    async def _live(self, _: Request) -> Response:
        body: Live = {"live": True}
        return as_json(body)

    async def _ready(self, _: Request) -> Response:
        """Ready is not whole.

        With every layer down it still answers, and says what the answer is worth.
        """
        body: Ready = {"ready": self._pipelines.is_ready}
        return as_json(body, 200 if body["ready"] else 503)

    async def _status(self, request: Request) -> Response:
        tenant = caller_of(request.scope).tenant
        controls = self._switches.controls
        switched = {
            "disabled": sorted(controls.disabled | self._switches.always_disabled),
            "disabled_by_environment": sorted(self._switches.always_disabled),
            "resets": dict(controls.resets),
            "retreated": dict(controls.retreated),
        }
        pipeline = await self._pipelines.for_tenant(tenant)
        pointer = self._pipelines.watchers[Tenant(pipeline.tenant)].state
        agreement = pipeline.agreement
        body = (await pipeline.status()).detail() | {
            "controls": switched,
            "version": version("axon"),
            "tenant": str(tenant),
            "lives_on": str(pipeline.tenant),
            "wanted": pointer.wanted,
            "pointer": pointer.pointer,
            "trouble": _problem(pointer.problem),
            "challenger": None if agreement is None else asdict(agreement),
            "retro": asdict(self._spool.counts()),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "deadline_ms": self._settings.ingress.deadline_ms,
            "max_events": self._settings.ingress.max_events,
        }
        return as_json(body)

    async def _list(self, request: Request) -> Response:
        pipeline = await self._pipelines.for_tenant(caller_of(request.scope).tenant)
        body: LayerList = {"layers": (await pipeline.status()).summary()}
        return as_json(body)

    async def _test(self, request: Request) -> Response:
        layer = self._named(request)
        if (
            layer in self._testing
        ):  # a test loads beside the model that serves: two at once would need the memory twice
            return error_response(
                request,
                409,
                "TEST_RUNNING",
                "this layer is being tested now; ask again when that is done",
            )
        self._testing.add(layer)
        try:
            return as_json(await self._tested(layer))
        finally:
            self._testing.discard(layer)

    async def _tested(self, layer: str) -> LayerTest:
        started = time.monotonic()
        code = ""
        trials: Mapping[Any, Any] = {}
        try:
            trials = await asyncio.wait_for(
                _awaited(self._handles[layer].test.remote), self._settings.controls.test_within_s
            )
        except TimeoutError:
            code = LayerTimeout.code
        # the layer's process died or raised: that is the outcome of the test
        except Exception as error:  # noqa: BLE001
            code = LayerCrashed.code
            log_event(
                logging.ERROR,
                "layer_test_failed",
                {"layer": layer, "error": str(error), "error_type": type(error).__name__},
            )
        kinds = {str(kind): _trial(trial) for kind, trial in trials.items()}
        is_ok = bool(kinds) and all(kind["ok"] for kind in kinds.values())
        for kind, trial in trials.items():
            fields = {
                "layer": layer,
                "kind": str(kind),
                "ok": trial.ok,
                "code": trial.code,
                "error": trial.message,
            }
            log_event(logging.INFO if trial.ok else logging.WARNING, "layer_tested", fields)
        elapsed_ms = round((time.monotonic() - started) * 1000.0, 3)
        return {
            "layer": layer,
            "ok": is_ok,
            "code": code,
            "message": describe_code(code),
            "kinds": kinds,
            "elapsed_ms": elapsed_ms,
        }

    async def _disable(self, request: Request) -> Response:
        layer = self._named(request)
        return await self._switched(request, layer, lambda now: now.with_disabled(layer))

    async def _enable(self, request: Request) -> Response:
        layer = self._named(request)
        return await self._switched(request, layer, lambda now: now.with_enabled(layer))

    async def _reset(self, request: Request) -> Response:
        layer = self._named(request)
        return await self._switched(request, layer, lambda now: now.with_reset(layer))

    async def _switched(
        self, request: Request, layer: str, change: Callable[[Controls], Controls]
    ) -> Response:
        try:
            controls = await self._switches.update(change)
        except (ArtifactError, OSError, ValueError) as error:
            log_event(
                logging.ERROR,
                "controls_not_kept",
                {"layer": layer, "error": str(error), "error_type": type(error).__name__},
            )
            unkept = "the switch could not be kept, so nothing was changed; the log says why"
            hangs = "the disk does not answer: the switch holds once it is kept; GET /v1/layers says whether"
            return error_response(
                request,
                503,
                "CONTROLS_NOT_KEPT",
                hangs if isinstance(error, LoadTimeout) else unkept,
            )
        is_fixed = layer in self._switches.always_disabled
        enabled = layer not in controls.disabled and not is_fixed
        resets = controls.resets.get(layer, 0)
        body: SwitchedLayer = {
            "layer": layer,
            "enabled": enabled,
            "disabled_by_environment": is_fixed,
            "resets": resets,
        }
        return as_json(body)

    def _named(self, request: Request) -> str:
        """The layer that the path names.

        Raises:
            UnknownLayer: there is none of that name.
        """
        layer: str = request.path_params["layer"]
        if layer not in self._handles:
            raise UnknownLayer(", ".join(self._handles))
        return layer


def _problem(problem: LoadFailure | None) -> Trouble | None:
    if problem is None:
        return None
    meaning = describe_code(problem.code)
    return {"code": problem.code, "cause": problem.cause, "meaning": meaning}


def _state_route(
    path: str, endpoint: Endpoint, summary: str, schema: type, *, needs: Scope | None = Scope.READ
) -> ScopedRoute:
    return ScopedRoute(
        path,
        endpoint,
        needs=needs,
        tag="state",
        summary=summary,
        answers={200: Answer(schema, "The state")},
    )


def _switch_route(
    verb: str,
    endpoint: Endpoint,
    summary: str,
    schema: type = SwitchedLayer,
    *,
    error: str = "CONTROLS_NOT_KEPT",
) -> ScopedRoute:
    return ScopedRoute(
        f"/v1/layers/{{layer}}/{verb}",
        endpoint,
        needs=Scope.MANAGE,
        methods=["POST"],
        tag="switches",
        summary=summary,
        parameters=[LAYER],
        answers={200: Answer(schema, "The state now")},
        errors=["UNKNOWN_LAYER", error],
    )


def _trial(trial: Any) -> KindTest:  # noqa: ANN401  # a `LoadCheck` of ensemble.runtime.slot
    """What a client hears of a trial.

    Its code and what that means; the sentence itself is in the log.
    """
    meaning = "" if trial.ok else describe_code(trial.code)
    return {
        "ok": trial.ok,
        "version": trial.version,
        "code": trial.code,
        "message": meaning,
        "elapsed_ms": round(trial.elapsed_ms, 3),
    }


async def _awaited(call: Callable[[], Awaitable[Mapping[Any, Any]]]) -> Mapping[Any, Any]:
    return await call()  # a response of Serve is awaitable, but no coroutine
