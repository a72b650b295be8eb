"""The management routes with a name in their path, and bodies and queries for them."""

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


def routes_of(client: ManagementClient) -> list[tuple[str, str]]:
    """List method and path of every route with a name in its path."""
    found = [
        (method, route.path)
        for route in client.app.routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
    ]
    return [(method, path) for method, path in found if "{" in path and method != "HEAD"]


def escaped(text: str) -> str:
    """Escape one part of a path; its dots too, or the client would resolve `..` itself."""
    return quote(text, safe="").replace(".", "%2E")
