"""One batch, every layer, one deadline: the opinions that came are fused, the others are named as silent.

The deadline is spent from the moment the oldest event of the batch came in, and lives here: Ray's own timeout can be switched off
by a header of the client. A layer that is late is a missing layer, never a late answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from deployments.health import SystemView, see_system
from deployments.settings import FusionSettings
from ensemble.errors import LayerCrashed, LayerTimeout
from ensemble.events import EventBatch
from ensemble.loading import LAYERS, ReleaseFusion
from ensemble.slot import ANY_RELEASE, SlotState
from ensemble.verdicts import LayerScores, LayerStatus, Verdicts

__all__ = ["FanOut", "LayerCall"]

logger = logging.getLogger("ray.serve")
LayerCall = Callable[[EventBatch, str, bool], Awaitable[LayerScores]]
StateCall = Callable[[str], Awaitable[tuple[SlotState, str]]]
LEAST_SHARE_OF_DEADLINE = 0.1  # what a batch keeps although its events waited: promise P18 allows the deadline + 10 %
VIEW_KEPT_S = 1.0  # /health is asked by every probe of every node: layers are asked once a second at most


class FanOut:
    """Asks every layer at once and fuses what came.

    Args:
        calls: layer -> its scoring call.
        states: layer -> its state call.
        deadline_s: seconds an event has from its arrival to its opinions.
        fusion_settings: what the operator set of the fusion.
    """

    def __init__(
        self,
        *,
        calls: Mapping[str, LayerCall],
        states: Mapping[str, StateCall],
        deadline_s: float,
        fusion_settings: FusionSettings,
    ) -> None:
        self._calls, self._states = calls, states
        self._deadline_s, self._fusion_settings = deadline_s, fusion_settings
        self._release = ReleaseFusion()
        self._view: tuple[float, SystemView] | None = None
        self._viewing = asyncio.Lock()

    @property
    def release(self) -> ReleaseFusion:
        """What is fused with now."""
        return self._release

    @property
    def layers(self) -> set[str]:
        """Names of the layers that are asked."""
        return set(self._calls)

    def serve(self, release: ReleaseFusion) -> None:
        """Fuse with `release` from the next batch on."""
        self._release = release
        self._view = None
        logger.info("release_serves", extra={"release": release.name})

    async def score(self, batch: EventBatch, *, explain: bool, since: float) -> Verdicts:
        """The verdicts of a batch of one kind.

        Args:
            batch: n events.
            explain: also say what moved each layer.
            since: when the oldest of them came, in seconds of the monotonic clock.
        """
        release = self._release
        budget_s = max(self._deadline_s - (time.monotonic() - since), LEAST_SHARE_OF_DEADLINE * self._deadline_s)
        asked = {
            layer: asyncio.ensure_future(_awaited(call, batch, release.name, explain))
            for layer, call in self._calls.items()
            if batch.kind in LAYERS[layer].kinds
        }
        if asked:
            await asyncio.wait(asked.values(), timeout=budget_s)
        opinions = [self._opinion(layer, asked.get(layer), len(batch), release.name) for layer in self._calls]
        return release.of(batch.kind).fuse(
            opinions, min_coverage=self._fusion_settings.min_coverage, posture_bound=self._fusion_settings.posture_bound
        )

    def _opinion(self, layer: str, call: asyncio.Future[LayerScores] | None, size: int, release: str) -> LayerScores:
        if call is None:
            return LayerScores.silent(layer, LayerStatus.NOT_APPLICABLE, size, "has no opinion on events of this kind")
        show = LAYERS[layer].fallback_score
        if not call.done():
            call.cancel()  # frees the layer's queue; what already computes runs on
            return LayerScores.silent(layer, LayerStatus.TIMEOUT, size, LayerTimeout.code, score=show)
        error = asyncio.CancelledError() if call.cancelled() else call.exception()
        if error is None:
            said = call.result()
            is_ours = said.layer == layer and len(said.scores) == size and (not said.speaks or release in (ANY_RELEASE, said.release))
            return said if is_ours else LayerScores.silent(layer, LayerStatus.FALLBACK, size, LayerCrashed.code, score=show)
        code = _code_of(error)
        logger.warning("layer_call_failed", extra={"layer": layer, "code": code, "error_type": type(error).__name__})
        return LayerScores.silent(layer, LayerStatus.FALLBACK, size, code, score=show)

    async def system(self) -> SystemView:
        """The whole ensemble's state, at most a second old."""
        async with self._viewing:  # a crowd of probes asks the layers once
            if self._view is None or time.monotonic() - self._view[0] >= VIEW_KEPT_S:
                said = await self.ask_states(self._release.name)
                self._view = (time.monotonic(), see_system(list(self._states), said, self._release))
            return self._view[1]

    async def ask_states(self, wanted: str) -> dict[str, tuple[SlotState, str]]:
        """What the layers that answered in time say of themselves; each looks for release `wanted` if it has it not."""
        asked = {layer: asyncio.ensure_future(_awaited(call, wanted)) for layer, call in self._states.items()}
        await asyncio.wait(asked.values(), timeout=self._deadline_s)
        said = {layer: call.result() for layer, call in asked.items() if call.done() and not call.cancelled() and call.exception() is None}
        for call in asked.values():
            call.cancel()
        return said


async def _awaited(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401  # a response of Serve is awaitable, but no coroutine
    return await call(*arguments)


def _code_of(error: BaseException) -> str:
    if isinstance(error, BackPressureError):
        return "LAYER_OVERLOADED"
    if isinstance(error, RayActorError | asyncio.CancelledError):
        return LayerCrashed.code
    return "LAYER_ERROR"
