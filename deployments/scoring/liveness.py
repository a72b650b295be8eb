"""Liveness of a layer: tell a layer that hangs from one that is slow.

A call that misses its deadline proves nothing: under load every call is late. So a late call only
asks a question, by a probe that is sent to all replicas of the layer past their request queues. A
layer is hung if for a second neither the probe nor any call gets an answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError

__all__ = ["Liveness"]

# The time of a probe is waited for in parts, so that a second in which the ingress itself got no
# CPU time is not taken for a second without an answer.
PARTS = 4
PROBED = "check_health"  # of the layer's deployment; an error that it raises is an answer too


class Liveness:
    """Probes the replicas of one layer when calls are late, one probe at a time.

    Args:
        handle: of the layer's deployment.
        within_s: seconds without an answer after which the layer is hung.
        on_hung: called when it is.

    Attributes:
        answers: replies of any kind since the start.
    """

    def __init__(
        self,
        handle: Any,  # noqa: ANN401  # Serve's handle makes its methods on the fly
        *,
        within_s: float,
        on_hung: Callable[[], None],
    ) -> None:
        self._handle, self._within_s, self._on_hung = handle, within_s, on_hung
        self.answers = 0
        self._probe: asyncio.Task[None] | None = None

    def answered(self) -> None:
        """Note that the layer replied to a call, however late, or with an error of its own."""
        self.answers += 1

    def suspect(self) -> None:
        """Probe the layer, because a call was late. A probe that is out is enough."""
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._run())

    async def _run(self) -> None:
        answers = self.answers
        probe = asyncio.ensure_future(
            self._handle.broadcast(PROBED).results_async(return_exceptions=True)
        )
        try:
            for _ in range(PARTS):
                await asyncio.wait([probe], timeout=self._within_s / PARTS)
                if self.answers != answers or _is_answer(probe):
                    return
        finally:
            probe.cancel()
        self._on_hung()


def _is_answer(probe: asyncio.Future[list[Any]]) -> bool:
    """Whether a replica that lives answered the probe."""
    if not probe.done() or probe.cancelled() or probe.exception() is not None:
        return False
    dead = (RayActorError, DeploymentUnavailableError)
    return any(not isinstance(answer, dead) for answer in probe.result())
