"""The protocol of an input format, and what a reader yields."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from ensemble.events import EventBatch

__all__ = ["Block", "Refused", "Rows", "Source", "open_unpacked", "read_head"]

HEAD_BYTES = 8192  # the longest header of CICFlowMeter has 2,000


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that cannot be scored, with the place and the cause.

    Attributes:
        line: number in the file, the first line being 1.
        column: name of the column or field, "-" where it is none of them.
        cause: one sentence, without the rest of the line.
    """

    line: int
    column: str
    cause: str

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.cause}"


@dataclass(frozen=True, slots=True)
class Rows:
    """Events of one kind.

    Attributes:
        batch: n events that passed admission.
        lines: n numbers of the lines that they come from, the first line of the file being 1.
        notes: columns of n strings that no detector reads: `label`, `day`, `time`, as written;
            those that the file does not have are absent.
    """

    batch: EventBatch
    lines: Sequence[int]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of a file.

    Attributes:
        rows: events by kind; a kind without events is absent.
        refused: lines that were left out.
    """

    rows: Sequence[Rows]
    refused: Sequence[Refused] = ()


class Source(Protocol):
    """An input format.

    Attributes:
        about: what a file of this format holds, for help texts; without a full stop.
    """

    about: str

    def sniff(self, head: bytes, name: str) -> bool:
        """Return whether a file is of this format.

        Args:
            head: its first bytes, unpacked; empty if they cannot be read.
            name: its file name, for a format that is not visible in the content.
        """

    def read(self, path: Path) -> Iterator[Block]:
        """Read a file, a few thousand lines at a time.

        A line that cannot be read is rejected alone.

        Raises:
            EventError: the header does not fit.
            UnreadableSource: the file breaks off; the blocks before were yielded.
        """


def open_unpacked(path: Path) -> BinaryIO:
    """Open a file for reading; one that ends in `.gz` is unpacked."""
    return cast("BinaryIO", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def read_head(path: Path) -> bytes:
    """Read the first bytes of a file, unpacked; empty if they cannot be read.

    A pipe gives none, because bytes that are read from it are lost for the reader.
    """
    if not path.is_file():
        return b""
    try:
        with open_unpacked(path) as file:
            return file.read(HEAD_BYTES)
    except (OSError, EOFError, zlib.error):  # `read` names the cause
        return b""
