"""The layers as they are asked, by whichever tenant: every call under the guard of its layer, all of them under one deadline.

One guard a layer stands here for all tenants: a replica that hangs, hangs for everybody, and nobody
has to find that out again.
The deadline is spent from the moment the oldest event of the batch came in, and lives here: Ray's
own timeout can be switched off
by a header of the client. A layer that is late is a missing layer, never a late answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.config.settings import GuardSettings
from deployments.scoring.guarded_call import CallObserver, GuardedLayer, InFlightCall, LayerCall
from ensemble.errors import LayerDisabled
from ensemble.events import EventBatch
from ensemble.guard import BreakerState, Deadline
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["BreakerView", "LayerClient", "StateCall"]

StateCall = Callable[[str], Awaitable[tuple[SlotState, str]]]
Answer = TypeVar("Answer")
LEAST_SHARE_OF_DEADLINE = (
    0.1  # what a batch keeps although its events waited: promise P18 allows the deadline + 10 %
)
NOT_OF_THIS_KIND = "has no opinion on events of this kind"
SWITCHED_OFF = "an operator switched it off"


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A layer's breaker as its operators see it.

    Where it stands, and since when it is closed or is not (seconds since 1970).
    """

    state: BreakerState
    since: float


class LayerClient:
    """Asks every layer at once, each under its guard.

    Args:
        calls: layer -> its scoring call.
        states: layer -> its state call.
        deadline_s: seconds an event has from its arrival to its opinions.
        guard: of the guards.
        observer: who counts.
        clock: seconds that only rise; the one of `since`.
    """

    def __init__(
        self,
        *,
        calls: Mapping[str, LayerCall],
        states: Mapping[str, StateCall],
        deadline_s: float,
        guard: GuardSettings,
        observer: CallObserver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states, self._deadline_s, self.clock = states, deadline_s, clock
        self._guarded = {
            layer: GuardedLayer(
                layer, call, guard, deadline_s=deadline_s, clock=clock, observer=observer
            )
            for layer, call in calls.items()
        }
        self.disabled: frozenset[str] = frozenset()
        """Layers that are not asked, because an operator switched them off; set whole."""

    @property
    def names(self) -> tuple[str, ...]:
        """All layers, in order."""
        return tuple(self._guarded)

    @property
    def breakers(self) -> Mapping[str, BreakerView]:
        """Layer -> how its breaker stands."""
        behind_s = time.time() - self.clock()  # durations are the guard's, the date is the reader's
        found = {layer: guarded.breaker for layer, guarded in self._guarded.items()}
        return {
            layer: BreakerView(breaker.state, behind_s + breaker.since)
            for layer, breaker in found.items()
        }

    def reset(self, layer: str) -> None:
        """Close a layer's breaker: it is asked again at once."""
        self._guarded[layer].breaker.reset()

    async def opinions(
        self, batch: EventBatch, release: str, *, explain: bool, since: float
    ) -> tuple[list[LayerScores], Mapping[str, float]]:
        """One opinion or abstention of each layer, by the models of `release`.

        Returns:
            The opinions, in the order of the layers; and layer -> seconds from asking to its
            answer, for those that ended.
        """
        deadline = Deadline(since, self._deadline_s, LEAST_SHARE_OF_DEADLINE * self._deadline_s)
        asked = {
            layer: self._ask(layer, guarded, batch, release, explain=explain)
            for layer, guarded in self._guarded.items()
        }
        out = {layer: one for layer, one in asked.items() if isinstance(one, InFlightCall)}
        waited_for = [pending.call for pending in out.values() if not pending.ticket.is_trial]
        try:
            if waited_for:
                await asyncio.wait(waited_for, timeout=deadline.left_s(self.clock()))
        except asyncio.CancelledError:  # a client that left must not leave its calls behind
            for layer, pending in out.items():
                self._guarded[layer].give_up(pending, excused_s=0.0)
            raise
        common_s = _common_delay_s(out.values())
        opinions = [
            self._guarded[layer].opinion(one, excused_s=common_s)
            if isinstance(one, InFlightCall)
            else one
            for layer, one in asked.items()
        ]
        return opinions, {layer: pending.took_s for layer, pending in out.items() if pending.took_s}

    async def ask_one(
        self, layer: str, question: Callable[[], Awaitable[Answer]], *, since: float
    ) -> Answer:
        """Another question to one layer than for its opinion, under the same guard and the same deadline.

        Args:
            layer: who is asked.
            question: asks it.
            since: when the oldest of what it is about came.

        Raises:
            LayerError: there is no answer; the code says why.
        """
        if layer in self.disabled:
            raise LayerDisabled(layer)
        deadline = Deadline(since, self._deadline_s, LEAST_SHARE_OF_DEADLINE * self._deadline_s)
        return await self._guarded[layer].ask_otherwise(
            question, within_s=deadline.left_s(self.clock())
        )

    def _ask(
        self, layer: str, guarded: GuardedLayer, batch: EventBatch, release: str, *, explain: bool
    ) -> InFlightCall | LayerScores:
        """A call that is out, or the abstention of a layer that is not asked."""
        if batch.kind not in LAYERS[layer].kinds:
            return LayerScores.silent(
                layer, LayerStatus.NOT_APPLICABLE, len(batch), NOT_OF_THIS_KIND
            )
        if layer in self.disabled:
            return LayerScores.silent(
                layer,
                LayerStatus.DISABLED,
                len(batch),
                SWITCHED_OFF,
                score=LAYERS[layer].fallback_score,
            )
        return guarded.ask(batch, release, explain=explain)

    async def states(self, wanted: str) -> dict[str, tuple[SlotState, str]]:
        """What the layers that answered in time say of themselves.

        Each looks for release `wanted` if it has it not.
        """
        asked = {
            layer: asyncio.ensure_future(_awaited(call, wanted))
            for layer, call in self._states.items()
        }
        try:
            await asyncio.wait(asked.values(), timeout=self._deadline_s)
            answered = {
                layer: call for layer, call in asked.items() if call.done() and not call.cancelled()
            }
            return {
                layer: call.result() for layer, call in answered.items() if call.exception() is None
            }
        finally:
            for call in asked.values():  # also those of a probe that left
                call.cancel()


def _common_delay_s(out: Collection[InFlightCall]) -> float:
    """What even the fastest layer of a batch took: a busy ingress or machine, not a sick layer; 0 where there is nothing to compare.

    Or an ingress that is busy for half a deadline would find all its layers slow, and switch them
    all off.
    """
    took_s = [pending.took_s for pending in out if pending.call.done()]
    return min(took_s) if len(out) > 1 and took_s else 0.0


# a response of Serve is awaitable, but no coroutine
async def _awaited(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401
    return await call(*arguments)
