"""The effect of one tenant's flood on another (RELIABILITY P21): `python -m tests.load.neighbours`.

A quiet tenant sends at a steady pace, alone and beside a flood of another tenant or of a caller
without a key, in turns and in one run. The flood comes from the same machine, so on few cores its
sender takes time from the service as well.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.load.flows import made_up_flows, single_bodies
from tests.load.tenants import serving
from tests.load.traffic import Load, drive

QUIET, FLOODER = "quiet", "flooder"
ALONE, TENANT, WITHOUT_KEY = "no flood", "a tenant", "a caller without a key"
PACE_S = 0.02  # between two requests of the quiet tenant
FLOODING_S = 1.0  # before the measurement, so that the burst of the flooder is spent


@dataclass(frozen=True, slots=True)
class Measurement:
    """Latency of the quiet tenant, and the number of its requests without a verdict."""

    p50_ms: float
    p99_ms: float
    unanswered: int


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
            unanswered = sum(one.unanswered for one in rounds)
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
) -> dict[str, list[Measurement]]:
    """Map each kind of flood to the measurements beside it, one for each round."""
    limits = {"auth": {"requests_per_s": rate, "burst": rate}}
    with serving(folder, (QUIET, FLOODER), bodies[0], limits) as (port, keys):
        floods = {ALONE: None, TENANT: keys[FLOODER], WITHOUT_KEY: ""}
        measured: dict[str, list[Measurement]] = {beside: [] for beside in floods}
        measure_quiet(port, bodies, keys[QUIET], options.seconds)  # warm-up
        for number in range(options.rounds):
            for beside, key in floods.items():
                load = (
                    None
                    if key is None
                    else Load(
                        "/v1/score", bodies, options.connections, FLOODING_S, options.seconds, key
                    )
                )
                with flooding(port, load):
                    measured[beside].append(
                        measure_quiet(port, bodies, keys[QUIET], options.seconds)
                    )
                print(
                    f"{rate:,.0f}/s, round {number + 1}, beside {beside}: {measured[beside][-1]}",
                    flush=True,
                )
    return measured


@contextmanager
def flooding(port: int, load: Load | None) -> Iterator[None]:
    """Send `load` from another process during the block; None sends nothing."""
    if load is None:
        yield
        return
    flood = multiprocessing.get_context("spawn").Process(
        target=drive, args=(port, load), daemon=True
    )
    flood.start()
    time.sleep(FLOODING_S)
    try:
        yield
    finally:
        flood.join()


def measure_quiet(port: int, bodies: Sequence[bytes], key: str, seconds: float) -> Measurement:
    """Send requests at the pace of the quiet tenant."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    elapsed_ms, unanswered, ends = [], 0, time.perf_counter() + seconds
    while (since := time.perf_counter()) < ends:
        try:
            connection.request("POST", "/v1/score", bodies[len(elapsed_ms) % len(bodies)], headers)
            response = connection.getresponse()
            response.read()
            unanswered += response.status != http.client.OK
        except (OSError, http.client.HTTPException):
            connection.close()
            unanswered += 1
        elapsed_ms.append((time.perf_counter() - since) * 1000.0)
        time.sleep(max(0.0, since + PACE_S - time.perf_counter()))
    connection.close()
    p50, p99 = np.percentile(elapsed_ms, [50, 99])
    return Measurement(round(float(p50), 2), round(float(p99), 2), unanswered)


if __name__ == "__main__":
    main()
