"""The management application without a network, over a real store of toy models, with keys of several tenants."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any

import httpx

from deployments.config.settings import Settings
from deployments.management.app import ManageApp
from deployments.management.detectors import Detectors
from deployments.web.api_keys import Scope, create_key
from ensemble.store.names import Tenant
from ensemble.store.signing import Signer
from tests.deployments.conftest import FakeMethod, RecordingMeter, values_of

__all__ = ["PREFIX", "Handle", "Managed", "trust_the_key"]

PREFIX = "/models"  # under which Serve puts the application


def trust_the_key(trust: Path, key: Path, signer: Signer) -> None:
    """Put the key of the tests on the trust list, and where this machine's key is looked for."""
    key.parent.mkdir(parents=True, exist_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(signer.to_pem())
    public = base64.b64encode(signer.public).decode()
    trust.write_text(
        trust.read_text().replace("keys: {}\n", f"keys:\n  {signer.key_id}: {public}\n")
    )


class Broadcast:
    """What `handle.broadcast` gives."""

    def __init__(self, answers: list[Awaitable[Any]]) -> None:
        self._answers = answers

    async def results_async(self, *, timeout_s: float, return_exceptions: bool) -> list[Any]:
        return await asyncio.wait_for(
            asyncio.gather(*self._answers, return_exceptions=return_exceptions), timeout_s
        )


class Handle:
    """A deployment's handle without Ray, around objects that stand for its replicas."""

    def __init__(self, *replicas: Any) -> None:
        self._replicas = replicas

    def __getattr__(self, method: str) -> FakeMethod:
        return FakeMethod(getattr(self._replicas[0], method))

    def broadcast(self, method: str, *arguments: Any) -> Broadcast:
        return Broadcast([getattr(replica, method)(*arguments) for replica in self._replicas])


class Managed:
    """The application, asked as Serve asks it: under its prefix, in one loop for its life, as in a replica.

    Args:
        settings: with keys on, or off.
        meter: where it counts.
        **parts: what it asks beside the store; detectors of two replicas unless said otherwise.
    """

    def __init__(self, settings: Settings, meter: RecordingMeter, **parts: Any) -> None:
        self.settings = settings
        values = values_of(settings)
        detectors = Handle(Detectors(values), Detectors(values))
        self.manage = ManageApp(values, **{"detectors": detectors, "meter": meter, **parts})
        self.app = self.manage.__serve_build_asgi_app__()
        self.loop = asyncio.Runner()
        self._tokens: dict[tuple[str, frozenset[Scope]], str] = {}
        # Starlette's
        self._lifespan: Any = self.app.router.lifespan_context(self.app)  # type: ignore[attr-defined]
        self._is_open = False

    def open(self) -> None:
        """As a replica does, before its first request."""
        self._is_open = True
        self.loop.run(self._lifespan.__aenter__())

    def key_of(self, tenant: str, scopes: Iterable[Scope] = Scope) -> dict[str, str]:
        """The header of a key of `tenant`.

        Made before the application is opened, for it looks once a second.
        """
        wanted = (tenant, frozenset(scopes))
        if wanted not in self._tokens:
            assert not self._is_open
            _, self._tokens[wanted] = create_key(
                self.settings.keys, Tenant(tenant), wanted[1], "", None, time.time()
            )
        return {"Authorization": f"Bearer {self._tokens[wanted]}"}

    def __call__(self, method: str, path: str, **request: Any) -> httpx.Response:
        """What it answers; `path` is the world's, e.g. `/models/jobs`."""
        return self.loop.run(self.send(method, path, **request))

    async def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The same, for those who ask at once."""
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False, root_path=PREFIX)
        async with httpx.AsyncClient(transport=transport, base_url="http://axon") as client:
            return await client.request(method, path, **request)

    def close(self) -> None:
        """As a replica that leaves."""
        if self._is_open:
            self.loop.run(self._lifespan.__aexit__(None, None, None))
        self.loop.close()
