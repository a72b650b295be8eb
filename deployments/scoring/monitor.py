"""The ingress watches: every two seconds it reads the switches, looks at every layer, and says what has changed.

Metrics are exact and recorded by batch; log events come once and on change (S0-23, C-13).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from deployments.observability.log import log_event
from deployments.observability.metrics import Meter, set_state
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.status import EnsembleStatus, iso
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers.catalog import LAYERS
from ensemble.rollout.canary import RolloutView
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus, Verdicts, VerdictWord

__all__ = ["IngressTelemetry", "Monitor"]

LEVELS = {
    SystemStatus.FALLBACK_MODE: 0,
    SystemStatus.PARTIALLY_OPERATIONAL: 1,
    SystemStatus.FULLY_OPERATIONAL: 2,
}


class IngressTelemetry:
    """Tells what the fan-out did and how the ensemble stands; an observer of the fan-out.

    Args:
        meter: where it is counted.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._status: SystemStatus | None = None
        self._release = ""
        self._standing: dict[tuple[str, Kind], tuple[LayerStatus, str]] = {}
        self._retro: dict[
            tuple[str, str, str], int
        ] = {}  # what was counted so far, of what is told as totals

    def scored(self, kind: Kind, groups: Sequence[Verdicts], took_s: Mapping[str, float]) -> None:
        """Count a batch. On the hot path: some microseconds a batch, whatever its size.

        Args:
            kind: of its events.
            groups: its verdicts.
            took_s: layer -> seconds to its answer, of those that answered.
        """
        for word in VerdictWord:
            self._meter.count(
                "axon_events_scored_total",
                sum(group.word.count(word) for group in groups),
                kind=kind,
                verdict=word,
            )
        for group in groups:
            for said in group.layers:
                if not said.speaks and said.status is not LayerStatus.NOT_APPLICABLE:
                    self._meter.count(
                        "axon_fallback_scores_total",
                        len(group.word),
                        layer=said.layer,
                        kind=kind,
                        status=said.status,
                    )
        for layer, seconds in took_s.items():
            self._meter.observe("axon_layer_latency_seconds", seconds, layer=layer)

    def breaker_changed(self, layer: str, state: BreakerState, reason: str) -> None:
        """Count that a breaker opened, tries or closed; the guard itself says it."""
        del reason
        self._meter.count("axon_breaker_changes_total", layer=layer, state=state)
        set_state(self._meter, "axon_breaker_state", state, BreakerState, layer=layer)

    def retried(self, layer: str) -> None:
        """Count a call that was made again."""
        self._meter.count("axon_layer_retries_total", layer=layer)

    def failed(self, layer: str, code: str) -> None:
        """Count a call that failed, or was not answered in time."""
        self._meter.count("axon_layer_failed_calls_total", layer=layer, code=code)

    def rollout_changed(self, view: RolloutView) -> None:
        """Count how the bringing-in of a release goes; the fan-out itself says it."""
        self._meter.count("axon_rollout_changes_total", state=str(view.state))
        self._meter.level("axon_rollout_share", float(view.share))

    def shadowed(self, events: int, flips: Mapping[str, int]) -> None:
        """Count what a challenger scored in shadow."""
        self._meter.count("axon_challenger_events_total", events)
        for words, count in flips.items():
            champion, _, challenger = words.partition(">")
            self._meter.count(
                "axon_challenger_flips_total", count, champion=champion, challenger=challenger
            )

    # the counts of the spool, as totals since this process began
    def retro_seen(self, counts: Any) -> None:  # noqa: ANN401
        """Record what became of the events of degraded times."""
        now = {
            ("axon_retro_events_total", "outcome", "spooled"): counts.spooled,
            ("axon_retro_events_total", "outcome", "adopted"): counts.adopted,
            ("axon_retro_events_total", "outcome", "rescored"): counts.rescored,
            ("axon_retro_events_total", "outcome", "hostile"): counts.findings,
            **{
                ("axon_retro_dropped_total", "reason", reason): events
                for reason, events in counts.dropped.items()
            },
        }
        for key, events in now.items():
            self._meter.count(key[0], events - self._retro.get(key, 0), **{key[1]: key[2]})
        self._retro = now
        self._meter.level("axon_retro_waiting_events", counts.waiting_events)
        self._meter.level("axon_retro_waiting_bytes", counts.waiting_bytes)
        self._meter.level("axon_retro_oldest_age_seconds", counts.oldest_age_s)

    def system_seen(self, view: EnsembleStatus) -> None:
        """Record how the ensemble stands, and say what changed."""
        set_state(self._meter, "axon_ml_status", view.status, SystemStatus)
        self._meter.level("axon_ml_status_level", LEVELS[view.status])
        for kind, share in view.coverage_by_kind.items():
            self._meter.level("axon_coverage", share, kind=kind)
        for layer, kinds in view.layers.items():
            speaks = [
                state.status in SPEAKING
                for state in kinds.values()
                if state.status is not LayerStatus.NOT_APPLICABLE
            ]
            self._meter.level(
                "axon_provider_health_score",
                sum(speaks) / len(speaks) if speaks else 1.0,
                provider=layer,
            )
            breaker = view.breakers.get(layer)
            set_state(
                self._meter,
                "axon_breaker_state",
                breaker.state if breaker else BreakerState.CLOSED,
                BreakerState,
                layer=layer,
            )
            for kind, state in kinds.items():
                set_state(
                    self._meter,
                    "axon_layer_status",
                    state.status,
                    LayerStatus,
                    layer=layer,
                    kind=kind,
                )
                self._tell_change(layer, kind, state.status, state.reason, state.since)
        self._tell_status(view)
        if view.release != self._release:
            log_event(
                logging.INFO, "release_serves", {"release": view.release, "before": self._release}
            )
            self._release = view.release

    def _tell_change(
        self, layer: str, kind: Kind, status: LayerStatus, reason: str, since: float
    ) -> None:
        before = self._standing.get((layer, kind))
        self._standing[layer, kind] = (status, reason)
        if before is None or before == (status, reason):
            return
        fields = {
            "layer": layer,
            "kind": str(kind),
            "status": str(status),
            "before": str(before[0]),
            "reason": reason,
            "since": iso(since),
        }
        log_event(
            logging.INFO if status in SPEAKING else logging.WARNING, "layer_status_changed", fields
        )

    def _tell_status(self, view: EnsembleStatus) -> None:
        if view.status is self._status:
            return
        self._status = view.status
        flows = {
            layer: kinds[Kind.FLOW].status
            for layer, kinds in view.layers.items()
            if Kind.FLOW in kinds and LAYERS[layer].is_evidence
        }
        speaks = {
            layer: status in SPEAKING
            for layer, status in flows.items()
            if status is not LayerStatus.NOT_APPLICABLE
        }
        fields: dict[str, Any]
        match view.status:
            case SystemStatus.FULLY_OPERATIONAL:
                level, fields = logging.INFO, {"layers_active": sum(speaks.values())}
            case SystemStatus.PARTIALLY_OPERATIONAL:
                active = {f"{layer}_active": is_active for layer, is_active in speaks.items()}
                level, fields = (
                    logging.WARNING,
                    {**active, "recommendation": "restore_missing_models"},
                )
            case SystemStatus.FALLBACK_MODE:
                level = logging.ERROR
                fields = {
                    "impact": "ML_DETECTION_DISABLED",
                    "service_status": "RESILIENCE_SCORING_ONLY",
                    "recommendation": "RETRAIN_ALL_MODELS",
                }
        log_event(
            level,
            "ml_models_status",
            {"status": str(view.status), "coverage": view.coverage, **fields},
        )


class Monitor:
    """Looks, tells and looks again, until it is stopped.

    Args:
        switches: read at every look.
        telemetry: told at every look.
        see: how the ensemble stands.
        meter: refreshed at every look.
        every_s: seconds between two looks.
        retro: what became of the events of degraded times; None where they are not kept.
    """

    def __init__(
        self,
        switches: LayerSwitches,
        telemetry: IngressTelemetry,
        see: Callable[[], Awaitable[EnsembleStatus]],
        meter: Meter,
        *,
        every_s: float,
        retro: Callable[[], Any] | None = None,
    ) -> None:
        self._switches, self._telemetry, self._see, self._meter, self._every_s = (
            switches,
            telemetry,
            see,
            meter,
            every_s,
        )
        self._retro = retro
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Watch from now on."""
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def look(self) -> None:
        """Look once."""
        await self._switches.look()
        self._telemetry.system_seen(await self._see())
        if self._retro is not None:
            self._telemetry.retro_seen(self._retro())
        self._meter.refresh()

    async def _watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:  # watching goes on, whatever a look met
                logging.getLogger("ray.serve").exception(
                    "watch_failed", extra={"event": "watch_failed"}
                )
            await asyncio.sleep(self._every_s)
