"""`make bench`: Axon, the obvious composition and plain FastAPI, side by side in one run.

Every round starts each system alone, measures it and ends it, so that other work of the machine
affects all systems. It prints the median of the rounds with minimum and maximum, and asserts no
time. It fails only if a request has no verdict.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from tests.load.flows import batch_body, made_up_flows, single_bodies
from tests.load.systems import SYSTEMS, StartFailed, System, running
from tests.load.traffic import Load, Window, drive

CONNECTIONS = (1, 16, 64)
EVENTS_IN_A_BATCH = 1000  # the maximum of /v1/score/batch; S2-17
BATCHES_IN_FLIGHT = 4
DISTINCT_EVENTS = 512  # so that no cache of one row can serve all of them
QUICK_SECONDS, QUICK_WARM_UP_S = 3.0, 1.0
PACKAGES = ("axon", "ray", "fastapi", "uvicorn", "scikit-learn", "torch", "numpy")

Case = tuple[str, str]  # name of the system, name of the load
Measured = Mapping[Case, Sequence[Window]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The systems to measure, and the times of each measurement."""

    seconds: float
    warm_up_s: float
    rounds: int
    systems: Sequence[System]


def bench(
    *,
    rounds: Annotated[
        int, typer.Option(min=1, help="Times each system is started and measured, in turns.")
    ] = 3,
    seconds: Annotated[
        float, typer.Option(min=0.5, help="Measured seconds of each load, after a warm-up.")
    ] = 8.0,
    warm_up: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds of load before each measurement."),
    ] = 4.0,
    quick: Annotated[
        bool, typer.Option("--quick", help="One round of three seconds: a rough figure.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only systems whose name contains this; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="Serve the models of this folder instead of the shipped ones (artifacts/)."
        ),
    ] = None,
) -> None:
    """Compare the throughput of Axon with the obvious composition and plain FastAPI.

    Single events at 1, 16 and 64 connections, and batches of 1,000. About eleven minutes by
    default, two with --quick. It needs only this repository, listens only on loopback, and ends
    every process that it starts.
    """
    console = Console(width=None if Console().is_terminal else 140)
    chosen = [
        system
        for system in SYSTEMS
        if not only or any(word.lower() in system.name.lower() for word in only)
    ]
    plan = (
        _Plan(QUICK_SECONDS, QUICK_WARM_UP_S, 1, chosen)
        if quick
        else _Plan(seconds, warm_up, rounds, chosen)
    )
    _print_machine(console)
    with tempfile.TemporaryDirectory(prefix="axon-bench-") as folder:
        empty = Path(folder) / "state"
        empty.mkdir()
        measured, failures = _measure(plan, (state or empty).absolute(), Path(folder), console)
    console.print(_table(measured, plan))
    _print_ratios(measured, console)
    failures += [
        f"{system}, {load}: {_worst(windows)}"
        for (system, load), windows in measured.items()
        if not _all_answered(windows)
    ]
    for failure in failures:
        console.print(f"FAILED {failure}", style="red", highlight=False)
    if failures:
        raise typer.Exit(1)


def _measure(
    plan: _Plan, state: Path, folder: Path, console: Console
) -> tuple[dict[Case, list[Window]], list[str]]:
    singles, batch = _bodies()
    measured: dict[Case, list[Window]] = {}
    failures: list[str] = []
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as other_process:
        for number in range(plan.rounds):
            for system in plan.systems:
                log = folder / f"{system.name.replace(' ', '-')}.log"
                try:
                    with running(system, state, singles[0], log) as port:
                        for name, load in _loads(plan, system, singles, batch).items():
                            busy = os.getloadavg()[0]
                            window = other_process.submit(drive, port, load).result(
                                load.warm_up_s + load.window_s + 60.0
                            )
                            measured.setdefault((system.name, name), []).append(window)
                            console.print(
                                f"round {number + 1}  {system.name:<20} {name:<17} "
                                f"{window.answers_per_s:>8,.0f} requests/s"
                                f"  (load average {busy:.1f})",
                                highlight=False,
                            )
                except (StartFailed, OSError, TimeoutError) as problem:
                    failures.append(str(problem) or f"{system.name}: {type(problem).__name__}")
    return measured, failures


