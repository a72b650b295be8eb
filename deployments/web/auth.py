"""Who asks, and what they may: a gate before every route, and a scope on each.

The gate is the outermost layer of an application. It finds the caller by the key of the request,
holds the tenant to its rate, and
only then lets the request in; nothing of the body has been read by then. Who asks too much, or
knocks too often without a key, is
refused late, see `limits`. The tenant comes from the key, never from the request.
Whatever is wrong with a key, the answer is one and the same, so that nobody can learn which keys
exist.
What a route needs is written where the route is made, so that none can be without.

Source: RFC 6750, bearer tokens; RFC 6585, 429.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from deployments.config.settings import Settings
from deployments.config.tenants import Tenants
from deployments.observability.log import LogThrottle, log_event
from deployments.web.api_keys import Key, KeyRing, Scope
from deployments.web.errors import error_response
from deployments.web.rate_limit import Tarpit, TokenBuckets
from ensemble.errors import RateLimited
from ensemble.store.names import Tenant

if TYPE_CHECKING:  # its module loads Ray, which a face must not
    from deployments.observability.metrics import Meter

__all__ = [
    "AuthenticatedApp",
    "Authenticator",
    "Caller",
    "GateKeeper",
    "Keys",
    "Limits",
    "ScopedRoute",
    "allows",
    "caller_of",
    "client_of",
]

LOOK_EVERY_S = 1.0  # at one small file: a key that is revoked opens nothing two seconds later
STRANGERS_PER_S = (
    10.0  # requests without a good key that are refused at once: somebody at a terminal never waits
)
LOOK_WITHIN_S = 1.0  # a start does not wait longer for a slow disk; until then nobody comes in


UNAUTHORIZED, FORBIDDEN = "UNAUTHORIZED", "FORBIDDEN"
NO_KEY = "this needs a key: Authorization: Bearer axon_...; `axon keys create` makes one"
_CALLER, _GATE = "axon.caller", "axon.gate"
_AUTHORIZATION, _BEARER = b"authorization", b"bearer "
LONGEST_TOKEN = 256  # bytes; a key is 57
# requests that one more event of a batch costs: measured, 1,000 in one request take as long as 50
# single ones
EVENT_COST = 0.05


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        tenant: whose models answer, and whose resources are seen.
        scopes: what they may do.
        key_id: of their key, "" where keys are off.
    """

    tenant: Tenant
    scopes: frozenset[Scope]
    key_id: str


class Keys(Protocol):
    """Where keys are found."""

    def find(self, token: str) -> Key | None:
        """The key that `token` spells, None where it is none that may be used now.

        Costs the same either way.
        """
        ...


class Limits(Protocol):
    """What a tenant may ask in a second."""

    def take(self, tenant: Tenant, cost: float = 1.0) -> float:
        """0.0 where it may, else the seconds after which it may."""
        ...


def caller_of(scope: AsgiScope) -> Caller:
    """Who asks, as the gate found it."""
    caller: Caller = scope[_CALLER]
    return caller


def allows(scope: AsgiScope, needs: Scope) -> bool:
    """Whether the caller of a request has a scope; for a way past the routes."""
    caller: Caller | None = scope.get(_CALLER)
    return caller is not None and needs in caller.scopes


def client_of(request: HTTPConnection) -> str:
    """The address that asks, for the audit log; that of the front proxy where there is one."""
    return request.client.host if request.client else ""


class ScopedRoute(Route):
    """A route that says what its caller needs.

    Args:
        path: as Starlette has it.
        endpoint: likewise.
        needs: the scope; None is open to anybody, without a key too.
        methods: likewise; GET unless said otherwise.

    Attributes:
        allowed: the methods of all routes of an application that have this path.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[[Request], Awaitable[Response]],
        *,
        needs: Scope | None,
        methods: Sequence[str] = ("GET",),
    ) -> None:
        super().__init__(path, _guarded(endpoint, needs), methods=list(methods))
        self.needs = needs
        self.allowed = frozenset(self.methods or ())

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answer; or say which methods the path takes, by whichever of its routes."""
        if scope["method"] not in (self.methods or ()):
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(self.allowed))})
        await super().handle(scope, receive, send)


def _guarded(
    endpoint: Callable[[Request], Awaitable[Response]], needs: Scope | None
) -> Callable[[Request], Awaitable[Response]]:
    if needs is None:
        return endpoint

    async def guarded(request: Request) -> Response:
        if not allows(request.scope, needs):
            gate: Authenticator = request.scope[_GATE]
            return gate.forbid(request.scope, needs)
        return await endpoint(request)

    return guarded


