"""The detectors' deployment (S4-10, S4-13, C-26).

Champions load on demand, a swap leaves no gap, and no tenant waits for another.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.config.settings import read_settings
from deployments.management import detectors as page
from deployments.management.detectors import Detectors, LoadOutcome
from ensemble.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    ArtifactUntrusted,
    FeatureMismatch,
    LoadTimeout,
    MalformedEvent,
    TooManyRows,
)
from ensemble.features.tabular import NETWORK_FEATURES
from ensemble.store.layout import Store, bundle_parts
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.releases.aliases import Alias, clear_model_alias, get_alias
from ensemble.store.signing import Signer, Trust
from ensemble.training.publish import Trained, make_champion, publish_detector
from ensemble.training.recipes import tabular
from ensemble.training.recipes.tabular import fit_tabular
from tests.support.asgi_clients import settings_values
from tests.support.recorded_telemetry import RecordedLog
from tests.support.timing import Clock

LIMIT_S = 30.0  # a test that hangs fails after this time

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
Publish = Callable[..., BundleRef]
Rows = list[dict[str, Any]]

AT_ONCE_S = 3.0  # a busy machine; what would be waited for takes longer


def rows(count: int = 120, seed: int = 0) -> Rows:
    table = np.random.default_rng(seed).lognormal(3, 1, (count, 3)).tolist()
    return [dict(zip(NETWORK_FEATURES, row, strict=True)) for row in table]


@pytest.fixture(scope="module")
def trained() -> tuple[Trained, ...]:
    """Two detectors that answer differently."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabular, "TREES", 5)
        return tuple(fit_tabular(rows(seed=seed), name="d") for seed in (1, 2))


@pytest.fixture
def publish_champion(
    store: Store,
    trained: tuple[Trained, ...],
    signer: Signer,
    now: datetime,
    no_fsync: None,  # noqa: ARG001
) -> Publish:
    """`publish_champion(tenant, which=0, name="d")`: a new version, which serves."""

    def one(tenant: Tenant = ACME, *, which: int = 0, name: str = "d") -> BundleRef:
        fitted = Trained(
            name,
            trained[which].parts,
            trained[which].golden,
            trained[which].training,
            trained[which].card,
        )
        ref = publish_detector(store, tenant, fitted, now=now, signer=signer)
        make_champion(store, ref, signer=signer)
        return ref

    return one


class Replica:
    """One replica over the store of this test, and its clock."""

    def __init__(self, store: Store, **limits: Any) -> None:
        self.store, self.clock = store, Clock()
        self.detectors = Detectors(
            settings_values(read_settings({"management": limits})),
            open_store=lambda: self.store,
            clock=self.clock,
            now=lambda: 1_700_000_000.0,
        )

    async def detect(
        self,
        tenant: str = "acme",
        name: str = "d",
        given: Rows | None = None,
        missing: str = "refuse",
    ) -> page.Detections:
        return await self.detectors.detect(
            tenant, name, rows(3, seed=9) if given is None else given, missing
        )

    async def version(self, tenant: str = "acme", name: str = "d") -> int:
        return (await self.detect(tenant, name)).version

    async def version_after_a_look(self) -> int:
        """Return the version after the poll that a use starts in the background has ended."""
        self.clock.now += page.POLL_EVERY_S
        await self.version()
        await self.looks()
        return await self.version()

    async def looks(self) -> None:
        await asyncio.gather(
            *(task for task, _ in self.detectors._polls.values()), return_exceptions=True
        )
        await asyncio.sleep(0)


@pytest.fixture
def replica(store: Store) -> Replica:
    return Replica(store)


class HungLoads:
    """Reading the bundles of one tenant hangs until the test releases it."""

    def __init__(self, of: Tenant) -> None:
        self._of, self._opened = of, page.open_bundle
        self._has_begun, self._goes_on = threading.Event(), threading.Event()

    def __call__(self, store: Store, ref: BundleRef, **options: Any) -> Any:
        if ref.tenant == self._of:
            self._has_begun.set()
            self._goes_on.wait(20.0)
        return self._opened(store, ref, **options)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self._has_begun.wait, 10.0)

    def go_on(self) -> None:
        self._goes_on.set()


@contextmanager
def hung_loads(monkeypatch: pytest.MonkeyPatch, of: Tenant) -> Iterator[HungLoads]:
    loads = HungLoads(of)
    monkeypatch.setattr(page, "open_bundle", loads)
    try:
        yield loads
    finally:
        loads.go_on()


# -- what it answers


