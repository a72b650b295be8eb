"""Labelled or plain flows from a CSV file, read in blocks of lines; a bad line affects only itself.

All dialects of CICFlowMeter are understood, plain or gzipped, with any other columns beside the 78
features. Of those, `label`, `day`, `timestamp`, `host` and `id` have a meaning; the others are
ignored, addresses and source port above all: they reveal the label.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import FeatureMismatch, TrainingError
from ensemble.events import FlowBatch
from ensemble.features.flow import FEATURE_NAMES, RECOMPUTED, admit, feature_position

__all__ = ["BENIGN", "BadLine", "FlowTable", "read_flow_blocks", "read_flow_table"]

BENIGN = "BENIGN"
BENIGN_SPELLINGS = frozenset({"benign", "normal", "normal traffic"})
LINES_A_BLOCK = 4096
# the 2017 release writes this column twice; pandas calls the second one `.1`
_REPEATED = "Fwd Header Length"
# pandas writes NaN as an empty cell; only rates may be empty
_BLANK = tuple("nan" if name in RECOMPUTED else "" for name in FEATURE_NAMES)
_META = {
    "label": "label",
    "day": "day",
    "timestamp": "time",
    "time": "time",
    "host": "host",
    "id": "id",
}


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be scored, with the place and the problem."""

    line: int
    column: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.problem}"


