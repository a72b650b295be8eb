"""Canary rollout: a new release replaces the old one in measured steps, or is rolled back.

In each step the new release scores a set share of the events. The old release scores the same
batches after the response, and the two are compared by their abstentions, verdicts and times. If
the new release is worse beyond a limit, it is rolled back. Otherwise the next step begins, and
after the last step the new release gets all traffic.

A share exceeds its limit only if the lower end of its confidence interval does. So a few events
decide clear cases only, and without traffic the rollout continues after a set time. Each tenant is
judged alone, once it has sent enough: the release is worse if it is for most of the judged tenants,
and for two at least. So one tenant, which can send whatever it likes, does not decide for others.

Sources: score interval: Wilson, "Probable inference, the law of succession, and statistical
inference", JASA 22(158), 1927. Canary steps: Beyer et al., "The Site Reliability Workbook",
O'Reilly 2018, chapter 16.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ensemble.rollout.comparison import Comparison
from ensemble.rollout.sampler import TrafficSampler

__all__ = ["CanaryRollout", "RolloutRules", "RolloutState", "RolloutView"]

# batches of a tenant before its abstentions and times count: those of one incident come together,
# and one bad second does not make a bad release
FEWEST_BATCHES = 20
FEWEST_EVENTS = 30  # compared events of a tenant before its verdicts count
FEWEST_TENANTS = 2  # that must find the release worse, unless one of them may decide alone
MOST_TENANTS = 1024  # that are judged; others are counted in the totals alone
# standard errors: about one healthy release in a thousand exceeds a limit by chance
SURE = 3.0


class RolloutState(StrEnum):
    """State of a canary rollout."""

    IN_PROGRESS = "in_progress"
    DONE = "done"
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True)
class RolloutRules:
    """Steps and limits of a canary rollout.

    Attributes:
        shares: share of the events that the new release scores, for each step, rising; the last is
            1 and ends the rollout.
        max_events_per_s: limit of the events that it scores, for each step; () for no limit.
        step_s: minimum duration of a step.
        max_step_s: maximum duration; then the next step begins, however few events were compared.
        min_events: events to compare in a step before it may end after `step_s`.
        max_flip_ratio: share of the events whose verdict may differ.
        max_failure_ratio: by how much the share of abstentions may exceed the old release's.
        max_slowdown: multiple of the old release's time that a batch may need.
        slowdown_floor_s: a smaller difference does not count as slower.
    """

    shares: Sequence[float]
    max_events_per_s: Sequence[float]
    step_s: float
    max_step_s: float
    min_events: int
    max_flip_ratio: float
    max_failure_ratio: float
    max_slowdown: float
    slowdown_floor_s: float


@dataclass(frozen=True, slots=True)
class RolloutView:
    """State of a canary rollout, as operators see it.

    Attributes:
        release: name of the new release.
        step: number of the step, from 0.
        share: share of the events that the new release scores now, in [0, 1].
        events: compared so far.
        flips: verdicts that differed so far.
        state: in progress, done or rolled back.
        reason: why it is done or was rolled back; "" while in progress.
    """

    release: str
    step: int
    share: float
    events: int
    flips: int
    state: RolloutState
    reason: str = ""


@dataclass(slots=True)
class _Evidence:
    """What one tenant's events showed of the two releases; all numbers are counts."""

    events: int = 0
    flips: int = 0
    calls: int = 0
    silent_new: int = 0
    silent_old: int = 0
    batches: int = 0
    slower: int = 0

    def add(self, batch: Comparison, events: int, flips: int, *, is_slower: bool) -> None:
        """Add a batch, in which the tenant had `events` with `flips`."""
        self.events += events
        self.flips += flips
        self.calls += batch.calls
        self.silent_new += batch.silent_new
        self.silent_old += batch.silent_old
        self.batches += 1
        self.slower += is_slower


