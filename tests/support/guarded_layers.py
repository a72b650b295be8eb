"""A pipeline of layers that respond, hang or fail as a test sets them, and recorded metrics."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.exceptions import ActorDiedError

from deployments.config.settings import read_settings
from deployments.scoring.scoring_metrics import ScoringMetrics
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.features.flow import FEATURE_NAMES
from ensemble.fusion import Fusion, Thresholds
from ensemble.guard import BreakerState, Deadline
from ensemble.layers.catalog import LAYERS
from ensemble.rollout.canary import RolloutView
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus, Verdicts
from tests.support.pipelines import layer_client, tenant_pipeline
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.timing import Clock

__all__ = [
    "DEADLINE_S",
    "FLOWS",
    "ONE",
    "TWO",
    "CountingMetrics",
    "FakeLayer",
    "GuardedPipeline",
    "until",
]

DEADLINE_S = 0.02  # a hung layer takes this time; only tests move the clock of the guard
HUNG_S = 0.02  # a probe waits for so long; long enough for a layer that answers at once
FLOWS = FlowBatch(("a", "b"), ("", ""), np.zeros((2, len(FEATURE_NAMES)), np.float32))
_RISING = Thresholds(0.1, 0.5, 0.9)
_FLOW_FUSION = Fusion(
    {"anomaly": 0.6, "behavior": 0.4},
    1.0,
    dict.fromkeys(("anomaly+behavior", "anomaly", "behavior"), _RISING),
)
ONE, TWO = (
    ReleaseFusion("default/1", {Kind.FLOW: _FLOW_FUSION}),
    ReleaseFusion("default/2", {Kind.FLOW: _FLOW_FUSION}),
)


class FakeLayer:
    """A layer that scores, hangs, raises or waits at a gate, and records the requested releases."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self._clock = name, clock
        self.requested: list[str] = []
        self.probes = 0
        self.errors: list[BaseException] = []  # raised by the next calls, one each
        self.is_hung = False
        self.is_dead = False  # no replica is left for a probe
        self.takes_s = 0.0
        self.status, self.score = LayerStatus.LIVE, 0.7
        self.scores_of: dict[str, float] = {}  # release -> another score
        self.gate: asyncio.Event | None = None
        self.was_cancelled = False

    async def check_health(self) -> None:
        """Answer a probe, unless the layer hangs."""
        self.probes += 1
        if self.is_dead:
            raise ActorDiedError
        if self.is_hung:
            await asyncio.get_running_loop().create_future()

    # positional, as Serve passes it
    async def __call__(self, batch: EventBatch, release: str, _explain: bool) -> LayerScores:  # noqa: FBT001
        self.requested.append(release)
        try:
            if self.takes_s or self.is_hung:
                await asyncio.sleep(0)  # a faster layer has responded by then
                await asyncio.sleep(0)
                self._clock.now += DEADLINE_S if self.is_hung else self.takes_s
            if self.is_hung:
                await asyncio.get_running_loop().create_future()
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.errors:
            raise self.errors.pop(0)
        return LayerScores(
            self.name,
            self.status,
            "1",
            release,
            np.full(len(batch), self.scores_of.get(release, self.score)),
        )


class CountingMetrics(ScoringMetrics):
    """Metrics that record their calls."""

    def __init__(self) -> None:
        super().__init__(RecordingMeter())
        self.batches: list[tuple[Kind, Sequence[Verdicts], Mapping[str, float]]] = []
        self.retries: list[str] = []
        self.failures: Counter[tuple[str, str]] = Counter()
        self.breakers: list[tuple[str, BreakerState]] = []
        self.rollouts: list[RolloutView] = []

    def scored(
        self, kind: Kind, groups: Sequence[Verdicts], elapsed_s: Mapping[str, float]
    ) -> None:
        self.batches.append((kind, groups, elapsed_s))

    def retried(self, layer: str) -> None:
        self.retries.append(layer)

    def failed(self, layer: str, code: str) -> None:
        self.failures[layer, code] += 1

    def breaker_changed(self, layer: str, state: BreakerState) -> None:
        self.breakers.append((layer, state))

    def rollout_changed(self, view: RolloutView) -> None:
        self.rollouts.append(view)


class GuardedPipeline:
    """A pipeline over fake layers; release 1 is active."""

    def __init__(self, overrides: Mapping[str, Any] | None = None) -> None:
        self.clock, self.metrics = Clock(), CountingMetrics()
        self.layers = {layer: FakeLayer(layer, self.clock) for layer in LAYERS}
        guard = {"hung_s": HUNG_S, **(overrides or {}).get("guard", {})}
        settings = read_settings({**(overrides or {}), "guard": guard})
        layers = layer_client(
            self.layers,
            deadline_s=DEADLINE_S,
            settings=settings,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.pipeline = tenant_pipeline(layers, settings=settings, metrics=self.metrics)
        self.pipeline.controller.switch_to(ONE, at_once=True)
        self.tasks_before = len(asyncio.all_tasks())

    async def score(
        self, *, waited_s: float = 0.0, explain: bool = False
    ) -> dict[str, LayerScores]:
        """Score one batch and return the scores of each layer."""
        (verdicts,) = await self.pipeline.score(FLOWS, self.deadline(waited_s), explain=explain)
        return {one.layer: one for one in verdicts.layers}

    def deadline(self, waited_s: float = 0.0) -> Deadline:
        """Of an event that has waited so long."""
        return Deadline(self.clock.now - waited_s, DEADLINE_S)

    async def open_behavior(self) -> None:
        self.layers["behavior"].is_hung = True
        await self.score()
        await until(lambda: self.pipeline.layers.breakers["behavior"].state is BreakerState.OPEN)


async def until(is_so: Callable[[], bool]) -> None:
    async def poll_until() -> None:
        while not is_so():  # noqa: ASYNC110  # the condition has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll_until(), 20.0)
