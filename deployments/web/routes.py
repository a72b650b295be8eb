"""Routes that declare the scope that they need and their contract, behind authentication.

A route cannot be made without either.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.web.api_keys import Scope
from deployments.web.auth import Authenticator, allows
from deployments.web.browser_guard import BrowserGuard
from deployments.web.contract import Answer, Body, Contract, Json

__all__ = ["AuthenticatedApp", "ScopedRoute", "reject_scope"]

_AUTHENTICATOR = "axon.authenticator"
Endpoint = Callable[[Request], Awaitable[Response]]


class ScopedRoute(Route):
    """A route with the scope that its caller needs, and its contract.

    The arguments that are not listed are those of `Contract`.

    Args:
        path: path pattern of Starlette.
        endpoint: answers a request.
        needs: scope of the caller's key; None for a route without authentication.
        methods: HTTP methods.

    Attributes:
        allowed: the methods of all routes of the application that have this path.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        needs: Scope | None,
        methods: Sequence[str] = ("GET",),
        tag: str,
        summary: str,
        answers: Mapping[int, Answer],
        about: str = "",
        parameters: Sequence[Json] = (),
        body: Body | None = None,
        errors: Sequence[str] = (),
    ) -> None:
        super().__init__(path, _guarded(endpoint, needs), methods=list(methods))
        self.needs = needs
        self.contract = Contract(tag, summary, answers, about, parameters, body, errors)
        self.allowed = frozenset(self.methods or ())

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve a request; another method gets 405 with the methods of all routes of the path."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await super().handle(scope, receive, send)


def reject_scope(request: Request, needs: Scope) -> Response:
    """Answer a caller whose key lacks a scope; the refusal is counted and logged."""
    authenticator: Authenticator = request.scope[_AUTHENTICATOR]
    return authenticator.reject_scope(request.scope, needs)


def _guarded(endpoint: Endpoint, needs: Scope | None) -> Endpoint:
    if needs is None:
        return endpoint

    async def guarded(request: Request) -> Response:
        if not allows(request.scope, needs):
            return reject_scope(request, needs)
        return await endpoint(request)

    return guarded


class AuthenticatedApp(Starlette):
    """A Starlette application that authenticates the caller before it routes.

    Args:
        guard: refuses requests of web pages, before anything else.
        authenticator: called before routing, so that a caller without a key does not learn which
            paths exist.
        routes: all routes.
        **options: options of `Starlette`.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        routes: Sequence[ScopedRoute],
        *,
        guard: BrowserGuard,
        **options: Any,  # noqa: ANN401  # Starlette's
    ) -> None:
        super().__init__(routes=routes, **options)
        self._authenticator, self._guard = authenticator, guard
        self._public = frozenset(
            (method, route.path)
            for route in routes
            if route.needs is None
            for method in route.methods or ()
        )
        for route in routes:
            route.allowed = frozenset(
                method
                for other in routes
                if other.path == route.path
                for method in other.methods or ()
            )

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve one connection or request, as ASGI defines it."""
        scope[_AUTHENTICATOR] = self._authenticator
        rejection = await self._rejection(scope) if scope["type"] == "http" else None
        if rejection is not None:
            await rejection(scope, receive, send)
        else:
            await self._metered(scope, receive, send)

    async def _metered(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inside(scope, receive, send)
            return
        with self._authenticator.metered(scope, receive) as metered:
            await self.inside(scope, metered, send)

    async def _rejection(self, scope: AsgiScope) -> Response | None:
        """Refuse a request, or put its caller into `scope`; a public route needs no caller."""
        code = self._guard.refusal(scope)
        if code:
            return self._authenticator.reject_page(scope, code)
        if (scope["method"], _path_inside(scope)) in self._public:
            self._authenticator.identify(scope)
            return None
        return await self._authenticator.authenticate(scope)

    async def inside(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Serve a request whose caller is authenticated, or whose route is public."""
        await super().__call__(scope, receive, send)


def _path_inside(scope: AsgiScope) -> str:
    """The path without the prefix that the application is served under."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path