class CanaryRollout:
    """Rollout of one release.

    Args:
        release: its name.
        rules: steps and limits.
        clock: monotonic seconds.
        decides_alone: whether a tenant may end the rollout without another one. By default only the
            one to which events without a named tenant belong.
    """

    def __init__(
        self,
        release: str,
        rules: RolloutRules,
        *,
        clock: Callable[[], float],
        decides_alone: Callable[[str], bool] = operator.not_,
    ) -> None:
        self.release = release
        self._rules, self._clock, self._decides_alone = rules, clock, decides_alone
        self._state, self._reason = RolloutState.IN_PROGRESS, ""
        self._events = self._flips = 0
        self._by_tenant: dict[str, _Evidence] = {}
        self._step, self._answered_in_step, self._compared_in_step = -1, 0, 0
        self._sampler = TrafficSampler(0.0)
        self._begin_step(clock())

    @property
    def state(self) -> RolloutState:
        """State now; begins the steps that are due."""
        self._begin_due_steps()
        return self._state

    @property
    def view(self) -> RolloutView:
        """State as operators see it."""
        ended = {RolloutState.DONE: 1.0, RolloutState.ROLLED_BACK: 0.0}
        share = ended.get(self.state, self._rules.shares[self._step])
        return RolloutView(
            self.release, self._step, share, self._events, self._flips, self._state, self._reason
        )

    def view_of(self, tenant: str) -> RolloutView:
        """State as one tenant sees it: with the counts of its own events alone."""
        own = self._by_tenant.get(tenant, _Evidence())
        return replace(self.view, events=own.events, flips=own.flips)

    def should_take(self, events: int) -> bool:
        """Whether the new release scores the next batch, of `events`; deterministic."""
        if self.state is not RolloutState.IN_PROGRESS:
            return self._state is RolloutState.DONE
        if not self._sampler.should_take(events) or self._is_over_rate():
            return False
        self._sampler.record(events)
        self._answered_in_step += events
        return True

    def record(self, comparison: Comparison) -> None:
        """Record a batch that both releases scored; this may end the rollout."""
        if self.state is not RolloutState.IN_PROGRESS:
            return
        self._events += comparison.events
        self._flips += comparison.flips
        is_slower = comparison.new_s > max(
            self._rules.max_slowdown * comparison.old_s,
            comparison.old_s + self._rules.slowdown_floor_s,
        )
        for tenant, (events, flips) in comparison.tenants.items():
            if tenant in self._by_tenant or len(self._by_tenant) < MOST_TENANTS:
                evidence = self._by_tenant.setdefault(tenant, _Evidence())
                evidence.add(comparison, events, flips, is_slower=is_slower)
        self._compared_in_step += comparison.events
        reason = self._worse()
        if reason:
            self._end(RolloutState.ROLLED_BACK, reason)
        else:
            self._begin_due_steps()

    def abort(self, reason: str) -> None:
        """Roll back, also after its end: another ingress replica or an operator decided so."""
        self._end(RolloutState.ROLLED_BACK, reason)

    def complete(self, reason: str) -> None:
        """Send all traffic to the new release now, as an operator decided."""
        self._end(RolloutState.DONE, reason)

    def _worse(self) -> str:
        """Describe how the new release exceeds a limit; "" if it exceeds none."""
        found = (
            (self._flips_too_many, "verdicts flipped"),
            (self._is_more_silent, "layers were silent more often than those of the old release"),
            (self._is_slower, "batches took longer than allowed"),
        )
        return next((what for is_worse, what in found if self._is_worse_for_most(is_worse)), "")

    def _is_worse_for_most(self, is_worse: Callable[[_Evidence], bool | None]) -> bool:
        """Whether the release is worse for most of the tenants that can be judged, and for enough.

        Args:
            is_worse: judges one tenant; None if it has sent too little.
        """
        judged = {tenant: is_worse(evidence) for tenant, evidence in self._by_tenant.items()}
        worse = [tenant for tenant, verdict in judged.items() if verdict]
        fine = sum(verdict is False for verdict in judged.values())
        is_enough = len(worse) >= FEWEST_TENANTS or any(map(self._decides_alone, worse))
        return is_enough and len(worse) > fine

    def _flips_too_many(self, evidence: _Evidence) -> bool | None:
        if evidence.events < FEWEST_EVENTS:
            return None
        return _surely(evidence.flips, evidence.events) > self._rules.max_flip_ratio

    def _is_more_silent(self, evidence: _Evidence) -> bool | None:
        if evidence.batches < FEWEST_BATCHES:
            return None
        limit = evidence.silent_old / max(evidence.calls, 1) + self._rules.max_failure_ratio
        return _surely(evidence.silent_new, evidence.calls) > limit

    def _is_slower(self, evidence: _Evidence) -> bool | None:
        if evidence.batches < FEWEST_BATCHES:
            return None
        return _surely(evidence.slower, evidence.batches) > 0.5  # noqa: PLR2004  # a few have other causes

    def _begin_due_steps(self) -> None:
        """Begin the steps that are due, by the clock and by the number of events compared."""
        rules, now = self._rules, self._clock()
        while self._is_in_progress and now - self._began_at >= rules.max_step_s:
            self._begin_step(self._began_at + rules.max_step_s)
        is_compared = self._compared_in_step >= rules.min_events
        if self._is_in_progress and is_compared and now - self._began_at >= rules.step_s:
            self._begin_step(now)

    @property
    def _is_in_progress(self) -> bool:
        return self._state is RolloutState.IN_PROGRESS

    def _begin_step(self, at: float) -> None:
        if self._rules.shares[self._step + 1] >= 1.0:
            reason = "nothing was worse" if self._events else "there was nothing to compare on"
            self._end(RolloutState.DONE, reason)
            return
        self._step += 1
        self._began_at = at
        self._sampler = TrafficSampler(self._rules.shares[self._step])
        self._answered_in_step, self._compared_in_step = 0, 0

    def _is_over_rate(self) -> bool:
        rates = self._rules.max_events_per_s
        elapsed_s = self._clock() - self._began_at
        return bool(rates) and self._answered_in_step > rates[self._step] * elapsed_s

    def _end(self, state: RolloutState, reason: str) -> None:
        self._state, self._reason = state, reason


def _surely(hits: int, of: int) -> float:
    """Compute the lower end of a share's confidence interval, in [0, 1]; 0 without observations."""
    if not of:
        return 0.0
    share, spread = min(1.0, hits / of), SURE * SURE / of
    centre = share + spread / 2.0
    reach = SURE * math.sqrt(share * (1.0 - share) / of + spread / (4.0 * of))
    return max(0.0, (centre - reach) / (1.0 + spread))