async def test_rows_are_rated_in_columns_by_the_champion(
    replica: Replica, publish_champion: Publish
) -> None:
    """S4-10."""
    ref = publish_champion()
    strange = rows(1)[0] | {"bytes_transferred": 1e9}

    async with asyncio.timeout(LIMIT_S):
        said = await replica.detect(given=[*rows(1), strange])
        assert (said.model, said.version, said.manifest_sha256, said.is_last_good) == (
            "d",
            1,
            ref.manifest_sha256,
            False,
        )
        assert said.rows.tolist() == [0, 1]
        assert said.threat_level.tolist()[1] == "critical"
        assert said.is_anomaly.tolist()[1]
        assert 0.0 <= said.anomaly_score[0] < said.anomaly_score[1] <= 1.0


async def test_a_bad_row_is_named_in_its_place_and_the_others_are_rated(
    replica: Replica, publish_champion: Publish
) -> None:
    publish_champion()
    given: Rows = rows(3)
    given[1] = {**given[1], "packet_count": "many"}

    async with asyncio.timeout(LIMIT_S):
        said = await replica.detect(given=given)
        assert said.rows.tolist() == [0, 2]
        assert {row: str(problem) for row, problem in said.refused.items()} == {
            1: "rows[1].packet_count: must be a number, not text"
        }
        assert all(isinstance(problem, FeatureMismatch) for problem in said.refused.values())


async def test_a_missing_value_counts_as_zero_only_where_that_is_asked_for(
    replica: Replica, publish_champion: Publish
) -> None:
    publish_champion()
    given: Rows = [{"bytes_transferred": 1.0, "packet_count": 1.0}]

    async with asyncio.timeout(LIMIT_S):
        assert list((await replica.detect(given=given)).refused) == [0]
        said = await replica.detect(given=given, missing="zero")
        assert (said.filled, len(said.anomaly_score)) == (1, 1)


async def test_no_rows_are_no_answers(replica: Replica, publish_champion: Publish) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        assert len((await replica.detect(given=[])).anomaly_score) == 0


@pytest.mark.parametrize(
    ("tenant", "name", "count", "error"),
    [
        pytest.param("acme", "other", 1, ArtifactMissing, id="unknown name"),
        pytest.param("globex", "d", 1, ArtifactMissing, id="another tenant's"),
        pytest.param("../acme", "d", 1, MalformedEvent, id="a tenant that climbs"),
        pytest.param("acme", "d/1", 1, MalformedEvent, id="a name that is a path"),
        pytest.param("acme", "d", 11, TooManyRows, id="too many rows"),
    ],
)
async def test_what_cannot_be_rated_is_refused_by_its_type(
    store: Store,
    publish_champion: Publish,
    tenant: str,
    name: str,
    count: int,
    error: type[Exception],
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(error):
            await Replica(store, max_rows=10).detect(tenant, name, rows(count))


async def test_a_version_that_nobody_made_champion_does_not_serve(
    replica: Replica, store: Store, trained: tuple[Trained, ...], signer: Signer, now: datetime
) -> None:
    publish_detector(store, ACME, trained[0], now=now, signer=signer)

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ArtifactMissing):
            await replica.detect()


# -- how it follows


