"""The wire format of events and verdicts: JSON is parsed once and strictly into these types.

The OpenAPI document is made from the same types. Nothing is coerced: a string is not a number, an
unknown field is an error, and NaN is not JSON. `null` is accepted for the two rates that admission
recomputes, because they have no value in a flow without duration. Every other null is rejected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct

from deployments.web import ErrorBody, check_size, decode_body
from ensemble.errors import EventError, FeatureMismatch, MalformedEvent, TooManyEvents
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessEvent
from ensemble.features import event_digests, flow, process
from ensemble.verdicts import LayerScores, SystemStatus, Verdicts

__all__ = [
    "BatchAnswer",
    "EventRequest",
    "RowError",
    "Verdict",
    "admit",
    "check_count",
    "kind_of",
    "parse_batch",
    "parse_event",
    "timestamp",
    "worst_of",
    "write_verdicts",
]

Name = Annotated[str, Meta(max_length=256)]
EXPLAINED_FEATURES = 5  # of each layer, as many as a person reads
_WORST_FIRST = (
    SystemStatus.FALLBACK_MODE,
    SystemStatus.PARTIALLY_OPERATIONAL,
    SystemStatus.FULLY_OPERATIONAL,
)


class FlowRequest(Struct, tag_field="kind", tag="flow", forbid_unknown_fields=True, frozen=True):
    """A network flow: 78 CICFlowMeter features in order, or an object by name in any dialect."""

    features: list[float | None] | dict[str, float | None]
    id: Name = ""
    host: Name = ""
    time: str | float | None = None


class ProcessRequest(
    Struct, tag_field="kind", tag="process", forbid_unknown_fields=True, frozen=True
):
    """A process start."""

    # a text that is too long is cut and flagged; if it were rejected, it would evade detection
    name: Annotated[str, Meta(min_length=1)]
    parent: str = ""
    command_line: str = ""
    user: str = ""
    host: str = ""
    id: Name = ""
    time: str | float | None = None


EventRequest = FlowRequest | ProcessRequest
Admitted = tuple[EventBatch, Sequence[int], Mapping[int, EventError]]


class _RawBatch(Struct, forbid_unknown_fields=True):
    events: list[msgspec.Raw]


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Up to 1,000 events, kinds mixed."""

    events: list[EventRequest]


class LayerAnswer(Struct):
    """The score of one layer."""

    layer: str
    score: float
    status: str
    version: str
    reason: str


class Explanation(Struct):
    """Why a layer gave its score: a feature and its contribution, or a fact, e.g. the family."""

    layer: str
    feature: str
    contribution: float | str


