"""The routes for operators: the status of the ensemble, and the switches of its layers.

Reading requires the scope `read`. Switching requires the scope `operate`, which no other scope
implies, because a switch affects all tenants; each is a line of the audit log. Liveness and
readiness are public. Operators can neither publish a model nor trust one here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from deployments.config import Settings
from deployments.observability import log_event
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.status import problem
from deployments.scoring.status_schema import (
    ControlsStatus,
    Health,
    KindTest,
    LayerList,
    LayerTest,
    Live,
    Ready,
    Status,
    SwitchedLayer,
)
from deployments.scoring.tenants import TenantPipelines
from deployments.web import (
    Answer,
    Scope,
    ScopedRoute,
    actor_of,
    allows,
    as_json,
    caller_of,
    describe_code,
    error_response,
    path_parameter,
)
from ensemble.errors import ArtifactError, LayerCrashed, LayerTimeout, LoadTimeout, UnknownLayer
from ensemble.layers import LAYERS
from ensemble.runtime import Controls, LoadCheck
from ensemble.store import NO_TRUST, Action, AuditedAction, Store, Tenant

__all__ = ["OperatorRoutes"]

RECORDED_WITHIN_S = 5.0  # two lines of the audit log, while an operator waits
Endpoint = Callable[[Request], Awaitable[Response]]


class OperatorRoutes:
    """The status of the ensemble, and the switches of its layers.

    Args:
        handles: layer -> handle of its deployment; its `test` does not affect the serving model.
        pipelines: report the status, by tenant.
        switches: the layers that operators disabled.
        spool: counts what became of degraded events.
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
        """Return the routes for the application."""
        return [
            _state_route(
                "/health",
                self._health,
                "Show whether the ensemble is complete; always 200 while the process can respond. "
                "Versions, reasons and names of models are for keys with the scope `read`",
                Health,
                needs=None,
            ),
            *(
                ScopedRoute(
                    path,
                    self._ready,
                    needs=None,
                    tag="state",
                    summary=f"Show whether the service can score; 503 before that{name}",
                    answers={200: Answer(Ready, "It can"), 503: Answer(Ready, "It cannot yet")},
                )
                for path, name in (
                    ("/ready", "; a degraded ensemble is ready"),
                    ("/v2/health/ready", " (route of the Open Inference Protocol)"),
                )
            ),
            _state_route(
                "/v2/health/live",
                self._live,
                "Show that the process responds (route of the Open Inference Protocol)",
                Live,
                needs=None,
            ),
            _state_route(
                "/v1/status",
                self._status,
                "Show the status, version and problem of each layer by kind of event, and the "
                "switches, rollout, pointer and limits",
                Status,
            ),
            _state_route(
                "/v1/layers",
                self._list,
                "List the layers, and whether each has loaded a model",
                LayerList,
            ),
            _switch_route(
                "test",
                self._test,
                "Test whether the models of a layer load; the serving models stay in use",
                LayerTest,
                errors=["TEST_RUNNING"],
            ),
            _switch_route(
                "disable",
                self._disable,
                "Disable a layer: at once on this replica, within seconds on all, and also after a "
                "restart",
            ),
            _switch_route("enable", self._enable, "Enable a layer again"),
            _switch_route(
                "reset",
                self._reset,
                "Clear the failures of a layer: close its circuit breaker and reset its backoff",
            ),
        ]

    async def _health(self, request: Request) -> Response:
        status = await (await self._pipelines.for_tenant()).status()
        is_reader = allows(request.scope, Scope.READ)
        return as_json(status.health() if is_reader else status.public_health())

    async def _live(self, _: Request) -> Response:
        return as_json(Live(live=True))

    async def _ready(self, _: Request) -> Response:
        """Respond whether the service can score; it can even if every layer is down."""
        is_ready = self._pipelines.is_ready
        return as_json(Ready(ready=is_ready), 200 if is_ready else 503)

    async def _status(self, request: Request) -> Response:
        tenant = caller_of(request.scope).tenant
        controls, always = self._switches.controls, self._switches.always_disabled
        pipeline = await self._pipelines.for_tenant(tenant)
        pointer = self._pipelines.watchers[Tenant(pipeline.tenant)].state
        error = pointer.problem
        limits = self._settings.ingress
        detail = (await pipeline.status()).detail()
        if not allows(request.scope, Scope.OPERATE):
            detail.rollout = pipeline.controller.view_of(tenant)
        status = Status(
            **msgspec.structs.asdict(detail),
            controls=ControlsStatus(
                disabled=sorted(controls.disabled | always),
                disabled_by_environment=sorted(always),
                resets=dict(controls.resets),
                rolled_back=dict(controls.rolled_back),
            ),
            version=version("axon"),
            tenant=str(tenant),
            serving_tenant=str(pipeline.tenant),
            wanted=pointer.wanted,
            pointer=pointer.pointer,
            problem=None if error is None else problem(error.code, error.cause),
            challenger=pipeline.evaluation.agreement,
            retro=self._spool.counts(),
            uptime_s=round(time.monotonic() - self._started, 1),
            deadline_ms=limits.deadline_ms,
            max_events=limits.max_events,
        )
        return as_json(status)

    async def _list(self, request: Request) -> Response:
        pipeline = await self._pipelines.for_tenant(caller_of(request.scope).tenant)
        return as_json(LayerList(layers=(await pipeline.status()).summary()))

    async def _test(self, request: Request) -> Response:
        layer = self._named(request)
        # a test loads a second copy of the models; a second test would load a third
        if layer in self._testing:
            return error_response(
                request,
                409,
                "TEST_RUNNING",
                "this layer is being tested now; retry when that test has ended",
            )
        self._testing.add(layer)
        try:
            await self._record_test(request, layer)
        except (ArtifactError, OSError) as error:
            unwritten = "the audit log could not be written, so nothing was tested"
            return _not_written(request, layer, error, unwritten)
        else:
            return as_json(await self._tested(layer))
        finally:
            self._testing.discard(layer)

    async def _record_test(self, request: Request, layer: str) -> None:
        """Write a test into the audit log before it runs; it changes nothing, so it is done."""
        audited = self._audited(request, Action.TEST_LAYER, layer)

        def record() -> None:
            with audited:
                audited.begin()

        async with asyncio.timeout(RECORDED_WITHIN_S):
            await asyncio.to_thread(record)

    async def _tested(self, layer: str) -> LayerTest:
        started = time.monotonic()
        code = ""
        checks: Mapping[Any, Any] = {}
        within_s = self._settings.controls.test_within_s
        try:
            async with asyncio.timeout(within_s):
                checks = await self._handles[layer].test.remote()
        except TimeoutError:
            code = LayerTimeout.code
        # the layer's process died or raised, which is a result of the test
        except Exception as error:  # noqa: BLE001
            code = LayerCrashed.code
            fields = {"layer": layer, "error": str(error), "error_type": type(error).__name__}
            log_event(logging.ERROR, "layer_test_failed", fields)
        for kind, check in checks.items():
            fields = {
                "layer": layer,
                "kind": str(kind),
                "ok": check.ok,
                "code": check.code,
                "error": check.message,
            }
            log_event(logging.INFO if check.ok else logging.WARNING, "layer_tested", fields)
        kinds = {str(kind): _kind_test(check) for kind, check in checks.items()}
        return LayerTest(
            layer=layer,
            ok=bool(kinds) and all(kind.ok for kind in kinds.values()),
            code=code,
            message=describe_code(code),
            elapsed_ms=round((time.monotonic() - started) * 1000.0, 3),
            kinds=kinds,
        )

    async def _disable(self, request: Request) -> Response:
        return await self._switched(request, Action.DISABLE_LAYER, Controls.with_disabled)

    async def _enable(self, request: Request) -> Response:
        return await self._switched(request, Action.ENABLE_LAYER, Controls.with_enabled)

    async def _reset(self, request: Request) -> Response:
        return await self._switched(request, Action.RESET_LAYER, Controls.with_reset)

    async def _switched(
        self, request: Request, action: Action, change: Callable[[Controls, str], Controls]
    ) -> Response:
        layer = self._named(request)
        audited = self._audited(request, action, layer)
        try:
            controls = await self._switches.update(lambda now: change(now, layer), audited)
        except (ArtifactError, OSError, ValueError) as error:
            failed = "the switch could not be written, so nothing was changed; the log says why"
            hangs = (
                "the disk does not respond: the switch applies once it is written; "
                "GET /v1/layers shows whether it is"
            )
            message = hangs if isinstance(error, LoadTimeout) else failed
            return _not_written(request, layer, error, message)
        is_fixed = layer in self._switches.always_disabled
        return as_json(
            SwitchedLayer(
                layer=layer,
                enabled=layer not in controls.disabled and not is_fixed,
                disabled_by_environment=is_fixed,
                resets=controls.resets.get(layer, 0),
            )
        )

    def _audited(self, request: Request, action: Action, layer: str) -> AuditedAction:
        """The action of a caller on a layer, for the audit log."""
        settings = self._settings
        store = Store(settings.state, settings.shipped, NO_TRUST, actor_of(request))
        return AuditedAction(store, caller_of(request.scope).tenant, action, f"layer {layer}")

    def _named(self, request: Request) -> str:
        """The layer that the path names.

        Raises:
            UnknownLayer: there is no such layer.
        """
        layer: str = request.path_params["layer"]
        if layer not in self._handles:
            raise UnknownLayer(", ".join(self._handles))
        return layer


