"""A layer under its guard: one call at a time is asked for, and whatever becomes of it, an opinion or an abstention comes back.

What Serve's handle raises, read in its source for 2.60 on the gRPC transport of the throughput
mode: a replica that dies while it
computes gives `ActorUnavailableError` (`ActorDiedError` on the other transport), one that is being
drained may give a bare
`AioRpcError`; one that died before it took the call gives nothing: Serve looks for another one and
waits without end, which only
our deadline ends. A full queue is `BackPressureError`. A cancelled call is `CancelledError`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from grpc.aio import AioRpcError  # type: ignore[import-untyped]  # grpc has no types of its own
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.config.settings import GuardSettings
from deployments.observability.log import LogThrottle, log_event
from ensemble.errors import LayerCrashed, LayerError, LayerOpen, LayerOverloaded, LayerTimeout
from ensemble.events import EventBatch
from ensemble.guard import BreakerRules, BreakerState, Bulkhead, CircuitBreaker, RetryBudget, Ticket
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.slot import ANY_RELEASE
from ensemble.verdicts import LayerScores, LayerStatus

__all__ = ["CallObserver", "GuardedLayer", "InFlightCall", "LayerCall"]

LayerCall = Callable[[EventBatch, str, bool], Awaitable[LayerScores]]
Answer = TypeVar("Answer")
_DIED = (RayActorError, AioRpcError)


class CallObserver(Protocol):
    """Who counts what a guard does; each call must be cheap and never raise."""

    def retried(self, layer: str) -> None:
        """A call is repeated because its replica died."""

    def failed(self, layer: str, code: str) -> None:
        """A call failed, or was not answered in time."""

    def breaker_changed(self, layer: str, state: BreakerState, reason: str) -> None:
        """A layer's breaker opened, closed, or tries."""


@dataclass(slots=True)
class InFlightCall:
    """A call that is out.

    Attributes:
        call: the call itself.
        ticket: of the breaker that let it out; the answer of a trial is not waited for.
        size: events it was asked about.
        release: it was asked for.
        explain: whether it was asked to explain.
        began: when it was asked, by the guard's clock.
        took_s: seconds until it ended, 0.0 while it has not.
    """

    call: asyncio.Task[LayerScores]
    ticket: Ticket
    size: int
    release: str
    explain: bool
    began: float
    took_s: float = 0.0


