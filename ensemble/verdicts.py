"""What comes out: each layer's scores, and the fused verdict with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SPEAKING",
    "LayerScores",
    "LayerStatus",
    "Severity",
    "SystemStatus",
    "VerdictLabel",
    "Verdicts",
    "by_row",
    "system_status",
]


class LayerStatus(StrEnum):
    """Where a layer's score came from; only the first three count as evidence."""

    LIVE = "live"
    LAST_GOOD = "last_good"  # an older proven model; it speaks
    RULES = "rules"  # no model, but written rules; they speak
    FALLBACK = "fallback"  # model absent or refused; the score is for show, weight 0
    TIMEOUT = "timeout"  # no answer within the deadline
    OPEN = "open"  # the breaker is open: not asked
    DISABLED = "disabled"  # switched off by an operator
    WARMING_UP = "warming_up"  # loading or still learning
    STALE = "stale"  # its data is too old to speak
    # no opinion on this kind of event, or a release that does without it; outside the coverage
    NOT_APPLICABLE = "not_applicable"


SPEAKING = frozenset({LayerStatus.LIVE, LayerStatus.LAST_GOOD, LayerStatus.RULES})


class VerdictLabel(StrEnum):
    """The answer in one word."""

    BENIGN = "benign"
    SUSPICIOUS = "suspicious"  # scored above all but 1 % of benign validation events
    MALICIOUS = "malicious"  # above all but 0.1 %
    INDETERMINATE = "indeterminate"  # too little of the ensemble looked


class Severity(StrEnum):
    """How bad, on calibrated quantiles of benign validation events."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"
    # nothing to measure by: no fusion, or nobody spoke; `low` would be an innocent word for it
    UNKNOWN = "unknown"


class SystemStatus(StrEnum):
    """How much of the machine-learning evidence is alive (S0-12)."""

    FULLY_OPERATIONAL = "FULLY_OPERATIONAL"
    PARTIALLY_OPERATIONAL = "PARTIALLY_OPERATIONAL"
    FALLBACK_MODE = "FALLBACK_MODE"


def system_status(statuses: Iterable[LayerStatus]) -> SystemStatus:
    """The word for the slots that could speak of something: all of them do, some do, none does.

    Args:
        statuses: of the slots that hold evidence; a slot that is not applicable says nothing
            about the system.
    """
    speaks = [status in SPEAKING for status in statuses if status is not LayerStatus.NOT_APPLICABLE]
    if not any(speaks):
        return SystemStatus.FALLBACK_MODE
    return SystemStatus.FULLY_OPERATIONAL if all(speaks) else SystemStatus.PARTIALLY_OPERATIONAL


@dataclass(frozen=True, slots=True)
class LayerScores:
    """One layer's opinion of a batch.

    Attributes:
        layer: `anomaly`, `behavior`, `classifier`, `resilience`.
        status: where the scores came from; the same for the whole batch.
        version: serial version of the model that spoke, "" where none did.
        release: name of the release that the model was loaded for, "" where none was.
        scores: float64 (n,), finite, each in [0, 1], read-only.
        reason: why the status is not `live`; "" when it is.
        notes: row -> what a reader of that row should know.
        details: name -> n values: numbers are contributions of a feature, strings are facts;
            only where asked for.
        abstained: row -> why this layer has no opinion of that one row; its score is for show
            and weighs nothing.
    """

    layer: str
    status: LayerStatus
    version: str
    release: str
    scores: NDArray[np.float64]
    reason: str = ""
    notes: Mapping[int, str] = field(default_factory=dict)
    details: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    abstained: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scores = self.scores
        if not (
            scores.ndim == 1 and ((scores >= 0.0) & (scores <= 1.0)).all()
        ):  # NaN fails both comparisons
            raise ValueError(f"{self.layer}: a score is outside [0, 1]")
        scores.flags.writeable = False

    @property
    def speaks(self) -> bool:
        """Whether this opinion counts as evidence."""
        return self.status in SPEAKING

    def take(self, rows: NDArray[np.intp]) -> LayerScores:
        """The opinion of some rows only, in the order given."""
        places = {int(row): place for place, row in enumerate(rows)}

        def moved(texts: Mapping[int, str]) -> Mapping[int, str]:
            return {places[row]: text for row, text in texts.items() if row in places}

        return replace(
            self,
            scores=self.scores[rows],
            notes=moved(self.notes),
            details={name: column[rows] for name, column in self.details.items()},
            abstained=moved(self.abstained),
        )

    @classmethod
    def silent(
        cls, layer: str, status: LayerStatus, size: int, reason: str, *, score: float = 0.0
    ) -> LayerScores:
        """An abstention: `score` is for show and weighs nothing."""
        return cls(layer, status, "", "", np.full(size, score), reason)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The fused answers for a batch of which the same layers spoke, as columns.

    Attributes:
        score: float64 (n,), probability of hostile at the reference prior of 1 %, in [0, 1].
        low: float64 (n,), the score had every silent layer said least.
        high: float64 (n,), the score had every silent layer said most; low <= score <= high.
        word: n verdicts.
        severity: n severities.
        coverage: share of the validated weight, among the layers of this kind, that spoke; in
            [0, 1].
        degraded: a layer that could have moved the score did not speak.
        status: the word for the whole ensemble.
        layers: every layer's opinion, in a fixed order.
        rows: which events of the batch these are, ascending; None for all of them.
        release: name of the release that they were fused by, "" for none.
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


def by_row(
    groups: Sequence[Verdicts], column: Callable[[Verdicts], Sequence[Any] | NDArray[Any] | float]
) -> NDArray[Any]:
    """A column of the verdicts of a whole batch, in the order of its events.

    Args:
        groups: the batch's verdicts; together every row once.
        column: what to take of each group: n values, or one for all its rows.
    """
    placed = np.empty(sum(len(group.label) for group in groups), dtype=object)
    for group in groups:
        placed[slice(None) if group.rows is None else group.rows] = column(group)
    return placed
