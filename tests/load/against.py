"""This checkout against an earlier commit of itself, in turns and in one run: `python -m tests.load.against COMMIT`.

A figure of another day says little on a machine that does other things too; the ratio of two that
took turns does.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.load.flows import made_up_flows, single_bodies
from tests.load.systems import ROOT, SYSTEMS, System, running
from tests.load.traffic import Load, drive

CONNECTIONS = (1, 16, 64)


def main() -> None:
    """Print requests/s of both, round by round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that both are started, each first in turns"
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="counted, after 3 s of warming up"
    )
    options = parser.parse_args()
    bodies = single_bodies(made_up_flows(64, seed=3))
    rates: dict[str, dict[int, list[float]]] = {"before": {}, "now": {}}
    with checkout_of(options.commit) as before:
        both = [("before", replace(SYSTEMS[0], root=before, up_at="")), ("now", SYSTEMS[0])]
        for number in range(options.rounds):
            for name, system in both if number % 2 else reversed(both):
                for connections, rate in rates_of(system, bodies, options.seconds).items():
                    rates[name].setdefault(connections, []).append(rate)
                    print(
                        f"round {number + 1}  {name:<7} {connections:>3} connections  {rate:,.0f} requests/s",
                        flush=True,
                    )
    for connections in CONNECTIONS:
        now, was = (statistics.median(rates[name][connections]) for name in ("now", "before"))
        print(
            f"{connections:>3} connections: {now:,.0f} now, {was:,.0f} before: {now / was:.2f} times"
        )


def rates_of(system: System, bodies: list[bytes], seconds: float) -> dict[int, float]:
    """Connections -> answers a second."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(system, Path(folder) / "state", bodies[0], Path(folder) / "log") as port,
    ):
        windows = {
            n: drive(port, Load("/v1/score", bodies, n, warm_up_s=3.0, window_s=seconds))
            for n in CONNECTIONS
        }
    return {n: window.answers / window.seconds for n, window in windows.items()}


@contextmanager
def checkout_of(commit: str) -> Iterator[Path]:
    """A checkout of `commit` beside this one, for as long as it is needed."""
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
