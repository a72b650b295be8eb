"""Handles of Serve deployments without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.layers.deployment import LayerDeployment
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.runtime.classification import Classification, classify
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.model_state import SlotState
from ensemble.verdicts import LayerScores

__all__ = ["DeploymentHandle", "FakeHandle", "FakeMethod", "ReplicasHandle"]


class FakeMethod:
    """A method of a handle: `.remote(...)` returns an awaitable."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class Broadcast:
    """The result of `ReplicasHandle.broadcast`."""

    def __init__(self, answers: list[Awaitable[Any]]) -> None:
        self._answers = answers

    async def results_async(
        self, *, timeout_s: float | None = None, return_exceptions: bool
    ) -> list[Any]:
        return await asyncio.wait_for(
            asyncio.gather(*self._answers, return_exceptions=return_exceptions), timeout_s
        )


class FakeHandle:
    """The handle of a layer deployment, around a real slot.

    Args:
        slot: answers the calls.
        checks: the result of `test`, by kind of event.
    """

    # the default is only read
    def __init__(self, slot: LayerSlot, checks: Mapping[Kind, Any] = {}) -> None:  # type: ignore[assignment]
        async def test() -> Mapping[Kind, Any]:
            return checks

        # positional, as in the deployment
        async def score(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
            return slot.score(batch, release, explain=explain)

        async def classify_flows(batch: FlowBatch, release: str, model_name: str) -> Classification:
            return classify(slot, batch, release, model_name)

        async def state(wanted: int) -> tuple[SlotState, str]:
            return slot.state(wanted), "cpu"

        self.score, self.state, self.test = FakeMethod(score), FakeMethod(state), FakeMethod(test)
        self.classify = FakeMethod(classify_flows)

    def broadcast(self, method: str) -> Broadcast:
        """Answer a probe at once."""
        assert method == "check_health"
        return Broadcast([asyncio.sleep(0)])


class DeploymentHandle:
    """The handle of a layer deployment that is an object in this process."""

    def __init__(self, deployment: LayerDeployment) -> None:
        for method in ("score", "state", "test", "classify"):
            setattr(self, method, FakeMethod(getattr(deployment, method)))


class ReplicasHandle:
    """A handle over objects that stand for the replicas. A plain call goes to the first."""

    def __init__(self, *replicas: Any) -> None:
        self._replicas = replicas

    def __getattr__(self, method: str) -> FakeMethod:
        return FakeMethod(getattr(self._replicas[0], method))

    def broadcast(self, method: str, *arguments: Any) -> Broadcast:
        return Broadcast([getattr(replica, method)(*arguments) for replica in self._replicas])
