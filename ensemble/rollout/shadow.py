"""Shadow evaluation: the challenger scores a share of events, off the answer's path.

Nothing that it says reaches a caller. What is counted is what a team needs before it promotes it:
on how many events both releases
give the same verdict, which words turn into which, how far the scores lie apart, and how often each
one's layers were silent.
Counting begins anew when either of the two releases becomes another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.rollout.canary import compared
from ensemble.rollout.sampler import TrafficSampler
from ensemble.verdicts import Verdicts, by_row

__all__ = ["Agreement", "ShadowEvaluation"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What is known of two releases that scored the same events.

    Attributes:
        challenger: name of the release that scores in shadow.
        champion: name of the release that answers.
        events: scored by both, and seen by as much of the ensemble with both.
        agree: of these, those with the same verdict word.
        flips: `benign>malicious` and the like -> how often the champion's word (first) was
            another one than the challenger's.
        mean_difference: of the two scores, challenger less champion, in [-1, 1]; 0.0 where
            nothing was compared.
        largest_difference: of the two scores, in [0, 1].
        asked: opinions that each release could have given.
        silent_challenger: of these, how many the challenger's layers did not give.
        silent_champion: likewise.
    """

    challenger: str
    champion: str
    events: int = 0
    agree: int = 0
    flips: Mapping[str, int] = field(default_factory=dict)
    mean_difference: float = 0.0
    largest_difference: float = 0.0
    asked: int = 0
    silent_challenger: int = 0
    silent_champion: int = 0


class ShadowEvaluation:
    """One challenger beside one champion.

    Args:
        challenger: name of the release that scores in shadow.
        champion: name of the release that answers.
        share: of the events that are scored in shadow, in [0, 1].
    """

    def __init__(self, challenger: str, champion: str, *, share: float) -> None:
        self.challenger, self.champion = challenger, champion
        self._portion = TrafficSampler(share)
        self._events = self._agree = self._asked = self._silent_challenger = (
            self._silent_champion
        ) = 0
        self._flips: Counter[str] = Counter()
        self._differences, self._largest = 0.0, 0.0

    @property
    def agreement(self) -> Agreement:
        """What was counted so far."""
        return Agreement(
            self.challenger,
            self.champion,
            self._events,
            self._agree,
            dict(self._flips),
            round(self._differences / self._events, 6) if self._events else 0.0,
            round(self._largest, 6),
            self._asked,
            self._silent_challenger,
            self._silent_champion,
        )

    def takes(self, events: int) -> bool:
        """Whether the next batch is to be scored in shadow; it counts as scored then."""
        if not self._portion.takes(events):
            return False
        self._portion.took(events)
        return True

    def learn(
        self, challenger: Sequence[Verdicts], champion: Sequence[Verdicts]
    ) -> Mapping[str, int]:
        """A batch that both scored; returns the flips in it, named as in `Agreement`."""
        both = compared(challenger, champion, new_s=0.0, old_s=0.0)
        is_comparable = (by_row(challenger, _coverage) >= by_row(champion, _coverage)).astype(bool)
        said = by_row(challenger, lambda group: group.word)[is_comparable]
        was = by_row(champion, lambda group: group.word)[is_comparable]
        scores, before = (
            by_row(groups, lambda group: group.score).astype(np.float64)
            for groups in (challenger, champion)
        )
        difference = (scores - before)[is_comparable]
        flips = Counter(
            f"{old}>{new}"
            for old, new in zip(was[said != was].tolist(), said[said != was].tolist(), strict=True)
        )
        self._events += said.size
        self._agree += int((said == was).sum())
        self._flips += flips
        self._differences += float(np.sum(difference))
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))
        self._asked += both.asked
        self._silent_challenger += both.silent_new
        self._silent_champion += both.silent_old
        return flips


def _coverage(group: Verdicts) -> float:
    return group.coverage
