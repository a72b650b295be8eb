"""This machine: Ray's environment, memory, ports and the front proxy."""

from deployments.host.drain import drain_proxy
from deployments.host.environment import is_loopback, prepare_environment
from deployments.host.memory import available_bytes

__all__ = ["available_bytes", "drain_proxy", "is_loopback", "prepare_environment"]
