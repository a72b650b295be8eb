"""The effect of one tenant's flood on another (RELIABILITY P21): `python -m tests.load.neighbours`.

A quiet tenant sends at a steady pace, alone and beside a flood of another tenant or of a caller
without a key, in turns and in one run. The flood comes from the same machine, so on few cores its
sender takes time from the service as well.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.flows import made_up_flows, single_bodies
from tests.load.tenants import drive_together, serving
from tests.load.traffic import Load, Window

QUIET, FLOODER = "quiet", "flooder"
ALONE, TENANT, WITHOUT_KEY = "no flood", "a tenant", "a caller without a key"
PER_S, QUIET_AT_ONCE = 50.0, 8  # requests of the quiet tenant that are due, and its connections
FLOODING_S = 1.0  # before the measurement, so that the burst of the flooder is spent


def main() -> None:
    """Print a table with every kind of flood, for each rate limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1000.0, 100.0],
        help="rate limits of a tenant in requests/s; more than the 50 of the quiet one",
    )
    parser.add_argument("--connections", type=int, default=16, help="connections of the flooder")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each measurement")
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds of each measurement")
    options = parser.parse_args()
    bodies = single_bodies(made_up_flows(64, seed=3))
    table = Table(
        "limit, requests/s",
        "beside",
        "p50",
        "p99",
        "p99 moved by",
        "unanswered",
        box=None,
    )
    for rate in options.rates:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder), bodies, rate, options)
        calm_ms = statistics.median(one.p99_ms for one in measured[ALONE])
        for beside, rounds in measured.items():
            p50_ms, p99_ms = (
                statistics.median(getattr(one, name) for one in rounds)
                for name in ("p50_ms", "p99_ms")
            )
            unanswered = sum(one.failures + one.unsent for one in rounds)
            table.add_row(
                f"{rate:,.0f}",
                beside,
                f"{p50_ms:.1f} ms",
                f"{p99_ms:.1f} ms",
                f"{p99_ms / calm_ms - 1.0:+.0%}",
                str(unanswered),
            )
    Console().print(table)


def measure(
    folder: Path, bodies: Sequence[bytes], rate: float, options: argparse.Namespace
) -> dict[str, list[Window]]:
    """Map each kind of flood to the measurements beside it, one for each round."""
    limits = {"auth": {"requests_per_s": rate, "burst": rate}}
    with serving(folder, (QUIET, FLOODER), bodies[0], limits) as (port, keys):
        score, seconds = "/v1/score", options.seconds
        quiet = Load(score, bodies, QUIET_AT_ONCE, FLOODING_S, seconds, keys[QUIET], per_s=PER_S)
        floods = {
            beside: [Load(score, bodies, options.connections, 0.0, FLOODING_S + seconds, key)]
            for beside, key in ((TENANT, keys[FLOODER]), (WITHOUT_KEY, ""))
        }
        measured: dict[str, list[Window]] = {ALONE: [], TENANT: [], WITHOUT_KEY: []}
        drive_together(port, quiet)  # warm-up
        for number in range(options.rounds):
            for beside, rounds in measured.items():
                rounds.append(drive_together(port, quiet, *floods.get(beside, []))[0])
                print(
                    f"{rate:,.0f}/s, round {number + 1}, beside {beside}: {rounds[-1]}", flush=True
                )
    return measured


if __name__ == "__main__":
    main()
