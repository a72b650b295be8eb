"""The client of all layers: every call under the guard of its layer, and all under one deadline.

All tenants share one guard a layer, because a replica that hangs does so for every tenant. The
deadline counts from the arrival of the oldest event of a batch. It is enforced here, because a
client can switch Ray's own timeout off with a header. A layer that is late counts as missing; it
never delays the response.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from deployments.config import GuardSettings
from deployments.scoring.guarded_call import GuardedLayer, InFlightCall
from deployments.scoring.scoring_metrics import ScoringMetrics
from ensemble.errors import LayerDisabled
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessBatch, ProcessEvent
from ensemble.features.flow import FEATURE_NAMES
from ensemble.guard import BreakerState, Deadline
from ensemble.layers import LAYERS
from ensemble.runtime import SlotState
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["DISABLED", "BreakerView", "LayerClient"]

Response = TypeVar("Response")
NOT_OF_THIS_KIND = "has no opinion on events of this kind"
DISABLED = "disabled by an operator"
# one empty event of each kind, for the trial of a layer without traffic
_NOTHING: Mapping[Kind, EventBatch] = {
    Kind.FLOW: FlowBatch(("",), ("",), np.zeros((1, len(FEATURE_NAMES)), np.float32)),
    Kind.PROCESS: ProcessBatch.of([ProcessEvent("")]),
}


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A layer's circuit breaker, for operators.

    Attributes:
        state: of the breaker.
        since: when it left `closed` or returned to it, seconds since 1970.
    """

    state: BreakerState
    since: float


class LayerClient:
    """Call every layer at once, each under its guard.

    Args:
        handles: layer -> handle of its deployment.
        deadline_s: see the attribute.
        guard: settings of the guards.
        metrics: counts.
        clock: seconds that only rise; the one of deadlines.

    Attributes:
        deadline_s: seconds from the arrival of a single event to its layer scores, by default.
        disabled: layers that are not called, because an operator disabled them.
    """

    def __init__(
        self,
        handles: Mapping[str, Any],  # Serve's handles make their methods on the fly
        *,
        deadline_s: float,
        guard: GuardSettings,
        metrics: ScoringMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.deadline_s, self.clock = deadline_s, clock
        self._states = {layer: handle.state.remote for layer, handle in handles.items()}
        self._guarded = {
            layer: GuardedLayer(layer, handle, guard, clock=clock, metrics=metrics)
            for layer, handle in handles.items()
        }
        self.disabled: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """All layers, in order."""
        return tuple(self._guarded)

    @property
    def breakers(self) -> Mapping[str, BreakerView]:
        """Layer -> its circuit breaker."""
        offset_s = time.time() - self.clock()  # from the guard's clock to dates
        return {
            layer: BreakerView(guarded.breaker.state, offset_s + guarded.breaker.since)
            for layer, guarded in self._guarded.items()
        }

    def reset(self, layer: str) -> None:
        """Close a layer's breaker, so that it is called again at once."""
        self._guarded[layer].breaker.reset()

    def try_again(self) -> None:
        """Try each layer whose breaker is open and whose pause is over, without any traffic."""
        for layer, guarded in self._guarded.items():
            if layer not in self.disabled:
                guarded.try_again(_NOTHING[next(iter(LAYERS[layer].kinds))])

    async def score(
        self,
        batch: EventBatch,
        release: str,
        deadline: Deadline,
        *,
        explain: bool,
    ) -> tuple[list[LayerScores], Mapping[str, float]]:
        """Score a batch with each layer's models of `release`.

        Args:
            batch: n events.
            release: name of a release, or `ANY_RELEASE`.
            deadline: of the oldest of them.
            explain: also return what moved each layer.

        Returns:
            The scores or the abstention of each layer, in order; and layer -> seconds from the
            call to its end, for the calls that ended.
        """
        started = {
            layer: self._start(layer, guarded, batch, release, explain=explain)
            for layer, guarded in self._guarded.items()
        }
        calls = {layer: one for layer, one in started.items() if isinstance(one, InFlightCall)}
        waited_for = [pending.call for pending in calls.values() if not pending.ticket.is_trial]
        try:
            if waited_for:
                await asyncio.wait(waited_for, timeout=deadline.left_s(self.clock()))
        except asyncio.CancelledError:  # the client left: its calls must not run on
            for layer, pending in calls.items():
                self._guarded[layer].cancel(pending)
            raise
        scores = [
            self._guarded[layer].result(one) if isinstance(one, InFlightCall) else one
            for layer, one in started.items()
        ]
        ended = {layer: call.elapsed_s for layer, call in calls.items() if call.elapsed_s}
        return scores, ended

    async def call(
        self,
        layer: str,
        request: Callable[[], Awaitable[Response]],
        deadline: Deadline,
    ) -> Response:
        """Call a method other than `score` of one layer, under the same guard and deadline.

        Args:
            layer: its name.
            request: sends the call.
            deadline: of the oldest event of the request.

        Raises:
            LayerError: there is no response; the code says why.
        """
        if layer in self.disabled:
            raise LayerDisabled(layer)
        return await self._guarded[layer].call(request, within_s=deadline.left_s(self.clock()))

    async def states(self, wanted: str) -> dict[str, tuple[SlotState, str]]:
        """The state and device of each layer that responds in time.

        A layer that has not loaded release `wanted` begins to.
        """
        calls = {
            layer: asyncio.ensure_future(_awaited(state, wanted))
            for layer, state in self._states.items()
        }
        try:
            await asyncio.wait(calls.values(), timeout=self.deadline_s)
            ended = {
                layer: call for layer, call in calls.items() if call.done() and not call.cancelled()
            }
            return {
                layer: call.result() for layer, call in ended.items() if call.exception() is None
            }
        finally:
            for call in calls.values():  # also if the probe that waits left
                call.cancel()

    def _start(
        self, layer: str, guarded: GuardedLayer, batch: EventBatch, release: str, *, explain: bool
    ) -> InFlightCall | LayerScores:
        """Start a call, or return the abstention of a layer that is not called."""
        spec = LAYERS[layer]
        if batch.kind not in spec.kinds:
            return LayerScores.silent(
                layer, LayerStatus.NOT_APPLICABLE, len(batch), NOT_OF_THIS_KIND
            )
        if layer in self.disabled:
            status, score = LayerStatus.DISABLED, spec.fallback_score
            return LayerScores.silent(layer, status, len(batch), DISABLED, score=score)
        return guarded.start(batch, release, explain=explain)


# a response of Serve is awaitable, but no coroutine
async def _awaited(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401
    return await call(*arguments)
