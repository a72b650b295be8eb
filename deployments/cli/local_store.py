"""What nearly every verb needs.

The store of this machine, the clock, and a stranger's text made safe. It imports nothing that is
slow.
"""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime

from rich.markup import escape

from deployments.config.settings import Settings, read_settings
from deployments.config.trust import read_trust
from ensemble.store import Actor, Store

__all__ = ["now", "operator", "own_store", "plain"]


def own_store(settings: Settings | None = None) -> Store:
    """The store of this machine: what a running Axon writes, then what was shipped.

    Raises:
        pydantic.ValidationError: the trust list is wrong.
    """
    known = settings or read_settings()
    return Store(known.state, known.shipped, read_trust(known), operator())


def operator() -> Actor:
    """Who acts at this terminal, for the audit log."""
    return Actor(_user(), "terminal")


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def _user() -> str:
    """Who the system says we are; what the environment says of it, anybody can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number that has no name
        return f"uid {os.getuid()}"


def plain(text: str) -> str:
    """Text of a stranger, safe for a terminal: no markup, no escape codes."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))
