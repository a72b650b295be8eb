"""Shadow evaluation: the challenger scores a share of the events, off the path of the response.

Its results reach no caller, and no caller waits for them. The counters are what an operator needs
before promoting the challenger: events with the same verdict of both releases, verdicts that
differ, differences of the scores, and abstentions of the layers of each release. They reset when
either release changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ensemble.rollout.comparison import comparable, compared
from ensemble.rollout.sampler import TrafficSampler
from ensemble.verdicts import Verdicts, by_row

__all__ = ["Agreement", "ShadowEvaluation"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two releases on the same events.

    Attributes:
        challenger: name of the release that scores in shadow.
        champion: name of the serving release.
        events: events compared: those on which the challenger has at least the champion's coverage.
        agree: those of them with the same verdict.
        flips: `benign>malicious` and the like -> number of events with this verdict of the champion
            (first) and of the challenger (second).
        mean_difference: mean of challenger's score less champion's, in [-1, 1]; 0.0 if nothing was
            compared.
        largest_difference: largest difference of the two scores, in [0, 1].
        calls: opinions requested of each release.
        silent_challenger: abstentions of the challenger's layers among them.
        silent_champion: abstentions of the champion's layers among them.
    """

    challenger: str
    champion: str
    events: int = 0
    agree: int = 0
    flips: Mapping[str, int] = field(default_factory=dict)
    mean_difference: float = 0.0
    largest_difference: float = 0.0
    calls: int = 0
    silent_challenger: int = 0
    silent_champion: int = 0


class ShadowEvaluation:
    """Shadow evaluation of one challenger against one champion.

    Args:
        challenger: name of the release that scores in shadow.
        champion: name of the serving release.
        share: of the events that are scored in shadow, in [0, 1].
    """

    def __init__(self, challenger: str, champion: str, *, share: float) -> None:
        self.challenger, self.champion = challenger, champion
        self._sampler = TrafficSampler(share)
        self._events = self._agree = self._calls = 0
        self._silent_challenger = self._silent_champion = 0
        self._flips: Counter[str] = Counter()
        self._differences, self._largest = 0.0, 0.0

    @property
    def agreement(self) -> Agreement:
        """The counters so far."""
        return Agreement(
            self.challenger,
            self.champion,
            self._events,
            self._agree,
            dict(self._flips),
            round(self._differences / self._events, 6) if self._events else 0.0,
            round(self._largest, 6),
            self._calls,
            self._silent_challenger,
            self._silent_champion,
        )

    def should_take(self, events: int) -> bool:
        """Whether to score the next batch in shadow; a batch to be scored counts as sampled."""
        if not self._sampler.should_take(events):
            return False
        self._sampler.record(events)
        return True

    def record(
        self, challenger: Sequence[Verdicts], champion: Sequence[Verdicts]
    ) -> Mapping[str, int]:
        """Record a batch that both scored; return its flips, named as in `Agreement`."""
        both = compared(challenger, champion, new_s=0.0, old_s=0.0)
        is_comparable = comparable(challenger, champion)
        new, old = (
            by_row(groups, lambda group: group.label)[is_comparable]
            for groups in (challenger, champion)
        )
        new_scores, old_scores = (
            by_row(groups, lambda group: group.score).astype(np.float64)[is_comparable]
            for groups in (challenger, champion)
        )
        difference = new_scores - old_scores
        flips = Counter(
            f"{before}>{after}"
            for before, after in zip(
                old[new != old].tolist(), new[new != old].tolist(), strict=True
            )
        )
        self._events += new.size
        self._agree += int((new == old).sum())
        self._flips += flips
        self._differences += float(np.sum(difference))
        self._largest = max(self._largest, float(np.abs(difference).max(initial=0.0)))
        self._calls += both.calls
        self._silent_challenger += both.silent_new
        self._silent_champion += both.silent_old
        return flips
