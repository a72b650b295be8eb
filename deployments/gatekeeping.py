"""The gate of an application as its settings want it, with keys that are read again while it serves."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from deployments.config.settings import Settings
from deployments.config.tenants import Tenancy
from deployments.observability.metrics import Meter
from deployments.web.api_keys import KeyRing
from deployments.web.auth import Gate
from deployments.web.rate_limit import Stall, TokenBuckets

__all__ = ["GateKeeper"]

LOOK_EVERY_S = 1.0  # at one small file: a key that is revoked opens nothing two seconds later
STRANGERS_PER_S = 10.0  # requests without a good key that are refused at once: somebody at a terminal never waits
LOOK_WITHIN_S = 1.0  # a start does not wait longer for a slow disk; until then nobody comes in


class GateKeeper:
    """Makes the gate, and keeps its keys.

    Args:
        settings: whether there are keys, where they are, and what a tenant may ask.
        tenancy: what single tenants may ask instead.
        meter: where refusals are counted.
    """

    def __init__(self, settings: Settings, tenancy: Tenancy, meter: Meter) -> None:
        auth = settings.auth
        self._ring = None if auth.mode == "off" else KeyRing(settings.keys)
        limits = TokenBuckets(auth.requests_per_s, auth.burst, of=tenancy.limit)
        strangers = TokenBuckets(STRANGERS_PER_S, STRANGERS_PER_S)
        stall = Stall(auth.stall_s)
        self.gate = Gate(self._ring, limits, strangers=strangers, stall=stall.wait, anonymous=tenancy.generic, meter=meter)
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
            await asyncio.wait({look})  # one at a time: a disk that hangs gets one thread, not one a second
            await asyncio.sleep(LOOK_EVERY_S)
            look = asyncio.create_task(asyncio.to_thread(ring.look))
