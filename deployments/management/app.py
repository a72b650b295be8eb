"""The management application, under /models: models, releases, training jobs and detectors.

It is an application of its own, so that training and promotion never share a process with scoring.
It alone writes models over HTTP. The tenant comes from the API key. Another tenant's things get the
same answer as things that do not exist.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve
from starlette.applications import Starlette
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.config import Settings, Tenants, TrustedStore
from deployments.management.archive_routes import ArchiveRoutes
from deployments.management.caller_registry import CallerRegistry, quota_of
from deployments.management.detection_routes import DETECTORS, DetectionRoutes
from deployments.management.errors import MANAGEMENT_EXCEPTION_HANDLERS
from deployments.management.job_routes import JobRoutes
from deployments.management.jobs import Jobs, Run
from deployments.management.model_routes import ModelRoutes
from deployments.management.openapi import document
from deployments.management.release_routes import ReleaseRoutes
from deployments.management.replicas import Replicas
from deployments.management.request_parsing import BodyReader
from deployments.management.store_executor import StoreExecutor
from deployments.management.training_actor import run_in_ray
from deployments.observability import Meter, RayMeter
from deployments.web import AuthenticatedApp, Authenticator, BrowserGuard, docs_routes, encode
from ensemble.layers import LAYERS

__all__ = ["Manage", "ManageApp", "PrefixedApp"]


SCORING = "axon"  # name of the scoring application in the Serve config file


def layer_of_scoring(layer: str) -> Any:  # noqa: ANN401  # a handle makes its methods dynamically
    """Return the handle of a layer's deployment; blocks.

    Raises:
        KeyError: the scoring application is not running.
    """
    return serve.get_deployment_handle(layer, SCORING)


class PrefixedApp(AuthenticatedApp):
    """An application that is served under a prefix, e.g. `/models`, and answers there too.

    Starlette has no route for an empty path.
    """

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one connection or request, as ASGI defines it."""
        prefix = scope.get("root_path", "")
        if scope["type"] == "http" and prefix and scope["path"] == prefix:
            scope = {**scope, "path": f"{prefix}/"}
        await super().__call__(scope, receive, send)


class ManageApp:
    """The management application: manages the models of all tenants over HTTP.

    Args:
        settings: the settings as JSON values.
        detectors: handle of the deployment that serves tabular detectors.
        layer_handle: layer -> handle of its deployment in the scoring application; may block,
            and raises KeyError where there is none.
        run: runs the fit of a job step by step; None for a Ray process.
        meter: records metrics; None for Ray's meter.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        detectors: Any,  # noqa: ANN401  # a handle makes its methods dynamically
        layer_handle: Callable[[str], Any] | None = None,
        run: Run | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._settings = Settings.model_validate(settings)
        self._tenants = Tenants(self._settings)
        self._authenticator = Authenticator.from_settings(
            self._settings, self._tenants, meter or RayMeter()
        )
        self._executor = StoreExecutor(self._settings)
        registry = CallerRegistry(self._executor, self._tenants, self._settings)
        read_body = BodyReader(
            self._settings.management.max_body_bytes, self._settings.management.max_rows
        )
        self._models = ModelRoutes(registry, read_body, self._settings)
        self._archives = ArchiveRoutes(registry, self._settings)
        self._releases = ReleaseRoutes(registry, read_body)
        trusted, cpus = TrustedStore(self._settings), self._settings.management.training_cpus
        self._jobs = Jobs(
            self._settings,
            lambda actor: replace(trusted(), actor=actor),
            run or partial(run_in_ray, num_cpus=cpus),
            quota=quota_of(self._settings),
        )
        self._training = JobRoutes(self._jobs, self._executor, read_body, self._settings)
        within_s = self._settings.management.replicas_within_s
        find_layer = layer_handle or layer_of_scoring
        self._detection = DetectionRoutes(
            self._authenticator,
            Replicas(DETECTORS, lambda: detectors, within_s),
            {layer: Replicas(layer, partial(find_layer, layer), within_s) for layer in LAYERS},
            registry,
            read_body,
        )

    def __serve_build_asgi_app__(self) -> Starlette:
        """Make the ASGI application inside the replica, since msgspec's decoders do not pickle."""
        routes = [
            *docs_routes("Axon, models", lambda: self._openapi),
            *self._models.first_routes(),
            *self._archives.routes(),
            *self._releases.routes(),
            *self._training.routes(),
            *self._models.routes(),  # from here on, paths begin with a model's name
            *self._detection.routes(),
        ]
        self._openapi = encode(document(self._settings, routes))
        app = PrefixedApp(
            self._authenticator,
            routes,
            guard=BrowserGuard.from_settings(self._settings),
            lifespan=self._lifespan,
            exception_handlers=MANAGEMENT_EXCEPTION_HANDLERS,
        )
        # a redirect would name the internal address at which the front proxy called
        app.router.redirect_slashes = False
        return app

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self._authenticator.start()
        try:
            yield
        finally:
            await self._jobs.stop()
            self._executor.close()
            await self._authenticator.stop()


Manage = serve.ingress()(ManageApp)  # tests use the plain class, without Ray
