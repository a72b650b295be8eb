"""Retrospective rescoring: a spool of events scored while degraded, and the findings made of them."""

from ensemble.retro.findings import FINDINGS, Finding, Findings, read_findings
from ensemble.retro.policy import WHOLE, is_hostile_now, millionths
from ensemble.retro.segment import FirstVerdict, Reading, SpooledEvent
from ensemble.retro.spool import Spool, SpoolCounts

__all__ = [
    "FINDINGS",
    "WHOLE",
    "Finding",
    "Findings",
    "FirstVerdict",
    "Reading",
    "Spool",
    "SpoolCounts",
    "SpooledEvent",
    "is_hostile_now",
    "millionths",
    "read_findings",
]
