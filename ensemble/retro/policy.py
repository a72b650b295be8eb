"""When an event deserves a second look, and when that look found something.

Degraded means that evidence was missing: coverage under 1. A host's posture that is silent does not
count: it is no evidence about
the event, only shifts the score by a bounded amount, and cannot turn clear hostile evidence benign,
so nothing hostile was missed
for want of it.

A coverage is compared in millionths: it is a sum of fitted shares, and the same layers must always
give the same number.
"""

from __future__ import annotations

from ensemble.verdicts import VerdictWord

__all__ = ["WHOLE", "is_hostile_now", "millionths"]

WHOLE = 1_000_000  # the coverage of an event that every layer of evidence saw
_RANK = {
    VerdictWord.BENIGN: 0,
    VerdictWord.INDETERMINATE: 1,
    VerdictWord.SUSPICIOUS: 2,
    VerdictWord.MALICIOUS: 3,
}
_ALARMS = frozenset({VerdictWord.SUSPICIOUS, VerdictWord.MALICIOUS})


def millionths(coverage: float) -> int:
    """A coverage in [0, 1] as a whole number."""
    return round(coverage * WHOLE)


def is_hostile_now(was: VerdictWord, now: VerdictWord) -> bool:
    """Whether a new verdict tells an analyst of something that the old one did not.

    `indeterminate` is no alarm: an event that was so and is suspicious now is news, one that was
    benign and is indeterminate now is
    none. A suspicious event that is malicious now is news.
    """
    return now in _ALARMS and _RANK[now] > _RANK[was]