async def test_a_new_champion_serves_within_two_seconds_of_use(
    replica: Replica, publish_champion: Publish, recorded_log: RecordedLog
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        assert await replica.version() == 1
        publish_champion(which=1)
        assert await replica.version() == 1  # it has just looked
        assert await replica.version_after_a_look() == 2

    assert [
        (line["tenant"], line["model"], line["version"]) for line in recorded_log("model_loaded")
    ] == [
        ("acme", "d", 1),
        ("acme", "d", 2),
    ]
    assert recorded_log("model_loaded")[0]["message"] == "model_loaded: Model loaded successfully"


async def test_nobody_waits_for_a_new_champion_to_load(
    replica: Replica, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        publish_champion(which=1)
        with hung_loads(monkeypatch, ACME) as loads:
            replica.clock.now += page.POLL_EVERY_S
            assert [await asyncio.wait_for(replica.version(), AT_ONCE_S) for _ in range(3)] == [
                1,
                1,
                1,
            ]
            loads.go_on()
            await replica.looks()
        assert await replica.version() == 2


async def test_a_champion_that_is_broken_changes_nothing_and_is_told_once(
    replica: Replica, store: Store, publish_champion: Publish, recorded_log: RecordedLog
) -> None:
    """P4: the last good version goes on serving."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        ref = publish_champion(which=1)
        torn = store.state.joinpath(
            *bundle_parts(ACME, ref.model), str(ref.version), "model.safetensors"
        )
        torn.chmod(0o644)
        torn.write_bytes(b"torn")
        for _ in range(3):
            assert await replica.version_after_a_look() == 1
        assert (await replica.detect()).is_last_good
        assert [state.code for state in await replica.detectors.state()] == ["ARTIFACT_CORRUPT"]
        report = await replica.detectors.load("acme", "d")
        assert (report.outcome, report.version, report.code) == (
            LoadOutcome.LAST_GOOD,
            1,
            "ARTIFACT_CORRUPT",
        )

        publish_champion(which=1)  # mended
        assert await replica.version_after_a_look() == 3
        assert not (await replica.detect()).is_last_good

    (line,) = recorded_log("model_load_failed")
    assert (line["code"], line["cause"]) == ("ARTIFACT_CORRUPT", "files")
    assert "Failed to load model" in line["message"]


async def test_a_first_load_that_fails_is_its_own_error_and_the_next_one_heals(
    replica: Replica, store: Store, publish_champion: Publish
) -> None:
    ref = publish_champion()
    torn = store.state.joinpath(*bundle_parts(ACME, ref.model), "1", "model.safetensors")
    whole = torn.read_bytes()
    torn.chmod(0o644)
    torn.write_bytes(b"torn")

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ArtifactCorrupt):
            await replica.detect()
        torn.write_bytes(whole)  # a test may block
        assert await replica.version() == 1


async def test_an_alias_of_before_that_comes_back_is_not_believed(
    replica: Replica, store: Store, publish_champion: Publish
) -> None:
    """TUF's rollback attack: an attacker with write access restores the old signed file."""
    publish_champion()
    alias = next((store.state / "tenants" / "acme" / "aliases").rglob("champion"))
    old = alias.read_bytes()

    async with asyncio.timeout(LIMIT_S):
        publish_champion(which=1)
        assert await replica.version() == 2
        alias.write_bytes(old)
        assert await replica.version_after_a_look() == 2
        assert (await replica.detect()).is_last_good


async def test_a_champion_of_a_key_that_is_gone_is_not_loaded(
    store: Store, publish_champion: Publish, untrusted_signer: Signer
) -> None:
    publish_champion()
    other = Store(
        store.state, None, Trust({untrusted_signer.key_id: untrusted_signer.public}, frozenset())
    )

    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ArtifactUntrusted):
            await Replica(other).detect()


async def test_a_detector_that_was_withdrawn_serves_no_more(
    replica: Replica, store: Store, publish_champion: Publish, signer: Signer
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        seen = get_alias(store, ACME, ModelName("d"), Alias.CHAMPION)
        clear_model_alias(store, ACME, ModelName("d"), Alias.CHAMPION, seen.serial, signer=signer)
        with pytest.raises(ArtifactMissing):
            await replica.version_after_a_look()
        assert await replica.detectors.state() == []


async def test_a_detector_that_was_withdrawn_while_nothing_used_it_answers_not_once_more(
    replica: Replica, store: Store, publish_champion: Publish, signer: Signer
) -> None:
    """A4: the first request after a pause was rated by it, and only then was the alias read."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        replica.clock.now += page.STALE_S
        seen = get_alias(store, ACME, ModelName("d"), Alias.CHAMPION)
        clear_model_alias(store, ACME, ModelName("d"), Alias.CHAMPION, seen.serial, signer=signer)

        with pytest.raises(ArtifactMissing):
            await replica.version()


async def test_after_a_pause_the_promoted_detector_answers(
    replica: Replica, publish_champion: Publish
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        publish_champion(which=1)
        replica.clock.now += page.STALE_S

        assert await replica.version() == 2


async def test_a_request_during_the_poll_of_a_stale_detector_waits_for_it(
    replica: Replica, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A withdrawn detector answers no request after a pause, neither the first nor the second."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        publish_champion(which=1)
        replica.clock.now += page.STALE_S
        with hung_loads(monkeypatch, ACME) as loads:
            first = asyncio.create_task(replica.version())
            await loads.has_begun()
            second = asyncio.create_task(replica.version())
            await asyncio.sleep(0)
            assert not second.done()
            loads.go_on()
            assert await asyncio.gather(first, second) == [2, 2]


async def test_a_poll_that_hangs_delays_no_request_for_a_detector_in_use(
    replica: Replica, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY F13: the last good version answers, however long the disk hangs."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        publish_champion(which=1)
        replica.clock.now += page.POLL_EVERY_S
        with hung_loads(monkeypatch, ACME) as loads:
            assert await replica.version() == 1
            await loads.has_begun()
            for _ in range(10):
                replica.clock.now += 1.0
                assert await asyncio.wait_for(replica.version(), AT_ONCE_S) == 1


# -- whose detectors


async def test_a_load_that_hangs_holds_up_nobody_else(
    replica: Replica, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 4, item 6: one tenant's reload never stalls another."""
    publish_champion(ACME)
    publish_champion(GLOBEX)

    async with asyncio.timeout(LIMIT_S):
        with hung_loads(monkeypatch, ACME) as loads:
            waiting = asyncio.create_task(replica.version("acme"))
            await loads.has_begun()
            for _ in range(5):
                assert await asyncio.wait_for(replica.version("globex"), AT_ONCE_S) == 1
            assert not waiting.done()
            loads.go_on()
            assert await waiting == 1


async def test_a_load_that_hangs_too_long_is_an_error_to_who_waits(
    store: Store, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F13."""
    publish_champion()
    monkeypatch.setattr(page, "LOAD_WITHIN_S", 0.05)

    async with asyncio.timeout(LIMIT_S):
        replica = Replica(store)
        with hung_loads(monkeypatch, ACME) as loads:
            with pytest.raises(LoadTimeout):
                await replica.detect()
            loads.go_on()
            await replica.looks()
        assert await replica.version() == 1  # it came after all


async def test_a_new_champion_whose_file_hangs_is_said_of_the_one_that_goes_on(
    replica: Replica,
    publish_champion: Publish,
    monkeypatch: pytest.MonkeyPatch,
    recorded_log: RecordedLog,
) -> None:
    """F13: no request waits for the load, so the state alone reports that it hangs."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        await replica.version()
        publish_champion(which=1)
        with hung_loads(monkeypatch, ACME) as loads:
            replica.clock.now += page.POLL_EVERY_S
            await replica.version()
            await loads.has_begun()
            replica.clock.now += page.LOAD_WITHIN_S
            said = await asyncio.wait_for(replica.detect(), AT_ONCE_S)
            assert (said.version, said.is_last_good) == (1, True)
            assert [state.code for state in await replica.detectors.state()] == ["LOAD_TIMEOUT"]

    assert [line["code"] for line in recorded_log("model_load_failed")] == ["LOAD_TIMEOUT"]


async def test_many_who_ask_first_share_one_load(
    replica: Replica, publish_champion: Publish, recorded_log: RecordedLog
) -> None:
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        assert await asyncio.gather(*(replica.version() for _ in range(20))) == [1] * 20

    assert recorded_log.events.count("model_loaded") == 1


async def test_only_so_many_are_kept_and_the_one_used_last_longest_ago_goes(
    store: Store, publish_champion: Publish
) -> None:
    for name in ("a", "b", "c"):
        publish_champion(name=name)

    async with asyncio.timeout(LIMIT_S):
        replica = Replica(store, detectors_at_once=2)
        for name in ("a", "b", "a", "c"):
            await replica.version(name=name)
        assert [state.model for state in await replica.detectors.state("acme")] == ["a", "c"]
        assert await replica.detectors.state("globex") == []
        with pytest.raises(ArtifactMissing):
            await replica.version(name="nobody-has-it")
        assert [state.model for state in await replica.detectors.state()] == [
            "a",
            "c",
        ]  # an unknown name evicts no detector


# -- a load that is asked for


async def test_a_load_says_what_serves_in_this_replica(
    replica: Replica, publish_champion: Publish
) -> None:
    """C-26: the source system built a detector, loaded it, and discarded it."""
    first = publish_champion()

    async with asyncio.timeout(LIMIT_S):
        report = await replica.detectors.load("acme", "d")
        assert (report.outcome, report.version, report.manifest_sha256) == (
            LoadOutcome.LOADED,
            1,
            first.manifest_sha256,
        )
        assert (await replica.detectors.load("acme", "d")).outcome is LoadOutcome.UNCHANGED
        publish_champion(which=1)
        report = await replica.detectors.load("acme", "d", 2)  # at once, whenever it looked last
        assert (report.outcome, report.version) == (LoadOutcome.LOADED, 2)
        assert await replica.version() == 2
        assert (await replica.detectors.load("acme", "d", 1)).outcome is LoadOutcome.OTHER_VERSION


async def test_a_load_does_not_take_a_look_of_before_for_its_own(
    replica: Replica, publish_champion: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a promotion, `load` reports the new version, even if a poll was reading the old one."""
    publish_champion()

    async with asyncio.timeout(LIMIT_S):
        with hung_loads(monkeypatch, ACME) as loads:
            first = asyncio.create_task(replica.version())
            await loads.has_begun()
            publish_champion(which=1)
            loading = asyncio.create_task(replica.detectors.load("acme", "d", 2))
            await asyncio.sleep(0)
            loads.go_on()
            assert await first == 1
            assert (await loading).version == 2


async def test_a_load_of_nothing_is_missing(replica: Replica) -> None:
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(ArtifactMissing):
            await replica.detectors.load("acme", "d")


async def test_a_replica_writes_nothing_into_the_store(
    replica: Replica, store: Store, publish_champion: Publish
) -> None:
    """In production the scoring replicas mount the store read-only."""
    publish_champion()
    before = everything(store.state)

    async with asyncio.timeout(LIMIT_S):
        await replica.detect()
        await replica.detectors.load("acme", "d")

    assert everything(store.state) == before


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
