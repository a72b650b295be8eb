"""A copy of the shipped models to break, and the layers and the ingress on it, in one process."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.config.settings import ROOT, read_settings
from deployments.layers.deployment import LayerDeployment
from deployments.scoring.app import IngressApp
from ensemble.layers.catalog import LAYERS
from ensemble.store.names import Tenant
from tests.support.asgi_clients import LONG_DEADLINE, IngressClient, settings_values
from tests.support.fake_handles import DeploymentHandle
from tests.support.recorded_telemetry import RecordingMeter

__all__ = ["ModelsOnDisk", "layer_statuses"]


class ModelsOnDisk:
    """Model files to break, and an ensemble that polls them only when the test calls `poll`."""

    def __init__(self, shipped: Path, meter: RecordingMeter) -> None:
        shutil.copytree(ROOT / "artifacts", shipped)
        self.shipped, self._meter = shipped, meter
        self._layers: dict[str, LayerDeployment] = {}
        self._clients: list[IngressClient] = []  # one of each start; only the last one is polled
        self._is_started = False

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.shipped.rglob(pattern))
        assert found
        return found

    def start(self, overrides: Mapping[str, Any] = LONG_DEADLINE) -> IngressClient:
        """Start new layers and a new ingress without earlier state, as new processes would."""
        settings = settings_values(
            read_settings(
                {**overrides, "store": {**overrides.get("store", {}), "shipped": str(self.shipped)}}
            )
        )
        self._is_started = False  # the ingress of an earlier start has layers that are gone
        for layer in LAYERS:
            if layer in self._layers:
                for polled in self._layers[layer].slots:
                    polled.stop()
            self._layers[layer] = LayerDeployment(layer, settings, 0.0)
            for polled in self._layers[layer].slots:
                polled.stop()
        self.poll()
        handles = {
            layer: DeploymentHandle(deployment) for layer, deployment in self._layers.items()
        }
        self._clients.append(IngressClient(IngressApp(settings, handles, self._meter)))
        self._is_started = True
        return self._clients[-1]

    def poll(self) -> None:
        """Poll the files of every layer and the pointer of the ingress, until nothing changes."""
        for _ in range(3):
            for deployment in self._layers.values():
                for polled in deployment.slots:
                    polled.poll()
            if self._is_started:
                client = self._clients[-1]
                watcher = client.ingress._pipelines.watchers[Tenant("default")]
                client.loop.run(watcher.poll())

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for deployment in self._layers.values():
            for polled in deployment.slots:  # a tenant's slot starts polling when it is made
                polled.stop()


def layer_statuses(response: Mapping[str, Any]) -> dict[str, str]:
    """Map each layer of a response to its status."""
    return {layer["layer"]: layer["status"] for layer in response["layers"]}
