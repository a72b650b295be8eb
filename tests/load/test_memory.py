"""Memory over time: neither events nor reloads make a process grow (P26).

`make verify` scores a million events and reloads a thousand times; the short form a hundredth.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from deployments.config.settings import ROOT
from deployments.config.trust import read_trust_file
from deployments.observability.metrics import Meter
from ensemble.store.layout import Store
from ensemble.store.signing import Signer, Trust
from tests.load.flows import made_up_flows
from tests.support.asgi_clients import LONG_DEADLINE, OpenIngress
from tests.support.faulty_models import FaultyModels
from tests.support.model_faults import MODEL_FAULTS, MODELS
from tests.support.raw_asgi import send_raw
from tests.support.resident_memory import MIB, resident_bytes
from tests.support.running_service import IS_LONG
from tests.support.service_fixtures import *  # noqa: F403  # all fixtures of a service
from tests.support.tenant_layers import TenantLayers

EVENTS, RELOADS = (1_000_000, 1_000) if IS_LONG else (10_000, 12)
IN_A_BATCH = 1_000
WARM = 10  # a tenth of the events or reloads comes before the first measurement
GROWTH = 1.05
HARMLESS = MODEL_FAULTS["F6 other libraries"]  # a new version with equal answers
TENANT = "acme"


class Unrecorded:
    """A meter that keeps nothing; the recording one would grow with each event."""

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None: ...
    def level(self, name: str, value: float, /, **labels: str) -> None: ...
    def observe(self, name: str, value: float, /, **labels: str) -> None: ...
    def refresh(self) -> None: ...


@pytest.fixture
def meter() -> Meter:
    return Unrecorded()


def batch(number: int, flows: list[list[float]]) -> bytes:
    """Make a batch of flows and processes; each has an id, a host and a user of its own."""
    events = []
    for place, features in enumerate(flows):
        name = f"{number}-{place}"
        event = {"id": name, "host": f"host-{name}"}
        if place % 2:
            event |= {"kind": "flow", "features": features}
        else:
            event |= {"kind": "process", "name": f"tool-{place}", "user": f"user-{name}"}
        events.append(event)
    return json.dumps({"events": events}).encode()


def test_scoring_does_not_make_a_process_grow(open_client: OpenIngress) -> None:
    """Every event is of a host and a user that no event before had."""
    client = open_client(overrides=LONG_DEADLINE)
    headers = [("Host", "localhost"), ("Content-Type", "application/json")]
    flows = made_up_flows(IN_A_BATCH, seed=5).astype(np.float32).tolist()
    before, count = 0, EVENTS // IN_A_BATCH

    for number in range(count):
        if number == count // WARM:
            before = resident_bytes()
        body = [batch(number, flows)]
        sent = send_raw(client.app, "POST", "/v1/score/batch", headers, body)
        assert client.loop.run(sent).status == 200

    after = resident_bytes()
    print(f"\n{EVENTS:,} events: {before / MIB:.0f} to {after / MIB:.0f} MiB")
    assert after < GROWTH * before


def test_reloads_do_not_make_a_process_grow(
    tmp_path: Path, signer: Signer, untrusted_signer: Signer, no_fsync: None
) -> None:
    """Each promotes a new version of a model, which its layer loads."""
    del no_fsync
    store = Store(tmp_path / "state", None, Trust({signer.key_id: signer.public}, frozenset()))
    pins = read_trust_file(ROOT / "configs" / "trust.yaml").trust()
    models = FaultyModels(
        store, Store(tmp_path, ROOT / "artifacts", pins), signer, untrusted_signer
    )
    models.promote_good(TENANT)
    layers = TenantLayers(store, TENANT)
    layers.refresh()
    before = 0

    for number in range(RELOADS):
        if number == RELOADS // WARM:
            before = resident_bytes()
        model = list(MODELS)[number % len(MODELS)]
        models.promote_with(TENANT, model, HARMLESS)
        layers.refresh()
        remove_older_versions(store, model)

    after, loads = resident_bytes(), [one for one in layers.events if one.what == "loaded"]
    print(f"\n{RELOADS:,} reloads: {before / MIB:.0f} to {after / MIB:.0f} MiB")
    assert len(loads) >= RELOADS
    assert {one.what for one in layers.events} == {"attempting_load", "loaded"}
    assert after < GROWTH * before


def remove_older_versions(store: Store, model: str) -> None:
    """Keep the disk small: the versions of a model before the newest are not needed any more."""
    folder = store.state / "tenants" / TENANT / "bundles" / model
    for version in sorted(folder.iterdir(), key=lambda one: int(one.name))[:-1]:
        shutil.rmtree(version)
