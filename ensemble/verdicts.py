"""Verdicts: the scores of each layer, and the fused verdict with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SPEAKING",
    "Abstention",
    "LayerScores",
    "LayerStatus",
    "Severity",
    "SystemStatus",
    "VerdictLabel",
    "Verdicts",
    "by_row",
    "system_status",
]


T = TypeVar("T")


class LayerStatus(StrEnum):
    """Origin of a layer's score; only the first three count as evidence."""

    LIVE = "live"
    LAST_GOOD = "last_good"  # an older proven model; it speaks
    RULES = "rules"  # no model, but written rules; they speak
    FALLBACK = "fallback"  # model absent or rejected; the score is for display, weight 0
    TIMEOUT = "timeout"  # no answer within the deadline
    OPEN = "open"  # the circuit breaker is open: not called
    DISABLED = "disabled"  # by an operator
    WARMING_UP = "warming_up"  # loading or still learning
    STALE = "stale"  # its data is too old to speak
    # the model works, and knows nothing on which it could rate this event; no outage
    UNINFORMED = "uninformed"
    # no opinion on this kind of event, or not part of the release; outside the coverage
    NOT_APPLICABLE = "not_applicable"


SPEAKING = frozenset({LayerStatus.LIVE, LayerStatus.LAST_GOOD, LayerStatus.RULES})


class VerdictLabel(StrEnum):
    """Verdict on one event."""

    BENIGN = "benign"
    SUSPICIOUS = "suspicious"  # scored above all but 1 % of benign validation events
    MALICIOUS = "malicious"  # above all but 0.1 %
    INDETERMINATE = "indeterminate"  # too little of the ensemble had an opinion


class Severity(StrEnum):
    """Severity, by calibrated quantiles of benign validation events."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
    # no thresholds to measure by: no fitted fusion, or no layer spoke; `low` would seem harmless
    UNKNOWN = "unknown"


class SystemStatus(StrEnum):
    """Share of the machine-learning layers that are available (S0-12)."""

    FULLY_OPERATIONAL = "FULLY_OPERATIONAL"
    PARTIALLY_OPERATIONAL = "PARTIALLY_OPERATIONAL"
    FALLBACK_MODE = "FALLBACK_MODE"


def system_status(statuses: Iterable[LayerStatus]) -> SystemStatus:
    """Summarize layer statuses: all applicable layers speak, some do, or none does.

    Args:
        statuses: of the layers whose scores are evidence; `not_applicable` is ignored, and a layer
            that is `uninformed` of an event is available.
    """
    is_available = [
        status in SPEAKING or status is LayerStatus.UNINFORMED
        for status in statuses
        if status is not LayerStatus.NOT_APPLICABLE
    ]
    if not any(is_available):
        return SystemStatus.FALLBACK_MODE
    return (
        SystemStatus.FULLY_OPERATIONAL if all(is_available) else SystemStatus.PARTIALLY_OPERATIONAL
    )


class Abstention(NamedTuple):
    """Why a layer that speaks has no opinion of one event."""

    status: LayerStatus
    reason: str


@dataclass(frozen=True, slots=True)
class LayerScores:
    """Opinion of one layer on a batch.

    Attributes:
        layer: `anomaly`, `behavior`, `classifier`, `resilience`, or a layer that was added.
        status: origin of the scores, one for the batch.
        version: serial version of the model that spoke, "" if none did.
        release: name of the release that the model was loaded for, "" if none was.
        scores: float64 (n,), finite, each in [0, 1], read-only.
        reason: why the status is not `live`; "" when it is.
        notes: row -> a remark for the reader of that row's score.
        details: name -> n values: numbers are contributions of a feature, strings are facts; only
            if an explanation was requested.
        abstained: row -> why this layer has no opinion of that row; its score is for display, with
            weight 0.
        flags: row -> remarks on the event itself, for its verdict.
    """

    layer: str
    status: LayerStatus
    version: str
    release: str
    scores: NDArray[np.float64]
    reason: str = ""
    notes: Mapping[int, str] = field(default_factory=dict)
    details: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    abstained: Mapping[int, Abstention] = field(default_factory=dict)
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scores = self.scores
        # NaN fails both comparisons.
        if not (scores.ndim == 1 and ((scores >= 0.0) & (scores <= 1.0)).all()):
            raise ValueError(f"{self.layer}: a score is outside [0, 1]")
        scores.flags.writeable = False

    @property
    def speaks(self) -> bool:
        """Whether this opinion counts as evidence."""
        return self.status in SPEAKING

    def select(self, rows: NDArray[np.intp]) -> LayerScores:
        """The opinion of `rows` alone, in the order given."""
        places = {int(row): place for place, row in enumerate(rows)}

        def moved(of_rows: Mapping[int, T]) -> Mapping[int, T]:
            return {places[row]: value for row, value in of_rows.items() if row in places}

        return replace(
            self,
            scores=self.scores[rows],
            notes=moved(self.notes),
            details={name: column[rows] for name, column in self.details.items()},
            abstained=moved(self.abstained),
            flags=moved(self.flags),
        )

    def as_last_good(self) -> LayerScores:
        """Mark live scores as those of a parent's models: proven, but not what is wanted."""
        is_live = self.status is LayerStatus.LIVE
        return replace(self, status=LayerStatus.LAST_GOOD) if is_live else self

    @classmethod
    def silent(
        cls, layer: str, status: LayerStatus, size: int, reason: str, *, score: float = 0.0
    ) -> LayerScores:
        """Make an abstention; `score` is for display, with weight 0."""
        return cls(layer, status, "", "", np.full(size, score), reason)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Fused verdicts on events for which the same layers spoke, as columns.

    Attributes:
        score: float64 (n,), probability of hostile at the reference prior of 1 %, in [0, 1].
        low: float64 (n,), the score if every silent layer had given its lowest.
        high: float64 (n,), the score if every silent layer had given its highest;
            low <= score <= high.
        label: n labels.
        severity: n severities.
        coverage: share of the validated weight of the layers of this kind that spoke, in [0, 1].
        degraded: whether a layer that could have moved the score was not available.
        status: of the ensemble.
        layers: opinions of all layers, in a fixed order.
        rows: positions of these events in the batch, ascending; None for all of them.
        release: name of the release whose fusion was used, "" for none.
        release_sha256: of that release's file, "" for none.
    """

    score: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    label: tuple[VerdictLabel, ...]
    severity: tuple[Severity, ...]
    coverage: float
    degraded: bool
    status: SystemStatus
    layers: tuple[LayerScores, ...]
    rows: NDArray[np.intp] | None = None
    release: str = ""
    release_sha256: str = ""

    @property
    def is_uninformed(self) -> bool:
        """Whether a layer that works knows nothing of these events; then they are no evidence."""
        return any(one.status is LayerStatus.UNINFORMED for one in self.layers)


def by_row(
    groups: Sequence[Verdicts], column: Callable[[Verdicts], Sequence[Any] | NDArray[Any] | float]
) -> NDArray[Any]:
    """Collect a column of the verdicts of a batch, in the order of its events.

    Args:
        groups: the verdicts of the batch; every row is in one group.
        column: selects the values of a group: one for each row, or one for all rows.
    """
    placed = np.empty(sum(len(group.label) for group in groups), dtype=object)
    for group in groups:
        placed[slice(None) if group.rows is None else group.rows] = column(group)
    return placed
