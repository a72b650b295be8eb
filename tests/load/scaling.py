"""Autoscaling under load: replicas of every deployment before, during and after a load.

`python -m tests.load.scaling` starts the real application with an eager autoscaler, sends requests
on 64 connections for a while, then nothing, and prints how many replicas run. It asserts no times.
It fails if nothing scaled up or nothing scaled down.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployments.host import prepare_environment
from tests.load.flows import made_up_flows, single_bodies
from tests.load.traffic import Load, drive
from tests.support.ports import free_port

CALM_S, LOAD_S, AFTER_S = 3.0, 30.0, 60.0
EAGER: dict[str, Any] = {
    "ingress": {
        "target_ongoing_requests": 8,
        "upscale_delay_s": 2,
        "downscale_delay_s": 5,
        "max_replicas": 3,
    },
    "layers": {
        name: {"target_ongoing_requests": 1, "upscale_delay_s": 2, "downscale_delay_s": 5}
        for name in ("anomaly", "behavior", "resilience")
    },
}


def main() -> int:
    """Run the load; return 0 if the ingress scaled up and every deployment scaled down again."""
    prepare_environment(Path(tempfile.mkdtemp(prefix="axon-scaling-")))
    import ray  # noqa: PLC0415  # reads the environment that was just prepared
    from ray import serve  # noqa: PLC0415

    from deployments.app import build  # noqa: PLC0415

    port, samples, console = free_port(), [], Console()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(EAGER), name="axon", route_prefix="/")
        bodies = single_bodies(made_up_flows(64, seed=0))
        load = Load("/v1/score", bodies, connections=64, warm_up_s=0.0, window_s=LOAD_S)
        traffic = multiprocessing.get_context("spawn").Process(
            target=drive, args=(port, load), daemon=True
        )
        started = time.monotonic()
        while (elapsed := time.monotonic() - started) < CALM_S + LOAD_S + AFTER_S:
            if elapsed >= CALM_S and traffic.pid is None:
                traffic.start()
            phase = "calm" if elapsed < CALM_S else "load" if traffic.is_alive() else "after"
            running = serve.status().applications["axon"].deployments
            counts = {
                name: int(one.replica_states.get("RUNNING", 0)) for name, one in running.items()
            }
            if not samples or samples[-1][1:] != (phase, counts):
                samples.append((round(elapsed, 1), phase, counts))
            if phase == "after" and elapsed > CALM_S + LOAD_S + 5 and set(counts.values()) == {1}:
                break
            time.sleep(0.5)
    finally:
        serve.shutdown()
        ray.shutdown()
    return _report(samples, console)


def _report(samples: list[tuple[float, str, dict[str, int]]], console: Console) -> int:
    names = list(samples[0][2])
    table = Table(
        "second", "phase", *names, box=None, header_style="bold", title="running replicas"
    )
    for second, phase, counts in samples:
        table.add_row(f"{second:.1f}", phase, *(str(counts.get(name, 0)) for name in names))
    console.print(table)
    most = max(counts.get("ingress", 0) for _, _, counts in samples)
    last = samples[-1][2]
    console.print(f"ingress: up to {most} replicas under load, {last.get('ingress')} at the end")
    return 0 if most > 1 and set(last.values()) == {1} else 1


if __name__ == "__main__":
    sys.exit(main())