class Authenticator:
    """Finds the caller of a request, and says who may not come in.

    Args:
        keys: where keys are found; None where they are off, and everybody is `anonymous` with
            every scope and without a limit.
        limits: of each tenant's requests.
        strangers: of the requests without a key that are refused at once, all together.
        stall: lets a caller wait for a refusal.
        anonymous: the tenant of everybody where keys are off.
        meter: where refusals are counted.
        clock: seconds that only rise; paces the log.
    """

    def __init__(
        self,
        keys: Keys | None,
        limits: Limits,
        *,
        strangers: Limits,
        stall: Callable[[], Awaitable[None]],
        anonymous: Tenant,
        meter: Meter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._limits, self._strangers, self._stall, self._meter = (
            keys,
            limits,
            strangers,
            stall,
            meter,
        )
        self._anybody = Caller(anonymous, frozenset(Scope), "")
        self._pace = LogThrottle(clock)

    async def admit(self, scope: AsgiScope) -> Response | None:
        """Put the caller into `scope`, or answer why there is none to let in.

        Reads nothing of the body; waits only to refuse.
        """
        if self._keys is None:
            scope[_CALLER] = self._anybody
            return None
        token = _token_of(scope["headers"])
        key = self._keys.find(token)
        if key is None:
            if self._strangers.take(self._anybody.tenant):
                await self._stall()
            return self._refused(scope, 401, UNAUTHORIZED, NO_KEY, {"WWW-Authenticate": "Bearer"})
        if wait_s := self._limits.take(key.tenant):
            await self._stall()
            return self._refused(
                scope,
                429,
                RateLimited.code,
                str(RateLimited(int(wait_s))),
                {"Retry-After": str(int(wait_s))},
                key,
            )
        scope[_CALLER] = Caller(key.tenant, key.scopes, key.id)
        return None

    def forbid(self, scope: AsgiScope, needs: Scope) -> Response:
        """The answer to a caller whose key lacks a scope."""
        caller = caller_of(scope)
        self._count(FORBIDDEN, caller.key_id, caller.tenant)
        return error_response(
            Request(scope),
            403,
            FORBIDDEN,
            f"this key may not do that: it needs the scope `{needs}`",
        )

    async def charge(self, caller: Caller, events: int) -> None:
        """Count a batch of events, of which the gate has counted one as a request.

        Raises:
            RateLimited: the tenant has had enough for now.
        """
        if (
            self._keys is not None
            and events > 1
            and (wait_s := self._limits.take(caller.tenant, EVENT_COST * (events - 1)))
        ):
            self._count(RateLimited.code, caller.key_id, caller.tenant)
            await self._stall()
            raise RateLimited(int(wait_s))

    def _refused(
        self,
        scope: AsgiScope,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str],
        key: Key | None = None,
    ) -> Response:
        self._count(code, key.id if key else "", key.tenant if key else "")
        response = error_response(Request(scope), status, code, message)
        response.headers.update(headers)
        return response

    def _count(self, code: str, key_id: str, tenant: str) -> None:
        self._meter.count("axon_requests_refused_total", code=code)
        suppressed = self._pace.again(("request_refused", f"{code} {tenant}"))
        if suppressed is not None:
            log_event(
                logging.WARNING,
                "request_refused",
                {"code": code, "key": key_id, "tenant": str(tenant), "suppressed": suppressed},
            )


class AuthenticatedApp(Starlette):
    """Starlette behind a gate: every route but those that need no scope is for who has a key.

    Args:
        gate: asked first, whatever the path: who has no key does not learn which paths there are.
        routes: each a `ScopedRoute`.
        **options: Starlette's own.
    """

    # Starlette's
    def __init__(self, gate: Authenticator, routes: Sequence[ScopedRoute], **options: Any) -> None:  # noqa: ANN401
        super().__init__(routes=routes, **options)
        self._gate = gate
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
        """Serve one connection or request, as ASGI says."""
        scope[_GATE] = self._gate
        if scope["type"] == "http" and (scope["method"], _path_inside(scope)) not in self._public:
            refusal = await self._gate.admit(scope)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self.inside(scope, receive, send)

    async def inside(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """What is behind the gate."""
        await super().__call__(scope, receive, send)


def _path_inside(scope: AsgiScope) -> str:
    """The path as the application's own routes have it, without the prefix that it is served under."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    return path[len(prefix) :] if path.startswith(f"{prefix}/") else path


def _token_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The bearer token of a request.

    "" where there is none, more than one, or one that is none of ours by its length alone.
    """
    found = [value for name, value in headers if name == _AUTHORIZATION]
    if len(found) != 1 or len(found[0]) > LONGEST_TOKEN or not found[0].lower().startswith(_BEARER):
        return ""
    return found[0][len(_BEARER) :].decode("ascii", "replace")


class GateKeeper:
    """Makes the gate, and keeps its keys.

    Args:
        settings: whether there are keys, where they are, and what a tenant may ask.
        tenancy: what single tenants may ask instead.
        meter: where refusals are counted.
    """

    def __init__(self, settings: Settings, tenancy: Tenants, meter: Meter) -> None:
        auth = settings.auth
        self._ring = None if auth.mode == "off" else KeyRing(settings.keys)
        limits = TokenBuckets(auth.requests_per_s, auth.burst, of=tenancy.limit)
        strangers = TokenBuckets(STRANGERS_PER_S, STRANGERS_PER_S)
        stall = Tarpit(auth.stall_s)
        self.gate = Authenticator(
            self._ring,
            limits,
            strangers=strangers,
            stall=stall.wait,
            anonymous=tenancy.generic,
            meter=meter,
        )
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys, and again and again from then on."""
        if self._ring is not None:
            first = asyncio.create_task(asyncio.to_thread(self._ring.look))
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(first), LOOK_WITHIN_S)
            self._looking = asyncio.create_task(self._look_for_ever(self._ring, first))

    async def stop(self) -> None:
        """Read them no longer."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_for_ever(self, ring: KeyRing, look: asyncio.Task[None]) -> None:
        while True:
            await asyncio.wait(
                {look}
            )  # one at a time: a disk that hangs gets one thread, not one a second
            await asyncio.sleep(LOOK_EVERY_S)
            look = asyncio.create_task(asyncio.to_thread(ring.look))
