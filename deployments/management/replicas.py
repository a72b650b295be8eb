"""Calls to replicas of other deployments: each with a timeout, each failure an Axon error.

An application may not be running, a deployment may be between two processes, a replica may hang or
die. An HTTP caller gets the same answer for all: 503, and when to come back. An Axon error that the
replica raised is passed on as it was.
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
        deployment: its name, for the log.
        handle: finds its handle; may block, and raises KeyError where there is none.
        within_s: seconds that a call may take.
    """

    def __init__(self, deployment: str, handle: Callable[[], Any], within_s: float) -> None:
        self.deployment, self._find, self._within_s = deployment, handle, within_s
        self._handle: Any = None

    # whatever the method takes and gives
    async def call(self, method: str, *args: Any) -> Any:  # noqa: ANN401
        """What one of them answers.

        Raises:
            DeploymentUnavailable: nobody answered in time.
            EnsembleError: as it was raised there.
        """

        async def send() -> Any:  # noqa: ANN401
            return await getattr(await self._found(), method).remote(*args)

        return await self._within(send)

    async def broadcast(self, method: str, *args: Any) -> list[Any]:  # noqa: ANN401  # likewise
        """What each of them answers, or the error in its place.

        Errors as in `call` where nobody is there.
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

    async def _within(self, send: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Serve's own waits have no end while no replica runs."""
        try:
            return await asyncio.wait_for(send(), self._within_s)
        except EnsembleError as error:
            raise self._as_ensemble_error(error) from None
        except GONE as error:
            raise self._as_ensemble_error(error) from None

    def _as_ensemble_error(self, error: Exception) -> EnsembleError:
        """What was raised there, without Ray's wrapping, which holds a traceback.

        Whatever is none of ours is told to the log alone.
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
