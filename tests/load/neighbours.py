"""The effect of one tenant's flood on another (RELIABILITY P21): `python -m tests.load.neighbours`.

A quiet tenant sends at a steady pace, alone and beside a flood of another tenant or of a caller
without a key, in turns and in one run. The flood comes from the same machine, so on few cores its
sender takes time from the service as well.
"""

from __future__ import annotations

import argparse
import http.client
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from tests.load.flows import made_up_flows, single_bodies
from tests.load.systems import AXON, ROOT, SYSTEMS, System, running
from tests.load.traffic import Load, drive

QUIET, FLOODER = "quiet", "flooder"
ALONE, TENANT, STRANGER = "nobody", "a tenant", "a stranger"
PACE_S = 0.02  # between two requests of the quiet tenant
FLOODING_S = 1.0  # before anything is counted: the flooder's saved-up burst is spent by then


@dataclass(frozen=True, slots=True)
class Felt:
    """What the quiet tenant had.

    Milliseconds of its median and of its 99th percentile, and requests without a verdict.
    """

    p50_ms: float
    p99_ms: float
    unanswered: int


def main() -> None:
    """Print it, for each rate that a tenant may have."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates",
        type=float,
        nargs="+",
        default=[1000.0, 100.0],
        help="requests/s that each tenant may ask; more than the 50 of the quiet one",
    )
    parser.add_argument("--connections", type=int, default=16, help="of the flooder")
    parser.add_argument("--rounds", type=int, default=5, help="of each")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each")
    options = parser.parse_args()
    bodies = single_bodies(made_up_flows(64, seed=3))
    table = Table(
        "requests/s a tenant may ask",
        "beside",
        "p50",
        "p99",
        "p99 moved by",
        "unanswered",
        box=None,
    )
    for rate in options.rates:
        with tempfile.TemporaryDirectory() as folder:
            felt = measure(Path(folder), bodies, rate, options)
        calm_ms = statistics.median(one.p99_ms for one in felt[ALONE])
        for beside, rounds in felt.items():
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
) -> dict[str, list[Felt]]:
    """Beside whom -> what was felt, one a round."""
    state, config = folder / "state", folder / "serve_config.yaml"
    keys = {tenant: key_of(tenant, state) for tenant in (QUIET, FLOODER)}
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    content["applications"][0]["args"] = {"auth": {"requests_per_s": rate, "burst": rate}}
    config.write_text(yaml.safe_dump(content))
    command = (*AXON, "serve", "--config", str(config), "--port", "{port}")
    system = System("Axon", command, tells_health=True, up_at=SYSTEMS[0].up_at, key=keys[QUIET])
    floods = {ALONE: None, TENANT: keys[FLOODER], STRANGER: ""}
    felt: dict[str, list[Felt]] = {beside: [] for beside in floods}
    with running(system, state, bodies[0], folder / "log") as port:
        feel(port, bodies, keys[QUIET], options.seconds)  # warms it up
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
                    felt[beside].append(feel(port, bodies, keys[QUIET], options.seconds))
                print(
                    f"{rate:,.0f}/s, round {number + 1}, beside {beside}: {felt[beside][-1]}",
                    flush=True,
                )
    return felt


def key_of(tenant: str, state: Path) -> str:
    """A new key of a tenant."""
    command = [*AXON, "keys", "create", "--tenant", tenant, "--scope", "score", "--scope", "read"]
    made = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"AXON_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()


@contextmanager
def flooding(port: int, load: Load | None) -> Iterator[None]:
    """Another process sends `load` beside; nobody where there is none."""
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


def feel(port: int, bodies: Sequence[bytes], key: str, seconds: float) -> Felt:
    """Ask at the pace of the quiet tenant."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    took_ms, unanswered, ends = [], 0, time.perf_counter() + seconds
    while (since := time.perf_counter()) < ends:
        try:
            connection.request("POST", "/v1/score", bodies[len(took_ms) % len(bodies)], headers)
            answer = connection.getresponse()
            answer.read()
            unanswered += answer.status != http.client.OK
        except (OSError, http.client.HTTPException):
            connection.close()
            unanswered += 1
        took_ms.append((time.perf_counter() - since) * 1000.0)
        time.sleep(max(0.0, since + PACE_S - time.perf_counter()))
    connection.close()
    p50, p99 = np.percentile(took_ms, [50, 99])
    return Felt(round(float(p50), 2), round(float(p99), 2), unanswered)


if __name__ == "__main__":
    main()
