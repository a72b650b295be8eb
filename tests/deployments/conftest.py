"""What the tests of the moving half share.

Events of the made-up world, real slots behind fake handles, and a door to ask at.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.config.settings import ROOT, Settings, read_settings
from deployments.config.trust import read_trust_file
from deployments.observability.metrics import METRICS, Instrument
from deployments.scoring.app import IngressApp
from ensemble.errors import ArtifactMissing
from ensemble.events import EventBatch, FlowBatch, Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.builder import ModelBuilder
from ensemble.runtime.classification import Classification, classify
from ensemble.runtime.hot_reload import LayerSlot
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import LoadedRelease, LoadResult, SlotState
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.store.layout import Store
from ensemble.training.data.flow_table import FlowTable
from ensemble.verdicts import LayerScores
from tests.support.fake_classifier import FakeClassifier, FakeReleases, classifier_slot
from tests.support.model_source import StaticSource

Event = dict[str, Any]
PATIENT = {
    "ingress": {"deadline_ms": 30_000},
    "auth": {"mode": "off"},
}  # these tests are not about the deadline, and the machine may be busy


async def _entered(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[object]) -> None:
    await context.__aexit__(None, None, None)


class FakeMethod:
    """`handle.score` without Ray: `.remote(...)` gives something to await."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self.remote = call


class RecordingMeter:
    """Remembers what was recorded; refuses what the table of metrics does not have."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()
        self.levels: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.observed: list[tuple[str, float, dict[str, str]]] = []
        self.refreshed = 0

    def count(self, name: str, by: float = 1.0, /, **labels: str) -> None:
        # whole numbers here
        self.counted[self._key(name, (Instrument.COUNTER,), labels)] += by  # type: ignore[assignment]

    def level(self, name: str, value: float, /, **labels: str) -> None:
        self.levels[self._key(name, (Instrument.GAUGE, Instrument.STATE_SET), labels)] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        self._key(name, (Instrument.HISTOGRAM,), labels)
        self.observed.append((name, value, labels))

    def refresh(self) -> None:
        self.refreshed += 1

    def total(self, name: str, **labels: str) -> float:
        """All that was counted under these labels, whatever the others are."""
        return sum(
            n
            for (found, having), n in self.counted.items()
            if found == name and labels.items() <= dict(having).items()
        )

    def value(self, name: str, **labels: str) -> float:
        return self.levels[name, frozenset(labels.items())]

    def word(self, name: str, **labels: str) -> str:
        """The word of a state set that holds now; the others are said not to."""
        key = METRICS[name].labels[-1]
        having = {
            dict(h)[key]: v
            for (found, h), v in self.levels.items()
            if found == name and labels.items() <= dict(h).items()
        }
        assert set(having.values()) == {0.0, 1.0}
        (one,) = [word for word, value in having.items() if value == 1.0]
        return one

    @staticmethod
    def _key(
        name: str, instruments: tuple[Instrument, ...], labels: dict[str, str]
    ) -> tuple[str, frozenset[tuple[str, str]]]:
        assert METRICS[name].instrument in instruments
        assert labels.keys() == set(METRICS[name].labels), name
        assert all(isinstance(value, str) for value in labels.values())
        return name, frozenset((key, str(value)) for key, value in labels.items())


class Told:
    """What reached the log, as keys of the records."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self, event: str = "") -> list[dict[str, Any]]:
        records = [record for record in self._caplog.records if hasattr(record, "event")]
        return [vars(record) for record in records if event in ("", record.event)]

    @property
    def events(self) -> list[str]:
        return [record["event"] for record in self()]


class FakeHandle:
    """A deployment's handle without Ray, around a real slot."""

    # only read
    def __init__(self, slot: LayerSlot, trials: Mapping[Kind, Any] = {}) -> None:  # type: ignore[assignment]
        async def test() -> Mapping[Kind, Any]:
            return trials

        # as the deployment
        async def score(batch: EventBatch, release: str, explain: bool) -> LayerScores:  # noqa: FBT001
            return slot.score(batch, release, explain=explain)

        async def classify_flows(batch: FlowBatch, release: str, model_name: str) -> Classification:
            return classify(slot, batch, release, model_name)

        async def state(wanted: int) -> tuple[SlotState, str]:
            return slot.state(wanted), "cpu"

        self.score, self.state, self.test = FakeMethod(score), FakeMethod(state), FakeMethod(test)
        self.classify = FakeMethod(classify_flows)


