"""Rescoring after an outage: the spool of degraded events, and the findings among them."""

from ensemble.retro.findings import FINDINGS, Finding, Findings, read_findings
from ensemble.retro.policy import FULL_COVERAGE, is_escalation, millionths
from ensemble.retro.segment import FirstVerdict, Reading, SpooledEvent
from ensemble.retro.spool import Spool, SpoolCounts

__all__ = [
    "FINDINGS",
    "FULL_COVERAGE",
    "Finding",
    "Findings",
    "FirstVerdict",
    "Reading",
    "Spool",
    "SpoolCounts",
    "SpooledEvent",
    "is_escalation",
    "millionths",
    "read_findings",
]
