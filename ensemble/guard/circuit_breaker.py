"""Circuit breaker: stop calling a layer that fails, and test it with one call at a time.

A state machine on a given clock. The caller makes the calls and reports the outcome of each.

Source: Nygard, "Release It!", 2nd edition, Pragmatic Bookshelf 2018, chapter 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BreakerRules", "BreakerState", "CircuitBreaker", "Ticket"]


class BreakerState(StrEnum):
    """Whether a layer is called."""

    CLOSED = "closed"  # called
    OPEN = "open"  # not called
    HALF_OPEN = "half_open"  # one trial call is in flight


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and how it recovers.

    Attributes:
        failures_in_a_row: consecutive failures that open it.
        window: number of calls that are remembered, >= 1.
        bad_share: share of failed calls in a full window that opens it, in (0, 1].
        open_s: seconds that it stays open at first; doubled by every failed trial.
        longest_open_s: limit of the doubling: the longest that a recovered layer waits for a trial.
        jitter: share by which the open time may be shortened at random, in [0, 1], so that ingress
            replicas do not try at the same moment.
        trial_s: seconds after which a trial without an answer has failed.
    """

    failures_in_a_row: int
    window: int
    bad_share: float
    open_s: float
    longest_open_s: float
    jitter: float
    trial_s: float


@dataclass(frozen=True, slots=True)
class Ticket:
    """Permission for one call; the caller returns it with the outcome.

    An outcome from before the last change of state is ignored.
    """

    epoch: int
    is_trial: bool


class CircuitBreaker:
    """Circuit breaker of one layer.

    closed -> open       after consecutive failures, a share of them in the window, or `trip`
    open -> half open    after a pause that doubles with every failed trial, up to a limit
    half open -> closed  by one good trial, at once for all traffic: without a layer that works,
                         detection would be worse for no reason
    half open -> open    by a bad trial, or by one that does not return in time

    The pause returns to its first length only after a full window without opening. A layer that
    passes its trials and fails under load is therefore tried less and less often.

    Args:
        rules: thresholds and times.
        clock: seconds of a monotonic clock.
        jitter: returns a random number in [0, 1).
        on_change: called with the new state and the reason at every change.
    """

    def __init__(
        self,
        rules: BreakerRules,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        on_change: Callable[[BreakerState, str], None] = lambda _state, _reason: None,
    ) -> None:
        self._rules, self._clock, self._jitter, self._on_change = rules, clock, jitter, on_change
        self._state, self._since = BreakerState.CLOSED, clock()
        self._ticket = Ticket(0, is_trial=False)  # one for all calls between two changes
        self._outcomes: deque[bool] = deque(maxlen=rules.window)
        self._bad_in_window = self._bad_in_a_row = 0
        self._pause_s = rules.open_s  # of the next opening
        self._ends_at = 0.0  # of the pause while open, of the trial while half open

    @property
    def state(self) -> BreakerState:
        """State of the breaker."""
        self._end_a_lost_trial()
        return self._state

    @property
    def since(self) -> float:
        """Time at which it left `closed`, or returned to it, by its clock.

        A failed trial does not change it.
        """
        return self._since

    def admit(self) -> Ticket | None:
        """Admit one call; None if the layer is not to be called.

        The outcome of a ticket with `is_trial` alone decides the next state.
        """
        if self._state is BreakerState.CLOSED:
            return self._ticket
        self._end_a_lost_trial()
        now = self._clock()
        if now < self._ends_at:  # of the pause, or of the trial in flight
            return None
        self._ends_at = now + self._rules.trial_s
        self._change(BreakerState.HALF_OPEN, "a trial is out", is_trial=True)
        return self._ticket

    def record(self, ticket: Ticket, *, is_good: bool) -> None:
        """Record the outcome of a call; callers omit outcomes that the layer did not cause."""
        self._end_a_lost_trial()
        if ticket.epoch != self._ticket.epoch:
            return
        if ticket.is_trial:
            self._close("the trial was answered") if is_good else self._open("the trial failed")
            return
        if len(self._outcomes) == self._rules.window:
            self._bad_in_window -= not self._outcomes[0]
        self._outcomes.append(is_good)
        self._bad_in_window += not is_good
        self._bad_in_a_row = 0 if is_good else self._bad_in_a_row + 1
        is_full = len(self._outcomes) == self._rules.window
        if self._bad_in_a_row >= self._rules.failures_in_a_row:
            self._open(f"{self._bad_in_a_row} failures in a row")
        elif is_full and self._bad_in_window >= self._rules.bad_share * self._rules.window:
            self._open(f"{self._bad_in_window} of the last {self._rules.window} calls failed")
        elif is_full:
            self._pause_s = self._rules.open_s

    def trip(self, reason: str) -> None:
        """Open at once, because the layer is known not to answer; only a closed breaker opens."""
        self._end_a_lost_trial()
        if self._state is BreakerState.CLOSED:
            self._open(reason)

    def reset(self) -> None:
        """Close at once and forget all outcomes, at an operator's request."""
        self._pause_s = self._rules.open_s
        self._close("reset by an operator")

    def _end_a_lost_trial(self) -> None:
        if self._state is BreakerState.HALF_OPEN and self._clock() >= self._ends_at:
            self._open("the trial did not return")

    def _open(self, reason: str) -> None:
        self._ends_at = self._clock() + self._pause_s * (1.0 - self._rules.jitter * self._jitter())
        self._pause_s = min(2.0 * self._pause_s, self._rules.longest_open_s)
        self._change(BreakerState.OPEN, reason)

    def _close(self, reason: str) -> None:
        self._outcomes.clear()
        self._bad_in_window = self._bad_in_a_row = 0
        self._change(BreakerState.CLOSED, reason)

    def _change(self, state: BreakerState, reason: str, *, is_trial: bool = False) -> None:
        if BreakerState.CLOSED in (self._state, state):
            self._since = self._clock()
        self._state = state
        self._ticket = Ticket(self._ticket.epoch + 1, is_trial)
        self._on_change(state, reason)
