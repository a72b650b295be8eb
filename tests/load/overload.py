"""Three times the capacity (RELIABILITY P20): `python -m tests.load.overload`.

The capacity is the rate of whole verdicts with 64 connections that wait for each response. Then
requests are due at a multiple of that rate, whether or not earlier ones were answered.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.flows import made_up_flows, single_bodies
from tests.load.tenants import UNLIMITED, memory_mib, serving
from tests.load.traffic import Load, Window, drive

TENANT = "busy"
CONNECTIONS_AT_CAPACITY, CONNECTIONS, CALM_PER_S, WARM_UP_S = 64, 512, 20.0, 3.0
CALM_AFTER_S = 5.0  # P20: normal so long after an overload


def main() -> None:
    """Print a row for the capacity, for each overload, and for a calm load before and after."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=float, nargs="+", default=[1.5, 3.0])
    parser.add_argument("--seconds", type=float, default=30.0, help="measured seconds of each")
    options = parser.parse_args()
    bodies = single_bodies(made_up_flows(64, seed=3))
    rows: list[tuple[str, Window, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), (TENANT,), bodies[0], UNLIMITED) as (port, keys),
    ):

        def measure(name: str, connections: int, per_s: float, seconds: float) -> Window:
            key, path = keys[TENANT], "/v1/score"
            load = Load(path, bodies, connections, WARM_UP_S, seconds, key, per_s=per_s)
            window = drive(port, load)
            rows.append((name, window, memory_mib()))
            print(rows[-1], flush=True)
            return window

        measure("warm-up", CONNECTIONS_AT_CAPACITY, 0.0, options.seconds / 2.0)
        measure("calm", 4, CALM_PER_S, 10.0)
        capacity = measure("capacity", CONNECTIONS_AT_CAPACITY, 0.0, options.seconds).whole_per_s
        for times in options.times:
            measure(f"{times:g} times", CONNECTIONS, times * capacity, options.seconds)
            time.sleep(CALM_AFTER_S - WARM_UP_S)
            measure("calm", 4, CALM_PER_S, 10.0)
    Console(width=140).print(_table(rows, capacity))


def _table(rows: Sequence[tuple[str, Window, float]], capacity: float) -> Table:
    table = Table("load", "responses", box=None)
    headings = ("whole events/s", "of capacity", "p99 ms", "refused p99 ms", "no Retry-After")
    for heading in (*headings, "unsent", "memory MiB"):
        table.add_column(heading, justify="right")
    for name, window, mib in rows:
        table.add_row(
            name,
            window.responses,
            f"{window.whole_per_s:,.0f}",
            f"{window.whole_per_s / capacity:.0%}",
            f"{window.p99_ms:,.1f}",
            f"{window.refused_p99_ms:,.1f}",
            str(window.without_retry_after),
            f"{window.unsent:,}",
            f"{mib:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
