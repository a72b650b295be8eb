"""Ports of this machine that one service owns while it runs.

Ray Serve has one default for every port that a service uses inside itself: two services of a
machine then share them. The fallback proxies of both even listen on one port at once
(SO_REUSEPORT), so that the front proxy of one service reached the fallback proxy of the other one
whenever it had no ingress replica. So each service takes a block of ports of its own. Listening on
the first port of a block, unshared, is what owns the block; the operating system gives it to one
process only, and takes it back however that process ends.
"""

from __future__ import annotations

import random
import socket
from contextlib import closing

__all__ = ["PORTS_EACH", "PORTS_FROM", "PORT_BLOCKS", "own_ports"]

# Below the ports that the system gives out by itself (Linux: from 32,768).
PORTS_FROM, PORTS_EACH, PORT_BLOCKS = 20_000, 100, 127


def own_ports() -> tuple[socket.socket, range]:
    """Take a block of ports of loopback of which none is in use.

    Returns:
        owner: owns the block until it is closed.
        ports: the ports after the first one, `PORTS_EACH` - 1 of them.

    Raises:
        OSError: every block is in use.
    """
    blocks = range(PORTS_FROM, PORTS_FROM + PORTS_EACH * PORT_BLOCKS, PORTS_EACH)
    # in random order: services that start at once try others
    for first in random.SystemRandom().sample(blocks, PORT_BLOCKS):
        ports = range(first + 1, first + PORTS_EACH)
        try:
            owner = _listen(first)
        except OSError:
            continue
        # A service that was killed may have left processes that still use its ports.
        if all(map(_is_free, ports)):
            return owner, ports
        owner.close()
    last = blocks[-1] + PORTS_EACH - 1
    raise OSError(f"every block of {PORTS_EACH} ports from {PORTS_FROM} to {last} is in use")


def _listen(port: int) -> socket.socket:
    """Listen on a port of loopback without sharing it."""
    owner = socket.socket()
    try:
        owner.bind(("127.0.0.1", port))
        owner.listen(0)
    except OSError:
        owner.close()
        raise
    return owner


def _is_free(port: int) -> bool:
    try:
        with closing(_listen(port)):
            return True
    except OSError:
        return False
