"""Rarity of a program, by user, host, group and everyone, with a note on the level used."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import ArtifactIncompatible
from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.features.process import image_name
from ensemble.kernels.backoff_counts import BackedOffCounts
from ensemble.layers.rarity import (
    CEILING,
    LEAST_SCATTER,
    UNKNOWN_NAME_SHARE,
    RarityTable,
    host_group,
)

AMY = [ProcessEvent("excel.exe", user="amy", host="ws-1")] * 30 + [
    ProcessEvent("outlook.exe", user="Amy", host="ws-1")
] * 10
BOB = [ProcessEvent("psexec.exe", user="bob", host="ws-2")] * 20 + [
    ProcessEvent("excel.exe", user="bob", host="ws-2")
] * 5
DB = [ProcessEvent("sqlservr.exe", host="db-1")] * 25
FLEET = AMY + BOB + DB


@pytest.fixture(scope="module")
def table() -> RarityTable:
    return RarityTable.fit(ProcessBatch.of(FLEET))


def raw_of(table: RarityTable, *events: ProcessEvent) -> list[float]:
    return table.rate(ProcessBatch.of(events)).raw.tolist()


OF_KIND = {
    "everyone": lambda event: "",  # noqa: ARG005
    "group": lambda event: host_group(event.host),
    "host": lambda event: event.host.casefold(),
    "user": lambda event: event.user.casefold(),
}


def observed_in(events: list[ProcessEvent], kind: str, value: str) -> Counter[str]:
    return Counter(image_name(event.name) for event in events if OF_KIND[kind](event) == value)


def slow_chain(events: list[ProcessEvent], wanted: ProcessEvent) -> list[Counter[str]]:
    """Observations of each place around `wanted`, from everyone inwards."""
    user, host = wanted.user.casefold(), wanted.host.casefold()
    everyone, of_host, of_user = (
        observed_in(events, "everyone", ""),
        observed_in(events, "host", host),
        observed_in(events, "user", user),
    )
    entity, group = [], host_group(host)
    if user and of_user:
        entity = [of_user]
        groups = Counter(
            host_group(event.host) for event in events if event.user.casefold() == user
        )
        group = min(groups, key=lambda some: (-groups[some], some))
    elif host and of_host:
        entity = [of_host]
    of_group = observed_in(events, "group", group)
    return [everyone, *([of_group] if group and of_group else []), *entity]


def slow_rarity(events: list[ProcessEvent], wanted: ProcessEvent) -> float:
    """The documented formulas, one event at a time, from lists: the oracle."""
    names = sorted({image_name(event.name) for event in events})
    chain = slow_chain(events, wanted)

    def chance(name: str, levels: list[Counter[str]]) -> float:
        if not levels:
            return 1.0 / (len(names) + 1)
        here = levels[-1]
        return (here[name] + len(here) * chance(name, levels[:-1])) / (here.total() + len(here))

    def ratio(name: str) -> float:
        other = (1 - UNKNOWN_NAME_SHARE) * chance(name, chain[:1]) + UNKNOWN_NAME_SHARE / (
            len(names) + 1
        )
        return math.log(other / chance(name, chain))

    all_names = [*names, "never seen by anyone"]
    mean = sum(chance(name, chain) * ratio(name) for name in all_names)
    variance = sum(chance(name, chain) * (ratio(name) - mean) ** 2 for name in all_names)
    return min(ratio(image_name(wanted.name)) / max(math.sqrt(variance), LEAST_SCATTER), CEILING)


SMALL_EVENTS = st.builds(
    ProcessEvent,
    name=st.sampled_from(["a", "b", "C:\\c.EXE", "c.exe", "d"]),
    user=st.sampled_from(["", "amy", "AMY", "bob"]),
    host=st.sampled_from(["", "ws-1", "ws-2", "db-1", "10.0.0.7"]),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(SMALL_EVENTS, min_size=1, max_size=30), st.lists(SMALL_EVENTS, min_size=1, max_size=4)
)
def test_the_columnar_table_agrees_with_the_oracle(
    learnt: list[ProcessEvent], wanted: list[ProcessEvent]
) -> None:
    unknown = [
        ProcessEvent("never", user="eve", host="ws-9"),
        ProcessEvent("a", user="eve", host="zz"),
    ]

    found = raw_of(RarityTable.fit(ProcessBatch.of(learnt)), *wanted, *unknown)

    assert found == pytest.approx(
        [slow_rarity(learnt, event) for event in [*wanted, *unknown]], abs=1e-9
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(SMALL_EVENTS, min_size=1, max_size=30))
def test_the_probabilities_of_every_place_sum_to_one(learnt: list[ProcessEvent]) -> None:
    counts = RarityTable.fit(ProcessBatch.of(learnt)).counts
    names = np.arange(counts.n_names + 1)

    for place in range(counts.wider.size):
        assert counts.probability(np.full(names.size, place), names).sum() == pytest.approx(1.0)


def test_a_program_of_others_is_rare_for_a_user_and_an_unknown_one_is_rarer() -> None:
    of_many_habits = [
        ProcessEvent(f"tool{i}", user="amy") for i in range(12) for _ in range(12 - i)
    ]
    others = [ProcessEvent(f"tool{i}" if i % 2 else "psexec.exe", user="bob") for i in range(60)]
    table = RarityTable.fit(ProcessBatch.of(of_many_habits + others))

    daily, of_others, unknown = raw_of(
        table, *(ProcessEvent(name, user="amy") for name in ("tool0", "psexec.exe", "mimikatz.exe"))
    )

    assert daily < 0 < of_others < unknown < CEILING


def test_spellings_of_windows_are_one_name(table: RarityTable) -> None:
    spellings = (
        "excel.exe",
        "EXCEL.EXE",
        r"C:\Program Files\Office\Excel.exe",
        '"excel.exe"',
        "excel.exe ",
    )

    assert len(set(raw_of(table, *(ProcessEvent(name, user="AMY") for name in spellings)))) == 1


KNOWN_AND_UNKNOWN = [
    pytest.param("amy", "ws-1", None, id="known user"),
    pytest.param("amy", "new-7", None, id="known user elsewhere"),
    pytest.param("", "db-1", None, id="known host"),
    pytest.param("eve", "db-1", "user_unknown: rated against its host", id="unknown user"),
    pytest.param(
        "", "ws-99", "host_unknown: rated against its group", id="unknown host of a known group"
    ),
    pytest.param("eve", "zz-1", "host_unknown: rated against everyone", id="unknown host"),
    pytest.param("eve", "", "user_unknown: rated against everyone", id="unknown user, no host"),
    pytest.param("", "", "entity_missing: rated against everyone", id="nobody"),
]


@pytest.mark.parametrize(("user", "host", "note"), KNOWN_AND_UNKNOWN)
def test_an_unknown_entity_falls_back_to_a_wider_level_with_a_note(
    table: RarityTable, user: str, host: str, note: str | None
) -> None:
    rated = table.rate(ProcessBatch.of([ProcessEvent("excel.exe", user=user, host=host)]))

    assert rated.notes.get(0) == note


def test_a_new_host_is_rated_by_what_its_group_does(table: RarityTable) -> None:
    on_a_workstation, on_a_database = raw_of(
        table, *(ProcessEvent("sqlservr.exe", host=host) for host in ("ws-99", "db-99"))
    )

    assert on_a_database < on_a_workstation


GROUPS = [
    pytest.param("ws-17", "ws", id="role and number"),
    pytest.param("WORKSTATION5.theshire.local", "workstation", id="full name"),
    pytest.param("10.1.2.3", "10.1.2.0/24", id="IPv4"),
    pytest.param("17-x", "", id="a number first"),
    pytest.param("", "", id="nothing"),
]


@pytest.mark.parametrize(("host", "group"), GROUPS)
def test_the_group_of_a_host_is_read_from_its_name(host: str, group: str) -> None:
    assert host_group(host) == group


def test_the_background_counts_for_everyone_and_for_no_entity(table: RarityTable) -> None:
    informed = RarityTable.fit(ProcessBatch.of(FLEET), background={"cron": 50})

    alone, with_background = (
        raw_of(some, ProcessEvent("cron", user="eve"))[0] for some in (table, informed)
    )

    assert with_background < alone
    assert informed.launches()["cron"] == 50
    assert informed.launches()["excel.exe"] == 35
    assert informed.users == table.users


def test_the_table_comes_back_from_its_parts_equal_and_its_arrays_are_read_only(
    table: RarityTable,
) -> None:
    again = RarityTable.from_parts(*table.to_parts())

    assert raw_of(again, *FLEET) == raw_of(table, *FLEET)
    assert not any(array.flags.writeable for array in table.to_parts()[0].values())


def _counts(**changed: object) -> BackedOffCounts:
    good = {
        "wider": np.array([0, 0, 1]),
        "keys": np.array([0, 3, 7]),
        "counts": np.array([2, 1, 1]),
        "n_names": 2,
    }
    return BackedOffCounts(**(good | changed))


HOSTILE_COUNTS = [
    pytest.param({"wider": np.array([0, 2, 1])}, id="circular places"),
    pytest.param({"wider": np.array([0, 0, 9])}, id="a place that is not there"),
    pytest.param({"wider": np.array([0, 0, -1])}, id="a negative place"),
    pytest.param({"wider": np.array([1, 0, 0])}, id="everyone within another"),
    pytest.param({"wider": np.array([], np.int64)}, id="no places"),
    pytest.param({"keys": np.array([0, 3, 9])}, id="a key past the end"),
    pytest.param({"keys": np.array([-1, 3, 7])}, id="a negative key"),
    pytest.param({"keys": np.array([3, 0, 7])}, id="keys out of order"),
    pytest.param({"keys": np.array([0, 3, 8])}, id="a count of the never seen"),
    pytest.param({"keys": np.array([0, 3, 4])}, id="a place without observations"),
    pytest.param({"counts": np.array([2, 0, 1])}, id="a count of zero"),
    pytest.param({"counts": np.array([2, 1 << 62, 1])}, id="a count that overflows"),
    pytest.param({"counts": np.array([2, 1])}, id="counts of another length"),
]


@pytest.mark.parametrize("changed", HOSTILE_COUNTS)
def test_invalid_counts_are_rejected(changed: dict[str, object]) -> None:
    assert _counts().observations.tolist() == [2.0, 1.0, 1.0]

    with pytest.raises(ArtifactIncompatible):
        _counts(**changed)
