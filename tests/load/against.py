"""Throughput of this checkout and of an earlier commit: `python -m tests.load.against COMMIT`.

Both take turns in one run. A busy machine makes figures of different days incomparable, but not the
ratio of two systems that took turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.load.flows import batch_body, made_up_flows, single_bodies
from tests.load.systems import ROOT, SYSTEMS, System, running
from tests.load.traffic import Load, drive

CONNECTIONS = (1, 16, 64)
EVENTS_IN_A_BATCH, BATCHES_IN_FLIGHT = 1000, 4
WARM_UP_S = 3.0


def main() -> None:
    """Print the events/s of both in each round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="commit to compare with")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        help="number of times that both are started, in alternating order",
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="measured seconds, after 3 s of warm-up"
    )
    options = parser.parse_args()
    loads = loads_of(options.seconds)
    rates: dict[str, dict[str, list[float]]] = {"before": {}, "now": {}}
    with checkout_of(options.commit) as before:
        both = [("before", replace(SYSTEMS[0], root=before, up_at="")), ("now", SYSTEMS[0])]
        for number in range(options.rounds):
            for name, system in both if number % 2 else reversed(both):
                for load, rate in rates_of(system, loads).items():
                    rates[name].setdefault(load, []).append(rate)
                    print(f"round {number + 1}  {name:<7} {load}  {rate:,.0f} events/s", flush=True)
    for load in loads:
        now, was = (statistics.median(rates[name][load]) for name in ("now", "before"))
        print(f"{load}: {now:,.0f} now, {was:,.0f} before: {now / was:.2f} times")


def loads_of(seconds: float) -> dict[str, Load]:
    """Map the name of each load to the load: single events at 1, 16 and 64 connections; batches."""
    single = single_bodies(made_up_flows(64, seed=3))
    batch = [batch_body(made_up_flows(EVENTS_IN_A_BATCH, seed=3))]
    return {
        f"{n:>3} connections    ": Load("/v1/score", single, n, WARM_UP_S, seconds)
        for n in CONNECTIONS
    } | {
        f"batches of {EVENTS_IN_A_BATCH:,}  ": Load(
            "/v1/score/batch", batch, BATCHES_IN_FLIGHT, WARM_UP_S, seconds
        )
    }


def rates_of(system: System, loads: Mapping[str, Load]) -> dict[str, float]:
    """Measure each load, and map its name to events/s."""
    first = next(iter(loads.values())).bodies[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(system, Path(folder) / "state", first, Path(folder) / "log") as port,
    ):
        windows = {name: drive(port, load) for name, load in loads.items()}
    return {name: window.events_per_s for name, window in windows.items()}


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """Check out `commit` in a temporary folder until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "before"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(place), commit],
            cwd=ROOT,
            check=True,
        )
        try:
            yield place
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True
            )


if __name__ == "__main__":
    main()