class GuardedLayer:
    """Asks one layer, as its breaker, its bulkhead and its retry budget allow.

    Args:
        layer: its name.
        call: its scoring call.
        settings: of the guard.
        deadline_s: of a request; a trial has as long.
        clock: seconds that only rise.
        observer: who counts.
    """

    def __init__(
        self,
        layer: str,
        call: LayerCall,
        settings: GuardSettings,
        *,
        deadline_s: float,
        clock: Callable[[], float],
        observer: CallObserver,
    ) -> None:
        self._layer, self._call, self._clock, self._observer = layer, call, clock, observer
        self._fallback_score, self._is_stateless = (
            LAYERS[layer].fallback_score,
            LAYERS[layer].is_stateless,
        )
        self._deadline_s, self._slow_s = deadline_s, settings.slow_share * deadline_s
        rules = BreakerRules(
            failures_in_a_row=settings.failures_in_a_row,
            window=settings.window,
            bad_share=settings.bad_share,
            open_s=settings.open_s,
            longest_open_s=settings.longest_open_s,
            jitter=settings.jitter,
            trial_s=deadline_s,
        )
        self.breaker = CircuitBreaker(
            rules, clock=clock, jitter=random.random, on_change=self._breaker_changed
        )
        self._bulkhead = Bulkhead(settings.calls_in_flight)
        self._retries = RetryBudget(settings.retry_share, settings.retries_saved)
        self._pace = LogThrottle(clock)
        self._was_open = False  # when it was said last how the breaker stands
        self._trials: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    def ask(self, batch: EventBatch, release: str, *, explain: bool) -> InFlightCall | LayerScores:
        """Let a call out, or abstain at once."""
        if not self._bulkhead.enter():
            return self._silent(LayerStatus.FALLBACK, LayerOverloaded.code, len(batch))
        ticket = self.breaker.admit()
        if ticket is None:
            self._bulkhead.leave()
            return self._silent(LayerStatus.OPEN, LayerOpen.code, len(batch))
        call = asyncio.create_task(self._answer(lambda: self._call(batch, release, explain)))
        pending = InFlightCall(call, ticket, len(batch), release, explain, self._clock())
        call.add_done_callback(partial(self._ended, pending))
        if ticket.is_trial:
            trial = asyncio.create_task(self._judge_trial(pending))
            self._trials.add(trial)
            trial.add_done_callback(self._trials.discard)
        return pending

    def opinion(self, pending: InFlightCall, *, excused_s: float) -> LayerScores:
        """What came of a call that nobody waits for any longer: it is in, or it is given up.

        Args:
            pending: the call.
            excused_s: of the time it took, what was not the layer's doing.
        """
        is_trial = pending.ticket.is_trial
        if not pending.call.done():
            self.give_up(pending, excused_s=excused_s)
            if is_trial:
                return self._silent(LayerStatus.OPEN, LayerOpen.code, pending.size)
            self._observer.failed(self._layer, LayerTimeout.code)
            return self._silent(LayerStatus.TIMEOUT, LayerTimeout.code, pending.size)
        code, error_type = self._fault(pending)
        if not is_trial:  # which has its own judge
            self._tell_fault(code, error_type)
            self.breaker.tell(
                pending.ticket, is_good=not code and not self._is_slow(pending, excused_s)
            )
        return (
            self._silent(LayerStatus.FALLBACK, code, pending.size)
            if code
            else pending.call.result()
        )

    def give_up(self, pending: InFlightCall, *, excused_s: float) -> None:
        """Stop a call that is still out.

        It frees the layer's queue; what already computes runs on. A trial runs on to its own end.
        """
        if pending.ticket.is_trial or pending.call.done():
            return
        had_s = self._clock() - pending.began - excused_s
        if (
            pending.call.cancel() and had_s >= self._slow_s
        ):  # with less time than that it is not to blame
            self.breaker.tell(pending.ticket, is_good=False)

    async def ask_otherwise(
        self, question: Callable[[], Awaitable[Answer]], *, within_s: float
    ) -> Answer:
        """Another question than for its opinion: through the same bulkhead and breaker, told of as any call, and waited for by who asks.

        There is no other layer to answer in its place, so what an opinion would say as an
        abstention is raised here. A slow answer
        is not held against the layer, as little as an explanation: the question may be larger than
        any event.

        Raises:
            LayerError: it was not asked, did not answer in time, or failed; the code says which.
        """
        if not self._bulkhead.enter():
            raise LayerOverloaded(self._layer)
        ticket = self.breaker.admit()
        if ticket is None:
            self._bulkhead.leave()
            raise LayerOpen(self._layer)
        began = self._clock()
        call = asyncio.create_task(self._answer(question))
        call.add_done_callback(lambda _: self._bulkhead.leave())
        try:
            await asyncio.wait([call], timeout=within_s)
        except (
            asyncio.CancelledError
        ):  # a client that left: nothing is known of the layer; a trial that is lost ends by itself
            call.cancel()
            raise
        error: BaseException | None = TimeoutError() if not call.done() else None
        if error is None:
            error = asyncio.CancelledError() if call.cancelled() else call.exception()
        if error is None:
            self.breaker.tell(ticket, is_good=True)
            return call.result()
        call.cancel()
        kind = LayerTimeout if isinstance(error, TimeoutError) else _kind_of(error)
        if (
            kind is not LayerTimeout or ticket.is_trial or self._clock() - began >= self._slow_s
        ):  # with less time it is not to blame
            self.breaker.tell(ticket, is_good=False)
        self._tell_fault(kind.code, type(error).__name__)
        raise kind(self._layer) from error

    async def _answer(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        self._retries.request()
        try:
            return await ask()
        except _DIED as error:
            if (
                isinstance(error, RayTaskError)
                or not self._is_stateless
                or not self._retries.spend()
            ):
                # an error of that kind inside the layer's own code is no death of its replica
                raise
            self._observer.retried(self._layer)
        return await ask()

    def _ended(self, pending: InFlightCall, _: asyncio.Task[LayerScores]) -> None:
        pending.took_s = self._clock() - pending.began
        self._bulkhead.leave()

    async def _judge_trial(self, pending: InFlightCall) -> None:
        """A trial is nobody's wait.

        It has a deadline of its own, and only the breaker hears of it.
        """
        await asyncio.wait([pending.call], timeout=self._deadline_s)
        code, error_type = (
            self._fault(pending)
            if pending.call.done()
            else (LayerTimeout.code, TimeoutError.__name__)
        )
        pending.call.cancel()
        self._tell_fault(code, error_type)
        self.breaker.tell(pending.ticket, is_good=not code and not self._is_slow(pending, 0.0))

    def _is_slow(self, pending: InFlightCall, excused_s: float) -> bool:
        """Whether an answer took too long; to explain takes long by nature."""
        return pending.took_s - excused_s > self._slow_s and not pending.explain

    def _fault(self, pending: InFlightCall) -> tuple[str, str]:
        """Code and type of what was wrong with a call that ended.

        "" for a sound answer, also where it is an abstention.
        """
        error = asyncio.CancelledError() if pending.call.cancelled() else pending.call.exception()
        if error is not None:
            return _kind_of(error).code, type(error).__name__
        said = pending.call.result()
        is_ours = said.layer == self._layer and len(said.scores) == pending.size
        is_of_release = not said.speaks or pending.release in (ANY_RELEASE, said.release)
        return (
            ("", "")
            if is_ours and is_of_release
            else (LayerCrashed.code, "an answer to another question")
        )

    def _tell_fault(self, code: str, error_type: str) -> None:
        """Count a call that failed; say it at first, and then how often it came again."""
        if not code:
            return
        self._observer.failed(self._layer, code)
        suppressed = self._pace.again(("layer_call_failed", code))
        if suppressed is not None:
            fields = {
                "layer": self._layer,
                "code": code,
                "error_type": error_type,
                "suppressed": suppressed,
            }
            log_event(logging.WARNING, "layer_call_failed", fields)

    def _breaker_changed(self, state: BreakerState, reason: str) -> None:
        """Every change is counted; a trial that is out, and one more that failed, are no news."""
        if state is not BreakerState.HALF_OPEN and self._was_open != (state is BreakerState.OPEN):
            self._was_open = state is BreakerState.OPEN
            level = logging.WARNING if self._was_open else logging.INFO
            log_event(
                level, "breaker_changed", {"layer": self._layer, "state": state, "reason": reason}
            )
        self._observer.breaker_changed(self._layer, state, reason)

    def _silent(self, status: LayerStatus, reason: str, size: int) -> LayerScores:
        return LayerScores.silent(self._layer, status, size, reason, score=self._fallback_score)


def _kind_of(error: BaseException) -> type[LayerError]:
    if isinstance(error, LayerError):
        return type(error)
    if isinstance(error, BackPressureError):
        return LayerOverloaded
    if isinstance(error, (*_DIED, DeploymentUnavailableError, asyncio.CancelledError)):
        return LayerCrashed
    return LayerError
