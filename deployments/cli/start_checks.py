"""What `axon serve` checks and clears away before it starts Ray."""

from __future__ import annotations

import socket

import psutil

from deployments.cli import console
from deployments.cli.errors import CommandFailed
from deployments.config import Settings
from deployments.host import end_last_run, is_loopback, lock_state, sweep_old_runs

__all__ = ["require_free_port", "require_own_state", "require_safe_binding"]


def require_safe_binding(host: str, settings: Settings) -> None:
    """Refuse to start a service without keys on an address that other machines can reach."""
    if settings.auth.mode == "off" and not is_loopback(host):
        raise CommandFailed(
            f"--auth off is refused on {host}: without keys every machine could use the service. "
            "Leave it out and create keys: axon keys create"
        )


def require_own_state(settings: Settings) -> None:
    """Refuse to start a second service on one state folder, and clear away what the last left."""
    try:
        lock = lock_state(settings.state)  # until this process ends
    except BlockingIOError:
        raise CommandFailed(
            f"another axon serve uses {settings.state}; stop it, or name another state folder: "
            "AXON_STATE=FOLDER axon serve"
        ) from None
    if lock is not None and (ended := end_last_run(settings.state)):
        console.out.print(
            f"axon: ended what an earlier run had left: {', '.join(ended)}", soft_wrap=True
        )
    sweep_old_runs()


def require_free_port(host: str, port: int) -> None:
    """Refuse to start on a port that is taken; name the process that has it, if it is known."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            raise CommandFailed(
                f"port {port} of {host} is taken{_by(port)}; "
                f"end that process, or choose another port: axon serve --port {port + 1}"
            ) from None


def _by(port: int) -> str:
    """Name the process that listens on a port; the system tells only of those of this user."""
    try:
        for one in psutil.net_connections("inet"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f" by {psutil.Process(one.pid).name()} (process {one.pid})"
    except psutil.Error:
        pass
    return " by a process of another user"
