"""Files of vulnerability data: read whole, bounded, hashed, and refused with the line and the column that is wrong.

Everything here comes from outside (a download, a scanner, a spreadsheet). A file that cannot be understood to the last row
is refused, because half of a vulnerability list looks like a safe fleet. Messages name the source by its role (`epss`,
`inventory`), never by its path.
"""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.errors import TrainingError
from ensemble.layers.posture import cve_key

__all__ = ["Row", "SourceText", "csv_rows", "day_of", "json_value", "key_of", "read_source", "wrong"]

LARGEST_BYTES = 512 << 20  # unpacked; the whole NVD as JSON is about 1.5 GB, all we read of it less than a tenth
_EPOCH = dt.date(1970, 1, 1)
_LAST_YEAR = 2500


@dataclass(frozen=True, slots=True)
class SourceText:
    """One file as text.

    Attributes:
        source: its role: `epss`, `kev`, `cvss` or `inventory`.
        text: unpacked and decoded, without byte order mark.
        sha256: of the file as it lies.
    """

    source: str
    text: str
    sha256: str

    @property
    def is_json(self) -> bool:
        """Whether the first character says JSON; no CSV of ours starts so."""
        return self.text.lstrip()[:1] in ("{", "[")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a CSV: the line it starts on and its cells by column."""

    source: str
    line: int
    cells: Mapping[str, str]

    def wrong(self, column: str, problem: str) -> TrainingError:
        """The error that says where this row is wrong."""
        return wrong(self.source, f"line {self.line}, column {column}", problem)


def wrong(source: str, where: str, problem: str) -> TrainingError:
    """The error that says which source is wrong, where, and how."""
    return TrainingError(f"{source}: {where}: {problem}")


def read_source(source: str, path: Path) -> SourceText:
    """The file at `path`, plain or gzip, as UTF-8 text.

    Raises:
        TrainingError: not there, not readable, broken gzip, not UTF-8, or more than 512 MiB unpacked.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"{source}: cannot be read ({error.strerror})") from error
    content = raw
    if raw[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(raw)) as stream:
                content = stream.read(LARGEST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise TrainingError(f"{source}: broken gzip") from error
    if len(content) > LARGEST_BYTES:
        raise TrainingError(f"{source}: more than {LARGEST_BYTES:,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrainingError(f"{source}: not UTF-8 at byte {error.start:,}") from error
    return SourceText(source, text, hashlib.sha256(raw).hexdigest())


def csv_rows(file: SourceText, required: Sequence[str], optional: Sequence[str] | None = None) -> Iterator[Row]:
    """Rows of a CSV with a header line.

    Args:
        file: the text; lines that start with `#` before the header are skipped, empty lines anywhere.
        required: columns that must be there.
        optional: further columns that may be there; None for any.

    Raises:
        TrainingError: a column is missing, repeated or unknown, a row has too few or too many cells, broken quoting.
    """
    lines = io.StringIO(file.text, newline="")
    skipped = 0
    while (start := lines.tell()) < len(file.text) and lines.readline().startswith("#"):
        skipped += 1
    lines.seek(start)
    reader = csv.reader(lines, strict=True)
    header: list[str] = []
    line = skipped + 1
    try:
        for cells in reader:
            if cells and not header:
                header = [cell.strip() for cell in cells]
                _check_header(file.source, line, header, required, optional)
            elif cells and len(cells) == len(header):
                yield Row(file.source, line, dict(zip(header, cells, strict=True)))
            elif cells:
                raise wrong(file.source, f"line {line}", f"{len(cells)} cells where the header has {len(header)}")
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise wrong(file.source, f"line {line}", "broken quoting, or a cell over 128 KiB") from error
    if not header:
        raise TrainingError(f"{file.source}: no header line")


def json_value(file: SourceText) -> Any:  # noqa: ANN401 - whatever JSON holds; the caller checks it field by field
    """The one JSON value of the file.

    Raises:
        TrainingError: not JSON; names line and column.
    """
    try:
        return json.loads(file.text)
    except json.JSONDecodeError as error:
        raise wrong(file.source, f"line {error.lineno}, column {error.colno}", "not JSON") from error
    except RecursionError as error:
        raise TrainingError(f"{file.source}: JSON nested too deeply") from error


def key_of(source: str, where: str, cve: object) -> int:
    """`cve_key`, with an error that says where."""
    if not isinstance(cve, str):
        raise wrong(source, where, "is no CVE name: no text")
    try:
        return cve_key(cve.strip())
    except ValueError as error:
        raise wrong(source, where, f"{cve!r:.40} {error}") from error


def day_of(source: str, where: str, time: object) -> int:
    """Whole UTC days since 1970-01-01 of an ISO 8601 date or time; a time without zone is taken as UTC."""
    try:
        moment = dt.datetime.fromisoformat(str(time).strip())
        if moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise wrong(source, where, f"{time!r:.40} is no ISO 8601 date or time") from error
    if not _EPOCH.year <= moment.year <= _LAST_YEAR:
        raise wrong(source, where, f"{time!r:.40} is not in the years {_EPOCH.year} to {_LAST_YEAR}")
    return (moment.date() - _EPOCH).days


def _check_header(source: str, line: int, header: Sequence[str], required: Sequence[str], optional: Sequence[str] | None) -> None:
    for column in required:
        if column not in header:
            raise wrong(source, f"line {line}", f"no column {column}")
    for column in header:
        if header.count(column) > 1:
            raise wrong(source, f"line {line}, column {column!r:.40}", "stands twice")
        if optional is not None and column not in required and column not in optional:
            raise wrong(source, f"line {line}, column {column!r:.40}", f"unknown; known are {', '.join((*required, *optional))}")
