"""This machine: Ray's environment, memory, ports, the front proxy, and tasks of the event loop."""

from deployments.host.drain import drain_proxy
from deployments.host.environment import is_loopback, prepare_environment
from deployments.host.memory import available_bytes
from deployments.host.poller import Poller

__all__ = ["Poller", "available_bytes", "drain_proxy", "is_loopback", "prepare_environment"]
