"""This machine: Ray's environment, memory, ports, the front proxy and the lock of the state."""

from deployments.host.drain import drain_proxy
from deployments.host.environment import is_loopback, prepare_environment
from deployments.host.memory import available_bytes
from deployments.host.state_lock import lock_state

__all__ = ["available_bytes", "drain_proxy", "is_loopback", "lock_state", "prepare_environment"]
