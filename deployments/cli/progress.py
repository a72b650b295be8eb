"""How far long work is: bars for people, lines for a log, and neither on standard output."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

__all__ = ["progress_bars", "report_to"]


def progress_bars() -> Progress:
    """Bars on standard error, so that standard output stays what was asked for."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def report_to(bars: Progress) -> Callable[[str, int, int], None]:
    """A report for recipes.

    One bar for each thing that is being done; in a log, where bars do not move, one line a step.
    """
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if not bars.console.is_terminal:
            bars.console.print(f"{what}: {done} of {total}", highlight=False)
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    return report
