"""A verdict as it was written down, and what it says of how it was made.

It names the digest of its release, and the release the digests of all its models; so what made it
can be had again, whatever was promoted
since. It names the digest of its event, every layer that spoke or was silent, and when it was
scored. It does not carry what an operator
may set: those are the conditions of a replay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.errors import MalformedEvent, NotReplayable
from ensemble.store import ReleaseRef, Tenant, parse_serial
from ensemble.verdicts import SPEAKING, LayerScores, LayerStatus

__all__ = ["RecordedOpinion", "RecordedVerdict", "ReplaySettings"]


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """What an operator may set, as it is set now; each as configured."""

    min_coverage: float
    posture_bound: float
    stale_after_days: int
    expired_after_days: int


@dataclass(frozen=True, slots=True)
class RecordedOpinion:
    """What one layer said in a verdict.

    Attributes:
        score: in [0, 1]; for show where it did not speak.
        version: of the model that spoke, "" where none did.
        reason: why it was silent, or what a reader of the score should know.
    """

    layer: str
    score: float
    status: LayerStatus
    version: str
    reason: str

    @property
    def spoke(self) -> bool:
        """Whether it counted."""
        return self.status in SPEAKING

    def again(self) -> LayerScores:
        """The same, as the fusion was given it."""
        return LayerScores(
            self.layer, self.status, self.version, "", np.array([self.score]), self.reason
        )


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """A verdict as it was written down.

    Attributes:
        release: `<tenant>/<serial>`, "" for none.
        release_sha256: of the release's file.
        input_sha256: of the event, as `ensemble.features.digest` makes it.
        scored_at: seconds since 1970.
        score: fused; it, `low`, `high` and `coverage` are in [0, 1].
        word: the verdict.
        layers: at least one, each once.
    """

    release: str
    release_sha256: str
    input_sha256: str
    scored_at: float
    score: float
    low: float
    high: float
    word: str
    severity: str
    coverage: float
    degraded: bool
    status: str
    layers: tuple[RecordedOpinion, ...]

    def __post_init__(self) -> None:
        numbers = [
            self.score,
            self.low,
            self.high,
            self.coverage,
            *(said.score for said in self.layers),
        ]
        if not all(0.0 <= number <= 1.0 for number in numbers):
            raise ValueError("a score is outside [0, 1]")
        if not self.layers or len({said.layer for said in self.layers}) < len(self.layers):
            raise ValueError("it names no layer, or one twice")

    @property
    def made_by(self) -> tuple[Tenant, ReleaseRef]:
        """Whose release made it, and which.

        Raises:
            NotReplayable: it names none: there was none then, or the name is no name.
        """
        if not self.release:
            raise NotReplayable(
                "the verdict was given without a release, by the built-in rule alone: there is nothing to load"
            )
        owner, _, number = self.release.partition("/")
        serial = parse_serial(number)
        try:
            tenant = Tenant(owner)
        except MalformedEvent:
            serial = None
        if serial is None:
            raise NotReplayable("the verdict names its release by what is no <tenant>/<number>")
        return tenant, ReleaseRef(serial, self.release_sha256)
