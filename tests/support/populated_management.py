"""The management application of a tenant with a detector, two releases and a finished job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deployments.config.settings import read_settings
from deployments.management.training_actor import FitWork
from deployments.web.api_keys import Scope
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ReleaseRef, Tenant
from ensemble.store.releases.aliases import set_challenger
from ensemble.store.releases.release import promote
from ensemble.store.signing import Signer
from ensemble.training.data.tabular_rows import Step
from ensemble.training.publish import Trained, make_champion, publish_detector
from ensemble.training.recipes.tabular import fit_steps, fit_tabular
from tests.support.management import ManagementClient, ReplicasHandle
from tests.support.publishing import NOW
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.training_rows import rows

__all__ = ["ACME", "MODEL", "PopulatedService", "populate"]

ACME = Tenant("acme")
MODEL = "flows-of-acme"
VERSIONS = 3  # the first is the champion


@dataclass(frozen=True)
class PopulatedService:
    """A management application in which tenant acme has one of everything.

    Attributes:
        client: sends requests to the application. Acme has a key of all scopes, and one without
            each; banks has a key of all scopes, and nothing else.
        store: the store of all tenants.
        job: id of a finished job.
        archive: an exported version.
    """

    client: ManagementClient
    store: Store
    job: str
    archive: bytes

    def request(
        self,
        method: str,
        path: str,
        *,
        tenant: str = "acme",
        without: Scope | None = None,
        **request: Any,
    ) -> httpx.Response:
        """Send a request with a key of all scopes, or of all but one."""
        key = self.client.key_of(tenant, [scope for scope in Scope if scope is not without])
        return self.client.request(
            method, path, headers=request.pop("headers", {}) | key, **request
        )


async def _fit_here(work: FitWork) -> AsyncGenerator[Step | Trained, None]:
    for step in fit_steps(work.table, name=work.name, seed=work.seed, metadata=work.metadata):
        yield step
        await asyncio.sleep(0)


def populate(
    root: Path,
    store: Store,
    release_of: Callable[..., ReleaseRef],
    publish: Callable[..., BundleRef],
    signer: Signer,
    meter: RecordingMeter,
    *,
    auth: Mapping[str, Any] = {},
) -> PopulatedService:
    """Populate the store and open the application; the caller closes its `client`."""
    trained = fit_tabular(rows(), name=MODEL)
    versions = [
        publish_detector(store, ACME, trained, now=NOW, signer=signer) for _ in range(VERSIONS)
    ]
    make_champion(store, versions[0], signer=signer)
    releases = [release_of(store, publish(store, value)) for value in (1.0, 2.0)]
    for serial, release in enumerate(releases):
        promote(store, ACME, release, serial, signer=signer)
    set_challenger(store, ACME, releases[0], 0, signer=signer)
    settings = read_settings({"store": {"shipped": str(root / "artifacts")}, "auth": dict(auth)})
    layers = {"anomaly": ReplicasHandle()}
    client = ManagementClient(settings, meter, run=_fit_here, layer_handle=layers.__getitem__)
    for tenant in ("acme", "banks"):
        client.key_of(tenant)
    for scope in Scope:
        client.key_of("acme", [other for other in Scope if other is not scope])
    client.open()
    key = client.key_of("acme")
    accepted = client.request(
        "POST", "/models/train", headers=key, json={"network_data": rows(), "name": "other"}
    )
    archive = client.request("GET", f"/models/{MODEL}/versions/1/export", headers=key).content
    return PopulatedService(
        client, store, client.finished_job(accepted.headers["location"])["id"], archive
    )
