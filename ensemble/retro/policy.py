"""Rules of rescoring: which events are rescored, and when the new verdict is a finding.

An event is degraded if evidence was missing, that is, if its coverage is under 1. A missing host
posture does not count: it is not evidence about the event. It shifts the score by a bounded amount
and cannot make clear hostile evidence benign, so no hostile event is missed without it.

Coverages are compared in millionths. A coverage is a sum of fitted shares, and the same layers must
always give the same number.
"""

from __future__ import annotations

from ensemble.verdicts import VerdictLabel

__all__ = ["FULL_COVERAGE", "is_escalation", "millionths"]

FULL_COVERAGE = 1_000_000  # every layer of evidence scored the event
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
    """Return whether the new verdict raises an alarm that the first verdict did not.

    `indeterminate` is not an alarm. An event that was `indeterminate` and is now `suspicious` is a
    finding, and so is a `suspicious` one that is now `malicious`. A `benign` one that is now
    `indeterminate` is not a finding.
    """
    return now in _ALARMS and _RANK[now] > _RANK[was]
