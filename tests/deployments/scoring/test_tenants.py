"""Many tenants in one service.

Each is served by its own models or by its parents', and the problem of one does not affect another.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deployments.config.settings import read_settings
from deployments.config.tenants import Tenants
from deployments.layers.deployment import LayerDeployment
from deployments.web.api_keys import Scope, create_key
from ensemble.events import Kind
from ensemble.store.names import Tenant
from ensemble.store.signing import Signer
from ensemble.verdicts import LayerStatus
from tests.support.asgi_clients import Event, IngressClient
from tests.support.models_on_disk import ModelsOnDisk
from tests.support.own_models import publish_own_anomaly, trust_signer
from tests.support.recorded_telemetry import RecordingMeter

ACME = Tenant("acme")
NOW = datetime(2026, 11, 25, 8, 15, tzinfo=UTC)
Publish = Callable[..., str]


@pytest.fixture
def world(
    tmp_path: Path,
    meter: RecordingMeter,
    own_trust: Path,
    signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[ModelsOnDisk]:
    """The shipped models; the key of the tests may publish too."""
    trust_signer(own_trust, signer)
    monkeypatch.setattr("deployments.scoring.tenants.SERVING_CACHED_S", 0.0)
    made = ModelsOnDisk(tmp_path / "shipped", meter)
    yield made
    made.close()


@pytest.fixture
def own_models(world: ModelsOnDisk, signer: Signer) -> Publish:
    """`own_models("acme")` publishes a first release of acme and returns its name.

    It has the generic anomaly model as a version of acme's own.
    """
    del world  # needed for its effect

    return lambda tenant: publish_own_anomaly(tenant, signer, NOW)


def started(world: ModelsOnDisk, **overrides: Any) -> IngressClient:
    """An application that requires keys."""
    return world.start({"ingress": {"deadline_ms": 30_000}, **overrides})


def ask(client: IngressClient, tenant: str, event: Event) -> dict[str, Any]:
    """The response to a request with a new key of `tenant`."""
    _, token = create_key(
        read_settings().keys, Tenant(tenant), [Scope.SCORE], "", None, NOW.timestamp()
    )
    ring = client.ingress._authenticator._keys
    assert ring is not None
    ring.reload()
    answer = client.post("/v1/score", event, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


def verdict_of(answer: dict[str, Any]) -> str:
    return re.sub(r'"(elapsed_ms|scored_at|version|status)": [^,}]*', "", json.dumps(answer))


def versions(answer: dict[str, Any]) -> dict[str, str]:
    return {layer["layer"]: layer["version"] for layer in answer["layers"]}


def settle(world: ModelsOnDisk, client: IngressClient, *tenants: str) -> None:
    """Wait until every tenant's pointer was followed, and every layer was polled."""
    for _ in range(4):
        for tenant in tenants:
            pipeline = client.loop.run(client.ingress._pipelines.for_tenant(tenant))
            client.loop.run(client.ingress._pipelines.watchers[Tenant(pipeline.tenant)].poll())
        world.poll()


def release_serving(client: IngressClient, tenant: str) -> str:
    return client.loop.run(client.ingress._pipelines.for_tenant(tenant)).release.name


def test_a_tenant_without_models_shares_the_generic_pipeline(
    world: ModelsOnDisk, flow_events: list[Event]
) -> None:
    client = started(world)

    assert verdict_of(ask(client, "acme", flow_events[0])) == verdict_of(
        ask(client, "default", flow_events[0])
    )
    assert (
        client.loop.run(client.ingress._pipelines.for_tenant("acme"))
        is client.ingress._pipelines.default
    )


def test_a_tenants_first_release_inherits_models_and_serves_that_tenant_alone(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event]
) -> None:
    """The other models are inherited, so acme's release is complete from its first model on."""
    client = started(world)
    before = ask(client, "default", flow_events[0])

    name = own_models("acme")
    settle(world, client, "acme")
    own, generic = ask(client, "acme", flow_events[0]), ask(client, "default", flow_events[0])

    assert release_serving(client, "acme") == name
    assert release_serving(client, "default") == release_serving(client, "globex") != name
    assert verdict_of(generic) == verdict_of(before)
    assert own["coverage"] == 1.0
    assert {layer["status"] for layer in own["layers"]} == {"live"}


