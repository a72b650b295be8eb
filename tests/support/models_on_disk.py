"""A copy of the shipped models to break, the layers' own deployments on it, and the ingress before them; all in one process."""

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
from tests.deployments.conftest import PATIENT, Door, FakeMethod, RecordingMeter, values_of

__all__ = ["ModelsOnDisk", "said"]


class Handle:
    """A deployment's handle without Ray."""

    def __init__(self, deployment: LayerDeployment) -> None:
        for method in ("score", "state", "test", "classify"):
            setattr(self, method, FakeMethod(getattr(deployment, method)))


class ModelsOnDisk:
    """Files to break, and an ensemble that is started on them and looks at them when it is told to."""

    def __init__(self, shipped: Path, meter: RecordingMeter) -> None:
        shutil.copytree(ROOT / "artifacts", shipped)
        self.shipped, self._meter = shipped, meter
        self._layers: dict[str, LayerDeployment] = {}
        self._doors: list[Door] = []  # of every start; only the last one's looks
        self._is_looking = False

    def files(self, pattern: str) -> list[Path]:
        found = sorted(self.shipped.rglob(pattern))
        assert found
        return found

    def start(self, overrides: Mapping[str, Any] = PATIENT) -> Door:
        """New processes, as it were: nothing of an earlier start is remembered."""
        settings = values_of(
            read_settings(
                {**overrides, "store": {**overrides.get("store", {}), "shipped": str(self.shipped)}}
            )
        )
        self._is_looking = False  # the door before belongs to layers that are gone
        for layer in LAYERS:
            if layer in self._layers:
                for polled in self._layers[layer].slots:
                    polled.stop()
            self._layers[layer] = LayerDeployment(layer, settings, 0.0)
            for polled in self._layers[layer].slots:
                polled.stop()  # the tests look themselves
        self.look()
        handles = {layer: Handle(deployment) for layer, deployment in self._layers.items()}
        self._doors.append(Door(IngressApp(settings, handles, self._meter)))
        self._is_looking = True
        return self._doors[-1]

    def look(self) -> None:
        """Every layer looks at its files, and the ingress at the pointer, until nothing new is asked for."""
        for _ in range(3):
            for deployment in self._layers.values():
                for polled in deployment.slots:
                    polled.poll()
            if self._is_looking:
                door = self._doors[-1]
                watcher = door.ingress._pipelines.watchers[Tenant("default")]
                door._loop.run(watcher.poll())

    def close(self) -> None:
        for door in self._doors:
            door.close()
        for deployment in self._layers.values():
            for polled in (
                deployment.slots
            ):  # a tenant's slot is made when it is asked for, and looks after itself from then on
                polled.stop()


def said(answer: Mapping[str, Any]) -> dict[str, str]:
    """Layer -> its status in an answer."""
    return {layer["layer"]: layer["status"] for layer in answer["layers"]}
