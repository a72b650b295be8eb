"""Requests that a web page makes a browser send: refused unless the operator lists the page.

A browser is a caller too. It sends forms and plain text to any address without asking the service
first, so a page of any site could switch layers off where authentication is off. And a page can
point its own name at the loopback address (DNS rebinding), and then read what is answered.

Two headers, which a page cannot forge, stop both: `Origin` names the page behind a request that may
change something, and `Host` names the service that the browser believes to reach. With API keys the
second check is not needed, since a page does not have the key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope as AsgiScope

from deployments.config import Settings
from deployments.host import is_loopback

__all__ = ["FOREIGN_ORIGIN", "UNKNOWN_HOST", "BrowserGuard"]

FOREIGN_ORIGIN, UNKNOWN_HOST = "FOREIGN_ORIGIN", "UNKNOWN_HOST"
READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class BrowserGuard:
    """Refuses requests of pages that are not listed.

    Attributes:
        origins: pages that may send requests, e.g. `https://console.example.org`; pages of the
            service itself always may.
        hosts: names, besides those of loopback, that a request may have as its `Host`; None for
            every name.
    """

    origins: frozenset[str]
    hosts: frozenset[str] | None

    @classmethod
    def from_settings(cls, settings: Settings) -> BrowserGuard:
        """Check `Host` where authentication is off, and `Origin` always."""
        auth = settings.auth
        hosts = frozenset(name.lower() for name in auth.hosts) if auth.mode == "off" else None
        return cls(frozenset(auth.origins), hosts)

    def refusal(self, scope: AsgiScope) -> str:
        """Return the code of the refusal of a request, "" to admit it."""
        host, origin = _host_and_origin(scope["headers"])
        if self.hosts is not None:
            name = _name_of(host)
            if name not in self.hosts and not is_loopback(name):
                return UNKNOWN_HOST
        if origin is None or scope["method"] in READING or origin in self.origins:
            return ""
        return "" if host and urlsplit(origin).netloc == host else FOREIGN_ORIGIN


def _host_and_origin(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, str | None]:
    host, origin = "", None
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"origin":
            origin = value.decode("latin-1")
    return host, origin


def _name_of(host: str) -> str:
    """The name in a `Host` header, without its port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
