"""Authentication: an API key identifies the caller and its tenant before any route is reached.

The tenant comes from the key, never from the request, and nothing of the body is read before.
Whatever is wrong with a key, the answer is the same, so that callers cannot learn which keys exist.
A tenant above its rate, and a caller that tries too often without a key, get their refusal late,
see `rate_limit`.

Source: RFC 6750, bearer tokens; RFC 6585, 429.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Message, Receive
from starlette.types import Scope as AsgiScope

from deployments.config import Settings, Tenants
from deployments.observability import LogThrottle, Meter, log_event
from deployments.poller import Poller
from deployments.web.api_keys import Key, Scope
from deployments.web.body import announced_bytes
from deployments.web.errors import describe_code, error_response, status_of
from deployments.web.key_ring import KeyRing
from deployments.web.rate_limit import Tarpit, TokenBuckets
from ensemble.errors import RateLimited
from ensemble.store import Actor, Tenant

__all__ = [
    "Authenticator",
    "Caller",
    "Keys",
    "Limits",
    "actor_of",
    "allows",
    "caller_of",
]

RELOAD_EVERY_S = 1.0  # one small file: a revoked key is refused two seconds later
# a start waits no longer for a slow disk; until the first load every key is refused
FIRST_LOAD_WITHIN_S = 1.0
UNAUTHENTICATED_PER_S = 10.0
"""Requests without a valid key that are refused at once; a person at a terminal never waits."""

UNAUTHORIZED, FORBIDDEN = "UNAUTHORIZED", "FORBIDDEN"
NO_KEY = "an API key is needed: Authorization: Bearer axon_...; `axon keys create` makes one"
_CALLER = "axon.caller"
_AUTHORIZATION, _BEARER = b"authorization", b"bearer "
_TRANSFER_ENCODING = b"transfer-encoding"
SMALL_BODY_BYTES = 16_384  # what the front proxy reads itself; a slow sender of it takes no place
BODIES_AT_ONCE = 32
"""Larger bodies that a tenant may send at a time; one ingress replica holds 1,000 requests."""
NO_KEY_ID = "auth off"
LONGEST_TOKEN = 256  # bytes; a key is 57
EVENT_COST = 0.05
"""Requests that each further event of a batch costs: measured, 1,000 events in one request take as
long as 50 requests of one event."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a request.

    Attributes:
        tenant: tenant whose models score, and whose resources are visible.
        scopes: what the caller may do.
        key_id: id of the key; "" where authentication is off.
    """

    tenant: Tenant
    scopes: frozenset[Scope]
    key_id: str


class Keys(Protocol):
    """A set of keys, such as a `KeyRing`."""

    def find(self, token: str) -> Key | None:
        """Return the key that `token` spells, or None for a token without a valid key.

        Both take the same time.
        """
        ...

    @property
    def tenants(self) -> frozenset[str]:
        """The tenants that have a key."""
        ...

    def reload(self) -> None:
        """Read the keys again; blocks."""
        ...

    def log_problem(self, error: Exception) -> None:
        """Log the error of a reload that raised, once and on change."""
        ...


class Limits(Protocol):
    """A limit on the requests of each tenant, such as `TokenBuckets`."""

    def consume(self, tenant: Tenant, cost: float = 1.0) -> float:
        """Admit a request and return 0.0, or return the seconds to wait before a retry."""
        ...

    def debit(self, tenant: Tenant, cost: float) -> None:
        """Take the cost of what the tenant already did."""
        ...


def caller_of(scope: AsgiScope) -> Caller:
    """Return the caller that was authenticated for this request."""
    caller: Caller = scope[_CALLER]
    return caller


def allows(scope: AsgiScope, needs: Scope) -> bool:
    """Whether the caller of a request has a scope."""
    caller: Caller | None = scope.get(_CALLER)
    return caller is not None and needs in caller.scopes


def actor_of(request: HTTPConnection) -> Actor:
    """Return the caller as the audit log names it; behind a front proxy, with its address."""
    where = request.client.host if request.client else ""
    return Actor(caller_of(request.scope).key_id or NO_KEY_ID, where)


class Authenticator:
    """Identifies the caller of each request by its key, and refuses requests above a rate.

    Args:
        keys: the valid keys; None where authentication is off: then every caller acts for
            `anonymous`, with every scope and without a limit.
        limits: on the requests of each tenant.
        unauthenticated: on the requests without a valid key that are refused at once, in total.
        tarpit: delays the other refusals.
        anonymous: the tenant of every caller where authentication is off.
        meter: counts refusals.
        bytes_per_request: a body costs one more request for each so many bytes.
        clock: monotonic seconds; paces the log.
    """

    def __init__(
        self,
        keys: Keys | None,
        limits: Limits,
        *,
        unauthenticated: Limits,
        tarpit: Tarpit,
        anonymous: Tenant,
        meter: Meter,
        bytes_per_request: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_request = bytes_per_request
        self._bodies: Counter[Tenant] = Counter()  # large ones that come now
        self._keys, self._limits, self._tarpit, self._meter = keys, limits, tarpit, meter
        self._unauthenticated = unauthenticated
        self._anonymous = Caller(anonymous, frozenset(Scope), "")
        self._throttle = LogThrottle(clock)
        self._poller = Poller(self._reload, every_s=RELOAD_EVERY_S, on_error=self._reload_failed)

    @classmethod
    def from_settings(cls, settings: Settings, tenants: Tenants, meter: Meter) -> Authenticator:
        """Authenticate by the key file of `settings`, with its limits and those of `tenants`."""
        auth = settings.auth
        return cls(
            None if auth.mode == "off" else KeyRing(settings.keys),
            TokenBuckets(auth.requests_per_s, auth.burst, of=tenants.limit),
            unauthenticated=TokenBuckets(UNAUTHENTICATED_PER_S, UNAUTHENTICATED_PER_S),
            tarpit=Tarpit(auth.stall_s),
            anonymous=tenants.generic,
            meter=meter,
            bytes_per_request=auth.bytes_per_request,
        )

    @property
    def has_many_tenants(self) -> bool:
        """Whether callers of more than one tenant may call."""
        return self._keys is not None and len(self._keys.tenants) > 1

    async def start(self) -> None:
        """Read the keys, and read them again every second."""
        if self._keys is not None:
            await self._poller.start(within_s=FIRST_LOAD_WITHIN_S)

    async def stop(self) -> None:
        """Stop reading the keys."""
        await self._poller.stop()

    async def _reload(self) -> None:
        if self._keys is not None:
            await asyncio.to_thread(self._keys.reload)

    def _reload_failed(self, error: Exception) -> None:
        if self._keys is not None:
            self._keys.log_problem(error)

    def identify(self, scope: AsgiScope) -> Caller | None:
        """Put the caller into `scope` if its key is valid, and return it; refuse nothing."""
        caller = self._anonymous if self._keys is None else _caller_by_key(self._keys, scope)
        if caller is not None:
            scope[_CALLER] = caller
        return caller

    async def authenticate(self, scope: AsgiScope) -> Response | None:
        """Put the caller into `scope`, or return the refusal.

        Reads nothing of the body; waits only to refuse.
        """
        caller = self.identify(scope)
        if caller is None:
            if self._unauthenticated.consume(self._anonymous.tenant):
                await self._tarpit.wait()
            challenge = {"WWW-Authenticate": "Bearer"}
            return self._refusal(scope, 401, UNAUTHORIZED, NO_KEY, challenge)
        if self._keys is not None and (wait_s := self._limits.consume(caller.tenant)):
            await self._tarpit.wait()
            limited, headers = RateLimited(int(wait_s)), {"Retry-After": str(int(wait_s))}
            return self._refusal(scope, 429, limited.code, str(limited), headers, caller)
        return None if self._keys is None else self._too_many_bodies(scope, caller)

    def _too_many_bodies(self, scope: AsgiScope, caller: Caller) -> Response | None:
        """Refuse a large body while the caller's tenant sends as many as it may at a time."""
        if not self._is_large(scope) or self._bodies[caller.tenant] < BODIES_AT_ONCE:
            return None
        limited, headers = RateLimited(1), {"Retry-After": "1"}
        return self._refusal(scope, 429, limited.code, str(limited), headers, caller)

    @contextmanager
    def metered(self, scope: AsgiScope, receive: Receive) -> Iterator[Receive]:
        """Debit the caller's tenant with the bytes of a large body, and count it until it has come.

        The bytes are debited as they come: a body that is refused by its length costs nothing, and
        what was read delays later requests.

        Yields:
            The `receive` to use in place of the one given.
        """
        caller: Caller | None = scope.get(_CALLER)
        if self._keys is None or caller is None or not self._is_large(scope):
            yield receive
            return
        tenant, is_open = caller.tenant, True

        def close() -> None:
            nonlocal is_open
            if is_open:
                is_open = False
                self._bodies[tenant] -= 1
                self._bodies += Counter()  # forget tenants without one

        async def receive_and_debit() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            self._limits.debit(tenant, size / self._bytes_per_request)
            if not message.get("more_body", False):
                close()
            return message

        self._bodies[tenant] += 1
        try:
            yield receive_and_debit
        finally:
            close()

    @staticmethod
    def _is_large(scope: AsgiScope) -> bool:
        """Whether the front proxy passes a body on before it has all of it."""
        headers = scope["headers"]
        is_chunked = any(name == _TRANSFER_ENCODING for name, _ in headers)
        return is_chunked or announced_bytes(headers) > SMALL_BODY_BYTES

    def reject_scope(self, scope: AsgiScope, needs: Scope) -> Response:
        """Answer a caller whose key lacks a scope."""
        caller = caller_of(scope)
        self._count(FORBIDDEN, caller.key_id, caller.tenant)
        message = f"this key lacks the scope `{needs}`, which this request needs"
        return error_response(Request(scope), 403, FORBIDDEN, message)

    def reject_page(self, scope: AsgiScope, code: str) -> Response:
        """Answer a request of a web page that the browser guard refused with `code`."""
        return self._refusal(scope, status_of(code), code, describe_code(code), {})

    async def consume(self, caller: Caller, events: int) -> None:
        """Count a batch of events against the tenant's rate; the first is counted as the request.

        Raises:
            RateLimited: the tenant is above its rate.
        """
        if self._keys is None or events <= 1:
            return
        if wait_s := self._limits.consume(caller.tenant, EVENT_COST * (events - 1)):
            self._count(RateLimited.code, caller.key_id, caller.tenant)
            await self._tarpit.wait()
            raise RateLimited(int(wait_s))

    def _refusal(
        self,
        scope: AsgiScope,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str],
        caller: Caller | None = None,
    ) -> Response:
        self._count(code, caller.key_id if caller else "", caller.tenant if caller else "")
        response = error_response(Request(scope), status, code, message)
        response.headers.update(headers)
        return response

    def _count(self, code: str, key_id: str, tenant: str) -> None:
        self._meter.count("axon_requests_refused_total", code=code)
        suppressed = self._throttle.again(("request_refused", f"{code} {tenant}"))
        if suppressed is not None:
            fields = {"code": code, "key": key_id, "tenant": str(tenant), "suppressed": suppressed}
            log_event(logging.WARNING, "request_refused", fields)


def _caller_by_key(keys: Keys, scope: AsgiScope) -> Caller | None:
    token = _token_of(scope["headers"])
    key = keys.find(token) if token else None
    return None if key is None else Caller(key.tenant, key.scopes, key.id)


def _token_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the bearer token of a request.

    "" where there is none, more than one, or one that is too long for a key.
    """
    found = [value for name, value in headers if name == _AUTHORIZATION]
    if len(found) != 1 or len(found[0]) > LONGEST_TOKEN or not found[0].lower().startswith(_BEARER):
        return ""
    return found[0][len(_BEARER) :].decode("ascii", "replace")
