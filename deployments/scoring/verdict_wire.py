"""The wire format of verdicts: the fused columns of a batch become one response for each event.

The OpenAPI document is made from these types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from msgspec import Struct

from deployments.web import ErrorBody
from ensemble.events import EventBatch
from ensemble.features import event_digests
from ensemble.verdicts import LayerScores, SystemStatus, Verdicts

__all__ = ["RowError", "Verdict", "VerdictBatch", "timestamp", "worst_of", "write_verdicts"]

EXPLAINED_FEATURES = 5  # of each layer, as many as a person reads
_WORST_FIRST = (
    SystemStatus.FALLBACK_MODE,
    SystemStatus.PARTIALLY_OPERATIONAL,
    SystemStatus.FULLY_OPERATIONAL,
)


class LayerScore(Struct):
    """The score of one layer."""

    layer: str
    score: float
    status: str
    version: str
    reason: str


class Explanation(Struct):
    """Explanation of a layer's score: a feature and its contribution, or a fact (the family)."""

    layer: str
    feature: str
    contribution: float | str


class Verdict(Struct, omit_defaults=True):
    """The fused verdict on one event.

    Attributes:
        release: name of the release that was used, `<tenant>/<serial>`; empty if none could be
            loaded.
        release_sha256: SHA-256 of the release file, which holds the digest of every model; empty
            if there is no release.
        input_sha256: SHA-256 of the part of the event that the models read; id and dialect do not
            change it.
        scored_at: time at which the batch was scored, ISO 8601 in UTC; `axon replay` uses it as
            the present time.
    """

    id: str
    score: float
    low: float
    high: float
    verdict: str
    severity: str
    coverage: float
    degraded: bool
    status: str
    layers: list[LayerScore]
    elapsed_ms: float
    release: str
    release_sha256: str
    input_sha256: str
    scored_at: str
    flags: Sequence[str] = ()
    explanation: list[Explanation] | None = None


class RowError(Struct):
    """The error of one event of a batch, at its position."""

    id: str
    error: ErrorBody


class VerdictBatch(Struct):
    """The verdicts, in the order of the events."""

    # Verdict or RowError: msgspec has no untagged unions of structs; OpenAPI names both
    results: list[Any]
    status: str
    coverage: float


def write_verdicts(
    batch: EventBatch,
    groups: Sequence[Verdicts],
    *,
    explain: bool,
    elapsed_ms: float,
    scored_at: float,
) -> list[Verdict]:
    """Write one verdict for each event of a batch, in order, ready to be encoded.

    Args:
        batch: n events.
        groups: their verdicts; together every row once.
        explain: also return what moved the layers.
        elapsed_ms: since the oldest of the events arrived.
        scored_at: when the layers were called, seconds since 1970.
    """
    shared = _Shared(event_digests(batch), timestamp(scored_at), elapsed_ms)
    if len(groups) == 1:
        return _verdicts_of(batch, groups[0], range(len(batch)), shared, explain=explain)
    placed: dict[int, Verdict] = {}
    for group in groups:
        rows = range(len(batch)) if group.rows is None else group.rows.tolist()
        placed |= zip(rows, _verdicts_of(batch, group, rows, shared, explain=explain), strict=True)
    return [placed[row] for row in range(len(batch))]


@dataclass(frozen=True, slots=True)
class _Shared:
    """A digest of each event of a batch, and the two times of the batch."""

    digests: Sequence[str]
    scored_at: str
    elapsed_ms: float


def timestamp(at: float, precision: str = "milliseconds") -> str:
    """Format a time, seconds since 1970, as ISO 8601 in UTC.

    Args:
        at: the time.
        precision: `timespec` of `datetime.isoformat`.
    """
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _verdicts_of(
    batch: EventBatch, verdicts: Verdicts, rows: Sequence[int], shared: _Shared, *, explain: bool
) -> list[Verdict]:
    columns = [(layer, layer.scores.tolist()) for layer in verdicts.layers]
    flags = {
        place: some for layer in verdicts.layers for place, some in layer.flags.items()
    }  # of one layer: only that of process starts has any
    explained = [_explained(layer) for layer in verdicts.layers] if explain else []
    scores, lows, highs = verdicts.score.tolist(), verdicts.low.tolist(), verdicts.high.tolist()
    return [
        # id, score, low and high by position: a call with more than fifteen keywords builds a dict
        # and is five times slower
        Verdict(
            batch.ids[row],
            scores[place],
            lows[place],
            highs[place],
            verdict=verdicts.label[place],
            severity=verdicts.severity[place],
            coverage=verdicts.coverage,
            degraded=verdicts.degraded,
            status=verdicts.status,
            layers=[
                LayerScore(
                    layer.layer,
                    column[place],
                    layer.status,
                    layer.version,
                    layer.reason or layer.notes.get(place, ""),
                )
                for layer, column in columns
            ],
            elapsed_ms=shared.elapsed_ms,
            release=verdicts.release,
            release_sha256=verdicts.release_sha256,
            input_sha256=shared.digests[row],
            scored_at=shared.scored_at,
            flags=(*batch.flags.get(row, ()), *flags.get(place, ())),
            explanation=[part for parts in explained for part in parts[place]] if explain else None,
        )
        for place, row in enumerate(rows)
    ]


def _explained(scores: LayerScores) -> list[list[Explanation]]:
    """For each event the facts, then the features that moved the layer's score most."""
    layer, details = scores.layer, scores.details
    facts = {name: column.tolist() for name, column in details.items() if column.dtype.kind == "U"}
    names = [name for name, column in details.items() if column.dtype.kind in "fiu"]
    parts = [
        [Explanation(layer, name, column[row]) for name, column in facts.items() if column[row]]
        for row in range(len(scores.scores))
    ]
    if names:
        numbers = np.stack([details[name] for name in names], axis=1)  # (n, features)
        strongest = np.argsort(-np.abs(numbers), axis=1, kind="stable")[:, :EXPLAINED_FEATURES]
        largest = np.take_along_axis(numbers, strongest, axis=1)
        for part, places, values in zip(parts, strongest.tolist(), largest.tolist(), strict=True):
            part += [
                Explanation(layer, names[place], value)
                for place, value in zip(places, values, strict=True)
                if value
            ]
    return parts


def worst_of(results: Sequence[Verdict | RowError]) -> tuple[str, float]:
    """The worst status and the least coverage of a batch; FALLBACK_MODE if no event was scored."""
    verdicts = [result for result in results if isinstance(result, Verdict)]
    found = {verdict.status for verdict in verdicts} or {SystemStatus.FALLBACK_MODE}
    status = next(status for status in _WORST_FIRST if status in found)
    return status, min((verdict.coverage for verdict in verdicts), default=0.0)
