"""Batches of one tenant beside single events of another: `python -m tests.load.bulk` (P21b).

The capacity is measured first: the events that whole batches bring in a second when nothing else
runs. Then more and more batches are in flight, each sender sends the next one at once after any
response, and the other tenant sends single events at a pace.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.load.flows import batch_body, made_up_flows, single_bodies
from tests.load.tenants import UNLIMITED, drive_together, serving
from tests.load.traffic import Load, Window, drive

QUIET, BULK = "quiet", "bulk"
EVENTS_IN_A_BATCH, SINGLES_PER_S, WARM_UP_S = 1000, 20.0, 3.0
CAPACITY_IN_FLIGHT, CAPACITY_S = 2, 15.0


def main() -> None:
    """Print a row for the bulk and one for the single events, for each number of batches."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--in-flight", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seconds", type=float, default=60.0, help="measured seconds of each")
    parser.add_argument(
        "--ingress", type=json.loads, default={}, help='other settings, e.g. {"parts_ms": 30}'
    )
    options = parser.parse_args()
    batches = [batch_body(made_up_flows(EVENTS_IN_A_BATCH, seed=seed)) for seed in (3, 4)]
    singles = single_bodies(made_up_flows(64, seed=5))
    settings = {**UNLIMITED, "ingress": options.ingress}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), (QUIET, BULK), singles[0], settings) as (port, keys),
    ):

        def bulk(in_flight: int, seconds: float) -> Load:
            return Load("/v1/score/batch", batches, in_flight, WARM_UP_S, seconds, keys[BULK])

        def single(seconds: float, connections: int = 8) -> Load:
            return Load(
                "/v1/score",
                singles,
                connections,
                WARM_UP_S,
                seconds,
                keys[QUIET],
                per_s=SINGLES_PER_S,
            )

        alone = drive(port, single(CAPACITY_S))
        capacity = drive(port, bulk(CAPACITY_IN_FLIGHT, CAPACITY_S)).whole_per_s
        rows: list[tuple[str, Window]] = [("no batch: singles", alone)]
        for in_flight in options.in_flight:
            together = drive_together(
                port, bulk(in_flight, options.seconds), single(options.seconds)
            )
            after = drive(port, single(1.0, connections=1))
            names = ("batches", "singles", "singles after")
            rows += [
                (f"{in_flight} in flight: {name}", window)
                for name, window in zip(names, [*together, after], strict=True)
            ]
            print(rows[-3:], flush=True)
    Console(width=140).print(_table(rows, capacity))


def _table(rows: Sequence[tuple[str, Window]], capacity: float) -> Table:
    headings = (
        "load",
        "responses",
        "whole events/s",
        "of capacity",
        "degraded",
        "p50 ms",
        "p99 ms",
    )
    table = Table(*headings, title=f"capacity: {capacity:,.0f} events/s in whole batches", box=None)
    for name, window in rows:
        table.add_row(
            name,
            window.responses,
            f"{window.whole_per_s:,.0f}",
            f"{window.whole_per_s / capacity:.0%}",
            f"{window.degraded:,}",
            f"{window.p50_ms:,.1f}",
            f"{window.p99_ms:,.1f}",
        )
    return table


if __name__ == "__main__":
    main()
