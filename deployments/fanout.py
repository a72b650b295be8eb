"""One batch, every layer, one deadline: the opinions that came are fused, the others are named as silent.

The deadline is spent from the moment the oldest event of the batch came in, and lives here: Ray's own timeout can be switched off
by a header of the client. A layer that is late is a missing layer, never a late answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.guarding import CallObserver, GuardedLayer, LayerCall, Pending
from deployments.health import SystemView, see_system
from deployments.incidents import say
from deployments.settings import FusionSettings, GuardSettings, RolloutSettings
from ensemble.building import LAYERS
from ensemble.events import EventBatch, Kind
from ensemble.guard import BreakerState, Deadline
from ensemble.offers import ReleaseFusion
from ensemble.rollout import RolloutState, RolloutView, compared
from ensemble.states import SlotState
from ensemble.succession import Succession
from ensemble.verdicts import LayerScores, LayerStatus, Verdicts

__all__ = ["BreakerView", "FanOut", "FanOutObserver", "LayerCall", "Unobserved"]

StateCall = Callable[[str], Awaitable[tuple[SlotState, str]]]
LEAST_SHARE_OF_DEADLINE = 0.1  # what a batch keeps although its events waited: promise P18 allows the deadline + 10 %
VIEW_KEPT_S = 1.0  # /health is asked by every probe of every node: layers are asked once a second at most
NOT_OF_THIS_KIND = "has no opinion on events of this kind"
SWITCHED_OFF = "an operator switched it off"


class FanOutObserver(CallObserver, Protocol):
    """Who counts what the fan-out does, without the fan-out knowing metrics; called once a batch, never once an event."""

    def scored(self, kind: Kind, groups: Sequence[Verdicts], took_s: Mapping[str, float]) -> None:
        """A batch was answered; `took_s` has the layers that ended, with the seconds since they were asked."""

    def rollout_changed(self, view: RolloutView) -> None:
        """A new release begins, goes a step on, is done or steps back."""


class Unobserved:
    """Nobody counts."""

    def scored(self, kind: Kind, groups: Sequence[Verdicts], took_s: Mapping[str, float]) -> None:
        """Nothing."""

    def retried(self, layer: str) -> None:
        """Nothing."""

    def failed(self, layer: str, code: str) -> None:
        """Nothing."""

    def breaker_changed(self, layer: str, state: BreakerState, reason: str) -> None:
        """Nothing."""

    def rollout_changed(self, view: RolloutView) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A layer's breaker as its operators see it: where it stands, and since when it is closed or is not (seconds since 1970)."""

    state: BreakerState
    since: float


