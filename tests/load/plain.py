"""Plain FastAPI with Axon's models and kernels in one process: fast, without isolation.

A layer that hangs or crashes stops the whole process. It has no deadline, no second release and no
replica.
`python -m tests.load.plain --port 8002` runs it alone.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from deployments.cli.local_store import own_store
from deployments.config.settings import read_settings
from ensemble.events import FlowBatch
from ensemble.features import flow
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.resolver import ReleaseResolver

__all__ = ["main", "plain_app"]


class Flow(BaseModel):
    """One event of a request."""

    kind: str
    id: str = ""
    host: str = ""
    features: list[float]


class Flows(BaseModel):
    """A batch of flows."""

    events: list[Flow]


class Layer(BaseModel):
    """The score of one layer."""

    layer: str
    score: float
    status: str
    version: str
    reason: str


class Verdict(BaseModel):
    """The fused score with its layers."""

    id: str
    score: float
    low: float
    high: float
    verdict: str
    severity: str
    coverage: float
    degraded: bool
    status: str
    layers: list[Layer]
    elapsed_ms: float


class Verdicts(BaseModel):
    """The verdicts of a batch."""

    results: list[Verdict]


def plain_app(ensemble: LocalEnsemble) -> FastAPI:
    """Make the application around a loaded ensemble."""
    app = FastAPI()

    def scored(events: list[Flow]) -> list[Verdict]:
        since = time.monotonic()
        admitted = flow.admit([event.features for event in events])
        if admitted.refused:
            raise HTTPException(422, "a flow is not finite")
        batch = FlowBatch(
            ids=tuple(event.id for event in events),
            hosts=tuple(event.host for event in events),
            features=admitted.features,
            flags=admitted.flags,
        )
        verdicts = ensemble.score(batch)
        elapsed_ms = (time.monotonic() - since) * 1000.0
        return [
            Verdict(
                id=batch.ids[row],
                score=verdicts.score[row],
                low=verdicts.low[row],
                high=verdicts.high[row],
                verdict=verdicts.label[row],
                severity=verdicts.severity[row],
                coverage=verdicts.coverage,
                degraded=verdicts.degraded,
                status=verdicts.status,
                layers=[_layer(scores, row) for scores in verdicts.layers],
                elapsed_ms=elapsed_ms,
            )
            for row in range(len(batch))
        ]

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "healthy"}

    @app.post("/v1/score")
    async def score(event: Flow) -> Verdict:
        return scored([event])[0]

    @app.post("/v1/score/batch")
    async def score_batch(batch: Flows) -> Verdicts:
        return Verdicts(results=scored(batch.events))

    return app


def _layer(scores: Any, row: int) -> Layer:
    return Layer(
        layer=scores.layer,
        score=scores.scores[row],
        status=scores.status,
        version=scores.version,
        reason=scores.reason or scores.notes.get(row, ""),
    )


def main() -> None:
    """Serve the application on loopback until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8002)
    port = parser.parse_args().port
    settings = read_settings()
    store = own_store(settings)
    ensemble = LocalEnsemble(
        ReleaseResolver(lambda: store, [settings.store.tenant]),
        min_coverage=settings.fusion.min_coverage,
        posture_bound=settings.fusion.posture_bound,
        stale_after_days=settings.posture.stale_after_days,
        expired_after_days=settings.posture.expired_after_days,
    )
    uvicorn.run(
        plain_app(ensemble), host="127.0.0.1", port=port, log_level="warning", access_log=False
    )


if __name__ == "__main__":
    main()
