"""The management routes that name something, and requests of them for any name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from starlette.routing import Route

from tests.support.management import ManagementClient

__all__ = ["BODIES", "QUERIES", "SAME_ID", "escaped", "routes_of"]

BODIES: Mapping[str, Any] = {
    "POST /{name}/promote": {"version": 1},
    "PUT /{name}/challenger": {"version": 1},
    "POST /{name}/detect": {
        "network_data": [{"bytes_transferred": 1, "packet_count": 1, "connection_duration": 1}]
    },
}
QUERIES = {"DELETE /{name}": {"version": "1"}}
SAME_ID = {"X-Request-ID": "the-same"}


def routes_of(managed: ManagementClient) -> list[tuple[str, str]]:
    """Method and path of every route that names something in its path."""
    found = [
        (method, route.path)
        for route in managed.app.routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]
    return [(method, path) for method, path in found if "{" in path and method != "HEAD"]


def escaped(text: str) -> str:
    """As one part of a path; the dots too, or the client would walk up before it asks."""
    return quote(text, safe="").replace(".", "%2E")
