"""The ingress follows its tenant's pointer: a promotion is served within seconds, without a restart, and no answer mixes two releases.

The ingress goes first only in asking: it tells the layers which release the pointer names, and fuses with it once all of them
have it, or once they had their time. What cannot be read changes nothing; the release in use goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from deployments.fanout import FanOut
from ensemble.loading import FusionLoader
from ensemble.slot import failure_of

__all__ = ["ReleaseFollower"]

logger = logging.getLogger("ray.serve")
FIRST_LOOK_WITHIN_S = 1.0  # a start does not wait longer for a slow disk
LOOK_EVERY_S = 2.0  # at the pointer: two small files
LAYERS_FOLLOW_WITHIN_S = 10.0  # RELIABILITY P7; a layer that cannot have the new release by then abstains
ASK_AGAIN_AFTER_S = 0.2


class ReleaseFollower:
    """Keeps a fan-out on the release that the pointer names.

    Args:
        fan_out: what is kept.
        fusions: where pointer and release are read.
    """

    def __init__(self, fan_out: FanOut, fusions: FusionLoader) -> None:
        self._fan_out, self._fusions = fan_out, fusions
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look once, so that the first request finds a fusion, and follow from then on."""
        has_looked = asyncio.Event()
        self._following = asyncio.create_task(self._follow(has_looked))
        with suppress(TimeoutError):
            await asyncio.wait_for(has_looked.wait(), FIRST_LOOK_WITHIN_S)

    async def _follow(self, has_looked: asyncio.Event) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001  # the release in use goes on; without one, every verdict is indeterminate
                failure = failure_of(error)
                logger.error("fusion_load_failed", extra={"code": failure.code, "error": failure.message})  # noqa: TRY400
            has_looked.set()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Go over to the pointer's release, if it is another one, once the layers have it.

        Raises:
            ArtifactError: pointer or release cannot be read.
        """
        newest = await asyncio.to_thread(self._fusions.load)
        if newest.name == self._fan_out.release.name:
            return
        if self._fan_out.release.name:
            await self._layers_have(newest.name)
        self._fan_out.serve(newest)

    async def _layers_have(self, name: str) -> None:
        """Wait until every layer has release `name`, but not for ever."""
        until = time.monotonic() + LAYERS_FOLLOW_WITHIN_S
        while time.monotonic() < until:
            said = await self._fan_out.ask_states(name)
            if said.keys() == self._fan_out.layers and all(state.release == name for state, _ in said.values()):
                return
            await asyncio.sleep(ASK_AGAIN_AFTER_S)
