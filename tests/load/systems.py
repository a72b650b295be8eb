"""The systems under test: each is one command, started alone, awaited, and ended with its children.

It ends only processes that it started, known by process id and start time.
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

from deployments.host.environment import free_port

__all__ = ["AXON", "SYSTEMS", "StartFailed", "System", "running"]

ROOT = Path(__file__).resolve().parents[2]
READY_WITHIN_S = 180.0
STOP_WITHIN_S = 45.0
SETTLED_STATUSES = {"warming_up", "timeout"}  # a layer that says one of these has not started yet


class StartFailed(Exception):
    """A system that gave no answer; the sentence ends with what it wrote."""


@dataclass(frozen=True, slots=True)
class System:
    """One thing to measure.

    Attributes:
        name: in the table.
        command: that starts it; `{port}` is put in.
        environment: laid over this process's, from which every setting of Serve is taken out first.
        takes_batches: it has the route /v1/score/batch.
        tells_health: it has GET /health with `providers`, so that one can wait for its models.
        up_at: a path that is answered with 200 once all of it is up: an application that comes
            later reloads the front proxy, which then
            closes connections.
        key: that it takes, "" where keys are off.
        root: of the checkout it runs from.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_batches: bool = True
    tells_health: bool = False
    up_at: str = ""
    key: str = ""
    root: Path = ROOT


AXON = (
    sys.executable,
    "-c",
    "import sys; from deployments.cli import main; sys.exit(main())",
)  # `axon`, from whichever checkout
SYSTEMS: Sequence[System] = (
    System(
        "Axon",
        (*AXON, "serve", "--auth", "off", "--port", "{port}"),
        tells_health=True,
        up_at="/models/openapi.json",
    ),
    System(
        "obvious composition",
        (sys.executable, "-m", "tests.load.obvious", "--port", "{port}"),
        {
            "RAY_worker_niceness": "0"
        },  # as Axon sets for itself: Ray's 15 would make it yield to the load
        takes_batches=False,
    ),
    System(
        "plain FastAPI",
        (sys.executable, "-m", "tests.load.plain", "--port", "{port}"),
        {
            "OMP_NUM_THREADS": "1"
        },  # as Ray sets for its workers; more threads make single rows slower
    ),
)


@contextmanager
def running(system: System, state: Path, probe: bytes, log: Path) -> Iterator[int]:
    """`system`, answering; yields its port and ends it afterwards.

    Args:
        system: what to start.
        state: AXON_STATE of it.
        probe: a body of /v1/score that has to be answered with 200.
        log: where its output goes.

    Raises:
        StartFailed: it ended, or did not answer in time.
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
            # a Ctrl-C in the terminal is the benchmark's; it then ends them in order
            start_new_session=True,
        )
        try:
            _await_answer(system, process, port, probe, log)
            yield port
        finally:
            _end(process)


def _await_answer(
    system: System, process: subprocess.Popen[bytes], port: int, probe: bytes, log: Path
) -> None:
    since, problem = time.monotonic(), "no answer"
    headers = {"Authorization": f"Bearer {system.key}"} if system.key else {}
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=5.0, trust_env=False
    ) as client:
        while time.monotonic() - since < READY_WITHIN_S and process.poll() is None:
            time.sleep(0.25)
            try:
                answer = client.post(
                    "/v1/score", content=probe, headers={"Content-Type": "application/json"}
                )
                if (
                    answer.status_code == httpx.codes.OK
                    and "score" in answer.json()
                    and not _is_starting(system, client)
                ):
                    return
                problem = f"status {answer.status_code}"
            except (httpx.HTTPError, ValueError) as error:
                problem = type(error).__name__
    tail = log.read_text(errors="replace")[-2000:]
    raise StartFailed(f"{system.name}: {problem} after {time.monotonic() - since:.0f} s\n{tail}")


def _is_starting(system: System, client: httpx.Client) -> bool:
    if system.up_at and client.get(system.up_at).status_code != httpx.codes.OK:
        return True
    providers = client.get("/health").json()["providers"].values() if system.tells_health else ()
    return any(layer["status"] in SETTLED_STATUSES for layer in providers)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to stop; what is left of it and of its children after a while is killed, by id."""
    family = _family(process.pid)
    process.terminate()
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        family = {*family, *_family(process.pid)}
    _, alive = psutil.wait_procs([member for member in family if member.is_running()], timeout=5.0)
    for member in alive:
        # psutil compares the start time: an id that was given to another process is left alone
        member.kill()
    psutil.wait_procs(alive, timeout=5.0)
    process.wait()


def _family(pid: int) -> set[psutil.Process]:
    try:
        head = psutil.Process(pid)
        return {head, *head.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()
