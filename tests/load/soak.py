"""A long calm load beside a busy neighbour: `python -m tests.load.soak` (P21b, P26).

The capacity is measured alone. Then requests are due at a share of it for minutes, while another
process of the machine computes without a pause. Slow is not broken: few verdicts may be degraded,
and the memory of the service must not grow.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.flows import made_up_flows, single_bodies
from tests.load.tenants import UNLIMITED, memory_mib, serving
from tests.load.traffic import Load, Window, drive

TENANT = "steady"
CONNECTIONS, WARM_UP_S, CAPACITY_S, MINUTE_S = 64, 3.0, 15.0, 60.0


def main() -> None:
    """Print a row for the capacity, and one for each minute beside the neighbour."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=10, help="minutes beside the neighbour")
    parser.add_argument("--share", type=float, default=0.6, help="of the capacity that is sent")
    parser.add_argument("--neighbours", type=int, default=1, help="processes that only compute")
    options = parser.parse_args()
    bodies = single_bodies(made_up_flows(64, seed=3))
    rows: list[tuple[str, Window, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), (TENANT,), bodies[0], UNLIMITED) as (port, keys),
    ):

        def measure(name: str, per_s: float, seconds: float) -> Window:
            load = Load(
                "/v1/score", bodies, CONNECTIONS, WARM_UP_S, seconds, keys[TENANT], per_s=per_s
            )
            window = drive(port, load)
            rows.append((name, window, memory_mib()))
            print(rows[-1], flush=True)
            return window

        measure("warm-up", 0.0, CAPACITY_S)
        capacity = measure("capacity", 0.0, CAPACITY_S).whole_per_s
        with computing(options.neighbours):
            for minute in range(options.minutes):
                measure(f"minute {minute + 1}", options.share * capacity, MINUTE_S - WARM_UP_S)
        measure("alone again", options.share * capacity, CAPACITY_S)
    Console(width=140).print(_table(rows))


@contextmanager
def computing(processes: int) -> Iterator[None]:
    """Keep so many processes busy with nothing."""
    spawn = multiprocessing.get_context("spawn")
    neighbours = [spawn.Process(target=_compute, daemon=True) for _ in range(processes)]
    for neighbour in neighbours:
        neighbour.start()
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.join()


def _compute() -> None:
    number = 1
    while True:
        number = number * 6_364_136_223_846_793_005 % 2**64


def _table(rows: Sequence[tuple[str, Window, float]]) -> Table:
    table = Table("load", "responses", box=None)
    for heading in ("events/s", "degraded", "p50 ms", "p99 ms", "unsent", "memory MiB"):
        table.add_column(heading, justify="right")
    for name, window, mib in rows:
        table.add_row(
            name,
            window.responses,
            f"{window.answers / window.seconds:,.0f}",
            f"{window.degraded / max(window.answers, 1):.2%}",
            f"{window.p50_ms:,.1f}",
            f"{window.p99_ms:,.1f}",
            f"{window.unsent:,}",
            f"{mib:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
