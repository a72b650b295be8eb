"""A client of the management application without a network, with API keys of several tenants."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from deployments.config.settings import Settings
from deployments.management.app import ManageApp
from deployments.management.detectors import Detectors
from deployments.web.api_keys import Scope, create_key
from ensemble.store.names import Tenant
from ensemble.store.signing import Signer
from tests.support.asgi_clients import AsgiClient, settings_values
from tests.support.fake_handles import ReplicasHandle
from tests.support.recorded_telemetry import RecordingMeter

__all__ = ["PREFIX", "ManagementClient", "trust_the_key"]

PREFIX = "/models"  # where Serve mounts the application


def trust_the_key(trust: Path, key: Path, signer: Signer) -> None:
    """Add the key of the tests to the trust list, and write it as this machine's signing key."""
    key.parent.mkdir(parents=True, exist_ok=True)
    key.touch(mode=0o600)
    key.write_bytes(signer.to_pem())
    public = base64.b64encode(signer.public).decode()
    trust.write_text(
        trust.read_text().replace("keys: {}\n", f"keys:\n  {signer.key_id}: {public}\n")
    )


class ManagementClient(AsgiClient):
    """A client of the management application under its prefix.

    Args:
        settings: with keys on, or off.
        meter: records the metrics.
        **parts: arguments of the application; by default detectors of two replicas.
    """

    def __init__(self, settings: Settings, meter: RecordingMeter, **parts: Any) -> None:
        self.settings = settings
        values = settings_values(settings)
        detectors = ReplicasHandle(Detectors(values), Detectors(values))
        self.manage = ManageApp(values, **{"detectors": detectors, "meter": meter, **parts})
        super().__init__(self.manage.__serve_build_asgi_app__(), PREFIX)
        self._tokens: dict[tuple[str, frozenset[Scope]], str] = {}
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._is_open = False

    def open(self) -> None:
        """Run the startup of the application, as a replica does before its first request."""
        self._is_open = True
        self.loop.run(self._lifespan.__aenter__())

    def key_of(self, tenant: str, scopes: Iterable[Scope] = Scope) -> dict[str, str]:
        """Return the header with an API key of `tenant`.

        Create new keys before `open`: the application reads the key file once a second.
        """
        wanted = (tenant, frozenset(scopes))
        if wanted not in self._tokens:
            assert not self._is_open
            _, self._tokens[wanted] = create_key(
                self.settings.keys, Tenant(tenant), wanted[1], "", None, time.time()
            )
        return {"Authorization": f"Bearer {self._tokens[wanted]}"}

    def finished_job(self, path: str) -> dict[str, Any]:
        """Wait until a job of acme has ended, and return it.

        The loop of the application runs only during a request.
        """

        async def poll() -> dict[str, Any]:
            async with asyncio.timeout(60):
                while True:
                    job = (await self.send("GET", path, headers=self.key_of("acme"))).json()
                    if job["ended_at"]:
                        return dict(job)
                    await asyncio.sleep(0)

        return self.loop.run(poll())

    def close(self) -> None:
        """Shut down as a replica does."""
        if self._is_open:
            self.loop.run(self._lifespan.__aexit__(None, None, None))
        super().close()
