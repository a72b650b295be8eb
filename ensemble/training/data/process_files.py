"""Process starts from a file: one JSON object a line as on the wire, or CSV with a header.

JSON lines: the fields of a process event (`name`, `parent`, `command_line`, `user`, `host`);
`kind` and `id` are ignored. An event whose `time` is implausible is left out: it may be of a sensor
with a wrong clock, or of another year.
CSV: columns of the same names; `process` is read as `name` if there is no `name`; other columns are
ignored, because exports have many. Only the name is required. A file ending in `.gz` is unpacked.
The first character that is not blank distinguishes JSON from CSV.

Long values are cut, as at admission. Any other error is raised with its line and column, and
never with the value or the path of the file.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ensemble.errors import TrainingError
from ensemble.events import ProcessEvent
from ensemble.features import PlausibleTimes
from ensemble.features.process import admit

__all__ = ["read_process_events"]

_FIELDS = tuple(field.name for field in fields(ProcessEvent))
_READ_OVER = frozenset({"kind", "id", "time"})
_NAME_ELSEWHERE = "process"  # what exports of Sysmon call it


class _TwiceError(ValueError):
    """An object has a name twice."""


def read_process_events(
    path: Path,
    times: PlausibleTimes | None = None,
    progress: Callable[[str], object] = lambda _: None,
) -> list[ProcessEvent]:
    """Read the events of a file, in its order.

    Args:
        path: of the file.
        times: JSON lines of other times are left out; None: none are.
        progress: called with a sentence about what is left out.

    Raises:
        TrainingError: no events, or an invalid one; names the line and the column.
    """
    try:
        packed = path.read_bytes()
        text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise TrainingError(
            f"line {wrong.object[: wrong.start].count(10) + 1}: is not UTF-8"
        ) from None
    except (OSError, EOFError) as wrong:
        raise TrainingError(
            f"the file of process events cannot be read: {type(wrong).__name__}"
        ) from None
    lines = text.split("\n")  # not splitlines: U+2028 inside a JSON string is no end of line
    rows = _json_rows(lines, times) if text.lstrip()[:1] == "{" else _csv_rows(lines)
    found = list(rows)
    events = [event for event in found if event is not None]
    if not events:
        raise TrainingError(
            "the file holds no process events" + (" of a plausible time" if found else "")
        )
    if len(events) < len(found):
        left_out = len(found) - len(events)
        progress(f"left out {left_out:,} events: their time is no time, or too far ahead or behind")
    cut = admit(events)
    columns = zip(cut.names, cut.parents, cut.command_lines, cut.users, cut.hosts, strict=True)
    return [ProcessEvent(*row) for row in columns]


def _json_rows(lines: Sequence[str], times: PlausibleTimes | None) -> Iterator[ProcessEvent | None]:
    """Read each line as an event; None for one of an implausible time."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _json_row(number, line)
        if row.get("kind", "process") != "process":
            raise TrainingError(f"line {number}, column kind: is not 'process'")
        unknown = sorted(row.keys() - set(_FIELDS) - _READ_OVER)
        if unknown:
            raise TrainingError(
                f"line {number}, column {unknown[0][:64]}: is no field of a process event"
            )
        for name in _FIELDS:
            if not isinstance(row.get(name, ""), str):
                raise TrainingError(
                    f"line {number}, column {name}:"
                    f" must be a string, not {type(row[name]).__name__}"
                )
        time = row.get("time")
        if isinstance(time, bool) or not isinstance(time, str | int | float | None):
            raise TrainingError(
                f"line {number}, column time:"
                f" must be a string or a number, not {type(time).__name__}"
            )
        event = _event(number, {name: row.get(name, "") for name in _FIELDS})
        yield None if times and times.remarks(time) else event


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_with_each_name_once)
    except _TwiceError:
        raise TrainingError(f"line {number}: a name is given twice") from None
    except (ValueError, RecursionError) as wrong:
        column = wrong.colno if isinstance(wrong, json.JSONDecodeError) else 1
        raise TrainingError(f"line {number}, column {column}: is not JSON") from None
    if not isinstance(row, dict):
        raise TrainingError(f"line {number}: is not a JSON object")
    return row


def _with_each_name_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _TwiceError
    return row


def _csv_rows(lines: Iterable[str]) -> Iterator[ProcessEvent]:
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    position: dict[str, int] | None = None
    width = 0
    try:
        for row in reader:
            if not row:
                continue
            if position is None:
                position, width = _header(row), len(row)
                continue
            if len(row) != width:
                raise TrainingError(
                    f"line {reader.line_num}, column {min(len(row), width) + 1}:"
                    f" {len(row)} values under {width} columns"
                )
            yield _event(reader.line_num, {name: row[at] for name, at in position.items()})
    except csv.Error as wrong:
        what = (
            "a value is longer than 131,072 characters" if "limit" in str(wrong) else "is not CSV"
        )
        raise TrainingError(f"line {reader.line_num}: {what}") from None


def _header(row: Sequence[str]) -> dict[str, int]:
    """Find the position of each field in the rows of a CSV file."""
    columns = [column.strip().casefold() for column in row]
    repeated = next(
        (
            column
            for column in columns
            if column in {*_FIELDS, _NAME_ELSEWHERE} and columns.count(column) > 1
        ),
        None,
    )
    if repeated:
        raise TrainingError(f"line 1, column {repeated}: is repeated")
    position = {name: columns.index(name) for name in _FIELDS if name in columns}
    if "name" not in position and _NAME_ELSEWHERE in columns:
        position["name"] = columns.index(_NAME_ELSEWHERE)
    if "name" not in position:
        raise TrainingError(
            "line 1, column name: is missing;"
            " the columns are name, parent, command_line, user, host"
        )
    return position


def _event(line: int, row: dict[str, str]) -> ProcessEvent:
    if not row["name"].strip():
        raise TrainingError(f"line {line}, column name: is empty")
    for name, value in row.items():
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise TrainingError(f"line {line}, column {name}: half a surrogate pair is no text")
    return ProcessEvent(**row)
