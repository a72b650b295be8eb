"""JSON lines of events: one body of `POST /v1/score` on each line.

This format is parsed by the types of the wire format, as requests are. That is why it is here and
not in `ensemble/sources/`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from deployments.scoring import wire
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.sources import Block, Refused, Rows, Source, open_unpacked

__all__ = ["JSON_LINES"]

LINES_A_BLOCK = 1000
SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz")


class _JsonLines:
    """The format of JSON lines, of both kinds of event."""

    about = "JSON lines of flows and process starts (.jsonl, .ndjson)"

    def sniff(self, head: bytes, name: str) -> bool:  # noqa: ARG002  # other formats may be JSON too
        """Return whether the name of the file has a suffix of this format."""
        return name.endswith(SUFFIXES)

    def read(self, path: Path) -> Iterator[Block]:
        """Read a file, 1000 lines at a time; skip blank lines."""
        with open_unpacked(path) as lines:
            numbered = (
                (number, line) for number, line in enumerate(lines, start=1) if line.strip()
            )
            while block := list(islice(numbered, LINES_A_BLOCK)):
                yield _block(block)


JSON_LINES: Source = _JsonLines()


def _block(block: Sequence[tuple[int, bytes]]) -> Block:
    parsed: list[tuple[int, wire.EventRequest]] = []
    refused: list[Refused] = []
    for number, line in block:
        try:
            parsed.append((number, wire.parse_event(line)))
        except EventError as error:
            refused.append(_refused(number, error))
    rows: list[Rows] = []
    for kind in Kind:
        some = [(number, event) for number, event in parsed if wire.kind_of(event) is kind]
        if some:
            batch, places, errors = wire.admit(kind, [event for _, event in some])
            refused += [_refused(some[place][0], error) for place, error in errors.items()]
            if len(batch):
                rows.append(Rows(batch, [some[place][0] for place in places]))
    return Block(rows, refused)


def _refused(line: int, error: EventError) -> Refused:
    return Refused(line, error.field or "-", str(error))
