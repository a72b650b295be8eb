"""Guards: a failing layer is no longer called, is tested by one call at a time, and recovers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ensemble.guard import (
    BreakerRules,
    BreakerState,
    Bulkhead,
    CircuitBreaker,
    Deadline,
    RetryBudget,
    Ticket,
)
from tests.support.timing import Clock

RULES = BreakerRules(
    failures_in_a_row=5,
    window=20,
    bad_share=0.5,
    open_s=2.0,
    longest_open_s=8.0,
    jitter=0.2,
    trial_s=0.25,
)
BACK_WITHIN_S = 10.0  # RELIABILITY P19


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changes() -> list[tuple[BreakerState, str]]:
    return []


@pytest.fixture
def breaker(clock: Clock, changes: list[tuple[BreakerState, str]]) -> CircuitBreaker:
    return CircuitBreaker(
        RULES,
        clock=clock,
        jitter=lambda: 0.0,
        on_change=lambda state, reason: changes.append((state, reason)),
    )


def call(breaker: CircuitBreaker, *, is_good: bool) -> None:
    ticket = breaker.admit()
    assert ticket is not None, "the call was not let out"
    breaker.record(ticket, is_good=is_good)


def opened(breaker: CircuitBreaker) -> CircuitBreaker:
    for _ in range(RULES.failures_in_a_row):
        call(breaker, is_good=False)
    assert breaker.state is BreakerState.OPEN
    return breaker


def trial_of(breaker: CircuitBreaker) -> Ticket:
    ticket = breaker.admit()
    assert ticket is not None
    assert ticket.is_trial
    return ticket


# -- the breaker


def test_five_failures_in_a_row_open_it_and_calls_end(
    breaker: CircuitBreaker, changes: list[tuple[BreakerState, str]]
) -> None:
    """P19: a failing layer costs its deadline only a few times."""
    for _ in range(4):
        call(breaker, is_good=False)
    assert breaker.state is BreakerState.CLOSED
    call(breaker, is_good=False)

    assert breaker.admit() is None
    assert changes == [(BreakerState.OPEN, "5 failures in a row")]


def test_a_good_call_between_failures_starts_the_count_again(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        for _ in range(4):
            call(breaker, is_good=False)
        for _ in range(6):
            call(breaker, is_good=True)

    assert breaker.state is BreakerState.CLOSED


def test_half_of_the_last_twenty_calls_open_it(
    breaker: CircuitBreaker, changes: list[tuple[BreakerState, str]]
) -> None:
    """A layer with only some broken replicas never fails five times in a row."""
    for number in range(19):
        call(breaker, is_good=number % 2 == 0)
    assert breaker.state is BreakerState.CLOSED
    call(breaker, is_good=False)

    assert changes == [(BreakerState.OPEN, "10 of the last 20 calls failed")]


def test_only_the_last_twenty_calls_count(breaker: CircuitBreaker) -> None:
    for _ in range(40):
        call(breaker, is_good=True)
        call(breaker, is_good=True)
        call(breaker, is_good=False)

    assert breaker.state is BreakerState.CLOSED


def test_after_its_pause_one_trial_goes_out_and_no_other(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """P19: one trial call at a time."""
    opened(breaker)
    clock.now += RULES.open_s

    trial_of(breaker)

    assert [breaker.admit() for _ in range(100)] == [None] * 100
    assert breaker.state is BreakerState.HALF_OPEN


def test_a_good_trial_gives_back_all_traffic_at_once(breaker: CircuitBreaker, clock: Clock) -> None:
    """RELIABILITY section 4: a recovered layer gets all its traffic at once."""
    opened(breaker)
    clock.now += RULES.open_s

    breaker.record(trial_of(breaker), is_good=True)

    assert all(breaker.admit() for _ in range(100))
    assert breaker.state is BreakerState.CLOSED


def test_a_layer_is_open_since_its_first_failure_however_many_trials_fail(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """S0-23: an operator needs the time of the failure, not of the last trial."""
    opened(breaker)
    began = clock.now

    for _ in range(3):
        clock.now += RULES.longest_open_s
        breaker.record(trial_of(breaker), is_good=False)
    assert breaker.since == began

    clock.now += RULES.longest_open_s
    trial = trial_of(breaker)
    clock.now += 0.1
    breaker.record(trial, is_good=True)
    assert breaker.since == clock.now


def test_each_failed_trial_doubles_the_pause_up_to_a_limit(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    pauses = []
    opened(breaker)
    for _ in range(5):
        began = clock.now
        while breaker.admit() is None:
            clock.now += 0.5
        pauses.append(clock.now - began)
        clock.now += RULES.trial_s  # the trial does not come back

    assert pauses == [2.0, 4.0, 8.0, 8.0, 8.0]


def test_the_jitter_makes_a_pause_shorter_and_never_longer(clock: Clock) -> None:
    """Otherwise ten ingress replicas that lost a layer together would try it at the same moment."""
    breaker = opened(CircuitBreaker(RULES, clock=clock, jitter=lambda: 0.999))

    clock.now += RULES.open_s * (1.0 - RULES.jitter) + 0.01

    assert trial_of(breaker)


def test_a_trial_that_never_returns_has_failed(
    breaker: CircuitBreaker, clock: Clock, changes: list[tuple[BreakerState, str]]
) -> None:
    """The half-open state of resilience4j gets stuck if a trial call hangs (its issue 903)."""
    opened(breaker)
    clock.now += RULES.open_s
    lost = trial_of(breaker)

    clock.now += RULES.trial_s
    assert breaker.state is BreakerState.OPEN
    breaker.record(lost, is_good=True)  # too late

    assert breaker.state is BreakerState.OPEN
    assert changes[-1] == (BreakerState.OPEN, "the trial did not return")


def test_an_answer_from_before_the_last_change_counts_for_nothing(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    """A late good answer does not prove a layer that has failed since."""
    early = breaker.admit()
    assert early is not None
    opened(breaker)

    breaker.record(early, is_good=True)
    assert breaker.state is BreakerState.OPEN
    clock.now += RULES.open_s
    breaker.record(trial_of(breaker), is_good=True)
    for _ in range(10):
        breaker.record(early, is_good=False)

    assert breaker.state is BreakerState.CLOSED


def test_a_layer_that_passes_its_trials_and_fails_under_load_is_tried_less_and_less_often(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    pauses = []
    for _ in range(4):
        opened(breaker)
        began = clock.now
        while (ticket := breaker.admit()) is None:
            clock.now += 0.5
        pauses.append(clock.now - began)
        breaker.record(ticket, is_good=True)

    assert pauses == [2.0, 4.0, 8.0, 8.0]


def test_a_full_window_of_good_calls_resets_the_doubling(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    opened(breaker)
    clock.now += RULES.open_s
    breaker.record(trial_of(breaker), is_good=True)
    for _ in range(RULES.window):
        call(breaker, is_good=True)
    opened(breaker)

    clock.now += RULES.open_s

    assert trial_of(breaker)


def test_a_layer_that_is_known_not_to_answer_is_open_at_once(
    breaker: CircuitBreaker, clock: Clock, changes: list[tuple[BreakerState, str]]
) -> None:
    breaker.trip("no answer to a probe")
    breaker.trip("no answer to a probe")

    assert breaker.admit() is None
    clock.now += RULES.open_s
    assert trial_of(breaker), "a second trip made the pause longer"
    breaker.trip("no answer to a probe")
    assert breaker.state is BreakerState.HALF_OPEN, "the trial decides"
    assert changes[0] == (BreakerState.OPEN, "no answer to a probe")


def test_an_operator_closes_it_at_once(breaker: CircuitBreaker) -> None:
    opened(breaker)

    breaker.reset()

    assert all(breaker.admit() for _ in range(10))
    for _ in range(4):
        call(breaker, is_good=False)
    assert breaker.state is BreakerState.CLOSED, "what happened before the reset still counts"


class BreakerHistories(RuleBasedStateMachine):
    """Any mix of calls, good and bad answers, calls without an answer, and time."""

    @initialize(jitter=st.floats(0.0, 0.999))
    def begin(self, jitter: float) -> None:
        self.clock = Clock()
        self.breaker = CircuitBreaker(RULES, clock=self.clock, jitter=lambda: jitter)
        self.out: list[Ticket] = []
        self.trial_ends = 0.0
        self.bad_in_a_row = 0

    @rule()
    def admit_a_call(self) -> None:
        is_trial_out = self.clock.now < self.trial_ends
        ticket = self.breaker.admit()
        if ticket is None:
            return
        assert not is_trial_out, "a second call beside a trial"
        self.out.append(ticket)
        if ticket.is_trial:
            self.trial_ends = self.clock.now + RULES.trial_s

    @precondition(lambda self: self.out)
    @rule(data=st.data(), is_good=st.booleans())
    # as hypothesis passes it
    def answer(self, data: st.DataObject, is_good: bool) -> None:  # noqa: FBT001
        ticket = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if ticket.is_trial:
            self.trial_ends = 0.0
        self.breaker.record(ticket, is_good=is_good)

    @rule(seconds=st.floats(0.0, 12.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def everything_fails(self) -> None:
        """Never closed under 100 % failure."""
        for _ in range(RULES.failures_in_a_row):
            ticket = self.breaker.admit()
            if ticket is not None:
                self.breaker.record(ticket, is_good=False)
        self.trial_ends = 0.0

        assert self.breaker.state is not BreakerState.CLOSED

    @rule()
    def the_layer_recovers(self) -> None:
        """With traffic and only good answers, it is closed within the promised time."""
        healed_at = self.clock.now
        self.out.clear()
        while self.breaker.state is not BreakerState.CLOSED:
            ticket = self.breaker.admit()
            if ticket is not None:
                self.breaker.record(ticket, is_good=True)
            self.clock.now += 0.05
            assert self.clock.now - healed_at < BACK_WITHIN_S
        self.trial_ends = 0.0

    @invariant()
    def it_stands_somewhere(self) -> None:
        if hasattr(self, "breaker"):
            assert self.breaker.state in BreakerState
            assert self.breaker.since <= self.clock.now


BreakerHistories.TestCase.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None
)
TestBreakerHistories = BreakerHistories.TestCase


# -- the others


@given(waited_s=st.floats(0.0, 10.0))
def test_a_deadline_is_spent_and_never_renewed(waited_s: float) -> None:
    """P18, T1: one budget on one clock; at most the deadline plus 10 %."""
    deadline = Deadline(since=50.0, budget_s=0.25)

    left = deadline.left_s(50.0 + waited_s)

    assert left == deadline.left_s(50.0 + waited_s)
    assert deadline.ends == 50.25
    assert 0.025 <= left <= 0.25
    assert waited_s >= 0.25 or waited_s + left <= 0.275 + 1e-9


def test_a_bulkhead_admits_its_limit_and_no_more() -> None:
    bulkhead = Bulkhead(3)

    assert [bulkhead.enter() for _ in range(5)] == [True, True, True, False, False]
    bulkhead.leave()
    assert [bulkhead.enter() for _ in range(2)] == [True, False]


@given(history=st.lists(st.booleans(), max_size=400))
def test_retries_never_pass_their_share_of_the_requests(history: list[bool]) -> None:
    """P22: attempts <= 1.1 x requests, in any order of events."""
    budget, requests, retries = RetryBudget(0.1, saved=20), 0, 0
    for is_request in history:
        if is_request:
            budget.request()
            requests += 1
        else:
            retries += budget.spend()
        assert requests + retries <= 1.1 * requests


def test_quiet_times_save_up_a_burst_and_no_storm() -> None:
    """P22: a day without failures earns twenty retries, not a thousand."""
    budget = RetryBudget(0.1, saved=20)
    for _ in range(100_000):
        budget.request()

    assert sum(budget.spend() for _ in range(1000)) == 20


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_every_share_is_used_to_the_full(share: float) -> None:
    """A budget without any retry would satisfy every limit."""
    budget = RetryBudget(share, saved=1000)
    for _ in range(1000):
        budget.request()

    assert sum(budget.spend() for _ in range(2000)) == pytest.approx(1000 * share, abs=1)


def test_rules_of_one_failure_open_at_the_first(clock: Clock) -> None:
    breaker = CircuitBreaker(replace(RULES, failures_in_a_row=1), clock=clock, jitter=lambda: 0.0)

    call(breaker, is_good=False)

    assert breaker.state is BreakerState.OPEN
