"""Rate limits: a token bucket for each tenant, and a tarpit for callers above it (P21).

Each ingress replica has its own buckets, so that no request waits for another process. A tenant
therefore gets its rate once in every ingress replica: the limit protects the replica, it is not a
quota.
Source: Turner, "New directions in communications", IEEE Communications 24(10), 1986: the leaky
bucket as a meter, seen from below.

A refusal alone stops no flood: it costs about as much as a small answer, and a caller that retries
at once would be refused thousands of times a second. So a refusal above the rate is sent late.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable

from deployments.config import Limit
from ensemble.store import Tenant

__all__ = ["Tarpit", "TokenBuckets"]

# share by which a wait is lengthened at most, by chance: callers that were refused together do not
# retry together
SPREAD = 0.5
# in requests: a caller that waited as long as it was told is not refused for a rounding error
ROUNDING = 1e-6
# of the 128 requests that the front proxy lets to an ingress replica: the rest is for other callers
TARPITTED_AT_ONCE = 32
FEW = 1024  # buckets that are never swept: they take a hundred kilobytes


def _no_own_limit(_: Tenant) -> Limit | None:
    return None


class TokenBuckets:
    """A token bucket for each tenant. Not thread-safe: one event loop uses it.

    Args:
        requests_per_s: rate at which a bucket fills, > 0.
        burst: capacity of a bucket, >= 1: requests that an idle tenant may send at once.
        of: returns a tenant's own limit, or None. Called in every request, so it must not use the
            disk. A changed limit holds from the next request on.
        clock: monotonic clock, seconds.
        jitter: returns random numbers in [0, 1).
    """

    def __init__(
        self,
        requests_per_s: float,
        burst: float,
        *,
        of: Callable[[Tenant], Limit | None] = _no_own_limit,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not (requests_per_s > 0 and burst >= 1):
            raise ValueError(
                "requests_per_s must be above 0 and burst at least 1, or no request is admitted"
            )
        self._requests_per_s, self._burst, self._of, self._clock, self._jitter = (
            requests_per_s,
            burst,
            of,
            clock,
            jitter,
        )
        # tenant -> level and the time of that level; a tenant without an entry has a full bucket
        self._buckets: dict[Tenant, tuple[float, float]] = {}
        self._sweep_above = FEW

    def consume(self, tenant: Tenant, cost: float = 1) -> float:
        """Admit a request and take its cost from the bucket, or return how long to wait.

        A request is admitted when the bucket holds its cost. A batch that costs more than `burst`
        is admitted once the bucket is full, and leaves it in debt, down to minus `burst`. The debt
        delays later requests, so the rate holds for costs of up to twice the burst; cost above that
        is not counted. A refused request costs nothing.

        Args:
            tenant: tenant of the caller.
            cost: in requests, > 0.

        Returns:
            0.0 when admitted; else whole seconds, at least 1, after which the request would be
            admitted if the tenant sent no other, plus up to half as much again by chance.
        """
        if not cost > 0:
            raise ValueError(f"the cost of a request must be above 0, not {cost!r}")
        rate, burst = self._limit_of(tenant)
        now = self._clock()
        level = self._level(tenant, now, rate, burst)
        needed = min(cost, burst)
        if level >= needed - ROUNDING:
            self._buckets[tenant] = max(level - cost, -burst), now
            self._sweep(now)
            return 0.0
        return float(max(1, math.ceil((needed - level) / rate * (1.0 + SPREAD * self._jitter()))))

    def debit(self, tenant: Tenant, cost: float) -> None:
        """Take the cost of what a tenant already did; beyond the level, it delays later requests.

        Args:
            tenant: tenant of the caller.
            cost: in requests, >= 0.
        """
        rate, burst = self._limit_of(tenant)
        now = self._clock()
        self._buckets[tenant] = max(self._level(tenant, now, rate, burst) - cost, -burst), now
        self._sweep(now)

    def _limit_of(self, tenant: Tenant) -> tuple[float, float]:
        own = self._of(tenant)
        if own is None:
            return self._requests_per_s, self._burst
        return (
            self._requests_per_s if own.requests_per_s is None else own.requests_per_s,
            self._burst if own.burst is None else own.burst,
        )

    def _level(self, tenant: Tenant, now: float, rate: float, burst: float) -> float:
        level, at = self._buckets.get(tenant, (burst, now))
        return min(burst, level + (now - at) * rate)

    def _sweep(self, now: float) -> None:
        """Drop full buckets once there are twice as many buckets as after the last sweep."""
        if len(self._buckets) <= self._sweep_above:
            return
        self._buckets = {
            tenant: bucket
            for tenant, bucket in self._buckets.items()
            if not self._is_full(tenant, now)
        }
        self._sweep_above = max(FEW, 2 * len(self._buckets))

    def _is_full(self, tenant: Tenant, now: float) -> bool:
        rate, burst = self._limit_of(tenant)
        return self._level(tenant, now, rate, burst) >= burst


class Tarpit:
    """Delay the refusals of callers above their rate.

    A connection is then refused a few times a second, not hundreds of times.

    Args:
        seconds: length of each wait, plus up to half as much again by chance, so that callers do
            not all retry at once; 0 refuses at once.
        most: waits at a time; beyond that, refusals are sent at once, because a waiting request
            takes room from callers within their rate.
        sleep: waits the given number of seconds.
        jitter: returns random numbers in [0, 1).
    """

    def __init__(
        self,
        seconds: float,
        most: int = TARPITTED_AT_ONCE,
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._seconds, self._most, self._sleep, self._jitter = seconds, most, sleep, jitter
        self._waiting = 0

    async def wait(self) -> None:
        """Return when the refusal may be sent."""
        if self._waiting >= self._most:
            return
        self._waiting += 1
        try:
            await self._sleep(self._seconds * (1.0 + SPREAD * self._jitter()))
        finally:
            self._waiting -= 1
