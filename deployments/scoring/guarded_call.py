"""One layer under its guard: circuit breaker, bulkhead and retry budget around every call.

Every call returns layer scores: those of the layer, or an abstention.

A call that fails counts against the layer. One that misses its deadline does not: the layer may be
slow because the machine is. It makes the guard probe the layer (`deployments.scoring.liveness`),
and only a layer that gives no sign of life is no longer called (P21b).

What Serve's handle raises, read in its source for 2.60 on the gRPC transport of the throughput
mode: a replica that dies while it computes gives `ActorUnavailableError` (`ActorDiedError` on the
other transport). One that is being drained may give a bare `AioRpcError`. One that died before it
accepted the call raises nothing: Serve searches for another replica without limit, and only our
deadline ends that. A full queue is `BackPressureError`. A cancelled call is `CancelledError`.

A call that is cancelled at its deadline while it waits in the replica is never begun there.
Measured: a replica that was stopped for 2 s began none of 16 such calls; one with four times the
work that it could do began none later than 2 ms after its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from grpc.aio import AioRpcError  # type: ignore[import-untyped]  # grpc has no types of its own
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.config import GuardSettings
from deployments.observability import LogThrottle, log_event
from deployments.scoring.liveness import Liveness
from deployments.scoring.scoring_metrics import ScoringMetrics
from deployments.scoring.task_set import TaskSet
from ensemble.errors import LayerCrashed, LayerError, LayerOpen, LayerOverloaded, LayerTimeout
from ensemble.events import EventBatch
from ensemble.guard import BreakerRules, BreakerState, Bulkhead, CircuitBreaker, RetryBudget, Ticket
from ensemble.layers import LAYERS
from ensemble.runtime import ANY_RELEASE
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["GuardedLayer", "InFlightCall"]

Response = TypeVar("Response")
_DIED = (RayActorError, AioRpcError)


@dataclass(slots=True)
class InFlightCall:
    """A scoring call that was started.

    Attributes:
        call: the call itself.
        ticket: of the breaker that admitted it; a batch does not wait for a trial call.
        size: number of events in its batch.
        release: name of the requested release.
        began: when it was started, by the guard's clock.
        answers: replies of the layer before it.
        elapsed_s: seconds until it ended, 0.0 before.
        is_given_up: the layer was found hung meanwhile.
    """

    call: asyncio.Task[LayerScores]
    ticket: Ticket
    size: int
    release: str
    began: float
    answers: int
    elapsed_s: float = 0.0
    is_given_up: bool = False


class GuardedLayer:
    """One layer, called as its breaker, its bulkhead and its retry budget allow.

    Args:
        layer: its name.
        handle: of its deployment.
        settings: of the guard.
        clock: seconds that only rise.
        metrics: counts.
    """

    def __init__(
        self,
        layer: str,
        handle: Any,  # noqa: ANN401  # Serve's handle makes its methods on the fly
        settings: GuardSettings,
        *,
        clock: Callable[[], float],
        metrics: ScoringMetrics,
    ) -> None:
        self._layer, self._clock, self._metrics = layer, clock, metrics
        self._score = handle.score.remote  # once: Serve makes a new handle at every access
        self._fallback_score = LAYERS[layer].fallback_score
        self._is_stateless = LAYERS[layer].is_stateless
        self._hung_s = settings.hung_s
        self._liveness = Liveness(handle, within_s=settings.hung_s, on_hung=self._give_up)
        rules = BreakerRules(
            failures_in_a_row=settings.failures_in_a_row,
            window=settings.window,
            bad_share=settings.bad_share,
            open_s=settings.open_s,
            longest_open_s=settings.longest_open_s,
            jitter=settings.jitter,
            trial_s=settings.hung_s,
        )
        self.breaker = CircuitBreaker(
            rules, clock=clock, jitter=random.random, on_change=self._breaker_changed
        )
        self._bulkhead = Bulkhead(settings.calls_in_flight)
        self._retries = RetryBudget(settings.retry_share, settings.retries_saved)
        self._throttle = LogThrottle(clock)
        self._was_open = False  # at the last log line about the breaker
        self._trials = TaskSet()
        self._in_flight: dict[asyncio.Task[LayerScores], InFlightCall] = {}

    def start(
        self, batch: EventBatch, release: str, *, explain: bool
    ) -> InFlightCall | LayerScores:
        """Start a scoring call, or abstain at once."""
        if not self._bulkhead.enter():
            return self._abstain(LayerStatus.FALLBACK, LayerOverloaded.code, len(batch))
        ticket = self.breaker.admit()
        if ticket is None:
            self._bulkhead.leave()
            return self._abstain(LayerStatus.OPEN, LayerOpen.code, len(batch))
        call = asyncio.create_task(self._retried(lambda: self._score(batch, release, explain)))
        answers = self._liveness.answers
        pending = InFlightCall(call, ticket, len(batch), release, self._clock(), answers)
        self._in_flight[call] = pending
        call.add_done_callback(partial(self._ended, pending))
        if ticket.is_trial:
            self._trials.run(self._rate_trial(pending))
        return pending

    def try_again(self, batch: EventBatch) -> None:
        """Start a trial if the breaker is open and its pause is over, so that none needs traffic.

        Args:
            batch: events of no caller; their scores are not used.
        """
        if self.breaker.state is not BreakerState.CLOSED:
            self.start(batch, ANY_RELEASE, explain=False)

    def result(self, pending: InFlightCall) -> LayerScores:
        """The scores of a call at the deadline; a call that has not ended is cancelled."""
        is_trial = pending.ticket.is_trial
        if not pending.call.done():
            self.cancel(pending)
            if is_trial:
                return self._abstain(LayerStatus.OPEN, LayerOpen.code, pending.size)
            self._liveness.suspect()
            return self._late(pending)
        if pending.is_given_up:
            return self._late(pending)
        code, error_type = self._fault(pending)
        if not is_trial:  # `_rate_trial` rates a trial
            self._report_fault(code, error_type)
            self.breaker.record(pending.ticket, is_good=not code)
        if code:
            return self._abstain(LayerStatus.FALLBACK, code, pending.size)
        return pending.call.result()

    def cancel(self, pending: InFlightCall) -> None:
        """Cancel a call that has not ended, which frees its place in the layer's queue.

        A replica that already computes goes on. A trial call runs on until its own deadline.
        """
        if not pending.ticket.is_trial:
            pending.call.cancel()

    async def call(
        self, request: Callable[[], Awaitable[Response]], *, within_s: float
    ) -> Response:
        """Call a method other than `score` under the same guard. The caller waits; failures raise.

        Raises:
            LayerError: the layer was not called, did not respond in time, or failed; the code says
                which.
        """
        if not self._bulkhead.enter():
            raise LayerOverloaded(self._layer)
        ticket = self.breaker.admit()
        if ticket is None:
            self._bulkhead.leave()
            raise LayerOpen(self._layer)
        call = asyncio.create_task(self._retried(request))
        call.add_done_callback(lambda _: self._bulkhead.leave())
        try:
            await asyncio.wait([call], timeout=within_s)
        except asyncio.CancelledError:
            # the client left, so the layer is not rated; the ticket of a lost trial expires
            call.cancel()
            raise
        error: BaseException | None = TimeoutError() if not call.done() else None
        if error is None:
            error = asyncio.CancelledError() if call.cancelled() else call.exception()
        if error is None:
            self._liveness.answered()
            self.breaker.record(ticket, is_good=True)
            return call.result()
        call.cancel()
        kind = LayerTimeout if isinstance(error, TimeoutError) else _kind_of(error)
        if kind is LayerTimeout:
            self._liveness.suspect()
        if kind is not LayerTimeout or ticket.is_trial:
            self.breaker.record(ticket, is_good=False)
        self._report_fault(kind.code, type(error).__name__)
        raise kind(self._layer) from error

    async def _retried(self, request: Callable[[], Awaitable[Response]]) -> Response:
        """Send a request; retry once if the replica died and the retry budget allows it."""
        self._retries.request()
        try:
            return await request()
        except _DIED as error:
            # a `RayTaskError` is an error of the layer's own code: its replica is alive
            is_own = isinstance(error, RayTaskError)
            if is_own or not self._is_stateless or not self._retries.spend():
                raise
            self._metrics.retried(self._layer)
        return await request()

    def _ended(self, pending: InFlightCall, call: asyncio.Task[LayerScores]) -> None:
        pending.elapsed_s = self._clock() - pending.began
        del self._in_flight[call]
        self._bulkhead.leave()
        if not call.cancelled() and not isinstance(call.exception(), _DIED):
            self._liveness.answered()

    def _give_up(self) -> None:
        """Open the breaker, and end the calls in flight: none of them gets an answer."""
        if self.breaker.state is not BreakerState.CLOSED:
            return
        self.breaker.trip(f"no answer to a call or a probe for {self._hung_s:g} s")
        for call, pending in self._in_flight.items():
            pending.is_given_up = True
            call.cancel()

    def _late(self, pending: InFlightCall) -> LayerScores:
        """Abstain for a late call; a layer that replied to others meanwhile has too much work."""
        self._metrics.failed(self._layer, LayerTimeout.code)
        is_busy = self._liveness.answers > pending.answers and not pending.is_given_up
        code = LayerOverloaded.code if is_busy else LayerTimeout.code
        return self._abstain(LayerStatus.TIMEOUT, code, pending.size)

    async def _rate_trial(self, pending: InFlightCall) -> None:
        """Rate a trial call, for which no batch waits, by its own deadline."""
        await asyncio.wait([pending.call], timeout=self._hung_s)
        code, error_type = (
            self._fault(pending)
            if pending.call.done()
            else (LayerTimeout.code, TimeoutError.__name__)
        )
        pending.call.cancel()
        self._report_fault(code, error_type)
        self.breaker.record(pending.ticket, is_good=not code)

    def _fault(self, pending: InFlightCall) -> tuple[str, str]:
        """The error code and type of a call that ended; "" for a valid response.

        An abstention of the layer is a valid response.
        """
        error = asyncio.CancelledError() if pending.call.cancelled() else pending.call.exception()
        if error is not None:
            return _kind_of(error).code, type(error).__name__
        scores = pending.call.result()
        is_own = scores.layer == self._layer and len(scores.scores) == pending.size
        is_of_release = not scores.speaks or pending.release in (ANY_RELEASE, scores.release)
        if is_own and is_of_release:
            return "", ""
        return LayerCrashed.code, "a response to another request"

    def _report_fault(self, code: str, error_type: str) -> None:
        """Count a failed call; log the first one, and later ones with the number suppressed."""
        if not code:
            return
        self._metrics.failed(self._layer, code)
        suppressed = self._throttle.again(("layer_call_failed", code))
        if suppressed is not None:
            fields = {
                "layer": self._layer,
                "code": code,
                "error_type": error_type,
                "suppressed": suppressed,
            }
            log_event(logging.WARNING, "layer_call_failed", fields)

    def _breaker_changed(self, state: BreakerState, reason: str) -> None:
        """Count every change; log when the breaker opens or closes, but not each trial."""
        is_open = state is BreakerState.OPEN
        if state is not BreakerState.HALF_OPEN and self._was_open != is_open:
            self._was_open = is_open
            fields = {"layer": self._layer, "state": state, "reason": reason}
            log_event(logging.WARNING if is_open else logging.INFO, "breaker_changed", fields)
        self._metrics.breaker_changed(self._layer, state)

    def _abstain(self, status: LayerStatus, reason: str, size: int) -> LayerScores:
        return LayerScores.silent(self._layer, status, size, reason, score=self._fallback_score)


def _kind_of(error: BaseException) -> type[LayerError]:
    if isinstance(error, LayerError):
        return type(error)
    if isinstance(error, BackPressureError):
        return LayerOverloaded
    if isinstance(error, (*_DIED, DeploymentUnavailableError, asyncio.CancelledError)):
        return LayerCrashed
    return LayerError