class Verdict(Struct, omit_defaults=True):
    """The fused verdict on one event.

    Attributes:
        release: name of the release that made it, `<tenant>/<serial>`; empty if none could be
            loaded.
        release_sha256: SHA-256 of that release's file, which names every model by digest; empty
            for none.
        input_sha256: SHA-256 of what the models read of the event; id and dialect do not matter.
        scored_at: when its batch was scored, ISO 8601 in UTC; `axon replay` sets its clock to it.
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
    layers: list[LayerAnswer]
    elapsed_ms: float
    release: str
    release_sha256: str
    input_sha256: str
    scored_at: str
    flags: Sequence[str] = ()
    explanation: list[Explanation] | None = None


class RowError(Struct):
    """An error in the place of one event of a batch."""

    id: str
    error: ErrorBody


class BatchAnswer(Struct):
    """The verdicts in the order of the events."""

    # Verdict or RowError: msgspec has no untagged unions of structs; OpenAPI names both
    results: list[Any]
    status: str
    coverage: float


class _OnlyId(Struct):
    id: Any = ""


_decode_event = msgspec.json.Decoder(EventRequest).decode
_decode_batch = msgspec.json.Decoder(_RawBatch).decode
_decode_batch_at_once = msgspec.json.Decoder(BatchRequest).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode
_KINDS: Mapping[type, Kind] = {FlowRequest: Kind.FLOW, ProcessRequest: Kind.PROCESS}


def kind_of(event: EventRequest) -> Kind:
    """The kind of a parsed event."""
    return _KINDS[type(event)]


def parse_event(body: bytes) -> EventRequest:
    """Parse one event.

    Raises:
        MalformedJson: not JSON, or not UTF-8.
        MalformedEvent: JSON, but not an event; `field` names the invalid part.
    """
    check_size(body, 1)
    try:
        event: EventRequest = _decode_event(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        event = decode_body(_decode_event, _without_half_pairs(body))
    return event


def parse_batch(body: bytes, *, limit: int) -> list[EventRequest | tuple[str, EventError]]:
    """Parse the events of a batch, in order; an invalid one becomes its id and its error.

    Raises:
        MalformedJson: not JSON, or not UTF-8.
        MalformedEvent: not a list of events.
        TooManyEvents: more than `limit`.
    """
    check_size(body, limit)
    try:
        # the common case: all are valid
        events: Sequence[EventRequest] = _decode_batch_at_once(body).events
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = decode_body(_decode_batch, _without_half_pairs(body)).events
        check_count(len(raw), limit)
        return [_event_or_error(bytes(event)) for event in raw]
    check_count(len(events), limit)
    return list(events)


def check_count(count: int, limit: int, field: str = "events") -> None:
    """Reject an empty batch, and one of more than `limit` events, which `field` contains.

    Raises:
        MalformedEvent: it is empty.
        TooManyEvents: it has too many.
    """
    if count == 0:
        raise MalformedEvent(field, "is empty; send at least one event")
    if count > limit:
        raise TooManyEvents(count, limit, field)


def _event_or_error(raw: bytes) -> EventRequest | tuple[str, EventError]:
    try:
        return parse_event(raw)
    except EventError as error:
        return _readable_id(raw), error


def _readable_id(raw: bytes) -> str:
    try:
        found = _decode_id(raw).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return found[:256] if isinstance(found, str) else ""


_PAIR_OR_HALF = re.compile(rb"(\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)|\\u[dD][89a-fA-F]..")


def _without_half_pairs(body: bytes) -> bytes:
    """Replace half surrogate pairs, which stand for names that are not UTF-8.

    If they were rejected, such names would evade detection.
    """
    # in place, as both are six bytes: a piece for each half would need sixteen times the memory
    replaced = bytearray(body)
    for found in _PAIR_OR_HALF.finditer(body):
        if found[1] is None:
            replaced[found.start() : found.end()] = b"\\ufffd"
    return bytes(replaced)


def admit(kind: Kind, events: Sequence[EventRequest]) -> Admitted:
    """Admit events of one kind: the columns, their positions, and the errors by position."""
    if kind is Kind.FLOW:
        return _flow_batch(events)  # type: ignore[arg-type]  # the caller groups by kind
    return _process_batch(events)  # type: ignore[arg-type]


def _flow_batch(events: Sequence[FlowRequest]) -> Admitted:
    rejected: dict[int, EventError] = {}
    rows: list[Sequence[float | None]] = []
    places: list[int] = []
    for place, event in enumerate(events):
        try:
            rows.append(_ordered(event.features))
        except FeatureMismatch as error:
            rejected[place] = error
        else:
            places.append(place)
    admitted = flow.admit(rows)
    rejected |= {places[row]: error for row, error in admitted.refused.items()}
    admitted_places = [places[row] for row in admitted.rows]
    batch = FlowBatch(
        ids=tuple(events[place].id for place in admitted_places),
        hosts=tuple(events[place].host for place in admitted_places),
        features=admitted.features,
        flags=admitted.flags,
    )
    return batch, admitted_places, rejected


def _ordered(features: list[float | None] | dict[str, float | None]) -> Sequence[float | None]:
    if isinstance(features, dict):
        return flow.in_order(features)
    if len(features) != len(flow.FEATURE_NAMES):
        found = f"has {len(features)} numbers, needs {len(flow.FEATURE_NAMES)}"
        raise FeatureMismatch("features", found)
    return features


def _process_batch(events: Sequence[ProcessRequest]) -> Admitted:
    starts = [
        ProcessEvent(event.name, event.parent, event.command_line, event.user, event.host)
        for event in events
    ]
    return process.admit(starts, [event.id for event in events]), range(len(events)), {}


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


def timestamp(at: float) -> str:
    """Format a time, seconds since 1970, as ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _verdicts_of(
    batch: EventBatch, verdicts: Verdicts, rows: Sequence[int], shared: _Shared, *, explain: bool
) -> list[Verdict]:
    columns = [(layer, layer.scores.tolist()) for layer in verdicts.layers]
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
                LayerAnswer(
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
            flags=batch.flags.get(row, ()),
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
