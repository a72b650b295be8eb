"""Release controller: the active release, and the rollout of the next one.

A new release becomes active at once if none is active, if it was active before (a rollback), or if
the operator promotes it at once. Otherwise it goes through a canary rollout
(`ensemble.rollout.canary`) beside the active one. A release that was rolled back is not rolled out
again until the pointer has named another one.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable

from ensemble.rollout.canary import CanaryRollout, RolloutRules, RolloutState, RolloutView
from ensemble.rollout.comparison import Comparison
from ensemble.runtime import ReleaseFusion

__all__ = ["ReleaseController"]

PREVIOUS_RELEASES = 5  # RELIABILITY P8: a rollback may return to any of the last five


class ReleaseController:
    """The active release, and at most one that is being rolled out to replace it.

    Args:
        rules: of a rollout.
        clock: monotonic seconds.
        on_active: called with the name of every release that becomes active.
        on_rollout: called at the start, at every step and at the end of a rollout.
        decides_alone: see `CanaryRollout`.
    """

    def __init__(
        self,
        rules: RolloutRules,
        *,
        clock: Callable[[], float],
        on_active: Callable[[str], None],
        on_rollout: Callable[[RolloutView], None],
        decides_alone: Callable[[str], bool] = operator.not_,
    ) -> None:
        self._rules, self._clock, self._decides_alone = rules, clock, decides_alone
        self._on_active, self._on_rollout = on_active, on_rollout
        self._active = ReleaseFusion()
        self._candidate: ReleaseFusion | None = None
        self._rollout: CanaryRollout | None = None  # the latest, also after its end
        self._reported: tuple[str, int, RolloutState] | None = None
        # before the active one, the newest last
        self._previous: deque[ReleaseFusion] = deque(maxlen=PREVIOUS_RELEASES)
        self._rolled_back: set[str] = set()

    @property
    def active(self) -> ReleaseFusion:
        """The release that scores all events that a rollout does not sample."""
        if self._candidate is not None:
            self._settle()
        return self._active

    @property
    def is_rolling_out(self) -> bool:
        """Whether a rollout is in progress."""
        return self._candidate is not None

    @property
    def view(self) -> RolloutView | None:
        """The latest rollout; None before the first."""
        self._settle()
        return self._rollout.view if self._rollout else None

    def view_of(self, tenant: str) -> RolloutView | None:
        """The latest rollout as one tenant sees it: with the counts of its own events alone."""
        self._settle()
        return self._rollout.view_of(tenant) if self._rollout else None

    def would_change(self, name: str) -> bool:
        """Whether `switch_to` of this release would change anything."""
        self._settle()
        candidate = self._candidate.name if self._candidate else None
        return name not in {self._active.name, candidate, *self._rolled_back}

    def switch_to(self, release: ReleaseFusion, *, at_once: bool) -> None:
        """Make `release`, which the pointer names, the active one; idempotent.

        Args:
            release: the new release.
            at_once: without a canary rollout, as also if none is active or it was active before.
        """
        self._settle()
        if at_once:
            self._rolled_back.discard(release.name)
        elif release.name not in self._rolled_back:
            self._rolled_back.clear()  # the pointer has moved on
        is_candidate = self._candidate is not None and self._candidate.name == release.name
        if self._candidate is not None and not is_candidate:
            # an interrupted rollout does not mark its release: it may be rolled out again
            self._candidate, self._rollout = None, None
        was_active = any(old.name == release.name for old in self._previous)
        if is_candidate and at_once and self._rollout is not None:
            self._rollout.complete("at once, by the operator")
            self._settle()
        elif at_once or was_active or not self._active.name:
            self._activate(release)
        elif self.would_change(release.name):
            self._candidate = release
            self._rollout = self._new_rollout(release.name)
            self._settle()

    def roll_back(self, name: str, reason: str) -> None:
        """Roll `name` back, as another ingress replica or an operator decided.

        Ends its rollout, or returns to the release before it. A release that has not come yet is
        excluded from a rollout.
        """
        self._settle()
        if name in self._rolled_back:
            return
        if self._candidate is not None and self._candidate.name == name:
            if self._rollout is not None:
                self._rollout.abort(reason)
            self._settle()
        elif self._active.name == name:
            if not self._previous:
                return  # its verdicts are better than none
            if self._rollout is None or self._rollout.release != name:
                self._rollout = self._new_rollout(name)
            self._rollout.abort(reason)
            self._active = self._previous.pop()
            self._on_active(self._active.name)
            self._report()
        self._rolled_back.add(name)

    def clear_rollback(self, name: str) -> None:
        """Clear the rollback mark of `name`: a new promotion may roll it out again."""
        self._rolled_back.discard(name)

    def route(self, events: int) -> tuple[ReleaseFusion, ReleaseFusion | None]:
        """Choose the release that scores a batch of `events`, and one to compare with, if any."""
        self._settle()
        if (
            self._candidate is None
            or self._rollout is None
            or not self._rollout.should_take(events)
        ):
            return self._active, None
        return self._candidate, self._active

    def record(self, release: str, comparison: Comparison) -> None:
        """Record the comparison of a batch that `release` scored during its rollout."""
        if self._rollout is not None and self._rollout.release == release:
            self._rollout.record(comparison)
            self._settle()

    def _new_rollout(self, name: str) -> CanaryRollout:
        return CanaryRollout(
            name, self._rules, clock=self._clock, decides_alone=self._decides_alone
        )

    def _settle(self) -> None:
        """Apply the state of the rollout: activate or drop its release, and report a change."""
        if self._candidate is None or self._rollout is None:
            return
        state = self._rollout.state
        if state is RolloutState.DONE:
            self._activate(self._candidate)
        elif state is RolloutState.ROLLED_BACK:
            self._rolled_back.add(self._candidate.name)
            self._candidate = None
        self._report()

    def _activate(self, release: ReleaseFusion) -> None:
        before, self._active, self._candidate = self._active, release, None
        if release.name == before.name:
            return
        if before.name:
            self._previous.append(before)
        for old in [old for old in self._previous if old.name == release.name]:
            self._previous.remove(old)
        self._on_active(release.name)

    def _report(self) -> None:
        view = self._rollout.view if self._rollout else None
        current = (view.release, view.step, view.state) if view else None
        if view is None or current == self._reported:
            return
        self._reported = current
        self._on_rollout(view)
