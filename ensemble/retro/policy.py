"""Rules of rescoring: which events deserve it, and when the new verdict is a finding.

Degraded means that evidence was missing: coverage under 1. A silent host posture does not count. It
is no evidence about the event, shifts the score by a bounded amount only, and cannot turn clear
hostile evidence benign, so nothing hostile is missed for lack of it.

A coverage is compared in millionths: it is a sum of fitted shares, and the same layers must always
give the same number.
"""

from __future__ import annotations

from ensemble.verdicts import VerdictWord

__all__ = ["FULL_COVERAGE", "is_escalation", "millionths"]

FULL_COVERAGE = 1_000_000  # coverage of an event that every layer of evidence scored
_RANK = {
    VerdictWord.BENIGN: 0,
    VerdictWord.INDETERMINATE: 1,
    VerdictWord.SUSPICIOUS: 2,
    VerdictWord.MALICIOUS: 3,
}
_ALARMS = frozenset({VerdictWord.SUSPICIOUS, VerdictWord.MALICIOUS})


def millionths(coverage: float) -> int:
    """Round a coverage in [0, 1] to an integer number of millionths."""
    return round(coverage * FULL_COVERAGE)


def is_escalation(was: VerdictWord, now: VerdictWord) -> bool:
    """Whether a new verdict raises an alarm that the first verdict did not.

    `indeterminate` is not an alarm. An event that was indeterminate and is suspicious now is a
    finding, and so is a suspicious one that is malicious now. A benign one that is indeterminate
    now is not.
    """
    return now in _ALARMS and _RANK[now] > _RANK[was]