@dataclass(frozen=True, slots=True)
class FlowTable:
    """Flows of a file as columns.

    Attributes:
        features: float32 (n, 78), finite.
        families: n labels; `BENIGN` for benign flows, "" where the file has no label.
        days: n strings, "" where the file has none.
        times: n strings that sort by time, ISO 8601; "" where the file has none, or one whose
            order cannot be known.
        hosts: n strings, "" where the file has none.
        ids: n strings, "" where the file has none.
        lines: int (n,), line in the file, the header being line 1.
        flags: row -> what the door noticed.
        bad: lines that were left out.
    """

    features: NDArray[np.float32]
    families: NDArray[np.str_]
    days: NDArray[np.str_]
    times: NDArray[np.str_]
    hosts: NDArray[np.str_]
    ids: NDArray[np.str_]
    lines: NDArray[np.int64]
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    bad: tuple[BadLine, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def is_hostile(self) -> NDArray[np.bool_]:
        """Which flows are labelled with an attack family."""
        return np.asarray(self.families != BENIGN)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> FlowTable:
        """Select the flows at `rows`, in that order, without flags and bad lines."""
        return FlowTable(
            self.features[rows],
            self.families[rows],
            self.days[rows],
            self.times[rows],
            self.hosts[rows],
            self.ids[rows],
            self.lines[rows],
        )

    def batch(self) -> FlowBatch:
        """Convert to the batch that every layer reads."""
        return FlowBatch(
            tuple(self.ids.tolist()), tuple(self.hosts.tolist()), self.features, self.flags
        )

    def split_by_time(self, first: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Split rows into the first share of each (day, label) by time, and the rest.

        Both parts are in the order of the file.

        Args:
            first: share in (0, 1).

        Raises:
            TrainingError: the file has no time column.
        """
        if not self.times.all():
            raise TrainingError(
                "a split by time needs an ISO 8601 `timestamp` on every line,"
                " e.g. 2017-07-05 08:55:00"
            )
        early = np.zeros(len(self), bool)
        groups = np.char.add(np.char.add(self.days, "\x00"), self.families)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            with_timeout = rows[np.argsort(self.times[rows], kind="stable")]
            early[with_timeout[: round(first * len(rows))]] = True
        return np.flatnonzero(early), np.flatnonzero(~early)


def read_flow_table(path: Path) -> FlowTable:
    """Read a file at once.

    Raises:
        FeatureMismatch: the header lacks a feature.
        TrainingError: no line of the file can be read.
    """
    blocks = list(read_flow_blocks(path))
    if not any(len(block) for block in blocks):
        first = next((f"; {bad}" for block in blocks for bad in block.bad), "")
        raise TrainingError(f"{path.name} holds no flow that can be read{first}")
    flags: dict[int, tuple[str, ...]] = {}
    start = 0
    for block in blocks:
        flags |= {start + row: flag for row, flag in block.flags.items()}
        start += len(block)
    return FlowTable(
        features=np.concatenate([block.features for block in blocks]),
        families=np.concatenate([block.families for block in blocks]),
        days=np.concatenate([block.days for block in blocks]),
        times=np.concatenate([block.times for block in blocks]),
        hosts=np.concatenate([block.hosts for block in blocks]),
        ids=np.concatenate([block.ids for block in blocks]),
        lines=np.concatenate([block.lines for block in blocks]),
        flags=flags,
        bad=tuple(bad for block in blocks for bad in block.bad),
    )


def read_flow_blocks(path: Path) -> Iterator[FlowTable]:
    """Read a file, a few thousand lines at a time.

    Raises:
        FeatureMismatch: the header lacks a feature.
        TrainingError: the file breaks off or is not CSV from some line on; the blocks before it
            were yielded.
    """
    with _opened(path) as text:
        lines = csv.reader(text)
        try:
            header = next(lines, None)
        except (csv.Error, OSError, EOFError, zlib.error) as problem:
            raise TrainingError(f"the file cannot be read: {type(problem).__name__}") from None
        if not header:
            raise FeatureMismatch("header", "is missing: the file is empty")
        columns = _Columns.of(header)
        block: list[tuple[int, list[str]]] = []
        broken = ""
        while True:
            try:
                cells = next(lines)
            except StopIteration:
                break
            except (csv.Error, OSError, EOFError, zlib.error) as problem:
                broken = (
                    f"from line {lines.line_num + 1} on the file cannot be read:"
                    f" {type(problem).__name__}"
                )
                break
            if cells:
                block.append((lines.line_num, cells))
            if len(block) == LINES_A_BLOCK:
                yield _table(columns, block)
                block = []
        if block:
            yield _table(columns, block)
        if broken:
            raise TrainingError(broken)


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", errors="replace", newline="")
    return path.open(encoding="utf-8", errors="replace", newline="")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where things stand in a line.

    Attributes:
        features: for each of the 78 features its cell.
        meta: meaning -> cell.
        names: the header as written.
    """

    features: tuple[int, ...]
    meta: Mapping[str, int]
    names: Sequence[str]

    @classmethod
    def of(cls, header: Sequence[str]) -> _Columns:
        cell_of: dict[int, int] = {}
        meta: dict[str, int] = {}
        repeated = FEATURE_NAMES.index(f"{_REPEATED}.1")
        for cell, name in enumerate(header):
            position = feature_position(name.lstrip("\ufeff"))
            if position is None:
                meaning = _META.get(name.strip().casefold())
                if meaning and meaning not in meta:
                    meta[meaning] = cell
            elif position not in cell_of:
                cell_of[position] = cell
            elif FEATURE_NAMES[position] == _REPEATED and repeated not in cell_of:
                cell_of[repeated] = cell
            else:
                raise FeatureMismatch(f"header.{name.strip()}", "stands twice in the header")
        if repeated not in cell_of and FEATURE_NAMES.index(_REPEATED) in cell_of:
            cell_of[repeated] = cell_of[FEATURE_NAMES.index(_REPEATED)]
        for position, name in enumerate(FEATURE_NAMES):
            if position not in cell_of:
                raise FeatureMismatch(f"header.{name}", "is missing from the header")
        return cls(tuple(cell_of[position] for position in range(len(FEATURE_NAMES))), meta, header)


def _table(columns: _Columns, block: Sequence[tuple[int, list[str]]]) -> FlowTable:
    """Build the table of some lines; bad ones are left out and recorded."""
    bad: list[BadLine] = []
    complete = []
    for line, cells in block:
        if len(cells) == len(columns.names):
            complete.append((line, cells))
        else:
            bad.append(
                BadLine(line, "-", f"has {len(cells)} cells, the header has {len(columns.names)}")
            )
    numbers: list[list[float]] = []
    parsed = []
    for line, cells in complete:
        try:
            numbers.append(
                [
                    float(cells[cell] or blank)
                    for cell, blank in zip(columns.features, _BLANK, strict=True)
                ]
            )
        except ValueError:
            bad.append(_first_non_number(columns, line, cells))
        else:
            parsed.append((line, cells))
    admitted = admit(np.array(numbers, np.float64).reshape(-1, len(FEATURE_NAMES)))
    bad += [
        BadLine(parsed[row][0], error.field.removeprefix("features."), error.problem)
        for row, error in admitted.refused.items()
    ]
    rows = [parsed[row] for row in admitted.rows]

    def meta(meaning: str) -> NDArray[np.str_]:
        cell = columns.meta.get(meaning)
        return _strings(
            () if cell is None else (cells[cell].strip() for _, cells in rows), len(rows)
        )

    labels = [
        BENIGN if label.casefold() in BENIGN_SPELLINGS else label
        for label in meta("label").tolist()
    ]
    return FlowTable(
        features=admitted.features,
        families=_strings(labels, len(rows)),
        days=meta("day"),
        times=_strings((_sortable(time) for time in meta("time").tolist()), len(rows)),
        hosts=meta("host"),
        ids=meta("id"),
        lines=np.array([line for line, _ in rows], np.int64),
        flags=admitted.flags,
        bad=tuple(sorted(bad, key=lambda one: one.line)),
    )


def _sortable(time: str) -> str:
    """Normalise an ISO 8601 time; "" for any other format.

    `5/7/2017 8:55` does not even determine the month.
    """
    try:
        return datetime.fromisoformat(time).isoformat(timespec="microseconds")
    except ValueError:
        return ""


def _strings(values: Iterable[str], size: int) -> NDArray[np.str_]:
    found = list(values) or [""] * size
    return np.array(found, dtype=np.str_).reshape(size)


def _first_non_number(columns: _Columns, line: int, cells: Sequence[str]) -> BadLine:
    """Find the first cell of a line that is not a number."""
    for cell, blank in zip(columns.features, _BLANK, strict=True):
        try:
            float(cells[cell] or blank)
        except ValueError:
            return BadLine(
                line, columns.names[cell].strip(), f"{cells[cell][:40]!r} is not a number"
            )
    raise AssertionError(line)  # called only for a line that has one
