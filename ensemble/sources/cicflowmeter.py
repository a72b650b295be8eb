"""Flows as CICFlowMeter writes them: CSV in any of its dialects, plain or gzipped.

A header names the 78 features in any order, with any other columns beside them. Of those, `label`,
`day`, `timestamp`, `host` and `id` have a meaning; the others are ignored, addresses and source
port above all: they reveal the label.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.errors import FeatureMismatch, UnreadableSource
from ensemble.events import FlowBatch
from ensemble.features.flow import FEATURE_NAMES, RECOMPUTED, admit, feature_position
from ensemble.sources.source import Block, Refused, Rows, Source, open_unpacked

__all__ = ["SOURCE"]

LINES_A_BLOCK = 4096
LEAST_RECOGNISED = len(FEATURE_NAMES) // 2  # other formats share a few names, e.g. `Dst Port`
LONGEST_ECHO = 40  # characters of a cell in a message
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
_NOTES = ("label", "day", "time")


class _CicFlowMeter:
    """The format of CICFlowMeter; each line is a flow."""

    about = "CSV of flows by CICFlowMeter, in any dialect"

    def sniff(self, head: bytes, name: str) -> bool:  # noqa: ARG002  # the content shows it
        """Return whether the first line names at least half of the features."""
        first = head.decode(errors="replace").lstrip("\ufeff").split("\n", maxsplit=1)[0]
        known = {feature_position(cell.strip('"\r')) for cell in first.split(",")} - {None}
        return len(known) >= LEAST_RECOGNISED

    def read(self, path: Path) -> Iterator[Block]:
        """Read a file, a few thousand lines at a time.

        Raises:
            FeatureMismatch: the header lacks a feature.
            UnreadableSource: the file breaks off or is not CSV from some line on; the blocks before
                it were yielded.
        """
        binary = open_unpacked(path)
        with io.TextIOWrapper(binary, encoding="utf-8", errors="replace", newline="") as text:
            lines = csv.reader(text)
            try:
                header = next(lines, None)
            except (csv.Error, OSError, EOFError, zlib.error) as problem:
                raise UnreadableSource(
                    f"the file cannot be read: {type(problem).__name__}"
                ) from None
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
                    is_counted = isinstance(problem, csv.Error)
                    line = lines.line_num + (0 if is_counted else 1)
                    broken = (
                        f"from line {line} on the file cannot be read: {type(problem).__name__}"
                    )
                    break
                if cells:
                    block.append((lines.line_num, cells))
                if len(block) == LINES_A_BLOCK:
                    yield _block(columns, block)
                    block = []
            if block:
                yield _block(columns, block)
            if broken:
                raise UnreadableSource(broken)


SOURCE: Source = _CicFlowMeter()


@dataclass(frozen=True, slots=True)
class _Columns:
    """The cells of a line by meaning.

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
                raise FeatureMismatch(f"header.{name.strip()}", "is repeated in the header")
        if repeated not in cell_of and FEATURE_NAMES.index(_REPEATED) in cell_of:
            cell_of[repeated] = cell_of[FEATURE_NAMES.index(_REPEATED)]
        for position, name in enumerate(FEATURE_NAMES):
            if position not in cell_of:
                raise FeatureMismatch(f"header.{name}", "is missing from the header")
        return cls(tuple(cell_of[position] for position in range(len(FEATURE_NAMES))), meta, header)


def _block(columns: _Columns, block: Sequence[tuple[int, list[str]]]) -> Block:
    """Convert some lines; bad ones are left out and recorded."""
    refused: list[Refused] = []
    complete = []
    for line, cells in block:
        if len(cells) == len(columns.names):
            complete.append((line, cells))
        else:
            refused.append(
                Refused(line, "-", f"has {len(cells)} cells, the header has {len(columns.names)}")
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
            refused.append(_first_non_number(columns, line, cells))
        else:
            parsed.append((line, cells))
    admitted = admit(np.array(numbers, np.float64).reshape(-1, len(FEATURE_NAMES)))
    refused += [
        Refused(parsed[row][0], error.field.removeprefix("features."), error.problem)
        for row, error in admitted.refused.items()
    ]
    rows = [parsed[row] for row in admitted.rows]
    meta = {
        meaning: tuple(cells[cell].strip() for _, cells in rows)
        for meaning, cell in columns.meta.items()
    }
    absent = ("",) * len(rows)
    batch = FlowBatch(
        meta.get("id", absent), meta.get("host", absent), admitted.features, admitted.flags
    )
    notes = {name: meta[name] for name in _NOTES if name in meta}
    return Block(
        [Rows(batch, [line for line, _ in rows], notes)] if rows else [],
        sorted(refused, key=lambda one: one.line),
    )


def _first_non_number(columns: _Columns, line: int, cells: Sequence[str]) -> Refused:
    """Find the first cell of a line that is not a number."""
    for cell, blank in zip(columns.features, _BLANK, strict=True):
        try:
            float(cells[cell] or blank)
        except ValueError:
            echo = f"{cells[cell][:LONGEST_ECHO]!r}"
            return Refused(line, columns.names[cell].strip(), f"{echo} is not a number")
    raise AssertionError(line)  # called only for a line that has one
