"""Progress of long work on standard error: bars in a terminal, lines of text otherwise."""

from __future__ import annotations

from collections.abc import Callable

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from deployments.cli.console import SafeConsole

__all__ = ["progress_bars", "report_to"]


def progress_bars() -> Progress:
    """Make progress bars on standard error; standard output is for results."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=SafeConsole(stderr=True))


def report_to(bars: Progress) -> Callable[[str, int, int], None]:
    """Make a progress callback for recipes: a bar for each task, or a line for each step."""
    tasks: dict[str, TaskID] = {}

    def report(task: str, done: int, total: int) -> None:
        if not bars.console.is_terminal:
            bars.console.print(f"{task}: {done} of {total}")
        if task not in tasks:
            tasks[task] = bars.add_task(task, total=total)
        bars.update(tasks[task], completed=done)

    return report
