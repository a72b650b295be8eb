"""The monitor: a poll every two seconds reloads the switches, checks all layers, and logs changes.

Metrics are exact; a log event is written once and on change (S0-23, C-13).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deployments.observability import log_event, set_state
from deployments.poller import Poller
from deployments.scoring.layer_client import BreakerView
from deployments.scoring.layer_switches import LayerSwitches
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.status import EnsembleStatus, iso
from deployments.scoring.tenants import TenantPipelines
from ensemble.events import Kind
from ensemble.guard import BreakerState
from ensemble.layers import LAYERS
from ensemble.runtime import KindState
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus

__all__ = ["Monitor"]

LEVELS = {
    SystemStatus.FALLBACK_MODE: 0,
    SystemStatus.PARTIALLY_OPERATIONAL: 1,
    SystemStatus.FULLY_OPERATIONAL: 2,
}


class Monitor:
    """The monitor of the ensemble's status.

    Args:
        switches: reloaded at every poll.
        pipelines: report the status of the generic tenant's ensemble.
        spool: counts what became of degraded events.
        metrics: records the status.
        every_s: seconds between two polls.
    """

    def __init__(
        self,
        switches: LayerSwitches,
        pipelines: TenantPipelines,
        spool: RetroSpool,
        metrics: ScoringMetrics,
        *,
        every_s: float,
    ) -> None:
        self._switches, self._pipelines, self._spool = switches, pipelines, spool
        self._metrics, self._meter = metrics, metrics.meter
        self._poller = Poller(self.poll, every_s=every_s, on_error=_poll_failed)
        self._status: SystemStatus | None = None
        self._release = ""
        self._last: dict[tuple[str, Kind], tuple[LayerStatus, str]] = {}

    async def start(self) -> None:
        """Start polling."""
        await self._poller.start()

    async def stop(self) -> None:
        """Stop polling."""
        await self._poller.stop()

    async def poll(self) -> None:
        """Reload the switches, try open layers, and record the status of ensemble and spool."""
        await self._switches.reload()
        pipeline = await self._pipelines.for_tenant()
        pipeline.layers.try_again()
        self.record(await pipeline.status())
        self._metrics.retro_counted(self._spool.counts())
        self._meter.refresh()

    def record(self, status: EnsembleStatus) -> None:
        """Set the gauges of the ensemble's status, and log what changed."""
        set_state(self._meter, "axon_ml_status", status.status, SystemStatus)
        self._meter.level("axon_ml_status_level", LEVELS[status.status])
        for kind, share in status.coverage_by_kind.items():
            self._meter.level("axon_coverage", share, kind=kind)
        for layer, kinds in status.layers.items():
            self._record_layer(layer, kinds, status.breakers.get(layer))
        self._log_status(status)
        if status.release != self._release:
            fields = {"release": status.release, "before": self._release}
            log_event(logging.INFO, "release_serves", fields)
            self._release = status.release

    def _record_layer(
        self, layer: str, kinds: Mapping[Kind, KindState], breaker: BreakerView | None
    ) -> None:
        available = [
            state.status in SPEAKING
            for state in kinds.values()
            if state.status is not LayerStatus.NOT_APPLICABLE
        ]
        share = sum(available) / len(available) if available else 1.0
        self._meter.level("axon_provider_health_score", share, provider=layer)
        breaker_state = breaker.state if breaker else BreakerState.CLOSED
        set_state(self._meter, "axon_breaker_state", breaker_state, BreakerState, layer=layer)
        for kind, state in kinds.items():
            set_state(
                self._meter, "axon_layer_status", state.status, LayerStatus, layer=layer, kind=kind
            )
            self._log_layer(layer, kind, state)

    def _log_layer(self, layer: str, kind: Kind, state: KindState) -> None:
        before = self._last.get((layer, kind))
        self._last[layer, kind] = state.status, state.reason
        if before is None or before == (state.status, state.reason):
            return
        fields = {
            "layer": layer,
            "kind": str(kind),
            "status": str(state.status),
            "before": str(before[0]),
            "reason": state.reason,
            "since": iso(state.since),
        }
        level = logging.INFO if state.status in SPEAKING else logging.WARNING
        log_event(level, "layer_status_changed", fields)

    def _log_status(self, status: EnsembleStatus) -> None:
        if status.status is self._status:
            return
        self._status = status.status
        flows = {
            layer: kinds[Kind.FLOW].status
            for layer, kinds in status.layers.items()
            if Kind.FLOW in status.needed[layer] and LAYERS[layer].is_evidence
        }
        available = {
            layer: found in SPEAKING
            for layer, found in flows.items()
            if found is not LayerStatus.NOT_APPLICABLE
        }
        fields: dict[str, Any]
        match status.status:
            case SystemStatus.FULLY_OPERATIONAL:
                level, fields = logging.INFO, {"layers_active": sum(available.values())}
            case SystemStatus.PARTIALLY_OPERATIONAL:
                level = logging.WARNING
                fields = {f"{layer}_active": is_active for layer, is_active in available.items()}
                fields["recommendation"] = "restore_missing_models"
            case SystemStatus.FALLBACK_MODE:
                level = logging.ERROR
                fields = {
                    "impact": "ML_DETECTION_DISABLED",
                    "service_status": "RESILIENCE_SCORING_ONLY",
                    "recommendation": "RETRAIN_ALL_MODELS",
                }
        fields = {"status": str(status.status), "coverage": status.coverage, **fields}
        log_event(level, "ml_models_status", fields)


def _poll_failed(error: Exception) -> None:
    logging.getLogger("ray.serve").error(
        "monitor_failed", exc_info=error, extra={"event": "monitor_failed"}
    )
