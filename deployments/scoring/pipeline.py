"""The pipeline of one tenant: a batch of events becomes layer scores, and these become verdicts.

A pipeline serves one tenant, and all tenants that its models serve. It holds the release that
scores, the rollout of the next one, the challenger and the thresholds. All pipelines share the
layers (`deployments.scoring.layer_client`). A layer that did not respond in time is named in the
verdict as missing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import compress
from typing import Any

from deployments.config import Settings
from deployments.observability import log_event
from deployments.scoring import verdict_wire, wire
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.micro_batcher import MicroBatcher
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.shedding import overloaded, shed_late
from deployments.scoring.status import EnsembleStatus, build_status
from deployments.scoring.task_set import TaskSet
from ensemble.errors import EventError
from ensemble.events import EventBatch, Kind
from ensemble.rollout import (
    Agreement,
    ReleaseController,
    RolloutState,
    RolloutView,
    ShadowEvaluation,
    compared,
)
from ensemble.runtime import ReleaseFusion, SlotState
from ensemble.verdicts import Verdicts

__all__ = ["TenantPipeline"]

SHARE_TO_WAIT = 0.4  # of its deadline, that a single event may wait for its batch
STATES_CACHED_S = 1.0  # probes of every node request /health; layers are called once a second

Waiting = tuple[wire.EventRequest, str, float]  # an event, its tenant, and when it arrived


class TenantPipeline:
    """The pipeline of a tenant, and of the tenants that its models serve.

    Args:
        tenant: the tenant whose pointer is followed.
        layers: all layers, under their guards.
        spool: is offered every scored event, and stores those that some layers missed.
        metrics: counts.
        settings: of batches, fusion and rollout.

    Attributes:
        controller: which release scores, and the rollout of the next one.
        in_flight: batches of callers that are being scored now.
        prediction_batchers: model -> the batcher of `/predict`, which makes it. It refers to this
            pipeline, so it is stored here: both are freed together.
    """

    def __init__(
        self,
        tenant: str,
        layers: LayerClient,
        spool: RetroSpool,
        metrics: ScoringMetrics,
        settings: Settings,
    ) -> None:
        self.tenant, self.layers, self._spool, self._metrics = tenant, layers, spool, metrics
        self._ingress = settings.ingress
        self._fusion, self._rollout = settings.fusion, settings.rollout
        self.controller = ReleaseController(
            settings.rollout.rules(),
            clock=layers.clock,
            on_active=self._release_changed,
            on_rollout=self._rollout_changed,
        )
        self._batchers = {
            (kind, explain): MicroBatcher(
                self._flush(kind, explain=explain),
                batch_size=settings.ingress.events_per_flush,
                in_flight=settings.ingress.flushes_in_flight,
                longest_wait_s=SHARE_TO_WAIT * settings.ingress.deadline_ms / 1000.0,
                on_refused=metrics.shed,
            )
            for kind in Kind
            for explain in (False, True)
        }
        self.in_flight = 0
        self.prediction_batchers: dict[str, MicroBatcher[Any, Any]] = {}
        self._challenger: tuple[ReleaseFusion, ShadowEvaluation] | None = None
        self._shadow_tasks, self._canary_tasks = TaskSet(), TaskSet()
        self._states: tuple[float, dict[str, tuple[SlotState, str]]] | None = None
        self._status_lock = asyncio.Lock()

    @property
    def release(self) -> ReleaseFusion:
        """The active release; one that is still being rolled out is not."""
        return self.controller.active

    @property
    def agreement(self) -> Agreement | None:
        """How the challenger compares with the release that scores; None without a challenger."""
        return self._challenger[1].agreement if self._challenger else None

    def set_challenger(self, challenger: ReleaseFusion | None) -> None:
        """Set the shadow challenger, or clear it with None.

        Idempotent; counters reset when either release changes.
        """
        if challenger is None or challenger.name == self.release.name:
            self._challenger = None
        elif self.agreement is None or (self.agreement.challenger, self.agreement.champion) != (
            challenger.name,
            self.release.name,
        ):
            share = self._rollout.shadow_share
            shadow = ShadowEvaluation(challenger.name, self.release.name, share=share)
            self._challenger = challenger, shadow

    async def submit(
        self,
        event: wire.EventRequest,
        tenant: str,
        *,
        explain: bool,
        since: float,
        within_s: float | None = None,
    ) -> verdict_wire.Verdict:
        """Score one event of `tenant` in the next batch.

        Args:
            event: parsed.
            tenant: of the caller.
            explain: also return what moved the layers.
            since: when it arrived (monotonic seconds).
            within_s: another deadline than that of single events, seconds.

        Raises:
            EventError: the event is not admitted.
            Overloaded: no layer had time.
        """
        kind = wire.kind_of(event)
        if within_s is None:
            verdict = await self._batchers[kind, explain].submit((event, tenant, since), tenant)
        else:  # alone: others in its batch have another deadline
            (verdict,) = await self.score_events(
                kind, [event], [tenant], explain=explain, since=since, within_s=within_s
            )
        if isinstance(verdict, EventError):
            raise verdict
        return verdict

    async def score_events(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        tenants: Sequence[str],
        *,
        explain: bool,
        since: float,
        within_s: float | None = None,
    ) -> list[verdict_wire.Verdict | EventError]:
        """Score events of one kind; verdicts in order, an error in the place of a rejected event.

        An event for which no layer has time is refused as `Overloaded`, see `shed_late`.

        Args:
            kind: of every event.
            events: n of them.
            tenants: the tenant of each.
            explain: also return what moved the layers.
            since: when the oldest of them arrived (monotonic seconds).
            within_s: another deadline than that of single events, seconds.
        """
        self.in_flight += 1
        try:
            verdicts = await self._score_events(
                kind, events, tenants, explain=explain, since=since, within_s=within_s
            )
        finally:
            self.in_flight -= 1
        # before the spool: the caller of an event that is refused sends it again
        verdicts = shed_late(verdicts)
        self._spool.offer(tenants, events, verdicts)
        return verdicts

    async def rescore(
        self, kind: Kind, events: Sequence[wire.EventRequest]
    ) -> list[verdict_wire.Verdict | EventError]:
        """Score events again that were scored and counted before, with the active release."""
        return await self._score_events(
            kind, events, (), explain=False, since=time.monotonic(), is_rescore=True
        )

    async def score(
        self,
        batch: EventBatch,
        *,
        explain: bool,
        since: float,
        within_s: float | None = None,
        is_rescore: bool = False,
        tenants: Sequence[str] = (),
    ) -> tuple[Verdicts, ...]:
        """Score a batch of one kind; rows that the same layers scored are one group of verdicts.

        Usually there is one group.

        Args:
            batch: n events.
            explain: also return what moved each layer.
            since: when the oldest of them arrived (monotonic seconds).
            within_s: another deadline than that of single events, seconds.
            is_rescore: the events were counted before; neither a rollout nor a shadow evaluation
                uses them.
            tenants: the tenant of each, for a rollout; empty for the pipeline's own.
        """
        if is_rescore:
            release = self.controller.active
            return (await self._score_with(batch, release, explain=explain, since=since))[0]
        release, old = (
            self.controller.route(len(batch))
            if self.controller.is_rolling_out
            else (self.controller.active, None)
        )
        groups, elapsed_s = await self._score_with(
            batch, release, explain=explain, since=since, within_s=within_s
        )
        self._metrics.scored(batch.kind, groups, elapsed_s)
        if old is not None:
            slowest_s = max(elapsed_s.values(), default=0.0)
            comparison = self._compare(batch, tenants, release.name, old, groups, slowest_s)
            self._canary_tasks.run(comparison)
        elif self._challenger is not None:
            self._start_shadow(batch, release, *self._challenger, groups)
        return groups

    async def status(self) -> EnsembleStatus:
        """The status of the ensemble; what the layers report is at most a second old."""
        layers = self.layers
        async with self._status_lock:  # concurrent probes call the layers once
            if self._states is None or time.monotonic() - self._states[0] >= STATES_CACHED_S:
                self._states = time.monotonic(), await layers.states(self.release.name)
            states = self._states[1]
        # switches and breakers are never cached: what an operator changes shows at once
        return build_status(
            list(layers.names),
            states,
            self.release,
            disabled=layers.disabled,
            breakers=layers.breakers,
            rollout=self.controller.view,
        )

    def _flush(
        self, kind: Kind, *, explain: bool
    ) -> Callable[[Sequence[Waiting]], Awaitable[Sequence[verdict_wire.Verdict | EventError]]]:
        async def score(waiting: Sequence[Waiting]) -> Sequence[verdict_wire.Verdict | EventError]:
            began = self.layers.clock()
            is_timely = [began - since < self._ingress.deadline_ms / 1e3 for _, _, since in waiting]
            timely = [*compress(waiting, is_timely)]
            events, tenants, since = zip(*timely, strict=True) if timely else ((), (), (began,))
            scored = iter(
                await self.score_events(kind, events, tenants, explain=explain, since=since[0])
            )
            return [next(scored) if is_on_time else overloaded() for is_on_time in is_timely]

        return score

    async def _score_events(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        tenants: Sequence[str],
        *,
        explain: bool,
        since: float,
        within_s: float | None = None,
        is_rescore: bool = False,
    ) -> list[verdict_wire.Verdict | EventError]:
        scored_at = time.time()  # the date that ages vulnerability data in the layers
        batch, places, rejected = wire.admit(kind, events, self._ingress.plausible_times(scored_at))
        results: list[Any] = [rejected.get(place) for place in range(len(events))]
        if places:
            groups = await self.score(
                batch,
                explain=explain,
                since=since,
                within_s=within_s,
                is_rescore=is_rescore,
                tenants=[tenants[place] for place in places] if tenants else (),
            )
            elapsed_ms = round((time.monotonic() - since) * 1000.0, 3)
            verdicts = verdict_wire.write_verdicts(
                batch, groups, explain=explain, elapsed_ms=elapsed_ms, scored_at=scored_at
            )
            for place, verdict in zip(places, verdicts, strict=True):
                results[place] = verdict
        return results

    async def _score_with(
        self,
        batch: EventBatch,
        release: ReleaseFusion,
        *,
        explain: bool,
        since: float,
        within_s: float | None = None,
    ) -> tuple[tuple[Verdicts, ...], Mapping[str, float]]:
        """Score and fuse a batch with one release; also the seconds that each layer needed."""
        scores, elapsed_s = await self.layers.score(
            batch, release.name, explain=explain, since=since, within_s=within_s
        )
        if self._is_inherited(release):
            scores = [one.as_last_good() for one in scores]
        verdicts = release.fuse(
            batch.kind,
            scores,
            min_coverage=self._fusion.min_coverage,
            posture_bound=self._fusion.posture_bound,
        )
        return verdicts, elapsed_s

    def _is_inherited(self, release: ReleaseFusion) -> bool:
        """Whether `release` is a parent's, which serves in place of the tenant's own."""
        return bool(self.tenant and release.name) and release.tenant != self.tenant

    async def _compare(
        self,
        batch: EventBatch,
        tenants: Sequence[str],
        name: str,
        old: ReleaseFusion,
        new_groups: Sequence[Verdicts],
        new_s: float,
    ) -> None:
        """Rate the canary release `name`: score its batch with the old release too."""
        old_groups, old_s = await self._score_with(
            batch, old, explain=False, since=self.layers.clock()
        )
        slowest_s = max(old_s.values(), default=0.0)
        self.controller.record(
            name, compared(new_groups, old_groups, new_s=new_s, old_s=slowest_s, tenants=tenants)
        )

    def _start_shadow(
        self,
        batch: EventBatch,
        release: ReleaseFusion,
        challenger: ReleaseFusion,
        shadow: ShadowEvaluation,
        groups: Sequence[Verdicts],
    ) -> None:
        """Score a sampled batch with the challenger too, unless too many are in flight."""
        if (
            release.name == shadow.champion
            and len(self._shadow_tasks) < self._rollout.shadows_in_flight
            and shadow.should_take(len(batch))
        ):
            self._shadow_tasks.run(self._score_shadow(batch, challenger, shadow, groups))

    async def _score_shadow(
        self,
        batch: EventBatch,
        challenger: ReleaseFusion,
        shadow: ShadowEvaluation,
        groups: Sequence[Verdicts],
    ) -> None:
        verdicts, _ = await self._score_with(
            batch, challenger, explain=False, since=self.layers.clock()
        )
        self._metrics.shadowed(len(batch), shadow.record(verdicts, groups))

    def _release_changed(self, _: str) -> None:
        self._states = None  # so that the next status calls the layers for the new release

    def _rollout_changed(self, view: RolloutView) -> None:
        level = logging.ERROR if view.state is RolloutState.ROLLED_BACK else logging.INFO
        fields = {
            "release": view.release,
            "state": view.state,
            "step": view.step,
            "share": view.share,
            "reason": view.reason,
            "compared": view.events,
            "flips": view.flips,
        }
        log_event(level, "rollout_changed", fields)
        self._metrics.rollout_changed(view)
