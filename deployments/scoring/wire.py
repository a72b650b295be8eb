"""The wire format of events: JSON is parsed once and strictly into these types, then admitted.

The OpenAPI document is made from the same types. Nothing is coerced: a string is not a number, an
unknown field is an error, and NaN is not JSON. `null` is accepted for the two rates that admission
recomputes, because they have no value in a flow without duration. Every other null is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from deployments.web import TWICE, check_size, decode_body, outline, without_half_pairs
from ensemble.errors import (
    EventError,
    FeatureMismatch,
    MalformedEvent,
    MalformedJson,
    TooManyEvents,
)
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessEvent
from ensemble.features import PlausibleTimes, cut_time, flow, process

__all__ = [
    "EventRequest",
    "Features",
    "admit",
    "check_count",
    "cut",
    "kind_of",
    "names_in",
    "parse_batch",
    "parse_event",
]

Name = Annotated[str, Meta(max_length=256)]
Features = list[float | None] | dict[str, float | None]


class FlowRequest(Struct, tag_field="kind", tag="flow", forbid_unknown_fields=True, frozen=True):
    """A network flow: 78 CICFlowMeter features, in order or by name in any dialect."""

    features: Features
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
    """Events; kinds may be mixed. `maxItems` is the limit of this service."""

    events: list[EventRequest]


class _NamesOfBatch(Struct):
    events: list[dict[str, msgspec.Raw]]


class _OnlyId(Struct):
    id: Any = ""


_decode_event = msgspec.json.Decoder(EventRequest).decode
_decode_batch = msgspec.json.Decoder(_RawBatch).decode
_decode_batch_at_once = msgspec.json.Decoder(BatchRequest).decode
_decode_names = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_names_of_batch = msgspec.json.Decoder(_NamesOfBatch).decode
_decode_id = msgspec.json.Decoder(_OnlyId).decode
_KINDS: Mapping[type, Kind] = {FlowRequest: Kind.FLOW, ProcessRequest: Kind.PROCESS}


def kind_of(event: EventRequest) -> Kind:
    """The kind of a parsed event."""
    return _KINDS[type(event)]


def parse_event(body: bytes) -> EventRequest:
    """Parse one event.

    Raises:
        MalformedJson: not JSON, not UTF-8, or a name is given twice in one object.
        MalformedEvent: JSON, but not an event; `field` names the invalid part.
    """
    found = check_size(body, 1)
    try:
        event: EventRequest = _decode_event(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = without_half_pairs(body)
        event = decode_body(_decode_event, body)
    if found.names != len(_decode_names(body)) + _names_inside(event):
        raise MalformedJson(TWICE)
    return event


def parse_batch(body: bytes, *, limit: int) -> list[EventRequest | tuple[str, EventError]]:
    """Parse the events of a batch, in order; an invalid one becomes its id and its error.

    Raises:
        MalformedJson: not JSON, not UTF-8, or a name of the batch itself is given twice.
        MalformedEvent: not a list of events.
        TooManyEvents: more than `limit`.
    """
    found = check_size(body, limit)
    try:
        # the common case: all are valid
        events: list[EventRequest | tuple[str, EventError]] = [*_decode_batch_at_once(body).events]
        names = 1 + sum(map(len, _decode_names_of_batch(body).events))
        is_valid = found.names == names + sum(map(_names_inside, events))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body, is_valid = without_half_pairs(body), False
    if is_valid:
        check_count(len(events), limit)
        return events
    raw = [bytes(event) for event in decode_body(_decode_batch, body).events]
    del body  # a second copy, while the texts of the events are decoded
    if found.names != 1 + sum(outline(event).names for event in raw):
        raise MalformedJson(TWICE)
    check_count(len(raw), limit)
    return [_event_or_error(event) for event in raw]


def names_in(features: Features) -> int:
    """Count the names of an object of features; 0 for a list."""
    return len(features) if isinstance(features, dict) else 0


def _names_inside(event: object) -> int:
    return names_in(event.features) if isinstance(event, FlowRequest) else 0


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


def cut(event: EventRequest) -> EventRequest:
    """Cut the texts of an event as its admission does; no model reads the rest."""
    if isinstance(event, FlowRequest):
        return msgspec.structs.replace(event, time=cut_time(event.time))
    short = process.cut(_start_of(event))
    return msgspec.structs.replace(
        event,
        name=short.name,
        parent=short.parent,
        command_line=short.command_line,
        user=short.user,
        host=short.host,
        time=cut_time(event.time),
    )


def admit(
    kind: Kind, events: Sequence[EventRequest], times: PlausibleTimes | None = None
) -> Admitted:
    """Admit events of one kind: the columns, their positions, and the errors by position.

    Args:
        kind: of every event.
        events: as they were parsed.
        times: those that raise no flag; None for events of the past, whose times are not judged.
    """
    of_kind: Any = _flow_batch if kind is Kind.FLOW else _process_batch  # the caller groups by kind
    admitted: Admitted = of_kind(events)
    return admitted if times is None else _with_remarks(admitted, events, times)


def _with_remarks(
    admitted: Admitted, events: Sequence[EventRequest], times: PlausibleTimes
) -> Admitted:
    batch, places, rejected = admitted
    remarks = {
        row: some
        for row, place in enumerate(places)
        if (time := events[place].time) is not None and (some := times.remarks(time))
    }
    if not remarks:
        return admitted
    flags = {row: (*batch.flags.get(row, ()), *some) for row, some in remarks.items()}
    return replace(batch, flags={**batch.flags, **flags}), places, rejected


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


def _ordered(features: Features) -> Sequence[float | None]:
    if isinstance(features, dict):
        return flow.in_order(features)
    if len(features) != len(flow.FEATURE_NAMES):
        found = f"has {len(features)} numbers, needs {len(flow.FEATURE_NAMES)}"
        raise FeatureMismatch("features", found)
    return features


def _process_batch(events: Sequence[ProcessRequest]) -> Admitted:
    starts = [_start_of(event) for event in events]
    return process.admit(starts, [event.id for event in events]), range(len(events)), {}


def _start_of(event: ProcessRequest) -> ProcessEvent:
    return ProcessEvent(event.name, event.parent, event.command_line, event.user, event.host)
