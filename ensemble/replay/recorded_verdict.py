"""A recorded verdict with what a replay needs.

It contains the digest of its release, and the release contains the digests of all its models. So
the models can be loaded again, whatever was promoted since. It also contains the digest of its
event, the score or the abstention of every layer, and the time of scoring. It does not contain the
operator's settings: those are the `ReplaySettings`.
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
    """The operator's settings that a verdict depends on, as they are configured now."""

    min_coverage: float
    posture_bound: float
    stale_after_days: int
    expired_after_days: int


@dataclass(frozen=True, slots=True)
class RecordedOpinion:
    """One layer's part of a recorded verdict.

    Attributes:
        score: in [0, 1]; without weight if the layer abstained.
        version: of the model that scored, "" if none did.
        reason: why the layer abstained, or a note on the score.
    """

    layer: str
    score: float
    status: LayerStatus
    version: str
    reason: str

    @property
    def spoke(self) -> bool:
        """Whether the score counted."""
        return self.status in SPEAKING

    def to_scores(self) -> LayerScores:
        """Convert to the scores that the fusion was given."""
        return LayerScores(
            self.layer, self.status, self.version, "", np.array([self.score]), self.reason
        )


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """A verdict as it was recorded.

    Attributes:
        release: `<tenant>/<serial>`, "" for none.
        release_sha256: digest of the release's file.
        input_sha256: digest of the event by `ensemble.features.digest`.
        scored_at: seconds since 1970.
        score: fused; it, `low`, `high` and `coverage` are in [0, 1].
        verdict: e.g. `benign`.
        layers: at least one, each once.
    """

    release: str
    release_sha256: str
    input_sha256: str
    scored_at: float
    score: float
    low: float
    high: float
    verdict: str
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
            *(old.score for old in self.layers),
        ]
        if not all(0.0 <= number <= 1.0 for number in numbers):
            raise ValueError("a score is outside [0, 1]")
        if not self.layers or len({old.layer for old in self.layers}) < len(self.layers):
            raise ValueError("no layer, or one twice")

    @property
    def made_by(self) -> tuple[Tenant, ReleaseRef]:
        """The tenant and the release that made the verdict.

        Raises:
            NotReplayable: no release made it, or the name of the release is invalid.
        """
        if not self.release:
            raise NotReplayable(
                "the verdict was given without a release, by the built-in rule alone:"
                " there is nothing to load"
            )
        owner, _, number = self.release.partition("/")
        serial = parse_serial(number)
        try:
            tenant = Tenant(owner)
        except MalformedEvent:
            serial = None
        if serial is None:
            raise NotReplayable("the name of the verdict's release is not <tenant>/<number>")
        return tenant, ReleaseRef(serial, self.release_sha256)
