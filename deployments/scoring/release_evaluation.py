"""Evaluation of a second release on the events of callers; no caller waits for it.

While a release is rolled out, each batch that it scores is scored by the release before it too. A
challenger scores a sample of the batches, and its verdicts reach no caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from deployments.config import RolloutSettings
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.task_set import TaskSet
from ensemble.events import EventBatch
from ensemble.rollout import Agreement, ReleaseController, ShadowEvaluation, compared
from ensemble.runtime import ReleaseFusion
from ensemble.verdicts import Verdicts

__all__ = ["ReleaseEvaluation"]

# scores a batch by a release; also the seconds that each layer needed
Score = Callable[
    [EventBatch, ReleaseFusion], Awaitable[tuple[tuple[Verdicts, ...], Mapping[str, float]]]
]


class ReleaseEvaluation:
    """Evaluation of the release that is rolled out, or of the challenger.

    Args:
        controller: holds the active release, and is told each comparison of a rollout.
        score: scores a batch again.
        metrics: counts.
        settings: share of the batches that the challenger scores.
    """

    def __init__(
        self,
        controller: ReleaseController,
        score: Score,
        metrics: ScoringMetrics,
        settings: RolloutSettings,
    ) -> None:
        self._controller, self._score = controller, score
        self._metrics, self._settings = metrics, settings
        self._challenger: tuple[ReleaseFusion, ShadowEvaluation] | None = None
        self._rollouts, self._shadows = TaskSet(), TaskSet()

    @property
    def agreement(self) -> Agreement | None:
        """How the challenger compares with the release that scores; None without a challenger."""
        return self._challenger[1].agreement if self._challenger else None

    def set_challenger(self, challenger: ReleaseFusion | None) -> None:
        """Set the challenger, or clear it with None.

        Idempotent; counters reset when either release changes.
        """
        champion = self._controller.active.name
        if challenger is None or challenger.name == champion:
            self._challenger = None
        elif self.agreement is None or (self.agreement.challenger, self.agreement.champion) != (
            challenger.name,
            champion,
        ):
            share = self._settings.shadow_share
            self._challenger = challenger, ShadowEvaluation(challenger.name, champion, share=share)

    @property
    def running(self) -> tuple[asyncio.Task[None], ...]:
        """The evaluations that run now."""
        return *self._rollouts, *self._shadows

    def compare(
        self,
        batch: EventBatch,
        tenants: Sequence[str],
        release: ReleaseFusion,
        old: ReleaseFusion,
        scored: tuple[Sequence[Verdicts], Mapping[str, float]],
    ) -> None:
        """Score a batch of the release that is rolled out with the one before it too.

        Args:
            batch: n events.
            tenants: the tenant of each; empty for the pipeline's own.
            release: is being rolled out.
            old: the one before it.
            scored: by `release`, as the score function returns it.
        """
        self._rollouts.run(self._compare(batch, tenants, release.name, old, *scored))

    def shadow(self, batch: EventBatch, release: ReleaseFusion, groups: Sequence[Verdicts]) -> None:
        """Score a batch with the challenger too, if it is sampled and not too many run.

        Args:
            batch: n events.
            release: scored them.
            groups: its verdicts.
        """
        if self._challenger is None:
            return
        challenger, evaluation = self._challenger
        if (
            release.name == evaluation.champion
            and len(self._shadows) < self._settings.shadows_in_flight
            and evaluation.should_take(len(batch))
        ):
            self._shadows.run(self._shadow(batch, challenger, evaluation, groups))

    async def _compare(
        self,
        batch: EventBatch,
        tenants: Sequence[str],
        name: str,
        old: ReleaseFusion,
        new_groups: Sequence[Verdicts],
        new_s: Mapping[str, float],
    ) -> None:
        old_groups, old_s = await self._score(batch, old)
        comparison = compared(
            new_groups,
            old_groups,
            new_s=max(new_s.values(), default=0.0),
            old_s=max(old_s.values(), default=0.0),
            tenants=tenants,
        )
        self._controller.record(name, comparison)

    async def _shadow(
        self,
        batch: EventBatch,
        challenger: ReleaseFusion,
        evaluation: ShadowEvaluation,
        groups: Sequence[Verdicts],
    ) -> None:
        verdicts, _ = await self._score(batch, challenger)
        self._metrics.shadowed(len(batch), evaluation.record(verdicts, groups))
