"""One batch, every layer, one deadline: the opinions that came are fused, the others are named as silent.

A fan-out is one tenant's, or that of all who live on the same models: its release, that release's
way in, and its thresholds. The
layers behind it are everybody's (`deployments.scoring.layer_client`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from deployments.config.settings import FusionSettings, RolloutSettings
from deployments.observability.log import log_event
from deployments.scoring.guarded_call import CallObserver
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.status import EnsembleStatus, build_status
from ensemble.events import EventBatch, Kind
from ensemble.guard import BreakerState
from ensemble.rollout.canary import RolloutState, RolloutView, compared
from ensemble.rollout.controller import ReleaseController
from ensemble.rollout.shadow import Agreement, ShadowEvaluation
from ensemble.runtime.model_state import SlotState
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus, Verdicts

__all__ = ["FanOut", "FanOutObserver", "Unobserved"]

VIEW_KEPT_S = (
    1.0  # /health is asked by every probe of every node: layers are asked once a second at most
)


class FanOutObserver(CallObserver, Protocol):
    """Who counts what the fan-out does, without the fan-out knowing metrics.

    Called once a batch, never once an event.
    """

    def scored(self, kind: Kind, groups: Sequence[Verdicts], took_s: Mapping[str, float]) -> None:
        """A batch was answered.

        `took_s` has the layers that ended, with the seconds since they were asked.
        """

    def rollout_changed(self, view: RolloutView) -> None:
        """A new release begins, goes a step on, is done or steps back."""

    def shadowed(self, events: int, flips: Mapping[str, int]) -> None:
        """A batch was scored by a challenger too.

        `flips` has the words that became others, as in `ensemble.rollout.shadow.Agreement`.
        """


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

    def shadowed(self, events: int, flips: Mapping[str, int]) -> None:
        """Nothing."""


class FanOut:
    """Asks the layers, and fuses what came by one tenant's release.

    Args:
        asked: the layers, under their guards.
        tenant: whose pointer it follows; "" where it does not matter.
        fusion_settings: what the operator set of the fusion.
        rollout: of a new release's way, and of a challenger's shadow.
        observer: who counts.
    """

    def __init__(
        self,
        asked: LayerClient,
        *,
        tenant: str = "",
        fusion_settings: FusionSettings,
        rollout: RolloutSettings,
        observer: FanOutObserver | None = None,
    ) -> None:
        self._shadow_share, self._shadows_in_flight = (
            rollout.shadow_share,
            rollout.shadows_in_flight,
        )
        self._challenger: tuple[ReleaseFusion, ShadowEvaluation] | None = None
        self._shadowing: set[asyncio.Task[None]] = set()
        self.asked, self._tenant = asked, tenant
        self._rules = {
            "min_coverage": fusion_settings.min_coverage,
            "posture_bound": fusion_settings.posture_bound,
        }
        self._observer = observer or Unobserved()
        self._succession = ReleaseController(
            rollout.rules(),
            clock=asked.clock,
            on_living=self._lives,
            on_rollout=self._rollout_changed,
        )
        self._comparing: set[asyncio.Task[None]] = set()
        self._said: tuple[float, dict[str, tuple[SlotState, str]]] | None = None
        self._viewing = asyncio.Lock()

    @property
    def release(self) -> ReleaseFusion:
        """What is fused with now; a new release that is still on its way is not."""
        return self._succession.active

    @property
    def rollout(self) -> RolloutView | None:
        """The last new release's way, None before the first."""
        return self._succession.view

    @property
    def agreement(self) -> Agreement | None:
        """How the challenger compares with the release that answers.

        None where none scores in shadow.
        """
        return self._challenger[1].agreement if self._challenger else None

    def challenge(self, challenger: ReleaseFusion | None) -> None:
        """Let `challenger` score in shadow, or none.

        Said again, it changes nothing; beside another champion, counting begins anew.
        """
        if challenger is None or challenger.name == self.release.name:
            self._challenger = None
        elif self.agreement is None or (self.agreement.challenger, self.agreement.champion) != (
            challenger.name,
            self.release.name,
        ):
            self._challenger = (
                challenger,
                ShadowEvaluation(challenger.name, self.release.name, share=self._shadow_share),
            )

    def serve(self, release: ReleaseFusion, *, at_once: bool) -> None:
        """Go over to `release`.

        At once, or step by step beside the living one. Said again, it changes nothing.
        """
        self._succession.serve(release, at_once=at_once)

    def roll_back(self, name: str, reason: str) -> None:
        """Give release `name` up, as another ingress or an operator says.

        Said again, it changes nothing.
        """
        self._succession.roll_back(name, reason)

    def clear_rollback(self, name: str) -> None:
        """Release `name` may be tried once more: a new pointer names it, so somebody means it."""
        self._succession.clear_rollback(name)

    async def score(
        self, batch: EventBatch, *, explain: bool, since: float, is_second_look: bool = False
    ) -> tuple[Verdicts, ...]:
        """The verdicts of a batch of one kind, in groups of rows of which the same layers spoke; usually one group.

        Args:
            batch: n events.
            explain: also say what moved each layer.
            since: when the oldest of them came, in seconds of the monotonic clock.
            is_second_look: at events that were counted before; no traffic, on which a new
                release could prove itself.
        """
        if is_second_look:
            return (
                await self._judged(batch, self._succession.active, explain=explain, since=since)
            )[0]
        release, old = (
            self._succession.choose(len(batch))
            if self._succession.is_rolling_out
            else (self._succession.active, None)
        )
        groups, took_s = await self._judged(batch, release, explain=explain, since=since)
        self._observer.scored(batch.kind, groups, took_s)
        if old is not None:
            comparing = asyncio.create_task(
                self._compare(batch, release.name, old, groups, max(took_s.values(), default=0.0))
            )
            self._comparing.add(comparing)
            comparing.add_done_callback(self._comparing.discard)
        elif self._challenger is not None:
            self._cast_shadow(batch, release, *self._challenger, groups)
        return groups

    async def _judged(
        self, batch: EventBatch, release: ReleaseFusion, *, explain: bool, since: float
    ) -> tuple[tuple[Verdicts, ...], Mapping[str, float]]:
        """Verdicts by one release, and how long each layer took."""
        opinions, took_s = await self.asked.opinions(
            batch, release.name, explain=explain, since=since
        )
        if self._stands_in(release):
            opinions = [_as_last_good(opinion) for opinion in opinions]
        return release.fuse(batch.kind, opinions, **self._rules), took_s

    def _stands_in(self, release: ReleaseFusion) -> bool:
        """Whether it is a parent's, in the place of the tenant's own."""
        return bool(self._tenant and release.name) and release.tenant != self._tenant

    async def _compare(
        self,
        batch: EventBatch,
        name: str,
        old: ReleaseFusion,
        new_groups: Sequence[Verdicts],
        new_s: float,
    ) -> None:
        """Score a batch, that a new release has answered, by the old one too.

        Beside the answer, and for nobody's wait.
        """
        old_groups, old_s = await self._judged(batch, old, explain=False, since=self.asked.clock())
        self._succession.learn(
            name,
            compared(new_groups, old_groups, new_s=new_s, old_s=max(old_s.values(), default=0.0)),
        )

    def _cast_shadow(
        self,
        batch: EventBatch,
        release: ReleaseFusion,
        challenger: ReleaseFusion,
        shadow: ShadowEvaluation,
        groups: Sequence[Verdicts],
    ) -> None:
        """Have a batch scored by the challenger too, if it is its turn and not too many of them are out."""
        if (
            release.name != shadow.champion
            or len(self._shadowing) >= self._shadows_in_flight
            or not shadow.takes(len(batch))
        ):
            return
        shadowing = asyncio.create_task(self._learn_from_shadow(batch, challenger, shadow, groups))
        self._shadowing.add(shadowing)
        shadowing.add_done_callback(self._shadowing.discard)

    async def _learn_from_shadow(
        self,
        batch: EventBatch,
        challenger: ReleaseFusion,
        shadow: ShadowEvaluation,
        groups: Sequence[Verdicts],
    ) -> None:
        said, _ = await self._judged(batch, challenger, explain=False, since=self.asked.clock())
        self._observer.shadowed(len(batch), shadow.learn(said, groups))

    def _lives(self, _: str) -> None:
        self._said = None  # the watch asks again, and says it

    def _rollout_changed(self, view: RolloutView) -> None:
        level = logging.ERROR if view.state is RolloutState.RETREATED else logging.INFO
        extra = {
            "release": view.release,
            "state": view.state,
            "step": view.step,
            "share": view.share,
            "reason": view.reason,
        }
        log_event(level, "rollout_changed", extra | {"compared": view.events, "flips": view.flips})
        self._observer.rollout_changed(view)

    async def system(self) -> EnsembleStatus:
        """The whole ensemble's state, at most a second old."""
        async with self._viewing:  # a crowd of probes asks the layers once
            if self._said is None or time.monotonic() - self._said[0] >= VIEW_KEPT_S:
                self._said = (time.monotonic(), await self.asked.states(self.release.name))
            said = self._said[1]
        # the switches and the breakers as they are now: what an operator does shows at once
        asked = self.asked
        return build_status(
            list(asked.names),
            said,
            self.release,
            disabled=asked.disabled,
            breakers=asked.breakers,
            rollout=self.rollout,
        )

    async def coverage_of(self, kind: Kind) -> float:
        """The coverage that an event of `kind` would have now, in [0, 1]."""
        return (await self.system()).coverage_by_kind[kind]


def _as_last_good(opinion: LayerScores) -> LayerScores:
    """An opinion by the models of a parent: proven, and not those that the tenant wants."""
    return (
        replace(opinion, status=LayerStatus.LAST_GOOD)
        if opinion.status is LayerStatus.LIVE
        else opinion
    )
