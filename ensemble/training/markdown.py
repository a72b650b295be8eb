"""Tables of model cards, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["table"]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return (
        ", ".join(f"{name} {count}" for name, count in value.items())
        if isinstance(value, Mapping)
        else str(value)
    )
