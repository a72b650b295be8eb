"""`axon serve`: Ray and the applications of a Serve config file on this machine, until Ctrl-C.

The first application scores, and the service cannot run without it. If another application does not
start, this is reported and the service goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
import yaml

from deployments.cli import console
from deployments.cli.errors import CommandFailed
from deployments.cli.shutdown import Watchdog
from deployments.cli.start_checks import (
    require_free_port,
    require_own_state,
    require_safe_binding,
)
from deployments.config import Settings, deep_merge, read_settings
from deployments.host import RAY, logs_of, make_run_folder, prepare_environment, ray_head
from deployments.web import list_keys
from ensemble.errors import ArtifactError

__all__ = ["read_arguments", "serve"]

logger = logging.getLogger(__name__)
READY_WITHIN_S = 120.0
POLL_EVERY_S = 0.25
KEYLESS_IN_10S = 500  # requests of one address without a key, where keys are required
# logical CPUs for Ray's scheduler, so that the replicas also start on a single core
LEAST_CPUS = 2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Auth(StrEnum):
    """Authentication of callers."""

    KEYS = "keys"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class _Application:
    """One application of a Serve config file."""

    name: str
    route_prefix: str
    import_path: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """The contents of a Serve config file, with the command-line options merged over it.

    Attributes:
        applications: the scoring application is the first. Its arguments are the defaults of the
            others, so that all use one store and one trust list.
    """

    host: str
    port: int
    http_options: dict[str, Any]
    logging_config: dict[str, Any]
    applications: Sequence[_Application]

    @property
    def args(self) -> dict[str, Any]:
        """Arguments of the scoring application."""
        return self.applications[0].args


def serve(
    *,
    config: Annotated[Path, typer.Option(help="A Serve config file, as for `serve run`.")] = Path(
        "serve_config.yaml"
    ),
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: that of the file.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to listen on; default: that of the file."),
    ] = None,
    auth: Annotated[
        Auth | None,
        typer.Option(
            help="`keys`: callers need an API key. `off`: any process on this machine may send "
            "requests; allowed on loopback addresses only."
        ),
    ] = None,
) -> None:
    """Start the service on this machine, until Ctrl-C.

    Starts Ray, the scoring application with its layers, and the other applications of the config
    file. The configuration is checked before Ray starts.
    """
    plan = _plan(config, host, port, auth)
    # of each application, so that a mistake is reported before Ray starts
    settings, *others_settings = [read_settings(one.args) for one in plan.applications]
    for one in (settings, *others_settings):
        require_safe_binding(plan.host, one)
    require_own_state(settings)
    require_free_port(plan.host, plan.port)  # an earlier run may have had it until now
    folder = _prepare_environment(settings)
    logs = logs_of(folder)
    signals: list[int] = []  # not an Event: a signal handler may run while its lock is held

    import ray  # Ray reads the environment that was just prepared
    from ray import serve as ray_serve
    from ray._common.utils import import_attr

    console.out.print(
        f"axon: starting Ray and the layers, then http://{plan.host}:{plan.port} (about 15 s)"
    )
    started = time.monotonic()
    scoring, *others = plan.applications
    ray.init(
        address="local",
        num_cpus=max(LEAST_CPUS, os.cpu_count() or 1),
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / RAY),
    )
    watchdog = Watchdog(folder, ray_head(), signals)

    def interrupt(number: int, _frame: object) -> None:
        """Stop the service, also where the exception is lost in a callback of Ray."""
        signals.append(number)
        raise KeyboardInterrupt

    def run(application: _Application, *, wait: bool) -> None:
        built = import_attr(application.import_path)(application.args)
        target = ray_serve.RunTarget(
            built, application.name, application.route_prefix, plan.logging_config
        )
        ray_serve.run_many(
            [target], wait_for_ingress_deployment_creation=wait, wait_for_applications_running=wait
        )

    for number in STOP_SIGNALS:  # after ray.init, which installs a handler for SIGTERM
        signal.signal(number, interrupt)
    try:
        ray_serve.start(
            proxy_location="EveryNode",
            http_options=plan.http_options,
            logging_config=plan.logging_config,
        )
        try:
            run(scoring, wait=True)
        except RuntimeError:
            raise CommandFailed(
                f"Ray Serve could not start the application; its logs say why: {logs}"
            ) from None
        failed = [application.name for application in others if not _start_other(application, run)]
        _report_state(plan, started, signals, logs)
        _report_missing_keys(settings)
        _report_others(plan, others, failed, signals, logs)
        while not signals:
            time.sleep(POLL_EVERY_S)
    except KeyboardInterrupt:
        console.out.print("axon: stopping")
    finally:
        for number in STOP_SIGNALS:  # a second signal must not leave half of Ray running
            signal.signal(number, signal.SIG_IGN)
        watchdog.shut_down()


def read_arguments(config: Path) -> Mapping[str, Any]:
    """The settings in a Serve config file, to merge over configs/default.yaml.

    Raises:
        CommandFailed: it cannot be used.
    """
    return _plan(config, None, None, None).args


def _plan(config: Path, host: str | None, port: int | None, auth: str | None) -> _Plan:
    try:
        file = yaml.safe_load(config.read_text())
        http_options = {"host": "127.0.0.1", "port": 8000, **(file.get("http_options") or {})}
        http_options |= {
            key: value for key, value in (("host", host), ("port", port)) if value is not None
        }
        overrides = {"auth": {"mode": auth}} if auth else {}
        args = deep_merge(file["applications"][0].get("args") or {}, overrides)
        applications = [
            _Application(
                one["name"],
                one["route_prefix"],
                one["import_path"],
                deep_merge(args, deep_merge(one.get("args") or {}, overrides)),
            )
            for one in file["applications"]
        ]
        logging_config = dict(file.get("logging_config") or {})
        return _Plan(
            str(http_options["host"]),
            int(http_options["port"]),
            http_options,
            logging_config,
            applications,
        )
    except FileNotFoundError:
        raise CommandFailed(
            f"there is no {config}; run this from the repository's root, "
            "or name a file with --config"
        ) from None
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError):
        raise CommandFailed(
            f"{config} is no Serve config file with applications; see serve_config.yaml"
        ) from None


def _prepare_environment(settings: Settings) -> Path:
    """Set what Ray and the front proxy read at their start; return the folder of this run."""
    try:
        folder = make_run_folder(settings.state)
        prepare_environment(folder)
    except OSError as problem:
        raise CommandFailed(str(problem)) from None
    if settings.auth.mode != "off":  # without keys every request is one without a key
        os.environ.setdefault("AXON_KEYLESS_IN_10S", str(KEYLESS_IN_10S))
    return folder


def _start_other(application: _Application, run: Callable[..., None]) -> bool:
    """Start another application; return False if it fails, because the service then goes on."""
    try:
        run(application, wait=False)
    except Exception:
        logger.exception(
            "application_not_started",
            extra={"event": "application_not_started", "application": application.name},
        )
        return False
    return True


def _report_state(plan: _Plan, started: float, signals: Sequence[int], logs: Path) -> None:
    """Wait until every layer has reported its status, then print the state of the ensemble."""
    url = f"http://{plan.host}:{plan.port}"
    health: dict[str, Any] = {}
    while not signals and time.monotonic() - started < READY_WITHIN_S:
        try:
            health = httpx.get(f"{url}/health", timeout=2.0).raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            time.sleep(POLL_EVERY_S)
            continue
        if not any(
            layer["status"] in {"warming_up", "timeout"} for layer in health["providers"].values()
        ):
            break
        time.sleep(POLL_EVERY_S)
    if not health:
        console.out.print(
            f"axon: no answer from {url} after {READY_WITHIN_S:.0f} s; see the logs: {logs}"
        )
        return
    console.out.print(
        f"axon: {health['ml_status']}, coverage {health['coverage']:.2f}, "
        f"after {time.monotonic() - started:.0f} s"
    )
    for name, layer in health["providers"].items():
        console.out.print(
            f"  {name:<11} {layer['status']:<10} "
            f"version {layer['version'] or '-'} {layer['reason']}"
        )
    console.out.print(f"axon: {url}  (contract: {url}/openapi.json; stop with Ctrl-C)")


def _report_missing_keys(settings: Settings) -> None:
    """Warn if the service requires API keys but none is live, so that every caller is refused."""
    if settings.auth.mode == "off":
        return
    try:
        if any(key.seconds_invalid(time.time()) <= 0.0 for key in list_keys(settings.keys)):
            return
        problem = (
            "keys are required, and there is none: "
            "axon keys create --tenant default --scope score --scope read"
        )
    except ArtifactError as error:
        problem = f"keys are required, and every caller is refused: {error}"
    console.out.print(f"axon: {problem}", markup=False, soft_wrap=True)


def _report_others(
    plan: _Plan,
    others: Sequence[_Application],
    failed: Sequence[str],
    signals: Sequence[int],
    logs: Path,
) -> None:
    """Wait until the other applications run or have failed, then report each."""
    from ray import serve as ray_serve
    from ray.serve.schema import ApplicationStatus

    since = time.monotonic()
    for application in others:
        status = ApplicationStatus.DEPLOYING
        while (
            application.name not in failed
            and not signals
            and time.monotonic() - since < READY_WITHIN_S
        ):
            found = ray_serve.status().applications.get(application.name)
            status = found.status if found else status
            if status is not ApplicationStatus.DEPLOYING:
                break
            time.sleep(POLL_EVERY_S)
        url = f"http://{plan.host}:{plan.port}{application.route_prefix}"
        if status is ApplicationStatus.RUNNING:
            console.out.print(f"axon: {url}  (contract: {url}/openapi.json)")
        else:
            console.out.print(
                f"axon: {application.name} does not run, scoring does; see the logs: {logs}"
            )
