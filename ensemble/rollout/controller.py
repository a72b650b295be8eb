"""Succession: which release answers, and how one follows another.

One release lives. A new one takes over at once where nothing lives yet, where it has lived here
before (a roll-back), or where the
operator says so; otherwise it goes the way of `ensemble.rollout.canary` beside the living one. One
that stepped back is remembered and not
tried again until the pointer has named another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ensemble.rollout.canary import (
    CanaryRollout,
    Comparison,
    RolloutRules,
    RolloutState,
    RolloutView,
)
from ensemble.runtime import ReleaseFusion

__all__ = ["ReleaseController"]

LIVED_KEPT = 5  # RELIABILITY P8: the last five releases can be rolled back to


class ReleaseController:
    """The living release, and at most one on its way to replace it.

    Args:
        rules: of a rollout.
        clock: seconds that only rise.
        on_living: told the name of every release that begins to live.
        on_rollout: told of every begin, step and end of a rollout.
    """

    def __init__(
        self,
        rules: RolloutRules,
        *,
        clock: Callable[[], float],
        on_living: Callable[[str], None],
        on_rollout: Callable[[RolloutView], None],
    ) -> None:
        self._rules, self._clock, self._on_living, self._on_rollout = (
            rules,
            clock,
            on_living,
            on_rollout,
        )
        self._living = ReleaseFusion()
        self._candidate: ReleaseFusion | None = None
        self._rollout: CanaryRollout | None = None  # the last one, also when it is over
        self._told: tuple[str, int, RolloutState] | None = None
        self._lived: deque[ReleaseFusion] = deque(
            maxlen=LIVED_KEPT
        )  # before the living one, newest last
        self._retreated: set[str] = set()

    @property
    def active(self) -> ReleaseFusion:
        """The release that answers what no rollout takes."""
        if self._candidate is not None:
            self._settle()
        return self._living

    @property
    def is_rolling_out(self) -> bool:
        """Whether a new release is on its way."""
        return self._candidate is not None

    @property
    def view(self) -> RolloutView | None:
        """The last rollout, None before the first."""
        self._settle()
        return self._rollout.view if self._rollout else None

    def wants(self, name: str) -> bool:
        """Whether serving this release would start a change: layers then load it first."""
        self._settle()
        return name not in {
            self._living.name,
            self._candidate.name if self._candidate else None,
            *self._retreated,
        }

    def serve(self, release: ReleaseFusion, *, at_once: bool) -> None:
        """The pointer names `release`; said again and again, it changes nothing.

        Args:
            release: what to go over to.
            at_once: with all traffic; otherwise step by step, unless nothing lives or it lived
                here before.
        """
        self._settle()
        if at_once:
            self._retreated.discard(release.name)
        elif release.name not in self._retreated:
            self._retreated.clear()  # the pointer has moved on
        is_candidate = self._candidate is not None and self._candidate.name == release.name
        if self._candidate is not None and not is_candidate:
            self._candidate, self._rollout = (
                None,
                None,
            )  # interrupted, which says nothing about it: it may come again
        if is_candidate and at_once and self._rollout is not None:
            self._rollout.complete("at once, as the operator says")
            self._settle()
        elif (
            at_once or not self._living.name or any(old.name == release.name for old in self._lived)
        ):
            self._take_over(release)
        elif self.wants(release.name):
            self._candidate, self._rollout = (
                release,
                CanaryRollout(release.name, self._rules, clock=self._clock),
            )
            self._settle()

    def roll_back(self, name: str, reason: str) -> None:
        """Give `name` up, as another ingress or an operator says.

        Where it steps, where it lives, and where it is still to come.
        """
        self._settle()
        if name in self._retreated:
            return
        if self._candidate is not None and self._candidate.name == name:
            self._end_rollout(reason)
        elif self._living.name == name and self._lived:
            before = self._lived.pop()
            if self._rollout is None or self._rollout.release != name:
                self._rollout = CanaryRollout(name, self._rules, clock=self._clock)
            self._rollout.abort(reason)
            self._living = before
            self._on_living(before.name)
            self._tell()
        elif self._living.name == name:
            return  # nothing to go back to: an answer by it is better than none
        self._retreated.add(name)

    def clear_rollback(self, name: str) -> None:
        """A new pointer names `name` again, though it stepped back: it may be tried once more."""
        self._retreated.discard(name)

    def choose(self, events: int) -> tuple[ReleaseFusion, ReleaseFusion | None]:
        """The release that answers a batch, and the one that it is to be compared with, if any."""
        self._settle()
        if self._candidate is None or self._rollout is None or not self._rollout.takes(events):
            return self._living, None
        return self._candidate, self._living

    def learn(self, release: str, comparison: Comparison) -> None:
        """A batch that `release` answered while it stepped, compared."""
        if self._rollout is not None and self._rollout.release == release:
            self._rollout.learn(comparison)
            self._settle()

    def _end_rollout(self, reason: str) -> None:
        if self._rollout is not None:
            self._rollout.abort(reason)
        self._settle()

    def _settle(self) -> None:
        """Draw the consequence of where the rollout stands."""
        if self._candidate is None or self._rollout is None:
            return
        state = self._rollout.state
        if state is RolloutState.DONE:
            self._take_over(self._candidate)
        elif state is RolloutState.RETREATED:
            self._retreated.add(self._candidate.name)
            self._candidate = None
        self._tell()

    def _take_over(self, release: ReleaseFusion) -> None:
        before, self._living, self._candidate = self._living, release, None
        if release.name == before.name:
            return
        if before.name:
            self._lived.append(before)
        for old in [old for old in self._lived if old.name == release.name]:
            self._lived.remove(old)
        self._on_living(release.name)

    def _tell(self) -> None:
        view = self._rollout.view if self._rollout else None
        now = (view.release, view.step, view.state) if view else None
        if view is None or now == self._told:
            return
        self._told = now
        self._on_rollout(view)