class Asked:
    """An ASGI application, asked without a network: one loop for its life, as in a replica."""

    def __init__(self, app: Any) -> None:  # whatever speaks ASGI
        self.app = app
        self.loop = asyncio.Runner()

    def __call__(
        self, method: str, path: str, *, root_path: str = "", **request: Any
    ) -> httpx.Response:
        return self.loop.run(self.send(method, path, root_path=root_path, **request))

    async def send(
        self, method: str, path: str, *, root_path: str = "", **request: Any
    ) -> httpx.Response:
        transport = httpx.ASGITransport(
            app=self.app, raise_app_exceptions=False, root_path=root_path
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://axon") as client:
            return await client.request(method, path, **request)

    def close(self) -> None:
        self.loop.close()


class Door:
    """The ingress, asked without a network."""

    def __init__(self, app: IngressApp) -> None:
        self.ingress = app
        self.app = app.__serve_build_asgi_app__()
        self.ask = Asked(self.app)
        self._loop = self.ask.loop
        self._is_open = True
        self._lifespan = self.app.router.lifespan_context(self.app)
        self._loop.run(_entered(self._lifespan))  # as a replica does, before its first request

    def ask_all(self, bodies: list[Event], path: str = "/v1/score") -> list[httpx.Response]:
        """Every body at once."""

        async def gathered() -> list[httpx.Response]:
            return await asyncio.gather(
                *(self.ask.send("POST", path, json=body) for body in bodies)
            )

        return self._loop.run(gathered())

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.ask("GET", path, **request)

    def post(self, path: str, body: object, **request: Any) -> httpx.Response:
        return self.ask(
            "POST",
            path,
            **({"content": body} if isinstance(body, bytes) else {"json": body}),
            **request,
        )

    def close(self) -> None:
        """As a replica that leaves; once is enough."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.run(_left(self._lifespan))
        self._loop.close()


OpenDoor = Callable[..., Door]
OpenClassifier = Callable[..., Door]


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AXON_STATE of this test alone, and so its keys.

    Nothing here writes into var/, and what lies there changes no test.
    """
    state = tmp_path / "state"
    monkeypatch.setenv("AXON_STATE", str(state))
    monkeypatch.delenv("AXON_KEYS", raising=False)
    return state


@pytest.fixture(autouse=True)
def own_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AXON_TRUST of this test alone.

    The shipped list, without keys of who works here. AXON_SIGNING_KEY names a key that is not
    there.
    """
    copy = tmp_path / "trust.yaml"
    shipped = (ROOT / "configs" / "trust.yaml").read_text()
    copy.write_text(re.sub(r"(?m)^keys:.*\n(?:[ \t]+\S.*\n)*", "keys: {}\n", shipped))
    monkeypatch.setenv("AXON_TRUST", str(copy))
    monkeypatch.setenv("AXON_SIGNING_KEY", str(tmp_path / "home" / "signing.key"))
    return copy


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The shipped models, trusted as they are shipped, and an empty state folder before them."""
    return Store(
        tmp_path_factory.mktemp("no-state"),
        ROOT / "artifacts",
        read_trust_file(ROOT / "configs" / "trust.yaml").trust(),
    )


@pytest.fixture(scope="session")
def ensemble(shipped: Store) -> LocalEnsemble:
    """The same models in this process: the slow, plain way to the same verdicts."""
    return LocalEnsemble(
        lineage_of(shipped),
        min_coverage=0.5,
        posture_bound=0.5,
        stale_after_days=30,
        expired_after_days=730,
    )


@pytest.fixture(scope="session")
def slots(shipped: Store) -> Mapping[str, LayerSlot]:
    """One loaded slot a layer, on the shipped models."""
    made = {}
    for layer, plan in LAYERS.items():
        loader = ReleaseLoader(lineage_of(shipped), layer, ModelBuilder("cpu", 30, 730))
        made[layer] = LayerSlot(layer, [*plan.kinds], loader, fallback_score=plan.fallback_score)
        made[layer].refresh()
    return made


def find_nothing(loaded: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
    """A load from an empty store."""
    del loaded, requested
    raise ArtifactMissing("its release")


def lineage_of(store: Store) -> ReleaseResolver:
    """The default tenant's releases in `store`."""
    return ReleaseResolver(lambda: store, ["default"])


def broken_slot(layer: str) -> LayerSlot:
    """A slot whose models are not there."""
    slot = LayerSlot(
        layer,
        [*LAYERS[layer].kinds],
        StaticSource(find_nothing),
        fallback_score=LAYERS[layer].fallback_score,
    )
    slot.refresh()
    return slot


def values_of(settings: Settings) -> dict[str, Any]:
    """Settings as the composition root passes them on."""
    return settings.model_dump(mode="json")


@pytest.fixture
def meter() -> RecordingMeter:
    """Where the doors of this test record their metrics."""
    return RecordingMeter()


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[Told]:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        yield Told(caplog)


@pytest.fixture
def open_door(
    slots: Mapping[str, LayerSlot], own_state: Path, meter: RecordingMeter
) -> Iterator[OpenDoor]:
    """`open_door(down={"behavior"}, overrides={...})`.

    The ingress over real slots; those of `down` have no models.
    """
    del own_state  # asked for by its effect
    opened: list[Door] = []

    def make(
        *,
        down: set[str] = frozenset(),
        overrides: Mapping[str, Any] = PATIENT,
        handles: Mapping[str, Any] = {},
    ) -> Door:  # type: ignore[assignment]  # only read
        fakes = {
            layer: FakeHandle(broken_slot(layer) if layer in down else slot)
            for layer, slot in slots.items()
        }
        door = Door(IngressApp(values_of(read_settings(overrides)), fakes | dict(handles), meter))
        opened.append(door)
        return door

    yield make
    for door in opened:
        door.close()


@pytest.fixture
def door(open_door: OpenDoor) -> Door:
    """The ingress with every layer live."""
    return open_door()


@pytest.fixture
def classifier() -> FakeClassifier:
    return FakeClassifier()


@pytest.fixture
def open_classifier(open_door: OpenDoor, classifier: FakeClassifier) -> OpenClassifier:
    """`open_classifier(source=..., call=...)`.

    The ingress with a classifier, loaded unless said otherwise.
    """

    def make(
        *,
        source: FakeReleases | None = None,
        call: Callable[..., Awaitable[Any]] | None = None,
        overrides: Any = PATIENT,
    ) -> Door:
        slot = classifier_slot(source or FakeReleases(classifier))
        handle = FakeHandle(slot)
        if call is not None:
            handle.classify = FakeMethod(call)
        door = open_door(handles={"classifier": handle}, overrides=overrides)
        slot.get_release(
            door.get("/v1/status").json()["release"]
        )  # as the follower asks the layers for it
        return door

    return make


@pytest.fixture(scope="session")
def flows(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """A few made-up flows."""
    return make_flows(benign=40, families={"Flood": 12, "Scan": 12}, seed=7)


@pytest.fixture(scope="session")
def flow_events(flows: FlowTable) -> list[Event]:
    """The flows as the wire has them."""
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
