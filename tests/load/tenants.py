"""A service with a key for each of several tenants, and loads that reach it at the same time."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.load.systems import AXON, ROOT, SYSTEMS, System, running
from tests.load.traffic import Load, Window, drive

__all__ = ["UNLIMITED", "drive_together", "memory_mib", "serving"]

# rates so high that only the capacity of the service limits a tenant
UNLIMITED = {"auth": {"requests_per_s": 1e6, "burst": 1e6}}
SCOPES = ("score", "read", "train")


@contextmanager
def serving(
    folder: Path, tenants: Sequence[str], probe: bytes, settings: Mapping[str, Any]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Run Axon with a key for each tenant.

    Args:
        folder: for its state, its configuration and its log.
        tenants: at least one.
        probe: a body of POST /v1/score that the first tenant gets a 200 for.
        settings: changed settings.

    Yields:
        Its port, and tenant -> key.

    Raises:
        StartFailed: it ended, or did not respond in time.
    """
    state, config = folder / "state", folder / "serve_config.yaml"
    keys = {tenant: _key_of(tenant, state) for tenant in tenants}
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    content["applications"][0]["args"] = dict(settings)
    config.write_text(yaml.safe_dump(content))
    command = (*AXON, "serve", "--config", str(config), "--port", "{port}")
    system = System("Axon", command, has_health=True, up_at=SYSTEMS[0].up_at, key=keys[tenants[0]])
    with running(system, state, probe, folder / "log") as port:
        yield port, keys


def drive_together(port: int, *loads: Load) -> list[Window]:
    """Send every load from a process of its own, all at once; one measurement for each."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(loads), mp_context=spawn) as senders:
        return [sent.result() for sent in [senders.submit(drive, port, load) for load in loads]]


def memory_mib() -> float:
    """Resident memory of the descendants of this process, MiB; shared pages count in each."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def _key_of(tenant: str, state: Path) -> str:
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    made = subprocess.run(
        [*AXON, "keys", "create", "--tenant", tenant, *scopes],
        cwd=ROOT,
        env=os.environ | {"AXON_STATE": str(state)},
        capture_output=True,
        text=True,
        check=True,
    )
    return made.stdout.strip()
