"""This machine: Ray's environment, memory, ports and the proxy."""
