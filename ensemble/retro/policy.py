"""Rules of rescoring: which events deserve it, and when the new verdict is a finding.

Degraded means that evidence was missing: coverage under 1. A silent host posture does not count. It
is no evidence about the event, shifts the score by a bounded amount only, and cannot turn clear
hostile evidence benign, so nothing hostile is missed for lack of it.

A coverage is compared in millionths: it is a sum of fitted shares, and the same layers must always
give the same number.
"""

from __future__ import annotations

from ensemble.verdicts import VerdictLabel

__all__ = ["FULL_COVERAGE", "is_escalation", "millionths"]

FULL_COVERAGE = 1_000_000  # coverage of an event that every layer of evidence scored
_RANK = {
    VerdictLabel.BENIGN: 0,
    VerdictLabel.INDETERMINATE: 1,
    VerdictLabel.SUSPICIOUS: 2,
    VerdictLabel.MALICIOUS: 3,
}
_ALARMS = frozenset({VerdictLabel.SUSPICIOUS, VerdictLabel.MALICIOUS})


def millionths(coverage: float) -> int:
    """Round a coverage in [0, 1] to an integer number of millionths."""
    return round(coverage * FULL_COVERAGE)


def is_escalation(was: VerdictLabel, now: VerdictLabel) -> bool:
    """Whether a new verdict raises an alarm that the first verdict did not.

    `indeterminate` is not an alarm. An event that was indeterminate and is suspicious now is a
    finding, and so is a suspicious one that is malicious now. A benign one that is indeterminate
    now is not.
    """
    return now in _ALARMS and _RANK[now] > _RANK[was]