def _not_written(request: Request, layer: str, error: Exception, message: str) -> Response:
    """Answer that an act on a layer was not recorded or stored; the log has the error."""
    fields = {"layer": layer, "error": str(error), "error_type": type(error).__name__}
    log_event(logging.ERROR, "controls_not_kept", fields)
    return error_response(request, 503, "CONTROLS_NOT_KEPT", message)


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
    errors: Sequence[str] = (),
) -> ScopedRoute:
    return ScopedRoute(
        f"/v1/layers/{{layer}}/{verb}",
        endpoint,
        needs=Scope.OPERATE,
        methods=["POST"],
        tag="switches",
        summary=summary,
        parameters=[
            path_parameter(
                "layer", {"type": "string", "enum": list(LAYERS)}, "Name of the layer", "behavior"
            )
        ],
        answers={200: Answer(schema, "The result")},
        errors=["UNKNOWN_LAYER", "CONTROLS_NOT_KEPT", *errors],
    )


def _kind_test(check: LoadCheck) -> KindTest:
    """Convert the result of a load check for the client; only the log has the error's text."""
    return KindTest(
        ok=check.ok,
        version=check.version,
        code=check.code,
        message="" if check.ok else describe_code(check.code),
        elapsed_ms=round(check.elapsed_ms, 3),
    )
