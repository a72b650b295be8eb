"""The measured systems: each is one command, started alone and ended with its children.

Only processes started here are ended, identified by process id and start time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.support.ports import free_port

__all__ = ["AXON", "SYSTEMS", "StartFailed", "System", "running"]

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 180.0
STOP_WITHIN_S = 45.0
STARTING_STATUSES = {"warming_up", "timeout"}  # of a layer that has not started yet


class StartFailed(Exception):
    """A system that did not respond; the message ends with its output."""


@dataclass(frozen=True, slots=True)
class System:
    """One system to measure.

    Attributes:
        name: in the table.
        command: the command that starts it, with `{port}` for the port.
        environment: variables added to those of this process, without the settings of Serve.
        has_batches: it has the route /v1/score/batch.
        has_health: it has GET /health with `providers`, to wait for its models.
        up_at: a path that responds with 200 once all applications run. An application that starts
            later reloads the front proxy, which then closes connections.
        key: API key, "" without authentication.
        root: of its checkout.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    has_batches: bool = True
    has_health: bool = False
    up_at: str = ""
    key: str = ""
    root: Path = ROOT


AXON = (
    sys.executable,
    "-c",
    "import sys; from deployments.cli import main; sys.exit(main())",
)  # `axon` of the checkout in which it runs
SYSTEMS: Sequence[System] = (
    System(
        "Axon",
        (*AXON, "serve", "--auth", "off", "--port", "{port}"),
        has_health=True,
        up_at="/models/openapi.json",
    ),
    System(
        "obvious composition",
        (sys.executable, "-m", "tests.load.obvious", "--port", "{port}"),
        {"RAY_worker_niceness": "0"},  # as Axon sets it; Ray's 15 would give the load priority
        has_batches=False,
    ),
    System(
        "plain FastAPI",
        (sys.executable, "-m", "tests.load.plain", "--port", "{port}"),
        {"OMP_NUM_THREADS": "1"},  # as Ray sets it; more threads make single rows slower
    ),
)


@contextmanager
def running(system: System, state: Path, probe: bytes, log: Path) -> Iterator[int]:
    """Start `system`, wait for its first verdict, yield its port, and end it after the block.

    Args:
        system: what to start.
        state: its AXON_STATE.
        probe: a body of POST /v1/score that must get a 200.
        log: file for its output.

    Raises:
        StartFailed: it ended, or did not respond in time.
    """
    port = free_port()
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_SERVE_", "RAY_worker_"))
    }
    environment = {
        **inherited,
        "PYTHONPATH": str(system.root),
        "AXON_STATE": str(state),
        "RAY_USAGE_STATS_ENABLED": "0",
        **system.environment,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [part.format(port=port) for part in system.command],
            cwd=system.root,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # a Ctrl-C reaches only the benchmark, which then ends the systems in order
            start_new_session=True,
        )
        try:
            _await_verdict(system, process, port, probe, log)
            yield port
        finally:
            _end(process)


def _await_verdict(
    system: System, process: subprocess.Popen[bytes], port: int, probe: bytes, log: Path
) -> None:
    since, problem = time.monotonic(), "no response"
    headers = {"Authorization": f"Bearer {system.key}"} if system.key else {}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=5.0, trust_env=False
    ) as client:
        while time.monotonic() - since < READY_WITHIN_S and process.poll() is None:
            time.sleep(0.25)
            try:
                response = client.post(
                    "/v1/score", content=probe, headers={"Content-Type": "application/json"}
                )
                if (
                    response.status_code == httpx.codes.OK
                    and "score" in response.json()
                    and not _is_starting(system, client)
                ):
                    return
                problem = f"status {response.status_code}"
            except (httpx.HTTPError, ValueError) as error:
                problem = type(error).__name__
    tail = log.read_text(errors="replace")[-2000:]
    raise StartFailed(f"{system.name}: {problem} after {time.monotonic() - since:.0f} s\n{tail}")


def _is_starting(system: System, client: httpx.Client) -> bool:
    if system.up_at and client.get(system.up_at).status_code != httpx.codes.OK:
        return True
    providers = client.get("/health").json()["providers"].values() if system.has_health else ()
    return any(layer["status"] in STARTING_STATUSES for layer in providers)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a process, and kill by id what is left of it and its children after a timeout."""
    family = _family(process.pid)
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        family = {*family, *_family(process.pid)}
    _, alive = psutil.wait_procs([member for member in family if member.is_running()], timeout=5.0)
    for member in alive:
        # psutil compares the start time, so a process that reuses the id is not killed
        member.kill()
    psutil.wait_procs(alive, timeout=5.0)
    process.wait()


def _family(pid: int) -> set[psutil.Process]:
    try:
        head = psutil.Process(pid)
        return {head, *head.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