def _bodies() -> tuple[list[bytes], bytes]:
    return single_bodies(made_up_flows(DISTINCT_EVENTS, seed=7)), batch_body(
        made_up_flows(EVENTS_IN_A_BATCH, seed=8)
    )


def _loads(plan: _Plan, system: System, singles: Sequence[bytes], batch: bytes) -> dict[str, Load]:
    loads = {
        _single(n): Load("/v1/score", singles, n, plan.warm_up_s, plan.seconds) for n in CONNECTIONS
    }
    if system.has_batches:
        loads[_batches()] = Load(
            "/v1/score/batch", [batch], BATCHES_IN_FLIGHT, plan.warm_up_s, plan.seconds
        )
    return loads


def _single(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _batches() -> str:
    return f"batches of {EVENTS_IN_A_BATCH:,}"


def _table(measured: Measured, plan: _Plan) -> Table:
    title = (
        f"median of {plan.rounds} rounds (least to most), {plan.seconds:g} s each "
        f"after {plan.warm_up_s:g} s of warm-up"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("system", "load"):
        table.add_column(heading, no_wrap=True)
    for heading in ("events/s", "p50 ms", "p99 ms", "verdicts", "failed", "degraded", "coverage"):
        table.add_column(heading, justify="right", no_wrap=True)
    for (system, load), windows in sorted(measured.items(), key=lambda item: _order(item[0], plan)):
        table.add_row(
            system,
            load,
            _spread([window.events_per_s for window in windows]),
            f"{statistics.median(window.p50_ms for window in windows):,.1f}",
            f"{statistics.median(window.p99_ms for window in windows):,.1f}",
            f"{sum(window.answers for window in windows):,}",
            f"{sum(window.failures for window in windows):,}",
            f"{sum(window.degraded for window in windows):,}",
            f"{statistics.fmean(window.coverage for window in windows):.3f}",
            end_section=load == _batches()
            or (load == _single(CONNECTIONS[-1]) and (system, _batches()) not in measured),
        )
    return table


def _order(case: Case, plan: _Plan) -> tuple[int, int]:
    loads = [*map(_single, CONNECTIONS), _batches()]
    return [system.name for system in plan.systems].index(case[0]), loads.index(case[1])


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def _print_ratios(measured: Measured, console: Console) -> None:
    """Print the ratio of Axon to each other system, at each load.

    The ratio of a round compares measurements of the same minutes.
    """
    axon = SYSTEMS[0].name
    for other in SYSTEMS[1:]:
        for load in (*map(_single, CONNECTIONS), _batches()):
            pairs = list(
                zip(
                    measured.get((axon, load), ()),
                    measured.get((other.name, load), ()),
                    strict=False,
                )
            )
            ratios = [
                first.events_per_s / second.events_per_s for first, second in pairs if second.events
            ]
            if ratios:
                median, least, most = statistics.median(ratios), min(ratios), max(ratios)
                console.print(
                    f"{axon} / {other.name}, {load}: {median:.1f} times ({least:.1f} to "
                    f"{most:.1f})",
                    highlight=False,
                )


def _print_machine(console: Console) -> None:
    memory_gib = psutil.virtual_memory().total / 2**30
    console.print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} cores, "
        f"{memory_gib:.0f} GiB,"
        f" load average {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        + ", ".join(f"{package} {version(package)}" for package in PACKAGES),
        highlight=False,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _all_answered(windows: Sequence[Window]) -> bool:
    return all(window.answers and not window.failures for window in windows)


def _worst(windows: Sequence[Window]) -> str:
    worst = max(windows, key=lambda window: window.failures)
    return (
        f"{worst.failures} of {worst.failures + worst.answers} failed: "
        f"{worst.problem or 'no response'}"
    )


if __name__ == "__main__":
    typer.run(bench)
