"""`axon serve`: Ray and the applications of a Serve config file on this machine, until Ctrl-C.

The first one scores; the service is it. The others come beside it: one that does not start is told,
and stops nothing.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

from deployments.config.settings import Settings, deep_merge, read_settings
from deployments.host.drain import drain_proxy
from deployments.host.environment import is_loopback, prepare_environment
from deployments.web import list_keys
from ensemble.errors import ArtifactError

__all__ = ["ServeRefused", "arguments_in", "serve_forever"]

logger = logging.getLogger(__name__)
READY_WITHIN_S = 120.0
STOP_WITHIN_S = 45.0
LOOK_EVERY_S = 0.25
# for the calls that were taken; Serve would start a new front proxy after three looks, 2 s apart
FINISH_WITHIN_S = 4.0
SERVE_LOGS = "/tmp/ray/session_latest/logs/serve"  # noqa: S108  # where Ray keeps them
LEAST_CPUS = (
    2  # logical ones for Ray's scheduler: on one core the replicas still start, they only share it
)


class ServeRefused(Exception):
    """The service cannot start as asked; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class _Application:
    """One application of a Serve config file."""

    name: str
    route_prefix: str
    import_path: str
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a Serve config file asks for, after the options of the terminal were laid over it.

    Attributes:
        applications: the one that scores first; its arguments lie under those of the others, so
            that all have one store and one trust.
    """

    host: str
    port: int
    http_options: dict[str, Any]
    logging_config: dict[str, Any]
    applications: Sequence[_Application]

    @property
    def args(self) -> dict[str, Any]:
        """The arguments of the application that scores."""
        return self.applications[0].args


def serve_forever(
    config: Path, *, host: str | None, port: int | None, auth: str | None, console: Console
) -> None:
    """Start the applications of `config` and keep them running until a signal comes.

    Raises:
        ServeRefused: the file, the address or the port cannot be used.
    """
    plan = _plan(config, host, port, auth)
    for application in plan.applications:
        settings = read_settings(application.args)  # a mistake is told before Ray is started for it
        _refuse_unless_safe(plan.host, settings)
    _refuse_unless_free(plan.host, plan.port)
    prepare_environment()
    asked_to_stop: list[int] = []  # signals; no Event: its lock may be held where a handler runs

    import ray  # reads the environment that was just prepared
    from ray import serve
    from ray._common.utils import import_attr

    console.print(
        f"axon: starting Ray and the layers, then http://{plan.host}:{plan.port} (about 15 s)"
    )
    started = time.monotonic()
    scoring, *others = plan.applications
    ray.init(
        address="local",
        num_cpus=max(LEAST_CPUS, os.cpu_count() or 1),
        log_to_driver=False,
        logging_level=logging.ERROR,
    )

    def interrupt(number: int, _frame: object) -> None:
        """A signal ends the service, also where Python loses the exception.

        One raised in a callback of Ray's goes no further.
        """
        asked_to_stop.append(number)
        raise KeyboardInterrupt

    def run(application: _Application, *, wait: bool) -> None:
        built = import_attr(application.import_path)(application.args)
        target = serve.RunTarget(
            built, application.name, application.route_prefix, plan.logging_config
        )
        serve.run_many(
            [target], wait_for_ingress_deployment_creation=wait, wait_for_applications_running=wait
        )

    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # after ray.init, which takes the second for itself
        signal.signal(number, interrupt)
    try:
        serve.start(
            proxy_location="EveryNode",
            http_options=plan.http_options,
            logging_config=plan.logging_config,
        )
        try:
            run(scoring, wait=True)
        except RuntimeError:
            raise ServeRefused(
                f"Ray Serve could not start the application; its logs say why: {SERVE_LOGS}"
            ) from None
        failed = [application.name for application in others if not _has_begun(application, run)]
        _tell_state(plan, started, asked_to_stop, console)
        _tell_of_keys(read_settings(plan.args), console)
        _tell_others(plan, others, failed, asked_to_stop, console)
        while not asked_to_stop:
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        console.print("axon: stopping")
    finally:
        for number in (
            signal.SIGINT,
            signal.SIGTERM,
        ):  # a second one must not leave half of Ray behind
            signal.signal(number, signal.SIG_IGN)
        last_resort = threading.Timer(
            STOP_WITHIN_S, os._exit, (1,)
        )  # Ray cannot shut down in order when its own processes died first
        last_resort.daemon = True
        last_resort.start()
        drain_proxy(FINISH_WITHIN_S)
        serve.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types for it
        ray.shutdown()


def arguments_in(config: Path) -> Mapping[str, Any]:
    """What a Serve config file lays over configs/default.yaml.

    Raises:
        ServeRefused: it cannot be used.
    """
    return _plan(config, None, None, None).args


def _plan(config: Path, host: str | None, port: int | None, auth: str | None) -> _Plan:
    try:
        file = yaml.safe_load(config.read_text())
        http_options = {"host": "127.0.0.1", "port": 8000, **(file.get("http_options") or {})}
        http_options |= {
            key: value for key, value in (("host", host), ("port", port)) if value is not None
        }
        said = {"auth": {"mode": auth}} if auth else {}
        args = deep_merge(file["applications"][0].get("args") or {}, said)
        applications = [
            _Application(
                one["name"],
                one["route_prefix"],
                one["import_path"],
                deep_merge(args, deep_merge(one.get("args") or {}, said)),
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
        raise ServeRefused(
            f"there is no {config}; run this from the repository's root, or name a file with --config"
        ) from None
    except (yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError):
        raise ServeRefused(
            f"{config} is no Serve config file with applications; see serve_config.yaml"
        ) from None


def _refuse_unless_safe(host: str, settings: Settings) -> None:
    """Without keys, nobody but this machine may ask."""
    if settings.auth.mode == "off" and not is_loopback(host):
        raise ServeRefused(
            f"--auth off is refused on {host}: without keys anybody could ask. Leave it out and make keys: axon keys create"
        )


def _refuse_unless_free(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise ServeRefused(
                f"port {port} of {host} is taken; choose another: axon serve --port {port + 1}"
            ) from None


def _has_begun(application: _Application, run: Callable[..., None]) -> bool:
    """Start an application beside the one that scores.

    Whatever is wrong with it is its own affair.
    """
    try:
        run(application, wait=False)
    except Exception:
        logger.exception(
            "application_not_started",
            extra={"event": "application_not_started", "application": application.name},
        )
        return False
    return True


def _tell_state(
    plan: _Plan, started: float, asked_to_stop: Sequence[int], console: Console
) -> None:
    """Wait until every layer has answered for itself, and say how the ensemble stands."""
    url = f"http://{plan.host}:{plan.port}"
    health: dict[str, Any] = {}
    while not asked_to_stop and time.monotonic() - started < READY_WITHIN_S:
        try:
            health = httpx.get(f"{url}/health", timeout=2.0).raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            time.sleep(LOOK_EVERY_S)
            continue
        if not any(
            layer["status"] in {"warming_up", "timeout"} for layer in health["providers"].values()
        ):
            break
        time.sleep(LOOK_EVERY_S)
    if not health:
        console.print(
            f"axon: no answer from {url} after {READY_WITHIN_S:.0f} s; its logs say why: {SERVE_LOGS}"
        )
        return
    console.print(
        f"axon: {health['ml_status']}, coverage {health['coverage']:.2f}, after {time.monotonic() - started:.0f} s"
    )
    for name, layer in health["providers"].items():
        console.print(
            f"  {name:<11} {layer['status']:<10} version {layer['version'] or '-'} {layer['reason']}"
        )
    console.print(f"axon: {url}  (contract: {url}/openapi.json; stop with Ctrl-C)")


def _tell_of_keys(settings: Settings, console: Console) -> None:
    """Nobody can ask a service that asks for keys and has none."""
    if settings.auth.mode == "off":
        return
    try:
        if any(key.has_been_dead_for(time.time()) <= 0.0 for key in list_keys(settings.keys)):
            return
        said = "keys are on, and there is none: axon keys create --tenant default --scope score --scope read"
    except ArtifactError as problem:
        said = f"keys are on, and nobody is let in: {problem}"
    console.print(f"axon: {said}", highlight=False, markup=False, soft_wrap=True)


def _tell_others(
    plan: _Plan,
    others: Sequence[_Application],
    failed: Sequence[str],
    asked_to_stop: Sequence[int],
    console: Console,
) -> None:
    """Wait until the applications beside the one that scores run, or will not, and say which it is."""
    from ray import serve
    from ray.serve.schema import ApplicationStatus

    since = time.monotonic()
    for application in others:
        status = ApplicationStatus.DEPLOYING
        while (
            application.name not in failed
            and not asked_to_stop
            and time.monotonic() - since < READY_WITHIN_S
        ):
            found = serve.status().applications.get(application.name)
            status = found.status if found else status
            if status is not ApplicationStatus.DEPLOYING:
                break
            time.sleep(LOOK_EVERY_S)
        url = f"http://{plan.host}:{plan.port}{application.route_prefix}"
        if status is ApplicationStatus.RUNNING:
            console.print(f"axon: {url}  (contract: {url}/openapi.json)")
        else:
            console.print(
                f"axon: {application.name} does not run, scoring does; the logs say why: {SERVE_LOGS}"
            )
