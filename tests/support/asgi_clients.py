"""Clients of ASGI applications without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx

from deployments.config.settings import Settings
from deployments.scoring.app import IngressApp

__all__ = [
    "LONG_DEADLINE",
    "AsgiClient",
    "Event",
    "IngressClient",
    "OpenIngress",
    "settings_values",
]

Event = dict[str, Any]
# For tests that are not about the deadline or the keys: the machine may be busy.
LONG_DEADLINE = {"ingress": {"deadline_ms": 30_000}, "auth": {"mode": "off"}}


def settings_values(settings: Settings) -> dict[str, Any]:
    """Settings as the composition root passes them to a deployment."""
    return settings.model_dump(mode="json")


class AsgiClient:
    """A client of one ASGI application. All requests run in one loop, as in a replica.

    Args:
        app: an ASGI application.
        root_path: the prefix under which Serve mounts the application.
    """

    def __init__(self, app: Any, root_path: str = "") -> None:
        self.app, self.root_path = app, root_path
        self.loop = asyncio.Runner()

    def request(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send one request and return its response."""
        return self.loop.run(self.send(method, path, **request))

    async def send(
        self, method: str, path: str, *, root_path: str | None = None, **request: Any
    ) -> httpx.Response:
        """Send one request from inside the loop."""
        prefix = self.root_path if root_path is None else root_path
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False, root_path=prefix)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, **request)

    def close(self) -> None:
        self.loop.close()


class IngressClient(AsgiClient):
    """A client of the scoring ingress, whose startup has run as in a replica."""

    def __init__(self, app: IngressApp) -> None:
        super().__init__(app.__serve_build_asgi_app__())
        self.ingress = app
        self._is_open = True
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.loop.run(_enter(self._lifespan))

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.request("GET", path, **request)

    def post(self, path: str, body: object, **request: Any) -> httpx.Response:
        """Send `body` as it is if it is bytes, otherwise as JSON."""
        content = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.request("POST", path, **content, **request)

    def post_all(self, bodies: list[Event], path: str = "/v1/score") -> list[httpx.Response]:
        """Send all bodies at the same time."""

        async def gathered() -> list[httpx.Response]:
            return await asyncio.gather(*(self.send("POST", path, json=body) for body in bodies))

        return self.loop.run(gathered())

    def close(self) -> None:
        """Shut down as a replica does. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        self.loop.run(_leave(self._lifespan))
        super().close()


OpenIngress = Callable[..., IngressClient]


async def _enter(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aenter__()


async def _leave(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aexit__(None, None, None)