def test_until_its_models_are_loaded_a_tenant_is_served_by_its_parents(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event]
) -> None:
    own_models("acme")
    client = started(world)

    first = ask(client, "acme", flow_events[0])  # no layer has looked for acme's models yet

    assert first["coverage"] == 1.0
    assert {layer["status"] for layer in first["layers"]} == {"last_good"}
    settle(world, client, "acme")
    assert {layer["status"] for layer in ask(client, "acme", flow_events[0])["layers"]} == {"live"}


def test_a_tenant_is_served_by_its_groups_models(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event], tmp_path: Path
) -> None:
    (tmp_path / "tenants.yaml").write_text("tenants:\n  acme: {group: retail}\n")
    name = own_models("retail")
    client = started(world, store={"tenants": str(tmp_path / "tenants.yaml")})
    settle(world, client, "acme", "globex")

    ask(client, "acme", flow_events[0])

    assert release_serving(client, "acme") == name
    assert release_serving(client, "globex").startswith("default/")


def test_a_model_that_several_tenants_use_is_in_memory_once(
    world: ModelsOnDisk, own_models: Publish
) -> None:
    own_models("acme")
    client = started(world)
    settle(world, client, "acme")

    behavior = world._layers["behavior"]
    held = {
        tenant: behavior.slots.of(tenant).slot.loaded[0].models[Kind.FLOW]
        for tenant in ("default", "acme")
    }

    assert held["acme"].model is held["default"].model
    assert held["acme"].status is LayerStatus.LIVE


@pytest.mark.parametrize("file", ["CURRENT", "releases", "bundles"])
def test_a_broken_release_of_a_tenant_affects_no_other_tenant(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event], own_state: Path, file: str
) -> None:
    """N-05: tenant, group and generic, one after the other."""
    own_models("acme")
    for torn in sorted((own_state / "tenants" / "acme").rglob("*")):
        if torn.is_file() and file in str(torn.relative_to(own_state)):
            torn.chmod(0o644)
            torn.write_bytes(torn.read_bytes()[:-9])
    client = started(world)
    settle(world, client, "acme")

    own, generic = ask(client, "acme", flow_events[0]), ask(client, "default", flow_events[0])

    assert own["coverage"] == generic["coverage"] == 1.0
    assert own["score"] == generic["score"]
    assert {layer["status"] for layer in own["layers"]} == {"last_good"}
    assert {layer["status"] for layer in generic["layers"]} == {"live"}
    assert client.ingress._pipelines.watchers[ACME].state.problem is not None or file == "bundles"


def test_the_least_recently_used_tenant_is_closed_and_opened_again(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event]
) -> None:
    """Section 6: the number of open pipelines is limited, and the least recently used is closed."""
    for tenant in ("acme", "globex", "initech"):
        own_models(tenant)
    client = started(world, store={"tenants_at_once": 3})

    settle(world, client, "acme", "globex")
    settle(world, client, "initech")

    assert set(client.ingress._pipelines._pipelines) == {"default", "globex", "initech"}
    assert {kept.tenant for kept in world._layers["anomaly"].slots} == {
        "default",
        "globex",
        "initech",
    }
    assert versions(ask(client, "acme", flow_events[0]))["anomaly"] == "2"
    settle(world, client, "acme")
    assert release_serving(client, "acme") == "acme/1"


def test_a_pipeline_that_is_evicted_while_it_opens_still_serves_its_request(
    world: ModelsOnDisk, own_models: Publish
) -> None:
    """Tenants that open pipelines at the same time evict each other; neither gets an error."""
    for tenant in ("acme", "globex", "initech"):
        own_models(tenant)
    client = started(world, store={"tenants_at_once": 2})
    pipelines = client.ingress._pipelines

    async def open_all(*tenants: str) -> list[str]:
        opened = await asyncio.gather(*(pipelines.for_tenant(tenant) for tenant in tenants))
        return [pipeline.tenant for pipeline in opened]

    for tenant in ("acme", "globex", "initech"):  # their serving tenants are cached from here on
        client.loop.run(open_all(tenant))

    assert client.loop.run(open_all("acme", "globex")) == ["acme", "globex"]


