"""Canary rollout: a new release takes over in measured steps, and rolls back by itself.

In a step the new release answers a stated share of the events. Each batch it answers is scored by
the old release too, beside the
answer, and the two are compared: did layers fall silent, did verdicts flip, did it take longer?
What is worse beyond a limit ends
the rollout; a step in which nothing was worse leads to the next one, the last one to all traffic.

"Worse" is never read off a handful of events: a share counts as above its limit when even the lower
end of its confidence interval
is. So few events decide only where they are clear, and a service without traffic goes on after a
stated time, having seen nothing.

Source: score interval: Wilson, "Probable inference, the law of succession, and statistical
inference", JASA 22(158), 1927;
canary steps: Beyer et al., "The Site Reliability Workbook", O'Reilly 2018, chapter 16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ensemble.rollout.sampler import TrafficSampler
from ensemble.verdicts import LayerStatus, Verdicts, VerdictWord, by_row

__all__ = ["CanaryRollout", "Comparison", "RolloutRules", "RolloutState", "RolloutView", "compared"]

_UNASKED = (
    LayerStatus.NOT_APPLICABLE,
    LayerStatus.DISABLED,
    LayerStatus.OPEN,
)  # says nothing of a release
# before silence counts: silences of one incident come together, and one bad second is no bad
# release
FEWEST_BATCHES = 20
# standard errors: one healthy release in about a thousand looks worse than its limit by chance
SURE = 3.0


class RolloutState(StrEnum):
    """How a rollout stands."""

    STEPPING = "stepping"
    DONE = "done"
    RETREATED = "retreated"


@dataclass(frozen=True, slots=True)
class RolloutRules:
    """The steps, and what ends them.

    Attributes:
        shares: of the events that the new release answers, step by step, rising; the last is 1
            and needs no step.
        max_events_per_s: the most that it answers, step by step; () for no such limit.
        step_s: the least time of a step.
        max_step_s: the most; then the next one begins although few events were seen.
        min_events: compared in a step before it may end early.
        max_flip_ratio: share of events whose verdict word may differ.
        max_failure_ratio: by how much the share of silent layers may be above the old release's.
        max_slowdown: times the old release's time that a batch may take.
        slowdown_floor_s: a batch that is slower by less than this is not slower.
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
        events: whose verdicts can be compared: those of which the new release saw as much as
            the old one.
        flips: of these, verdict words that differ.
        asked: opinions that each release could have given.
        silent_new: of these, how many the new release did not give.
        silent_old: likewise the old one.
        new_s: seconds that the layers took for the new release.
        old_s: likewise.
    """

    events: int
    flips: int
    asked: int
    silent_new: int
    silent_old: int
    new_s: float
    old_s: float


@dataclass(frozen=True, slots=True)
class RolloutView:
    """A rollout as its operators see it.

    Attributes:
        release: the new one's name.
        step: number of the step, from 0.
        share: of the events that the new release answers now, in [0, 1].
        events: compared so far.
        flips: verdict words that differed so far.
        state: how it stands.
        reason: why it retreated or is done; "" while it steps.
    """

    release: str
    step: int
    share: float
    events: int
    flips: int
    state: RolloutState
    reason: str = ""


class CanaryRollout:
    """One release's way from none of the traffic to all of it.

    Args:
        release: its name.
        rules: steps and limits.
        clock: seconds that only rise.
    """

    def __init__(self, release: str, rules: RolloutRules, *, clock: Callable[[], float]) -> None:
        self.release = release
        self._rules, self._clock = rules, clock
        self._state, self._reason = RolloutState.STEPPING, ""
        self._events = self._flips = self._asked = self._silent_new = self._silent_old = (
            self._batches
        ) = self._slower = 0
        self._step, self._taken, self._seen_in_step = -1, 0, 0
        self._portion = TrafficSampler(0.0)
        self._begin_step(clock())

    @property
    def state(self) -> RolloutState:
        """How it stands; the clock alone may move it on."""
        self._move_on()
        return self._state

    @property
    def view(self) -> RolloutView:
        """For operators."""
        share = {RolloutState.DONE: 1.0, RolloutState.RETREATED: 0.0}.get(
            self.state, self._rules.shares[self._step]
        )
        return RolloutView(
            self.release, self._step, share, self._events, self._flips, self._state, self._reason
        )

    def takes(self, events: int) -> bool:
        """Whether the new release answers the next batch, of `events`.

        The choice follows the share, without chance.
        """
        if self.state is not RolloutState.STEPPING:
            return self._state is RolloutState.DONE
        if not self._portion.takes(events) or self._is_over_rate():
            return False
        self._portion.took(events)
        self._taken += events
        return True

    def learn(self, comparison: Comparison) -> None:
        """A batch that was scored by both; may end the rollout."""
        if self.state is not RolloutState.STEPPING:
            return
        self._events += comparison.events
        self._flips += comparison.flips
        self._asked += comparison.asked
        self._silent_new += comparison.silent_new
        self._silent_old += comparison.silent_old
        self._batches += 1
        limit_s = max(
            self._rules.max_slowdown * comparison.old_s,
            comparison.old_s + self._rules.slowdown_floor_s,
        )
        self._slower += comparison.new_s > limit_s
        self._seen_in_step += comparison.events
        self._judge()

    def abort(self, reason: str) -> None:
        """Give up, also afterwards: another ingress saw more, or an operator knows better."""
        self._end(RolloutState.RETREATED, reason)

    def complete(self, reason: str) -> None:
        """Take all traffic now, as an operator says."""
        self._end(RolloutState.DONE, reason)

    def _judge(self) -> None:
        rules = self._rules
        if _surely(self._flips, self._events) > rules.max_flip_ratio:
            self._end(RolloutState.RETREATED, f"{self._flips} of {self._events} verdicts flipped")
        elif self._batches >= FEWEST_BATCHES and self._is_more_silent:
            self._end(
                RolloutState.RETREATED,
                f"layers were silent {self._silent_new} times of {self._asked}, those of the "
                f"old release {self._silent_old} times",
            )
        # most batches: a few slow ones have other causes
        elif _surely(self._slower, self._batches) > 0.5:  # noqa: PLR2004
            self._end(
                RolloutState.RETREATED,
                f"{self._slower} of {self._batches} batches took longer than allowed",
            )
        else:
            self._move_on()

    @property
    def _is_more_silent(self) -> bool:
        limit = self._silent_old / max(self._asked, 1) + self._rules.max_failure_ratio
        return _surely(self._silent_new, self._asked) > limit

    def _move_on(self) -> None:
        """Begin the steps whose time has come, also those that nobody looked at.

        A quiet service is not held up by its quiet.
        """
        rules, now = self._rules, self._clock()
        while self._state is RolloutState.STEPPING and now - self._began_at >= rules.max_step_s:
            self._begin_step(self._began_at + rules.max_step_s)
        if (
            self._state is RolloutState.STEPPING
            and self._seen_in_step >= rules.min_events
            and now - self._began_at >= rules.step_s
        ):
            self._begin_step(now)

    def _begin_step(self, at: float) -> None:
        if self._rules.shares[self._step + 1] >= 1.0:
            seen = (
                f"nothing was worse in {self._events} events"
                if self._events
                else "there was nothing to compare on"
            )
            self._end(RolloutState.DONE, seen)
            return
        self._step += 1
        self._began_at = at
        self._portion = TrafficSampler(self._rules.shares[self._step])
        self._taken, self._seen_in_step = 0, 0

    def _is_over_rate(self) -> bool:
        rates = self._rules.max_events_per_s
        return bool(rates) and self._taken > rates[self._step] * (self._clock() - self._began_at)

    def _end(self, state: RolloutState, reason: str) -> None:
        self._state, self._reason = state, reason


def compared(
    new: Sequence[Verdicts], old: Sequence[Verdicts], *, new_s: float, old_s: float
) -> Comparison:
    """What one batch says about two releases.

    Args:
        new: the new release's verdicts, all rows of the batch.
        old: the old release's.
        new_s: seconds the layers took for the new one.
        old_s: likewise.

    A row of which the new release saw less is not compared by its word: the silence is counted
    instead, or one late layer would
    flip a whole batch.
    """
    new_words, old_words = (
        by_row(new, lambda group: group.word),
        by_row(old, lambda group: group.word),
    )
    is_comparable = by_row(new, lambda group: group.coverage) >= by_row(
        old, lambda group: group.coverage
    )
    differs = (new_words != old_words) & (old_words != VerdictWord.INDETERMINATE)
    asked, silent_new = _silent(new)
    _, silent_old = _silent(old)
    return Comparison(
        int(is_comparable.sum()),
        int((differs & is_comparable).sum()),
        asked,
        silent_new,
        silent_old,
        new_s=new_s,
        old_s=old_s,
    )


def _silent(groups: Sequence[Verdicts]) -> tuple[int, int]:
    """Opinions that were asked for in a batch, and how many of them were not given.

    A layer counts once for each group of rows.
    """
    opinions = [one for group in groups for one in group.layers if one.status not in _UNASKED]
    return len(opinions), sum(not one.speaks for one in opinions)


def _surely(hits: int, of: int) -> float:
    """Lower end of the confidence interval of a share, in [0, 1]; 0 where nothing was seen."""
    if not of:
        return 0.0
    share, spread = min(1.0, hits / of), SURE * SURE / of
    centre = share + spread / 2.0
    reach = SURE * math.sqrt(share * (1.0 - share) / of + spread / (4.0 * of))
    return max(0.0, (centre - reach) / (1.0 + spread))