class FanOut:
    """Asks every layer at once, each under its guard, and fuses what came.

    Args:
        calls: layer -> its scoring call.
        states: layer -> its state call.
        deadline_s: seconds an event has from its arrival to its opinions.
        fusion_settings: what the operator set of the fusion.
        guard: of the guards.
        rollout: of a new release's way.
        observer: who counts.
        clock: seconds that only rise; the one of `since`.
    """

    def __init__(
        self,
        *,
        calls: Mapping[str, LayerCall],
        states: Mapping[str, StateCall],
        deadline_s: float,
        fusion_settings: FusionSettings,
        guard: GuardSettings,
        rollout: RolloutSettings,
        observer: FanOutObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._states, self._deadline_s, self._clock = states, deadline_s, clock
        self._rules = {"min_coverage": fusion_settings.min_coverage, "posture_bound": fusion_settings.posture_bound}
        self._observer = observer or Unobserved()
        self._layers = {
            layer: GuardedLayer(layer, call, guard, deadline_s=deadline_s, clock=clock, observer=self._observer)
            for layer, call in calls.items()
        }
        self._succession = Succession(rollout.rules(), clock=clock, on_living=self._lives, on_rollout=self._rollout_changed)
        self._comparing: set[asyncio.Task[None]] = set()
        self._said: tuple[float, dict[str, tuple[SlotState, str]]] | None = None
        self._viewing = asyncio.Lock()
        self.disabled: frozenset[str] = frozenset()
        """Layers that are not asked, because an operator switched them off; set whole."""

    @property
    def release(self) -> ReleaseFusion:
        """What is fused with now; a new release that is still on its way is not."""
        return self._succession.living

    @property
    def rollout(self) -> RolloutView | None:
        """The last new release's way, None before the first."""
        return self._succession.view

    @property
    def layers(self) -> set[str]:
        """Names of the layers that are asked."""
        return set(self._layers)

    @property
    def breakers(self) -> Mapping[str, BreakerView]:
        """Layer -> how its breaker stands."""
        behind_s = time.time() - self._clock()  # durations are the guard's, the date is the reader's
        found = {layer: guarded.breaker for layer, guarded in self._layers.items()}
        return {layer: BreakerView(breaker.state, behind_s + breaker.since) for layer, breaker in found.items()}

    def reset(self, layer: str) -> None:
        """Close a layer's breaker: it is asked again at once."""
        self._layers[layer].breaker.reset()

    def serve(self, release: ReleaseFusion, *, at_once: bool) -> None:
        """Go over to `release`: at once, or step by step beside the living one. Said again, it changes nothing."""
        self._succession.serve(release, at_once=at_once)

    def retreat(self, name: str, reason: str) -> None:
        """Give release `name` up, as another ingress or an operator says; said again, it changes nothing."""
        self._succession.retreat(name, reason)

    def forgive(self, name: str) -> None:
        """Release `name` may be tried once more: a new pointer names it, so somebody means it."""
        self._succession.forgive(name)

    async def score(self, batch: EventBatch, *, explain: bool, since: float, is_second_look: bool = False) -> tuple[Verdicts, ...]:
        """The verdicts of a batch of one kind, in groups of rows of which the same layers spoke; usually one group.

        Args:
            batch: n events.
            explain: also say what moved each layer.
            since: when the oldest of them came, in seconds of the monotonic clock.
            is_second_look: at events that were counted before; no traffic, on which a new release could prove itself.
        """
        if is_second_look:
            return (await self._judged(batch, self._succession.living, explain=explain, since=since))[0]
        release, old = self._succession.choose(len(batch)) if self._succession.is_stepping else (self._succession.living, None)
        groups, took_s = await self._judged(batch, release, explain=explain, since=since)
        self._observer.scored(batch.kind, groups, took_s)
        if old is not None:
            comparing = asyncio.create_task(self._compare(batch, release.name, old, groups, max(took_s.values(), default=0.0)))
            self._comparing.add(comparing)
            comparing.add_done_callback(self._comparing.discard)
        return groups

    async def _judged(
        self, batch: EventBatch, release: ReleaseFusion, *, explain: bool, since: float
    ) -> tuple[tuple[Verdicts, ...], Mapping[str, float]]:
        """Verdicts by one release, and how long each layer took."""
        deadline = Deadline(since, self._deadline_s, LEAST_SHARE_OF_DEADLINE * self._deadline_s)
        asked = {layer: self._ask(layer, guarded, batch, release.name, explain=explain) for layer, guarded in self._layers.items()}
        out = {layer: one for layer, one in asked.items() if isinstance(one, Pending)}
        waited_for = [pending.call for pending in out.values() if not pending.ticket.is_trial]
        try:
            if waited_for:
                await asyncio.wait(waited_for, timeout=deadline.left_s(self._clock()))
        except asyncio.CancelledError:  # a client that left must not leave its calls behind
            for layer, pending in out.items():
                self._layers[layer].give_up(pending, excused_s=0.0)
            raise
        common_s = _common_delay_s(out.values())
        opinions = [
            self._layers[layer].opinion(one, excused_s=common_s) if isinstance(one, Pending) else one for layer, one in asked.items()
        ]
        groups = release.of(batch.kind).fuse_each(opinions, **self._rules)
        return groups, {layer: pending.took_s for layer, pending in out.items() if pending.took_s}

    def _ask(self, layer: str, guarded: GuardedLayer, batch: EventBatch, release: str, *, explain: bool) -> Pending | LayerScores:
        """A call that is out, or the abstention of a layer that is not asked."""
        if batch.kind not in LAYERS[layer].kinds:
            return LayerScores.silent(layer, LayerStatus.NOT_APPLICABLE, len(batch), NOT_OF_THIS_KIND)
        if layer in self.disabled:
            return LayerScores.silent(layer, LayerStatus.DISABLED, len(batch), SWITCHED_OFF, score=LAYERS[layer].fallback_score)
        return guarded.ask(batch, release, explain=explain)

    async def _compare(self, batch: EventBatch, name: str, old: ReleaseFusion, new_groups: Sequence[Verdicts], new_s: float) -> None:
        """Score a batch, that a new release has answered, by the old one too: beside the answer, and for nobody's wait."""
        old_groups, old_s = await self._judged(batch, old, explain=False, since=self._clock())
        self._succession.learn(name, compared(new_groups, old_groups, new_s=new_s, old_s=max(old_s.values(), default=0.0)))

    def _lives(self, _: str) -> None:
        self._said = None  # the watch asks again, and says it

    def _rollout_changed(self, view: RolloutView) -> None:
        level = logging.ERROR if view.state is RolloutState.RETREATED else logging.INFO
        extra = {"release": view.release, "state": view.state, "step": view.step, "share": view.share, "reason": view.reason}
        say(level, "rollout_changed", extra | {"compared": view.events, "flips": view.flips})
        self._observer.rollout_changed(view)

    async def system(self) -> SystemView:
        """The whole ensemble's state, at most a second old."""
        async with self._viewing:  # a crowd of probes asks the layers once
            if self._said is None or time.monotonic() - self._said[0] >= VIEW_KEPT_S:
                self._said = (time.monotonic(), await self.ask_states(self.release.name))
            said = self._said[1]
        # the switches and the breakers as they are now: what an operator does shows at once
        return see_system(list(self._states), said, self.release, disabled=self.disabled, breakers=self.breakers, rollout=self.rollout)

    async def coverage_of(self, kind: Kind) -> float:
        """The coverage that an event of `kind` would have now, in [0, 1]."""
        return (await self.system()).coverage_by_kind[kind]

    async def ask_states(self, wanted: str) -> dict[str, tuple[SlotState, str]]:
        """What the layers that answered in time say of themselves; each looks for release `wanted` if it has it not."""
        asked = {layer: asyncio.ensure_future(_awaited(call, wanted)) for layer, call in self._states.items()}
        try:
            await asyncio.wait(asked.values(), timeout=self._deadline_s)
            answered = {layer: call for layer, call in asked.items() if call.done() and not call.cancelled()}
            return {layer: call.result() for layer, call in answered.items() if call.exception() is None}
        finally:
            for call in asked.values():  # also those of a probe that left
                call.cancel()


def _common_delay_s(out: Collection[Pending]) -> float:
    """What even the fastest layer of a batch took: a busy ingress or machine, not a sick layer; 0 where there is nothing to compare.

    Or an ingress that is busy for half a deadline would find all its layers slow, and switch them all off.
    """
    took_s = [pending.took_s for pending in out if pending.call.done()]
    return min(took_s) if len(out) > 1 and took_s else 0.0


async def _awaited(call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:  # noqa: ANN401  # a response of Serve is awaitable, but no coroutine
    return await call(*arguments)
