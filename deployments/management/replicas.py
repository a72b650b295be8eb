"""Calls to replicas of other deployments: each has a timeout, each failure is an Axon error.

An application may not be running, a deployment may be restarting, a replica may hang or die. The
HTTP caller gets the same answer for all of these: 503, with the time of a retry. An Axon error that
the replica raised is passed on unchanged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from deployments.observability import log_event
from ensemble.errors import DeploymentUnavailable, EnsembleError

__all__ = ["Replicas"]

GONE = (KeyError, RayServeException, RayError, TimeoutError, ConnectionError)


class Replicas:
    """The replicas of one deployment.

    Args:
        deployment: name of the deployment, for the log.
        handle: returns its handle; may block, and raises KeyError where there is none.
        within_s: timeout of a call, in seconds.
    """

    def __init__(self, deployment: str, handle: Callable[[], Any], within_s: float) -> None:
        self.deployment, self._find, self._within_s = deployment, handle, within_s
        self._handle: Any = None

    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401  # the method's own types
        """Call a method of one replica.

        Raises:
            DeploymentUnavailable: no replica answered in time.
            EnsembleError: raised by the replica.
        """

        async def send() -> Any:  # noqa: ANN401  # the method's own type
            return await getattr(await self._found(), method).remote(*args)

        return await self._within(send)

    async def broadcast(self, method: str, *args: Any) -> list[Any]:  # noqa: ANN401  # likewise
        """Call a method of every replica; an error stands in the place of its answer.

        Raises:
            DeploymentUnavailable: there is no replica, or the calls timed out.
        """

        async def send() -> list[Any]:
            response = (await self._found()).broadcast(method, *args)
            return list(
                await response.results_async(timeout_s=self._within_s, return_exceptions=True)
            )

        answers: list[Any] = await self._within(send)
        if not answers:
            raise DeploymentUnavailable
        return [
            self._as_ensemble_error(answer) if isinstance(answer, Exception) else answer
            for answer in answers
        ]

    async def _found(self) -> Any:  # noqa: ANN401  # Serve's handle builds its methods on the fly
        if self._handle is None:
            self._handle = await asyncio.to_thread(self._find)
        return self._handle

    async def _within(self, send: Callable[[], Any]) -> Any:  # noqa: ANN401  # as `send` returns
        """Await a call with a timeout; while no replica runs, Serve itself waits for ever."""
        try:
            return await asyncio.wait_for(send(), self._within_s)
        except (EnsembleError, *GONE) as error:
            raise self._as_ensemble_error(error) from None

    def _as_ensemble_error(self, error: Exception) -> EnsembleError:
        """Unwrap an error from Ray's wrapper, which contains a traceback.

        An error that is not Axon's is written to the log only.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, EnsembleError):
            return cause
        log_event(
            logging.WARNING,
            "replica_call_failed",
            {"deployment": self.deployment, "error": type(cause).__name__},
        )
        return DeploymentUnavailable()
