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
from deployments.scoring.bulk_gate import BulkGate
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.micro_batcher import MicroBatcher
from deployments.scoring.release_evaluation import ReleaseEvaluation
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.shedding import overloaded, shed_late
from deployments.scoring.status import EnsembleStatus, build_status
from ensemble.errors import EventError
from ensemble.events import EventBatch, Kind
from ensemble.guard import Deadline
from ensemble.rollout import ReleaseController, RolloutState, RolloutView
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
        bulk: gives a single event with a deadline of its own its place in the layers.
        spool: is offered every scored event, and stores those that some layers missed.
        metrics: counts.
        settings: of batches, fusion and rollout.
        decides_alone: whether a tenant may end a rollout without another one.

    Attributes:
        controller: which release scores, and the rollout of the next one.
        evaluation: of the release that is rolled out, and of the challenger.
        in_flight: batches of callers that are being scored now.
        prediction_batchers: model -> the batcher of `/predict`, which makes it. It refers to this
            pipeline, so it is stored here: both are freed together.
    """

    def __init__(
        self,
        tenant: str,
        layers: LayerClient,
        bulk: BulkGate,
        spool: RetroSpool,
        metrics: ScoringMetrics,
        settings: Settings,
        *,
        decides_alone: Callable[[str], bool],
    ) -> None:
        self.tenant, self.layers, self._bulk = tenant, layers, bulk
        self._spool, self._metrics = spool, metrics
        self._ingress, self._fusion = settings.ingress, settings.fusion
        self.controller = ReleaseController(
            settings.rollout.rules(),
            clock=layers.clock,
            on_active=self._release_changed,
            on_rollout=self._rollout_changed,
            decides_alone=decides_alone,
        )
        self._batchers = {
            (kind, explain): MicroBatcher(
                self._flush(kind, explain=explain),
                batch_size=settings.ingress.events_per_flush,
                in_flight=settings.ingress.flushes_in_flight,
                longest_wait_s=SHARE_TO_WAIT * layers.deadline_s,
                on_refused=metrics.shed,
            )
            for kind in Kind
            for explain in (False, True)
        }
        self.in_flight = 0
        self.prediction_batchers: dict[str, MicroBatcher[Any, Any]] = {}
        self.evaluation = ReleaseEvaluation(
            self.controller, self._score_again, metrics, settings.rollout
        )
        self._states: tuple[float, dict[str, tuple[SlotState, str]]] | None = None
        self._status_lock = asyncio.Lock()

    @property
    def release(self) -> ReleaseFusion:
        """The active release; one that is still being rolled out is not."""
        return self.controller.active

    async def submit(
        self,
        event: wire.EventRequest,
        tenant: str,
        deadline: Deadline,
        *,
        explain: bool,
    ) -> verdict_wire.Verdict:
        """Score one event of `tenant` in the next batch.

        Args:
            event: parsed.
            tenant: of the caller.
            deadline: of the event.
            explain: also return what moved the layers.

        Raises:
            EventError: the event is not admitted.
            Overloaded: no layer had time.
        """
        kind = wire.kind_of(event)
        if deadline.budget_s == self.layers.deadline_s:
            waiting = event, tenant, deadline.since
            verdict = await self._batchers[kind, explain].submit(waiting, tenant)
        else:  # alone, because the others of a batch have another deadline; in its tenant's turn
            async with self._bulk.place(tenant, 1, deadline.ends):
                (verdict,) = await self.score_events(
                    kind, [event], [tenant], deadline, explain=explain
                )
        if isinstance(verdict, EventError):
            raise verdict
        return verdict

    async def score_events(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        tenants: Sequence[str],
        deadline: Deadline,
        *,
        explain: bool,
    ) -> list[verdict_wire.Verdict | EventError]:
        """Score events of one kind; verdicts in order, an error in the place of a rejected event.

        An event for which no layer has time is refused as `Overloaded`, see `shed_late`.

        Args:
            kind: of every event.
            events: n of them.
            tenants: the tenant of each.
            deadline: of the oldest of them.
            explain: also return what moved the layers.
        """
        self.in_flight += 1
        try:
            verdicts = await self._score_events(kind, events, tenants, deadline, explain=explain)
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
            kind, events, (), self._new_deadline(), explain=False, is_rescore=True
        )

    async def score(
        self,
        batch: EventBatch,
        deadline: Deadline,
        *,
        explain: bool,
        is_rescore: bool = False,
        tenants: Sequence[str] = (),
    ) -> tuple[Verdicts, ...]:
        """Score a batch of one kind; rows that the same layers scored are one group of verdicts.

        Usually there is one group.

        Args:
            batch: n events.
            deadline: of the oldest of them.
            explain: also return what moved each layer.
            is_rescore: the events were counted before; neither a rollout nor a shadow evaluation
                uses them.
            tenants: the tenant of each, for a rollout; empty for the pipeline's own.
        """
        if is_rescore:
            release = self.controller.active
            return (await self._score_with(batch, release, deadline, explain=explain))[0]
        release, old = (
            self.controller.route(len(batch))
            if self.controller.is_rolling_out
            else (self.controller.active, None)
        )
        scored = await self._score_with(batch, release, deadline, explain=explain)
        self._metrics.scored(batch.kind, *scored)
        if old is not None:
            self.evaluation.compare(batch, tenants, release, old, scored)
        else:
            self.evaluation.shadow(batch, release, scored[0])
        return scored[0]

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
            is_timely = [began - since < self.layers.deadline_s for _, _, since in waiting]
            timely = [*compress(waiting, is_timely)]
            events, tenants, since = zip(*timely, strict=True) if timely else ((), (), (began,))
            # in turns of their tenants, so the first is not always the oldest
            deadline = Deadline(min(since), self.layers.deadline_s)
            scored = iter(await self.score_events(kind, events, tenants, deadline, explain=explain))
            return [next(scored) if is_on_time else overloaded() for is_on_time in is_timely]

        return score

    async def _score_events(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        tenants: Sequence[str],
        deadline: Deadline,
        *,
        explain: bool,
        is_rescore: bool = False,
    ) -> list[verdict_wire.Verdict | EventError]:
        scored_at = time.time()  # the date that ages vulnerability data in the layers
        batch, places, rejected = wire.admit(kind, events, self._ingress.plausible_times(scored_at))
        results: list[Any] = [rejected.get(place) for place in range(len(events))]
        if places:
            groups = await self.score(
                batch,
                deadline,
                explain=explain,
                is_rescore=is_rescore,
                tenants=[tenants[place] for place in places] if tenants else (),
            )
            elapsed_ms = round((time.monotonic() - deadline.since) * 1000.0, 3)
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
        deadline: Deadline,
        *,
        explain: bool,
    ) -> tuple[tuple[Verdicts, ...], Mapping[str, float]]:
        """Score and fuse a batch with one release; also the seconds that each layer needed."""
        scores, elapsed_s = await self.layers.score(batch, release.name, deadline, explain=explain)
        if self._is_inherited(release):
            scores = [one.as_last_good() for one in scores]
        verdicts = release.fuse(
            batch.kind,
            scores,
            min_coverage=self._fusion.min_coverage,
            posture_bound=self._fusion.posture_bound,
        )
        return verdicts, elapsed_s

    async def _score_again(
        self, batch: EventBatch, release: ReleaseFusion
    ) -> tuple[tuple[Verdicts, ...], Mapping[str, float]]:
        return await self._score_with(batch, release, self._new_deadline(), explain=False)

    def _new_deadline(self) -> Deadline:
        """A deadline from now on, for events of which no caller waits."""
        return Deadline(self.layers.clock(), self.layers.deadline_s)

    def _is_inherited(self, release: ReleaseFusion) -> bool:
        """Whether `release` is a parent's, which serves in place of the tenant's own."""
        return bool(self.tenant and release.name) and release.tenant != self.tenant

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