def test_the_tenants_file_is_read_in_a_thread(
    world: ModelsOnDisk, own_models: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a pipeline opens: a slow disk must not block the event loop."""
    own_models("acme")
    client = started(world)
    reads: list[int] = []
    lineage = Tenants.lineage

    def recorded(self: Tenants, tenant: Tenant) -> tuple[Tenant, ...]:
        reads.append(threading.get_ident())
        return lineage(self, tenant)

    monkeypatch.setattr(Tenants, "lineage", recorded)

    async def opened() -> tuple[str, int]:
        pipeline = await client.ingress._pipelines.for_tenant("acme")
        return pipeline.tenant, threading.get_ident()

    tenant, event_loop = client.loop.run(opened())

    assert tenant == "acme"
    assert reads
    assert event_loop not in reads


def test_one_tenants_hanging_disk_delays_no_other(
    world: ModelsOnDisk, own_models: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_models("acme")
    client = started(world)
    hangs, goes_on = threading.Event(), threading.Event()
    serving_tenant = Tenants.serving_tenant

    def hanging(self: Tenants, tenant: Tenant) -> Tenant:
        if tenant == "acme":
            hangs.set()
            goes_on.wait(20)
        return serving_tenant(self, tenant)

    monkeypatch.setattr(Tenants, "serving_tenant", hanging)
    monkeypatch.setattr("deployments.scoring.tenants.RESOLVE_WITHIN_S", 0.05)

    async def asked() -> list[str]:
        pipelines = client.ingress._pipelines
        slow = asyncio.create_task(pipelines.for_tenant("acme"))
        await asyncio.to_thread(hangs.wait, 20)
        return [
            (await pipelines.for_tenant("globex")).tenant,
            (await pipelines.for_tenant("default")).tenant,
            (await slow).tenant,
        ]

    try:
        assert client.loop.run(asked()) == ["default", "default", "default"]
    finally:
        goes_on.set()


def test_an_event_is_rescored_by_its_tenants_models(
    world: ModelsOnDisk, own_models: Publish, flow_events: list[Event]
) -> None:
    """P10: all tenants share the spool, and each event returns to its own tenant."""
    own_models("acme")
    client = started(world)
    settle(world, client, "acme")
    seen: list[str] = []
    for tenant in ("acme", "default"):
        view = client.loop.run(client.ingress._pipelines.for_tenant(tenant))
        score = view.score

        async def spied(
            batch: Any, deadline: Any, *, _whose: str = tenant, _score: Any = score, **how: Any
        ) -> Any:
            seen.append(_whose)
            return await _score(batch, deadline, **how)

        view.score = spied  # type: ignore[method-assign]
    client.ingress._switches._apply(client.ingress._switches.controls.with_disabled("behavior"))
    for tenant in ("acme", "default"):
        ask(client, tenant, flow_events[0])
    client.ingress._switches._apply(client.ingress._switches.controls.with_enabled("behavior"))
    seen.clear()

    client.loop.run(client.ingress._spool.flush())
    while client.loop.run(client.ingress._rescorer.rescore()):
        pass

    assert sorted(seen) == ["acme", "default"]


def test_loading_a_tenant_reports_its_state(
    world: ModelsOnDisk, own_models: Publish, own_state: Path
) -> None:
    """S4-13, C-26: a load activates the models in the serving replicas, and reports the result."""
    started(world)
    layer: LayerDeployment = world._layers["anomaly"]
    own_models("acme")

    state = asyncio.run(layer.load("acme"))

    assert state.release == "acme/1"
    assert state.kinds[Kind.FLOW].status is LayerStatus.LIVE
    (own_state / "tenants" / "acme" / "CURRENT").write_bytes(b"torn")
    state = asyncio.run(layer.load("acme"))
    assert state.kinds[Kind.FLOW].status is LayerStatus.LIVE  # what is in memory goes on
    problem = state.kinds[Kind.FLOW].problem
    assert problem is not None
    assert problem.code == "ARTIFACT_CORRUPT"
