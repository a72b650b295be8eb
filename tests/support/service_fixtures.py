"""Fixtures of a service in this process: its own state and trust, real slots, and its clients.

tests/deployments and tests/attacks import them into their conftest modules.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.config.settings import ROOT, read_settings
from deployments.config.trust import read_trust_file
from deployments.scoring.app import IngressApp
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.loader import ReleaseLoader
from ensemble.store.layout import Store
from ensemble.training.data.flow_table import FlowTable
from tests.support.asgi_clients import (
    LONG_DEADLINE,
    Event,
    IngressClient,
    OpenIngress,
    settings_values,
)
from tests.support.fake_classifier import FakeClassifier, FakeReleases, classifier_slot
from tests.support.fake_handles import FakeHandle, FakeMethod
from tests.support.recorded_telemetry import RecordingMeter
from tests.support.slots import broken_slot, resolver_of

__all__ = [
    "classifier",
    "client",
    "flow_events",
    "flows",
    "meter",
    "open_classifier",
    "open_client",
    "own_state",
    "own_trust",
    "process_events",
    "shipped",
    "slots",
]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set AXON_STATE to a folder of this test, so that no test reads or writes var/ or its keys."""
    state = tmp_path / "state"
    monkeypatch.setenv("AXON_STATE", str(state))
    monkeypatch.delenv("AXON_KEYS", raising=False)
    return state


@pytest.fixture(autouse=True)
def own_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set AXON_TRUST to a copy of the shipped list without its keys.

    AXON_SIGNING_KEY names a file that does not exist.
    """
    copy = tmp_path / "trust.yaml"
    shipped = (ROOT / "configs" / "trust.yaml").read_text()
    copy.write_text(re.sub(r"(?m)^keys:.*\n(?:[ \t]+\S.*\n)*", "keys: {}\n", shipped))
    monkeypatch.setenv("AXON_TRUST", str(copy))
    monkeypatch.setenv("AXON_SIGNING_KEY", str(tmp_path / "home" / "signing.key"))
    return copy


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shipped models with the shipped trust list, and an empty state folder."""
    return Store(
        tmp_path_factory.mktemp("no-state"),
        ROOT / "artifacts",
        read_trust_file(ROOT / "configs" / "trust.yaml").trust(),
    )


@pytest.fixture(scope="session")
def slots(shipped: Store) -> Mapping[str, LayerSlot]:
    """One slot for each layer, with the shipped models loaded."""
    made = {}
    for layer, plan in LAYERS.items():
        loader = ReleaseLoader(resolver_of(shipped), layer, ModelBuilder("cpu", 30, 730))
        made[layer] = LayerSlot(layer, [*plan.kinds], loader, fallback_score=plan.fallback_score)
        made[layer].refresh()
    return made


@pytest.fixture
def meter() -> RecordingMeter:
    """The meter that the applications of this test record with."""
    return RecordingMeter()


@pytest.fixture
def open_client(
    slots: Mapping[str, LayerSlot], own_state: Path, meter: RecordingMeter
) -> Iterator[OpenIngress]:
    """`open_client(down={"behavior"}, overrides={...})`: a client of an ingress over real slots.

    The slots of the layers in `down` have no models.
    """
    del own_state  # requested for its effect
    opened: list[IngressClient] = []

    def make(
        *,
        down: set[str] = frozenset(),
        overrides: Mapping[str, Any] = LONG_DEADLINE,
        handles: Mapping[str, Any] = {},
    ) -> IngressClient:  # type: ignore[assignment]  # the default is only read
        fakes = {
            layer: FakeHandle(broken_slot(layer) if layer in down else slot)
            for layer, slot in slots.items()
        }
        client = IngressClient(
            IngressApp(settings_values(read_settings(overrides)), fakes | dict(handles), meter)
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client: OpenIngress) -> IngressClient:
    """A client of the ingress with every layer live."""
    return open_client()


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def open_classifier(open_client: OpenIngress, classifier: FakeClassifier) -> OpenIngress:
    """`open_classifier(source=..., call=...)`: a client of the ingress with a fake classifier.

    The classifier is loaded, unless `source` has none.
    """

    def make(
        *,
        source: FakeReleases | None = None,
        call: Callable[..., Awaitable[Any]] | None = None,
        overrides: Any = LONG_DEADLINE,
    ) -> IngressClient:
        slot = classifier_slot(source or FakeReleases(classifier))
        handle = FakeHandle(slot)
        if call is not None:
            handle.classify = FakeMethod(call)
        client = open_client(handles={"classifier": handle}, overrides=overrides)
        # the release watcher would request it from the layers
        slot.get_release(client.get("/v1/status").json()["release"])
        return client

    return make


@pytest.fixture(scope="session")
def flows(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """A few made-up flows."""
    return make_flows(benign=40, families={"Flood": 12, "Scan": 12}, seed=7)


@pytest.fixture(scope="session")
def flow_events(flows: FlowTable) -> list[Event]:
    """The flows as JSON events."""
    return [
        {"kind": "flow", "id": f"f{row}", "features": values}
        for row, values in enumerate(flows.features.astype(float).tolist())
    ]


@pytest.fixture(scope="session")
def process_events() -> list[Event]:
    """A few process starts."""
    starts = [
        ("ls", "bash", "ls -l", "User1"),
        ("netscape", "sh", "", "User2"),
        ("powershell.exe", "winword.exe", "powershell -enc QQBB", "amy"),
    ]
    return [
        {
            "kind": "process",
            "id": f"p{row}",
            "name": name,
            "parent": parent,
            "command_line": line,
            "user": user,
            "host": "ws-17",
        }
        for row, (name, parent, line, user) in enumerate(starts)
    ]
