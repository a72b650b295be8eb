"""A real service to break: `axon serve` in its own session, with its own state and models."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from deployments.config.settings import ROOT, Settings, read_settings
from tests.support.callers import Callers
from tests.support.ports import free_port
from tests.support.timing import wait_until

__all__ = [
    "BUSY",
    "CONNECTIONS",
    "ENDED_WITHIN_S",
    "HEALTH_CHECK_PERIOD_S",
    "IS_LONG",
    "LAYERS_OF_FLOWS",
    "NOISE_S",
    "RESTARTED_WITHIN_S",
    "STARTED_WITHIN_S",
    "Service",
    "kill",
    "start_service",
]

IS_LONG = os.environ.get("AXON_VERIFY") == "1"
# Seconds between two health checks of a replica, and the timeout of one. Three failures in a row
# restart the replica. The long form has the shipped settings.
HEALTH_CHECK_PERIOD_S, HEALTH_CHECK_TIMEOUT_S = (2, 5) if IS_LONG else (1, 2)
RESTARTED_WITHIN_S = 3 * (HEALTH_CHECK_PERIOD_S + HEALTH_CHECK_TIMEOUT_S) + 4.0
STARTED_WITHIN_S = 120.0
ENDED_WITHIN_S = 60.0
COMPLETE_WITHIN_S = 60.0  # after a test, until every replica and every model is back
LAYERS_OF_FLOWS = ("anomaly", "behavior", "classifier", "resilience")
CONNECTIONS = 16
# factor on a promised number of seconds, because a small machine may do other work too. The
# figures are printed.
BUSY = 1.5
# seconds that a small machine may add to one response of thousands while it also starts
# processes. The figures are printed.
NOISE_S = 0.5
PAUSE_S = 0.01  # 16 callers then leave CPU time for the processes that restart


@dataclass(frozen=True, slots=True)
class Service:
    """A running service.

    Attributes:
        head: the process `axon serve`, leader of the session of all its processes.
        port: on loopback.
        state: its own state folder.
        shipped: its own copy of artifacts/.
        log: file with its output.
        replicas_each: replicas of each deployment when the service is complete.
        bodies: of POST /v1/score, flows.
        command: that started it.
    """

    head: subprocess.Popen[bytes]
    port: int
    state: Path
    shipped: Path
    log: Path
    replicas_each: int
    bodies: Sequence[bytes]
    command: Sequence[str]

    def settings(self) -> Settings:
        """Make settings with its store, to read its models in this process."""
        store = {
            "state": str(self.state),
            "shipped": str(self.shipped),
            "trust": str(self.state.parent / "trust.yaml"),
        }
        return read_settings({"store": store})

    def callers(
        self,
        connections: int = CONNECTIONS,
        pause_s: float = PAUSE_S,
        *,
        records_bodies: bool = False,
    ) -> Callers:
        """Make callers that send requests during a `with` block."""
        return Callers(
            self.port,
            self.bodies,
            connections=connections,
            pause_s=pause_s,
            records_bodies=records_bodies,
        )

    def get(self, path: str) -> dict[str, Any]:
        return dict(
            httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5.0, trust_env=False)
            .raise_for_status()
            .json()
        )

    def score(self, body: bytes) -> dict[str, Any]:
        """Score one event and return the verdict."""
        response = httpx.post(
            f"http://127.0.0.1:{self.port}/v1/score", content=body, timeout=30.0, trust_env=False
        )
        return dict(response.raise_for_status().json())

    def processes(self) -> list[psutil.Process]:
        """List the live processes of its session.

        Ray's processes form groups of their own, but stay in the session.
        """
        return _session(self.head.pid)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Find the replicas of one deployment by their process titles."""
        return self.titled(f"ServeReplica:axon:{deployment}")

    def titled(self, title: str) -> list[psutil.Process]:
        """Find the processes whose title contains `title`."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if title in " ".join(process.cmdline()[:1]):
                    found.append(process)
        return found

    def only_replica(self, deployment: str) -> psutil.Process:
        """Return the replica of a deployment that has exactly one."""
        (process,) = self.replicas(deployment)
        return process

    def has_replaced(self, deployment: str, old: psutil.Process) -> bool:
        """Whether all replicas of a deployment run again, without `old`."""
        running = {process.pid for process in self.replicas(deployment)}
        return len(running) == self.replicas_each and old.pid not in running

    def is_complete(self) -> bool:
        """Whether every replica runs and every layer is live."""
        if any(
            len(self.replicas(name)) != self.replicas_each for name in (*LAYERS_OF_FLOWS, "ingress")
        ):
            return False
        with suppress(httpx.HTTPError, ValueError, KeyError):
            health = self.get("/health")
            return health["status"] == "healthy" and {
                each["status"] for each in health["providers"].values()
            } == {"live"}
        return False

    def await_complete(self, within_s: float = COMPLETE_WITHIN_S) -> None:
        def has_ended_or_is_complete() -> bool:
            return self.head.poll() is not None or self.is_complete()

        assert wait_until(has_ended_or_is_complete, within_s), self.output()[-3000:]
        assert self.head.poll() is None, self.output()[-3000:]

    def axon(self, *words: str) -> str:
        """Run `axon ...` as an operator of this service does, and return its output.

        The command is a process with the state, trust list and key of the service.
        """
        folder = self.state.parent
        own = {
            "AXON_STATE": str(self.state),
            "AXON_TRUST": str(folder / "trust.yaml"),
            "AXON_SIGNING_KEY": str(folder / "signing.key"),
        }
        command = [sys.executable, "-m", "deployments.cli", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=_environment() | own, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def output(self) -> str:
        """Read what the service has written to its terminal."""
        return self.log.read_text(errors="replace")

    def start_again(self) -> Service:
        """Start a service that has ended on the same state, models and port, as a supervisor."""
        head = _launch(self.command, self.state.parent, self.log)
        return replace(self, head=head)

    def end(self) -> None:
        """Kill what is left of the session; `test_drain.py` is about an orderly end."""
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.head.wait(10.0)
        with suppress(OSError):  # a killed service leaves its folder to its next start
            shutil.rmtree((self.state / "run").readlink())

    def models(self, *bundles: str) -> list[Path]:
        """List the files with model arrays, of bundles whose names start with one of `bundles`."""
        found = [
            path
            for path in self.shipped.rglob("*.safetensors")
            if path.parts[-3].startswith(bundles or ("",))
        ]
        assert found
        return sorted(found)

    @contextmanager
    def truncated_models(self, *bundles: str) -> Iterator[None]:
        """Truncate every model file of these bundles to half, as an interrupted copy does.

        The files are complete again after the block.
        """
        originals = {path: path.read_bytes() for path in self.models(*bundles)}
        try:
            for path, content in originals.items():
                path.chmod(0o644)
                path.write_bytes(content[: len(content) // 2])
            yield
        finally:
            for path, content in originals.items():
                path.write_bytes(content)


def start_service(
    folder: Path,
    bodies: Sequence[bytes],
    *,
    on_three_nodes: bool,
    port: int | None = None,
    auth: str = "off",
) -> Service:
    """Start a service and return at once; `Service.await_complete` waits for it.

    Args:
        folder: for its state, its copy of the shipped models and its log.
        bodies: requests for `Service.callers`.
        on_three_nodes: start two replicas of everything on three nodes, otherwise one.
        port: on loopback; None for a free port.
        auth: `keys` or `off`.
    """
    port = port or free_port()
    shipped, state, log, file = (
        folder / "artifacts",
        folder / "state",
        folder / "serve.log",
        folder / "serve_config.yaml",
    )
    shutil.copytree(ROOT / "artifacts", shipped)
    shutil.copy(ROOT / "configs" / "trust.yaml", folder)
    replicas = 2 if on_three_nodes else 1
    each = {"min_replicas": replicas, "max_replicas": replicas}
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"] = {
        "store": {
            "state": str(state),
            "shipped": str(shipped),
            "trust": str(folder / "trust.yaml"),
        },
        "replicas": {
            "max_replicas_per_node": 1 if on_three_nodes else None,
            "health_check_period_s": HEALTH_CHECK_PERIOD_S,
            "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
        },
        "ingress": each,
        "layers": dict.fromkeys(LAYERS_OF_FLOWS, each),
        "auth": {"mode": auth},
    }
    file.write_text(yaml.safe_dump(config))
    options = ["--config", str(file), "--port", str(port), "--auth", auth]
    serve = ["deployments.cli", "serve", *options]
    command = ["tests.faults.three_nodes", str(file), str(port)] if on_three_nodes else serve
    command = [sys.executable, "-m", *command]
    head = _launch(command, folder, log)
    return Service(head, port, state, shipped, log, replicas, bodies, command)


def _launch(command: Sequence[str], folder: Path, log: Path) -> subprocess.Popen[bytes]:
    # `axon trust init` makes the key, if a test needs one
    environment = _environment() | {"AXON_SIGNING_KEY": str(folder / "signing.key")}
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill(process: psutil.Process) -> float:
    """Send SIGKILL, and return the time in seconds of the monotonic clock."""
    at = time.monotonic()
    process.kill()
    return at


def _environment() -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AXON_"))
    }
    return inherited | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONFAULTHANDLER": "1"}


def _session(leader: int) -> list[psutil.Process]:
    alive = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive
