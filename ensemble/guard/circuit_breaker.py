"""The circuit breaker of a layer: stop calling what fails, and test it with one call at a time.

A state machine on a clock that is given to it. It decides; the caller makes the calls and reports
how each of them went.

Source: Nygard, "Release It!", 2nd edition, Pragmatic Bookshelf 2018, chapter 5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BreakerRules", "BreakerState", "CircuitBreaker", "Ticket"]


class BreakerState(StrEnum):
    """Whether a layer is asked."""

    CLOSED = "closed"  # asked
    OPEN = "open"  # not asked
    HALF_OPEN = "half_open"  # one trial call is out


@dataclass(frozen=True, slots=True)
class BreakerRules:
    """When a breaker opens, and how it finds back.

    Attributes:
        failures_in_a_row: open it.
        window: calls that are remembered, >= 1.
        bad_share: of a full window, opens it; in (0, 1].
        open_s: the first time it stays open; doubled by every failed trial.
        longest_open_s: the doubling ends here: the longest that a healed layer waits for its trial.
        jitter: share of that time by which it may be shorter, in [0, 1], so that ingress
            replicas do not try at the same moment.
        trial_s: a trial that has not returned by then has failed.
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
    """Leave to make one call, shown again with its outcome.

    An outcome from before the last change counts for nothing.
    """

    epoch: int
    is_trial: bool


class CircuitBreaker:
    """Circuit breaker: stop calling a failing layer, and test it with one call at a time.

    closed -> open after some failures in a row, or when half of the last calls were bad or slow
    open -> half open after a pause that doubles with every failed trial, up to a limit
    half open -> closed by one good trial, at once for all traffic: holding a proven layer back
    would be chosen blindness
    half open -> open by a bad trial, or by one that does not return in time

    The doubling is forgotten only after a whole window without opening, so that a layer that passes
    its trials and fails under load is tried less and less often.

    Args:
        rules: the numbers.
        clock: seconds that only rise.
        jitter: a fresh number in [0, 1) at every call.
        on_change: told the new state and why, at every change.
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
        """When it left `closed`, or came back there, by its clock.

        A trial that fails begins nothing new.
        """
        return self._since

    def admit(self) -> Ticket | None:
        """Leave for one call, or None.

        Do not ask. A ticket with `is_trial` decides alone what comes next.
        """
        if self._state is BreakerState.CLOSED:
            return self._ticket
        self._end_a_lost_trial()
        now = self._clock()
        if now < self._ends_at:  # of the pause, or of the trial that is out
            return None
        self._ends_at = now + self._rules.trial_s
        self._change(BreakerState.HALF_OPEN, "a trial is out", is_trial=True)
        return self._ticket

    def record(self, ticket: Ticket, *, is_good: bool) -> None:
        """Record the result of the call of `ticket`; a call that the caller spoilt has none."""
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
            self._open(
                f"{self._bad_in_window} of the last {self._rules.window} calls were bad or slow"
            )
        elif is_full:
            self._pause_s = self._rules.open_s

    def reset(self) -> None:
        """Close at once and forget: an operator knows better."""
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
