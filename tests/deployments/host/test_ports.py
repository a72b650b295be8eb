"""Blocks of ports: what one service uses inside itself, no other service of the machine uses."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from deployments.host import ports
from deployments.host.ports import PORTS_EACH, PORTS_FROM, own_ports

FIRST_EPHEMERAL = 32_768  # Linux assigns ports from here on
HIGHEST = PORTS_FROM + PORTS_EACH * ports.PORT_BLOCKS - 1


@pytest.fixture
def one_block(monkeypatch: pytest.MonkeyPatch) -> int:
    """The first port of the only block there is."""
    owner, block = own_ports()
    owner.close()
    monkeypatch.setattr(ports, "PORTS_FROM", block[0] - 1)
    monkeypatch.setattr(ports, "PORT_BLOCKS", 1)
    return block[0] - 1


def test_two_services_share_no_port() -> None:
    first, ports_of_first = own_ports()
    second, ports_of_second = own_ports()
    with first, second:
        assert not set(ports_of_first) & set(ports_of_second)


def test_a_block_is_below_the_ports_that_the_system_assigns() -> None:
    owner, block = own_ports()
    with owner:
        assert PORTS_FROM < block[0] < block[-1] <= HIGHEST < FIRST_EPHEMERAL


def test_a_block_is_owned_until_its_owner_ends(one_block: int) -> None:
    owner, block = own_ports()
    with owner:
        assert owner.getsockname() == ("127.0.0.1", one_block)
        with pytest.raises(OSError, match="every block of 100 ports"):
            own_ports()

    again, same = own_ports()
    again.close()
    assert same == block


def test_a_block_in_which_a_process_listens_is_not_taken(one_block: int) -> None:
    """A service that was killed may leave its front proxy or its replicas behind."""
    leftover = socket.create_server(("127.0.0.1", one_block + 42))
    with closing(leftover), pytest.raises(OSError, match="every block of 100 ports"):
        own_ports()

    own_ports()[0].close()
