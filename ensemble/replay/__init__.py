"""Replay: score the event of a recorded verdict again and compare (requirement N-09)."""

from ensemble.replay.diff import Difference
from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.replay.runner import CPU_TOLERANCE, Replay, replay

__all__ = [
    "CPU_TOLERANCE",
    "Difference",
    "RecordedOpinion",
    "RecordedVerdict",
    "Replay",
    "ReplaySettings",
    "replay",
]
