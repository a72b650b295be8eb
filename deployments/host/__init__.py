"""This machine: Ray's environment, memory, ports, the front proxy, the state and one run of it."""

from deployments.host.drain import drain_proxy
from deployments.host.environment import is_loopback, prepare_environment
from deployments.host.memory import available_bytes
from deployments.host.run_folder import (
    RAY,
    end_last_run,
    logs_of,
    make_run_folder,
    sweep_old_runs,
)
from deployments.host.run_processes import is_alive, kill_processes, ray_head
from deployments.host.state_lock import lock_state

__all__ = [
    "RAY",
    "available_bytes",
    "drain_proxy",
    "end_last_run",
    "is_alive",
    "is_loopback",
    "kill_processes",
    "lock_state",
    "logs_of",
    "make_run_folder",
    "prepare_environment",
    "ray_head",
    "sweep_old_runs",
]
