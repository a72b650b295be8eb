"""A simple Ray Serve composition: FastAPI, three handles awaited in turn, library calls in layers.

It does the work of Axon's layers on a flow (a forest of 100 trees, a principal subspace, a network
76-64-32-12, the posture of a host, one fused score), in Serve's default environment and with its
default options but one: see `ONGOING_REQUESTS`. `python -m tests.load.obvious --port 8001` runs it.

Annotations are not postponed here: Serve pickles the application, and FastAPI could not resolve
their names.
"""

import argparse
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import ray
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve
from ray.serve.handle import DeploymentHandle
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import nn

from ensemble.features.flow import used_positions
from tests.load.flows import made_up_flows

__all__ = ["main"]

FITTING_ROWS = 2000
# four deployments of one CPU each and one spare; with fewer, Serve's defaults wait forever
CPUS_FOR_DEFAULT_OPTIONS = 5
# Serve's default is 5. With 64 connections its router then waits and retries while the cores are
# idle: measured 4 to 7 requests/s, and 90 with this value (two cores, 2026-11-20). A comparison
# with the default would favour Axon.
ONGOING_REQUESTS = 100
WEIGHTS = {"anomaly": 0.33, "behavior": 0.67}
PRIOR = float(np.log(0.01 / 0.99))


class Flow(BaseModel):
    """One event of a request."""

    kind: str
    id: str = ""
    host: str = ""
    features: list[float]


@serve.deployment(max_ongoing_requests=ONGOING_REQUESTS)
class Anomaly:
    """A layer with isolation forest and reconstruction error, fitted at the start."""

    def __init__(self) -> None:
        rows = made_up_flows(FITTING_ROWS, seed=1)[:, used_positions()]
        self.scaler = StandardScaler().fit(rows)
        scaled = self.scaler.transform(rows)
        self.forest = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(scaled)
        self.subspace = PCA(n_components=16, random_state=0).fit(scaled)

    def score(self, features: list[float]) -> float:
        """Score one event, in [0, 1]."""
        row = self.scaler.transform(np.array([features])[:, used_positions()])
        # scikit-learn: lower is more anomalous; Axon: higher is more anomalous
        isolation = -self.forest.score_samples(row)[0]
        residual = np.linalg.norm(
            row - self.subspace.inverse_transform(self.subspace.transform(row))
        )
        return float(0.5 * isolation + 0.5 * residual / (1.0 + residual))


@serve.deployment(max_ongoing_requests=ONGOING_REQUESTS)
class Behavior:
    """A layer with a small network. Its weights are random, because only its cost matters."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        rows = made_up_flows(FITTING_ROWS, seed=1)[:, used_positions()]
        self.scaler = StandardScaler().fit(rows)
        self.network = nn.Sequential(
            nn.Linear(76, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 12)
        ).eval()

    def score(self, features: list[float]) -> float:
        """Estimate the probability that one event is not benign."""
        row = self.scaler.transform(np.array([features])[:, used_positions()])
        with torch.no_grad():
            return float(
                1.0 - torch.softmax(self.network(torch.from_numpy(row).float()), dim=1)[0, 0]
            )


@serve.deployment(max_ongoing_requests=ONGOING_REQUESTS)
class Resilience:
    """A layer with the posture of a host: probability and impact of ten findings."""

    def __init__(self) -> None:
        random = np.random.default_rng(2)
        self.findings = {host: random.random((10, 2)) for host in ("10.0.0.7", "web-1", "ws-17")}

    def score(self, host: str) -> float:
        """Score one host; 0.5 for an unknown host."""
        findings = self.findings.get(host)
        if findings is None:
            return 0.5
        return float(1.0 - np.prod(1.0 - 0.1 * findings[:, 0] * findings[:, 1]))


app = FastAPI()


@serve.deployment(max_ongoing_requests=ONGOING_REQUESTS)
@serve.ingress(app)
class Ingress:
    """The ingress, which awaits each layer in turn and fuses their scores."""

    def __init__(
        self, anomaly: DeploymentHandle, behavior: DeploymentHandle, resilience: DeploymentHandle
    ) -> None:
        self.anomaly, self.behavior, self.resilience = anomaly, behavior, resilience

    @app.post("/v1/score")
    async def score(self, flow: Flow) -> dict[str, Any]:
        """Score one event."""
        since = time.monotonic()
        layers = {
            "anomaly": await self.anomaly.score.remote(flow.features),
            "behavior": await self.behavior.score.remote(flow.features),
            "resilience": await self.resilience.score.remote(flow.host),
        }
        odds = {
            layer: np.log(
                np.clip(layers[layer], 0.0025, 0.9975)
                / (1 - np.clip(layers[layer], 0.0025, 0.9975))
            )
            for layer in WEIGHTS
        }
        z = (
            PRIOR
            + sum(weight * (odds[layer] - PRIOR) for layer, weight in WEIGHTS.items())
            + layers["resilience"]
            - 0.5
        )
        return {
            "id": flow.id,
            "score": float(1.0 / (1.0 + np.exp(-z))),
            "coverage": 1.0,
            "degraded": False,
            "layers": [
                {"layer": layer, "score": score, "status": "live"}
                for layer, score in layers.items()
            ],
            "elapsed_ms": (time.monotonic() - since) * 1000.0,
        }


def main() -> None:
    """Serve the application on loopback until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    port = parser.parse_args().port
    stopped = threading.Event()
    ray.init(
        address="local",
        num_cpus=max(CPUS_FOR_DEFAULT_OPTIONS, os.cpu_count() or 1),
        log_to_driver=False,
        logging_level="ERROR",
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(
            Ingress.bind(Anomaly.bind(), Behavior.bind(), Resilience.bind()),
            name="obvious",
            route_prefix="/",
        )
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
