"""Champion and challenger on real models.

The challenger is set by an alias, loaded, measured on live events, and promoted by one call.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from deployments.cli.local_store import own_store
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.store.releases.aliases import (
    clear_challenger,
    get_challenger,
    promote_challenger,
    read_challenger,
    set_challenger,
)
from ensemble.store.releases.pointer import read_pointer
from ensemble.store.releases.release import publish_release
from ensemble.store.releases.release_file import read_release
from ensemble.store.signing import Signer
from tests.support.asgi_clients import Event, IngressClient
from tests.support.models_on_disk import ModelsOnDisk
from tests.support.publishing import NOW

DEFAULT = Tenant("default")


@pytest.fixture
def jumpy(models_on_disk: ModelsOnDisk, signer: Signer) -> ReleaseRef:
    """A release of the same models whose thresholds rate nearly everything malicious.

    No pointer names it.
    """
    del models_on_disk  # asked for by its effect
    store = own_store()
    current = read_release(store, DEFAULT, read_pointer(store, DEFAULT))
    fusion = Fusion.from_config(current.fusion["flow"])
    low = {
        layers: replace(one, suspicious=1e-6, malicious=1e-5, critical=0.9)
        for layers, one in fusion.thresholds.items()
    }
    flows = {str(Kind.FLOW): replace(fusion, thresholds=low).to_config()}
    return publish_release(
        store,
        DEFAULT,
        current.bundles.values(),
        {**current.fusion, **flows},
        notes="",
        now=NOW,
        signer=signer,
    )


def challenger_of(client: IngressClient) -> dict[str, object] | None:
    return client.get("/v1/status").json()["challenger"]  # type: ignore[no-any-return]


def score_all(client: IngressClient, events: list[Event]) -> list[str]:
    """The verdicts of `events`, after their shadow evaluation has ended."""
    words = [client.post("/v1/score", event).json()["verdict"] for event in events]
    pipeline = client.ingress._pipelines.default

    async def settled() -> None:
        await asyncio.gather(*pipeline.evaluation.running)

    client.loop.run(settled())
    return words


def test_a_challenger_is_measured_on_live_events_and_changes_no_verdict(
    models_on_disk: ModelsOnDisk, jumpy: ReleaseRef, signer: Signer, flow_events: list[Event]
) -> None:
    """Section 7: its agreement, and its verdict flips by pair of labels."""
    client = models_on_disk.start()
    before = score_all(client, flow_events)
    assert challenger_of(client) is None

    set_challenger(own_store(), DEFAULT, jumpy, 0, signer=signer)
    models_on_disk.poll()
    during = [word for _ in range(10) for word in score_all(client, flow_events)]

    said = challenger_of(client)
    assert said is not None
    assert (said["challenger"], said["champion"]) == (f"default/{jumpy.serial}", "default/4")
    assert said["events"] == pytest.approx(0.1 * len(during), abs=2)
    # a mapping in JSON
    assert said["flips"].keys() <= {"benign>malicious", "suspicious>malicious"}  # type: ignore[attr-defined]
    assert sum(said["flips"].values()) + said["agree"] == said["events"]  # type: ignore[attr-defined]
    assert during == before * 10


def test_promotion_of_the_challenger_is_one_call(
    models_on_disk: ModelsOnDisk, jumpy: ReleaseRef, signer: Signer, flow_events: list[Event]
) -> None:
    client = models_on_disk.start()
    store = own_store()
    set_challenger(store, DEFAULT, jumpy, 0, signer=signer)
    models_on_disk.poll()

    promote_challenger(
        store,
        DEFAULT,
        get_challenger(store, DEFAULT),
        read_pointer(store, DEFAULT).serial,
        signer=signer,
        at_once=True,
    )
    models_on_disk.poll()

    assert client.get("/v1/status").json()["release"] == f"default/{jumpy.serial}"
    assert challenger_of(client) is None
    assert set(score_all(client, flow_events)) == {"malicious"}
    assert read_challenger(store, DEFAULT) is None


def test_a_cleared_challenger_scores_no_longer(
    models_on_disk: ModelsOnDisk, jumpy: ReleaseRef, signer: Signer
) -> None:
    client = models_on_disk.start()
    store = own_store()
    set_challenger(store, DEFAULT, jumpy, 0, signer=signer)
    models_on_disk.poll()
    assert challenger_of(client) is not None

    clear_challenger(store, DEFAULT, get_challenger(store, DEFAULT).serial, signer=signer)
    models_on_disk.poll()

    assert challenger_of(client) is None


def test_a_challenger_never_serves_even_without_a_champion(
    models_on_disk: ModelsOnDisk, jumpy: ReleaseRef, signer: Signer, flow_events: list[Event]
) -> None:
    """A challenger is no fallback."""
    set_challenger(own_store(), DEFAULT, jumpy, 0, signer=signer)
    for torn in models_on_disk.files("behavior-flow/*/model.safetensors"):
        torn.chmod(0o644)
        torn.write_bytes(b"")
    client = models_on_disk.start()
    models_on_disk.poll()

    answer = client.post("/v1/score", flow_events[0]).json()

    assert client.get("/v1/status").json()["release"] == "default/4"
    assert {layer["layer"]: layer["status"] for layer in answer["layers"]}["behavior"] == "fallback"
