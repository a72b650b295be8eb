"""What the tests of the moving half share: events of the made-up world, real slots behind fake handles, and a door to ask at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.ingress import IngressApp
from deployments.settings import ROOT, Settings, read_settings
from ensemble.errors import ArtifactMissing
from ensemble.events import EventBatch
from ensemble.inprocess import Ensemble
from ensemble.loading import LAYERS, ReleaseLoader
from ensemble.slot import HeldRelease, LayerSlot, SlotState
from ensemble.store.layout import Store
from ensemble.training.flow_table import FlowTable
from ensemble.verdicts import LayerScores

Event = dict[str, Any]
PATIENT = {"ingress": {"deadline_ms": 30_000}}  # these tests are not about the deadline, and the machine may be busy


async def _entered(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aexit__(None, None, None)


class FakeMethod:
    """`handle.score` without Ray: `.remote(...)` gives something to await."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class FakeHandle:
    """A deployment's handle without Ray, around a real slot."""

    def __init__(self, slot: LayerSlot) -> None:
        async def score(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001  # as the deployment
            return slot.score(batch, release, explain=explain)

        async def state(wanted: int) -> tuple[SlotState, str]:
            return slot.state(wanted), "cpu"

        self.score, self.state = FakeMethod(score), FakeMethod(state)


class Door:
    """The ingress, asked without a network: one loop for its life, as in a replica."""

    def __init__(self, app: IngressApp) -> None:
        self.ingress = app
        self.app = app.__serve_build_asgi_app__()
        self._loop = asyncio.Runner()
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._loop.run(_entered(self._lifespan))  # as a replica does, before its first request

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self._loop.run(self._asked(method, path, **request))

    def ask_all(self, bodies: list[Event], path: str = "/v1/score") -> list[httpx.Response]:
        """Every body at once."""

        async def gathered() -> list[httpx.Response]:
            return await asyncio.gather(*(self._asked("POST", path, json=body) for body in bodies))

        return self._loop.run(gathered())

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.ask("GET", path, **request)

    def post(self, path: str, body: object, **request: Any) -> httpx.Response:
        return self.ask("POST", path, **({"content": body} if isinstance(body, bytes) else {"json": body}), **request)

    def close(self) -> None:
        self._loop.run(_left(self._lifespan))
        self._loop.close()

    async def _asked(self, method: str, path: str, **request: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://axon") as client:
            return await client.request(method, path, **request)


OpenDoor = Callable[..., Door]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AXON_STATE of this test alone: nothing here writes into var/, and what lies there changes no test."""
    state = tmp_path / "state"
    monkeypatch.setenv("AXON_STATE", str(state))
    return state


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shipped models, and an empty state folder before them."""
    return Store(tmp_path_factory.mktemp("no-state"), ROOT / "artifacts")


@pytest.fixture(scope="session")
def ensemble(shipped: Store) -> Ensemble:
    """The same models in this process: the slow, plain way to the same verdicts."""
    return Ensemble(shipped, "default", min_coverage=0.5, posture_bound=0.5, stale_after_days=30, expired_after_days=730)


@pytest.fixture(scope="session")
def slots(shipped: Store) -> Mapping[str, LayerSlot]:
    """One loaded slot a layer, on the shipped models."""
    made = {}
    for layer, plan in LAYERS.items():
        made[layer] = LayerSlot(layer, ReleaseLoader(shipped, "default", layer, "cpu", 30, 730).load, fallback_score=plan.fallback_score)
        made[layer].load()
    return made


def broken_slot(layer: str) -> LayerSlot:
    """A slot whose models are not there."""

    def load() -> HeldRelease:
        raise ArtifactMissing("its release")

    slot = LayerSlot(layer, load, fallback_score=LAYERS[layer].fallback_score)
    slot.load()
    return slot


def values_of(settings: Settings) -> dict[str, Any]:
    """Settings as the composition root passes them on."""
    return settings.model_dump(mode="json")


@pytest.fixture
def open_door(slots: Mapping[str, LayerSlot], own_state: Path) -> Iterator[OpenDoor]:
    """`open_door(down={"behavior"}, overrides={...})`: the ingress over real slots; those of `down` have no models."""
    del own_state  # asked for by its effect
    opened: list[Door] = []

    def make(*, down: set[str] = frozenset(), overrides: Mapping[str, Any] = PATIENT, handles: Mapping[str, Any] = {}) -> Door:  # type: ignore[assignment]  # only read
        fakes = {layer: FakeHandle(broken_slot(layer) if layer in down else slot) for layer, slot in slots.items()}
        door = Door(IngressApp(values_of(read_settings(overrides)), fakes | dict(handles)))
        opened.append(door)
        return door

    yield make
    for door in opened:
        door.close()


@pytest.fixture
def door(open_door: OpenDoor) -> Door:
    """The ingress with every layer live."""
    return open_door()


@pytest.fixture(scope="session")
def flows(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """A few made-up flows."""
    return make_flows(benign=40, families={"Flood": 12, "Scan": 12}, seed=7)


@pytest.fixture(scope="session")
def flow_events(flows: FlowTable) -> list[Event]:
    """The flows as the wire has them."""
    return [{"kind": "flow", "id": f"f{row}", "features": values} for row, values in enumerate(flows.features.astype(float).tolist())]


@pytest.fixture(scope="session")
def process_events() -> list[Event]:
    """A few process starts."""
    starts = [
        ("ls", "bash", "ls -l", "User1"),
        ("netscape", "sh", "", "User2"),
        ("powershell.exe", "winword.exe", "powershell -enc QQBB", "amy"),
    ]
    return [
        {"kind": "process", "id": f"p{row}", "name": name, "parent": parent, "command_line": line, "user": user, "host": "ws-17"}
        for row, (name, parent, line, user) in enumerate(starts)
    ]
