"""Standard output and error of the terminal, and the format of tables, times and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import rich.table
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

__all__ = [
    "Column",
    "SafeConsole",
    "coloured",
    "err",
    "minutes",
    "out",
    "plain",
    "print_json",
    "print_json_line",
    "table",
]


class SafeConsole(Console):
    """A console that prints nothing of a text that a terminal obeys or hides.

    A tenant may have written what an error, a model card or a name repeats. The colours of Rich are
    added later, and its own control codes are no text: both stay.
    """

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as Rich does, with `?` for each character that is not printable."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else _visible(text), style, control)


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


out, err = SafeConsole(highlight=False), SafeConsole(highlight=False, stderr=True)
GAP = 2  # spaces between two columns of a table
NARROWEST_TEXT = 16  # a column of free text is not folded below this
NARROWEST_NAME = 20  # a name longer than this may be folded if there is no room
MINUTE = len("2026-12-01T00:20")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Its text is never cut: it is folded, or the column is left out.

    Attributes:
        name: heading.
        wraps: free text, which is folded first.
        optional: left out if the terminal is too narrow; `--json` always has it.
    """

    name: str
    wraps: bool = False
    optional: bool = False


def table(
    columns: Sequence[Column | str], rows: Iterable[Sequence[str]], title: str | None = None
) -> RenderableType:
    """Make a table as wide as its text, at most as wide as the terminal.

    Columns that are empty in every row are left out. If the terminal is too narrow, optional
    columns are left out, the last first, and then text is folded.

    Args:
        columns: headings, or full descriptions of columns.
        rows: one cell for each column, as markup.
        title: line above the table.
    """
    known = [one if isinstance(one, Column) else Column(one) for one in columns]
    cells = [list(row) for row in rows]
    widths = [
        max(Text.from_markup(text).cell_len for text in (one.name, *column))
        for one, column in zip(known, _turned(cells, len(known)), strict=True)
    ]
    least = [
        width if one.optional else min(width, NARROWEST_TEXT if one.wraps else NARROWEST_NAME)
        for one, width in zip(known, widths, strict=True)
    ]
    shown = [i for i, column in enumerate(_turned(cells, len(known))) if any(column) or not cells]
    for place in reversed([i for i in shown if known[i].optional]):
        if sum(least[i] + GAP for i in shown) - GAP > out.width:
            shown.remove(place)
    made = rich.table.Table(
        box=None,
        header_style="bold",
        padding=(0, GAP, 0, 0),
        pad_edge=False,
        title=title,
        title_justify="left",
    )
    for i in shown:
        made.add_column(
            known[i].name,
            overflow="fold",
            min_width=least[i],
        )
    for row in cells:
        made.add_row(*(row[i] for i in shown))
    return made


def _turned(cells: Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    return [[row[i] for row in cells] for i in range(columns)]


def print_json(value: object) -> None:
    """Print one JSON document for programs: without colours and line wrapping."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=asdict)
    out.file.write("\n".join(map(escaped_json, text.split("\n"))) + "\n")


def print_json_line(encoded: bytes) -> None:
    """Print one JSON document on a line of its own, for programs."""
    out.file.write(escaped_json(encoded.decode()) + "\n")


def escaped_json(line: str) -> str:
    """Write characters of a line of JSON that a terminal obeys or hides as escapes of JSON.

    JSON may contain them as they are: U+009B begins an escape code, and bidirectional marks turn
    the order of what is read.
    """
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in line)


def minutes(at: str | float | None) -> str:
    """Format a time for an operator: `2026-12-01 00:20`, in UTC.

    Args:
        at: ISO 8601 in UTC, or seconds since 1970; None gives "".
    """
    if at is None:
        return ""
    if isinstance(at, str):
        return plain(at[:MINUTE].replace("T", " "))
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"


def coloured(text: str, colour: str) -> str:
    """Escape untrusted text and give it a colour of Rich; "" is no colour."""
    return f"[{colour}]{plain(text)}[/]" if colour else plain(text)


def plain(text: str) -> str:
    """Make untrusted text safe for a terminal: no markup, no escape codes."""
    return escape(_visible(text).replace("\n", "?"))
