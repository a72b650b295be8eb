"""Rate limits: a token bucket for each tenant, and a tarpit for callers above it (P21).

Each ingress replica has its own buckets, so that a request waits for no other process. A tenant
gets its rate once in every ingress replica: a limit protects the replica, it is not a quota.
Source: Turner, "New directions in communications", IEEE Communications 24(10), 1986: the leaky
bucket as a meter, seen from below.

A refusal alone stops no flood: it costs about as much as a small answer, and a caller that repeats
at once is refused thousands of times a second. So a refusal above the rate is sent late.
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

# share by which a wait is stretched at most, so that those who were refused together do not come
# back together
SPREAD = 0.5
ROUNDING = (
    1e-6  # of a request: who waited as long as was said is not refused for the last bit of a float
)
# of the 1,000 requests that an ingress replica holds: those who are not refused keep their room
TARPITTED_AT_ONCE = 256
FEW = 1024  # buckets that are kept without a thought: a hundred kilobytes


def _nothing_of_its_own(_: Tenant) -> Limit | None:
    return None


class TokenBuckets:
    """What each tenant may still ask now. Not for threads: one event loop asks.

    Args:
        requests_per_s: by which a bucket fills, > 0.
        burst: what a bucket holds at most, >= 1: what a tenant that was quiet may ask at once.
        of: a tenant's own limit, or None; asked in every request, so it must touch no disk. A
            change holds from the next request on.
        clock: a monotonic one, seconds.
        jitter: random numbers in [0, 1).
    """

    def __init__(
        self,
        requests_per_s: float,
        burst: float,
        *,
        of: Callable[[Tenant], Limit | None] = _nothing_of_its_own,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not (requests_per_s > 0 and burst >= 1):
            raise ValueError(
                "a bucket that does not fill, or holds less than one request, admits nobody"
            )
        self._requests_per_s, self._burst, self._of, self._clock, self._jitter = (
            requests_per_s,
            burst,
            of,
            clock,
            jitter,
        )
        self._buckets: dict[
            Tenant, tuple[float, float]
        ] = {}  # tenant -> level, and when it was that; who is not here has a full one
        self._sweep_above = FEW

    def consume(self, tenant: Tenant, cost: float = 1) -> float:
        """Admit a request that costs so much, or say how long to wait.

        A request is admitted when the bucket holds its cost. One that costs more than a whole burst
        would never be, and a batch must be possible at all: it is admitted once the bucket is full,
        and leaves it in debt, down to minus `burst`. The debt is paid by waiting, so the rate holds
        for costs of up to twice the burst; what is above that is forgiven. Who is refused pays
        nothing.

        Args:
            tenant: who asks.
            cost: in requests, > 0.

        Returns:
            0.0 when admitted; else whole seconds, at least 1, after which it would be if nothing
            else is asked until then, with up to
            half of it more by chance.
        """
        if not cost > 0:
            raise ValueError(f"a request costs something, not {cost!r}")
        rate, burst = self._limit_of(tenant)
        now = self._clock()
        level = self._level(tenant, now, rate, burst)
        needed = min(cost, burst)
        if level >= needed - ROUNDING:
            self._buckets[tenant] = max(level - cost, -burst), now
            self._sweep(now)
            return 0.0
        return float(max(1, math.ceil((needed - level) / rate * (1.0 + SPREAD * self._jitter()))))

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
        """Forget full buckets, whenever there are twice as many as after the last time."""
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
        seconds: of each wait, with up to half of it more by chance, so that they do not come
            back all at once; 0 refuses at once.
        most: that wait at a time; whoever comes then is refused at once, for a wait takes room
            from those who are not refused.
        sleep: waits so many seconds.
        jitter: random numbers in [0, 1).
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
        """Return when the refusal may be told."""
        if self._waiting >= self._most:
            return
        self._waiting += 1
        try:
            await self._sleep(self._seconds * (1.0 + SPREAD * self._jitter()))
        finally:
            self._waiting -= 1
