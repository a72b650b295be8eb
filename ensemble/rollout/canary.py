"""Canary rollout: a new release replaces the old one in measured steps, or is rolled back.

In each step the new release scores a set share of the events. The old release scores the same
batches after the response, and the two are compared by their abstentions, verdicts and times. If
the new release is worse beyond a limit, it is rolled back. Otherwise the next step begins, and
after the last step the new release gets all traffic.

A share exceeds its limit only if the lower end of its confidence interval does. So a few events
decide clear cases only, and without traffic the rollout continues after a set time. Verdicts are
judged for each tenant: the release is worse if it is for most of the tenants that it serves, so one
tenant, which can send whatever it likes, does not decide for the others.

Sources: score interval: Wilson, "Probable inference, the law of succession, and statistical
inference", JASA 22(158), 1927. Canary steps: Beyer et al., "The Site Reliability Workbook",
O'Reilly 2018, chapter 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ensemble.rollout.sampler import TrafficSampler
from ensemble.verdicts import LayerStatus, VerdictLabel, Verdicts, by_row

__all__ = [
    "CanaryRollout",
    "Comparison",
    "RolloutRules",
    "RolloutState",
    "RolloutView",
    "comparable",
    "compared",
]

# statuses that do not depend on the release
_NOT_COUNTED = (
    LayerStatus.NOT_APPLICABLE,
    LayerStatus.DISABLED,
    LayerStatus.OPEN,
    LayerStatus.UNINFORMED,
)
# batches before abstentions count: those of one incident come together, and one bad second does not
# make a bad release
FEWEST_BATCHES = 20
# compared events of a tenant before its verdicts count
FEWEST_EVENTS = 30
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
class Comparison:
    """One batch, scored by both releases.

    Attributes:
        events: events whose verdicts can be compared, because the new release has at least the
            coverage of the old one.
        flips: those of them whose verdict differs.
        calls: opinions requested of each release.
        silent_new: abstentions of the new release among them.
        silent_old: abstentions of the old release among them.
        new_s: seconds of the layers for the new release.
        old_s: seconds of the layers for the old release.
        by_tenant: tenant -> its events and flips; by default all are of one tenant.
    """

    events: int
    flips: int
    calls: int
    silent_new: int
    silent_old: int
    new_s: float
    old_s: float
    by_tenant: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def tenants(self) -> Mapping[str, tuple[int, int]]:
        """Tenant -> its events and flips."""
        return self.by_tenant or {"": (self.events, self.flips)}


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


class CanaryRollout:
    """Rollout of one release.

    Args:
        release: its name.
        rules: steps and limits.
        clock: monotonic seconds.
    """

    def __init__(self, release: str, rules: RolloutRules, *, clock: Callable[[], float]) -> None:
        self.release = release
        self._rules, self._clock = rules, clock
        self._state, self._reason = RolloutState.IN_PROGRESS, ""
        self._events = self._flips = self._calls = self._silent_new = self._silent_old = 0
        self._batches = self._slower = 0
        self._by_tenant: dict[str, tuple[int, int]] = {}  # events and flips
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
        for tenant, (events, flips) in comparison.tenants.items():
            before = self._by_tenant.get(tenant, (0, 0))
            if events:
                self._by_tenant[tenant] = before[0] + events, before[1] + flips
        self._calls += comparison.calls
        self._silent_new += comparison.silent_new
        self._silent_old += comparison.silent_old
        self._batches += 1
        limit_s = max(
            self._rules.max_slowdown * comparison.old_s,
            comparison.old_s + self._rules.slowdown_floor_s,
        )
        self._slower += comparison.new_s > limit_s
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
        if self._flips_for_most_tenants:
            return f"{self._flips} of {self._events} verdicts flipped"
        if self._batches >= FEWEST_BATCHES and self._is_more_silent:
            return (
                f"layers were silent {self._silent_new} times of {self._calls}, "
                f"those of the old release {self._silent_old} times"
            )
        if _surely(self._slower, self._batches) > 0.5:  # noqa: PLR2004  # a few have other causes
            return f"{self._slower} of {self._batches} batches took longer than allowed"
        return ""

    @property
    def _flips_for_most_tenants(self) -> bool:
        """Whether too many verdicts differ, for more than half of the tenants seen so far."""
        limit = self._rules.max_flip_ratio
        worse = [
            events >= FEWEST_EVENTS and _surely(flips, events) > limit
            for events, flips in self._by_tenant.values()
        ]
        return 2 * sum(worse) > len(worse)

    @property
    def _is_more_silent(self) -> bool:
        limit = self._silent_old / max(self._calls, 1) + self._rules.max_failure_ratio
        return _surely(self._silent_new, self._calls) > limit

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
            evidence = (
                f"nothing was worse in {self._events} events"
                if self._events
                else "there was nothing to compare on"
            )
            self._end(RolloutState.DONE, evidence)
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


def compared(
    new: Sequence[Verdicts],
    old: Sequence[Verdicts],
    *,
    new_s: float,
    old_s: float,
    tenants: Sequence[str] = (),
) -> Comparison:
    """Compare the verdicts of two releases on one batch.

    Rows that are not `comparable` are counted by their abstentions, not by their verdicts.

    Args:
        new: verdicts of the new release, all rows of the batch.
        old: those of the old release.
        new_s: seconds of the layers for the new release.
        old_s: seconds of the layers for the old release.
        tenants: the tenant of each row; empty where all are of one.
    """
    new_verdicts, old_verdicts = (by_row(groups, lambda one: one.label) for groups in (new, old))
    is_comparable = comparable(new, old)
    differs = (new_verdicts != old_verdicts) & (old_verdicts != VerdictLabel.INDETERMINATE)
    flips = (differs & is_comparable).astype(np.bool_)
    calls, silent_new = _silent(new)
    _, silent_old = _silent(old)
    by_tenant = {
        tenant: (int((is_own & is_comparable).sum()), int((is_own & flips).sum()))
        for tenant in dict.fromkeys(tenants)
        for is_own in [np.array(tenants) == tenant]
    }
    return Comparison(
        int(is_comparable.sum()),
        int(flips.sum()),
        calls,
        silent_new,
        silent_old,
        new_s=new_s,
        old_s=old_s,
        by_tenant={tenant: counts for tenant, counts in by_tenant.items() if counts[0]},
    )


def comparable(new: Sequence[Verdicts], old: Sequence[Verdicts]) -> NDArray[np.bool_]:
    """Which rows of a batch can be compared by their verdicts, bool (n,).

    Not those on which the new release has less coverage, or one late layer would flip all verdicts
    of a batch; and not those of which either release knows nothing.
    """
    new_coverage, old_coverage = (
        by_row(groups, lambda one: one.coverage).astype(np.float64) for groups in (new, old)
    )
    is_uninformed = [
        by_row(groups, lambda one: one.is_uninformed).astype(np.bool_) for groups in (new, old)
    ]
    return (new_coverage >= old_coverage) & ~is_uninformed[0] & ~is_uninformed[1]


def _silent(groups: Sequence[Verdicts]) -> tuple[int, int]:
    """Count the opinions requested for a batch, and the abstentions among them.

    A layer counts once for each group of rows.
    """
    opinions = [one for group in groups for one in group.layers if one.status not in _NOT_COUNTED]
    return len(opinions), sum(not one.speaks for one in opinions)


def _surely(hits: int, of: int) -> float:
    """Compute the lower end of a share's confidence interval, in [0, 1]; 0 without observations."""
    if not of:
        return 0.0
    share, spread = min(1.0, hits / of), SURE * SURE / of
    centre = share + spread / 2.0
    reach = SURE * math.sqrt(share * (1.0 - share) / of + spread / (4.0 * of))
    return max(0.0, (centre - reach) / (1.0 + spread))
