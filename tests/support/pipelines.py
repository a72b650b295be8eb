"""Pipelines and their parts without Ray: layers of plain coroutines, and no spool on disk."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deployments.config.settings import Settings, read_settings
from deployments.scoring.bulk_gate import BulkGate
from deployments.scoring.layer_client import LayerClient
from deployments.scoring.pipeline import TenantPipeline
from deployments.scoring.retro_spool import RetroSpool
from deployments.scoring.scoring_metrics import ScoringMetrics
from ensemble.errors import LayerCrashed
from tests.support.fake_handles import ReplicasHandle
from tests.support.recorded_telemetry import RecordingMeter

__all__ = ["layer_client", "layer_handle", "no_spool", "tenant_pipeline"]

Call = Callable[..., Awaitable[Any]]


async def _crashes(*_: object) -> Any:
    raise LayerCrashed("layer")


async def _lives() -> None:
    """Answer a probe."""


def layer_handle(
    score: Call = _crashes, state: Call = _crashes, check_health: Call = _lives
) -> ReplicasHandle:
    """Make the handle of a deployment with one replica, and the methods that a pipeline calls."""
    return ReplicasHandle(SimpleNamespace(score=score, state=state, check_health=check_health))


def layer_client(
    calls: Mapping[str, Call],
    states: Mapping[str, Call] | None = None,
    *,
    deadline_s: float,
    settings: Settings | None = None,
    metrics: ScoringMetrics | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> LayerClient:
    """Make a client of layers that are plain coroutines; a layer without a state fails."""
    handles = {
        layer: layer_handle(
            call, (states or {}).get(layer, _crashes), getattr(call, "check_health", _lives)
        )
        for layer, call in calls.items()
    }
    return LayerClient(
        handles,
        deadline_s=deadline_s,
        guard=(settings or read_settings()).guard,
        metrics=metrics or ScoringMetrics(RecordingMeter()),
        clock=clock,
    )


def no_spool() -> RetroSpool:
    """Make a disabled spool."""
    return RetroSpool(read_settings({"retro": {"enabled": False}}).retro, Path("unused"))


def tenant_pipeline(
    layers: LayerClient,
    tenant: str = "",
    *,
    settings: Settings | None = None,
    metrics: ScoringMetrics | None = None,
) -> TenantPipeline:
    """Make a pipeline over `layers`, without a spool."""
    counts = metrics or ScoringMetrics(RecordingMeter())
    settings = settings or read_settings()
    bulk = BulkGate(settings.ingress, RecordingMeter())
    return TenantPipeline(
        tenant, layers, bulk, no_spool(), counts, settings, decides_alone=lambda name: not name
    )
