"""Resilience layer: the posture of a host as a score, with missing and old data reported."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import ArtifactIncompatible
from ensemble.events import FlowBatch, ProcessBatch, ProcessEvent
from ensemble.layers.posture import (
    CONTROLS,
    CRITICALITIES,
    EPSS_STEPS,
    EXPOSURES,
    NO_CVSS,
    NO_EPSS,
    PostureInventory,
    PostureKnowledge,
    cve_key,
    cve_name,
    host_key,
)
from ensemble.layers.resilience import (
    AVERAGE_CVSS,
    AVERAGE_EPSS,
    CRITICALITY,
    KEV_FLOOR,
    LETS_THROUGH,
    MOST_CERTAIN,
    ORDINARY_RISK,
    REACH,
    ResiliencePosture,
)
from ensemble.model import Parts
from ensemble.training.recipes.host_inventory import HostPosture, build_inventory

TODAY = 20_000  # days since 1970-01-01
STALE, EXPIRED = 30, 730
CVES = [
    f"CVE-20{year}-{number:04d}" for year in range(10, 25) for number in (1, 1234, 54321)
]  # 45 of them
UNLISTED = "CVE-2099-0001"


@dataclass
class FakeClock:
    """Clock that moves only on demand."""

    day: float = TODAY

    def __call__(self) -> float:
        return self.day * 86_400.0


def knowledge(
    *,
    epss: float | dict[str, float] = 0.01,
    kev: Collection[str] = (),
    cvss: int = 70,
    epss_day: int | None = TODAY,
    kev_day: int | None = TODAY,
    cvss_day: int | None = TODAY,
) -> PostureKnowledge:
    """All of `CVES`; `epss` is one number, or a mapping of CVE -> number."""
    names = sorted(CVES, key=cve_key)
    chances = epss if isinstance(epss, dict) else dict.fromkeys(names, epss)
    return PostureKnowledge(
        np.array([cve_key(name) for name in names], np.uint32),
        np.array(
            [round(chances[name] * EPSS_STEPS) if name in chances else NO_EPSS for name in names],
            np.uint16,
        ),
        np.full(len(names), cvss, np.uint8),
        np.isin(names, list(kev)),
        epss_day,
        kev_day,
        cvss_day,
    )


def host(
    name: str = "h",
    *,
    cves: Collection[str] = (),
    exposure: str = "internal",
    criticality: str = "medium",
    controls: Collection[str] = (),
    scan_day: int = TODAY,
) -> HostPosture:
    """An ordinary host without findings by default."""
    bits = sum(1 << CONTROLS.index(control) for control in controls)
    keys = frozenset(cve_key(cve) for cve in cves)
    return HostPosture(
        name, keys, EXPOSURES.index(exposure), CRITICALITIES.index(criticality), bits, scan_day
    )


def layer(
    hosts: list[HostPosture], known: PostureKnowledge | None = None, clock: FakeClock | None = None
) -> ResiliencePosture:
    return ResiliencePosture(
        known or knowledge(),
        build_inventory(hosts),
        now=clock or FakeClock(),
        stale_after_days=STALE,
        expired_after_days=EXPIRED,
    )


def events_on(*hosts: str) -> ProcessBatch:
    return ProcessBatch.of([ProcessEvent("any", host=name) for name in hosts])


def score_of(
    posture: HostPosture, known: PostureKnowledge | None = None, clock: FakeClock | None = None
) -> float:
    return float(layer([posture], known, clock).score(events_on(posture.host)).scores[0])


def obvious_score(
    posture: HostPosture, epss: dict[str, float], kev: set[str], cvss: float = 0.7
) -> float:
    """The documented formula for one host with fresh sources: the oracle."""
    through = math.prod(
        (LETS_THROUGH[c] for bit, c in enumerate(CONTROLS) if posture.controls >> bit & 1),
        start=1.0,
    )
    reach = REACH[EXPOSURES[posture.exposure]] * through
    damages = [AVERAGE_EPSS * reach * AVERAGE_CVSS / 10]
    for key in posture.cves:
        chance = max(
            epss.get(cve_name(key), AVERAGE_EPSS), KEV_FLOOR if cve_name(key) in kev else 0.0
        )
        damages.append(
            min(chance * reach, MOST_CERTAIN)
            * (cvss if cve_name(key) in CVES else AVERAGE_CVSS / 10)
        )
    survival = 1.0
    for rank, damage in enumerate(sorted(damages, reverse=True), start=1):
        survival *= (1.0 - damage) ** (1.0 / rank)
    risk = (1.0 - survival) * CRITICALITY[CRITICALITIES[posture.criticality]]
    return risk / (risk + ORDINARY_RISK)


# --- the neutral point


@pytest.mark.parametrize(
    ("name", "note"),
    [("never-seen", "host_unknown"), ("", "host_not_given"), ("  ", "host_not_given")],
)
def test_an_unknown_host_is_neutral_with_a_note(name: str, note: str | None) -> None:
    """Missing knowledge is evidence neither of innocence nor of guilt."""
    answer = layer([host("h")]).score(events_on(name, "h"))

    assert answer.scores[0] == 0.5
    assert answer.notes == {0: note}


def test_the_ordinary_host_is_the_neutral_point() -> None:
    """The assumption for unknown hosts is consistent: a host with exactly these data scores 0.5."""
    ordinary = host(cves=CVES[:10])

    assert score_of(ordinary, knowledge(epss=AVERAGE_EPSS)) == pytest.approx(
        0.5, abs=1e-4
    )  # EPSS is stored in steps


def test_a_clean_host_is_well_below_neutral_and_an_exposed_exploited_one_well_above() -> None:
    clean = host("clean", controls=("edr", "allowlisting"))
    exploited = host("exploited", cves=CVES[:1], exposure="internet")

    answer = layer([clean, exploited], knowledge(kev=CVES[:1])).score(
        events_on("clean", "exploited")
    )

    assert answer.scores[0] < 0.2
    assert answer.scores[1] > 0.9


def test_hosts_are_found_in_any_case() -> None:
    """RFC 4343: host names are case-insensitive; an event from WEB-1 is of web-1."""
    assert layer([host("web-1")]).score(events_on("WEB-1 ")).notes == {}


# --- the formula

POSTURES = st.builds(
    host,
    cves=st.lists(st.sampled_from([*CVES, UNLISTED]), max_size=20, unique=True),
    exposure=st.sampled_from(EXPOSURES),
    criticality=st.sampled_from(CRITICALITIES),
    controls=st.lists(st.sampled_from(CONTROLS), unique=True),
)
CHANCES = st.dictionaries(
    st.sampled_from(CVES), st.integers(0, EPSS_STEPS).map(lambda steps: steps / EPSS_STEPS)
)
EXPLOITED = st.sets(st.sampled_from(CVES), max_size=5)


@settings(max_examples=150, deadline=None)
@given(posture=POSTURES, epss=CHANCES, kev=EXPLOITED)
def test_the_arrays_agree_with_the_formula(
    posture: HostPosture, epss: dict[str, float], kev: set[str]
) -> None:
    assert score_of(posture, knowledge(epss=epss, kev=kev)) == pytest.approx(
        obvious_score(posture, epss, kev), abs=1e-9
    )


@settings(max_examples=150, deadline=None)
@given(
    posture=POSTURES,
    worse=st.sampled_from(["cves", "exposure", "criticality", "controls"]),
    more=POSTURES,
    epss=CHANCES,
    kev=EXPLOITED,
    ages=st.tuples(*[st.integers(-10, 800)] * 4),
)
def test_a_worse_posture_never_lowers_the_score(
    posture: HostPosture,
    worse: str,
    more: HostPosture,
    epss: dict[str, float],
    kev: set[str],
    ages: tuple[int, int, int, int],
) -> None:
    """More CVEs, wider exposure, higher criticality, fewer controls.

    Each alone, at any age of a source.
    """
    joined = dataclasses.replace(posture.merge(more), scan_day=posture.scan_day)
    graver = dataclasses.replace(posture, **{worse: getattr(joined, worse)})
    known = knowledge(
        epss=epss,
        kev=kev,
        epss_day=TODAY - ages[0],
        kev_day=TODAY - ages[1],
        cvss_day=TODAY - ages[2],
    )
    scan_day = TODAY - ages[3]

    before = score_of(dataclasses.replace(posture, scan_day=scan_day), known)
    after = score_of(dataclasses.replace(graver, scan_day=scan_day), known)

    assert after >= before - 1e-12


@settings(max_examples=100, deadline=None)
@given(
    posture=POSTURES,
    epss=CHANCES,
    kev=EXPLOITED,
    cve=st.sampled_from(CVES),
    rise=st.floats(0, 1),
    cvss=st.tuples(*[st.integers(0, 100)] * 2),
)
def test_a_graver_cve_never_lowers_the_score(
    posture: HostPosture,
    epss: dict[str, float],
    kev: set[str],
    cve: str,
    rise: float,
    cvss: tuple[int, int],
) -> None:
    """Higher EPSS, an entry in KEV, higher CVSS."""
    low, high = sorted(cvss)
    epss = {cve: 0.0, **epss}
    graver = epss | {cve: epss[cve] + rise * (1.0 - epss[cve])}

    base = score_of(posture, knowledge(epss=epss, kev=kev, cvss=low))

    assert score_of(posture, knowledge(epss=graver, kev=kev, cvss=low)) >= base - 1e-12
    assert score_of(posture, knowledge(epss=epss, kev=kev | {cve}, cvss=low)) >= base - 1e-12
    assert score_of(posture, knowledge(epss=epss, kev=kev, cvss=high)) >= base - 1e-12


def test_hundreds_of_cves_do_not_saturate() -> None:
    """With a plain noisy-OR, all hosts with a few hundred old CVEs would have the same score."""
    keys = np.arange(cve_key("CVE-2020-1000"), cve_key("CVE-2020-1000") + 800, dtype=np.uint32)
    chances = np.full(800, round(0.007 * EPSS_STEPS), np.uint16)  # the median EPSS
    known = PostureKnowledge(
        keys, chances, np.full(800, 70, np.uint8), np.zeros(800, np.bool_), TODAY, TODAY, TODAY
    )
    few, many = (
        dataclasses.replace(host(str(n)), cves=frozenset(keys[:n].tolist())) for n in (400, 800)
    )

    answer = layer([few, many], known).score(events_on("400", "800"), explain=True)

    assert answer.details["chance"][1] < 0.1
    assert answer.scores[0] < answer.scores[1] < 0.6


def test_a_cve_that_no_source_knows_counts_as_an_average_one_and_is_reported() -> None:
    """Most such CVEs are new: neither harmless nor the worst."""
    unlisted, average = host("u", cves=[UNLISTED]), host("a", cves=CVES[:1])

    answer = layer([unlisted, average], knowledge(epss=AVERAGE_EPSS)).score(events_on("u", "a"))

    assert answer.scores[0] == pytest.approx(answer.scores[1], abs=1e-4)
    assert answer.notes == {0: "CVEs without EPSS: 1"}


def test_a_cve_without_a_cvss_score_counts_as_an_average_one() -> None:
    assert score_of(host(cves=CVES[:3]), knowledge(cvss=NO_CVSS)) == score_of(
        host(cves=CVES[:3]), knowledge(cvss=70)
    )


def test_the_explanation_names_the_worst_cve_and_its_contribution() -> None:
    known = knowledge(epss=dict.fromkeys(CVES, 0.01) | {CVES[7]: 0.6})
    bad = host("bad", cves=CVES[5:9], criticality="high")

    details = (
        layer([bad, host("clean")], known)
        .score(events_on("bad", "clean", "unknown"), explain=True)
        .details
    )

    assert details["worst_cve"].tolist() == [CVES[7], "", ""]
    assert 0.18 < details["chance"][0] < 0.2  # 0.6 * 0.3, and a little from the others
    assert details["impact"][0] == pytest.approx(0.7 * 1.5, rel=0.01)
    assert details["chance"][2] * details["impact"][2] == pytest.approx(
        ORDINARY_RISK
    )  # an unknown host is taken for the ordinary one


# --- age, P16


@pytest.mark.parametrize(
    ("age", "note"),
    [
        pytest.param(0, None, id="today"),
        pytest.param(30, None, id="last fresh day"),
        pytest.param(31, "inventory stale: 31 days", id="first stale day"),
        pytest.param(730, "inventory stale: 730 days", id="last day of use"),
        pytest.param(731, "posture_expired; inventory expired: 731 days", id="expired"),
    ],
)
def test_an_old_scan_is_noted_with_its_age(age: int, note: str | None) -> None:
    """P16: the age is in the verdict."""
    clock = FakeClock(TODAY + age)
    fresh = knowledge(epss_day=clock.day, kev_day=clock.day, cvss_day=clock.day)

    assert layer([host("h")], fresh, clock).score(events_on("h")).notes.get(0) == note


@pytest.mark.parametrize(
    "posture",
    [host("h"), host("h", cves=CVES[:5], exposure="internet")],
    ids=["resilient", "exposed"],
)
def test_an_old_scan_weighs_less_every_day_until_the_layer_abstains(posture: HostPosture) -> None:
    """P16: after `stale_after` the weight falls, after `expired_after` there is no opinion."""
    clock = FakeClock()
    distances = []
    for age in range(0, 760, 10):
        clock.day = TODAY + age
        fresh = knowledge(epss=0.2, epss_day=clock.day, kev_day=clock.day, cvss_day=clock.day)
        distances.append(abs(score_of(posture, fresh, clock) - 0.5))

    assert distances[0] == distances[3] > 0.2  # fresh to day 30
    assert all(later < earlier for earlier, later in itertools.pairwise(distances[3:74]))
    assert distances[73] < 0.001
    assert distances[74:] == [0.0, 0.0]


def test_old_knowledge_is_replaced_by_the_average() -> None:
    """P16: each source has its own date, its own weight and its own note."""
    exploited = host(cves=CVES[:1], exposure="internet")
    fresh = score_of(exploited, knowledge(epss=0.001, kev=CVES[:1]))
    kev_old = score_of(exploited, knowledge(epss=0.001, kev=CVES[:1], kev_day=TODAY - 400))
    kev_gone = score_of(exploited, knowledge(epss=0.001, kev=CVES[:1], kev_day=TODAY - 731))

    assert fresh > kev_old > kev_gone
    assert kev_gone == score_of(exploited, knowledge(epss=0.001))

    likely = knowledge(epss=0.9, epss_day=TODAY - 731)
    assert score_of(exploited, likely) == pytest.approx(
        score_of(exploited, knowledge(epss=AVERAGE_EPSS)), abs=1e-4
    )

    grave = knowledge(cvss=100, cvss_day=TODAY - 731)
    assert score_of(exploited, grave) == pytest.approx(score_of(exploited, knowledge(cvss=70)))


def test_with_neither_epss_nor_kev_there_is_no_opinion() -> None:
    """P16: severity alone gives no probability."""
    known = knowledge(epss=0.9, kev=CVES, epss_day=TODAY - 731, kev_day=None)

    answer = layer([host("h", cves=CVES)], known).score(events_on("h"))

    assert answer.scores[0] == 0.5
    assert answer.notes[0] == "posture_expired; epss expired: 731 days; kev not given"


def test_the_score_meets_neutral_without_a_jump_as_the_last_source_expires() -> None:
    posture = host(cves=CVES, exposure="internet")

    last_day = score_of(posture, knowledge(epss=0.9, epss_day=TODAY - 730, kev_day=None))

    assert last_day == pytest.approx(0.5, abs=0.01)


def test_a_source_from_the_future_is_fresh_and_flagged() -> None:
    """T3: either the clock or the file is wrong, so the date counts as today."""
    future = layer(
        [host("h", cves=CVES[:3], scan_day=TODAY + 9)], knowledge(epss_day=TODAY + 400)
    ).score(events_on("h"))

    assert future.scores[0] == score_of(host(cves=CVES[:3]))
    assert future.notes == {
        0: "inventory dated 9 days in the future; epss dated 400 days in the future"
    }


def test_a_running_layer_ages_with_its_clock() -> None:
    """Results of yesterday are not served today."""
    clock = FakeClock(TODAY + 30.99)
    model = layer([host("h")], clock=clock)
    assert model.score(events_on("h")).notes == {}

    clock.day = TODAY + 31

    assert "inventory stale: 31 days; epss stale: 31 days" in model.score(events_on("h")).notes[0]
    assert [age.age_days for age in model.source_ages()] == [31, 31, 31]


# --- the checks that every layer passes


def test_a_host_scores_the_same_alone_as_in_a_batch_and_again() -> None:
    hosts = [
        host(
            f"h{i}",
            cves=CVES[i : i + i % 9],
            exposure=EXPOSURES[i % 3],
            criticality=CRITICALITIES[i % 4],
            controls=CONTROLS[: i % 5],
        )
        for i in range(40)
    ]
    known = knowledge(epss={cve: place / 50 for place, cve in enumerate(CVES)}, kev=CVES[::7])
    names = [h.host for h in hosts] * 2

    together = layer(hosts, known).score(events_on(*names)).scores
    alone = [layer(hosts, known).score(events_on(name)).scores[0] for name in names]

    assert together.tolist() == alone
    assert together.dtype == np.float64
    assert ((together >= 0) & (together <= 1)).all()


def test_any_kind_of_event_and_an_empty_batch_are_scored() -> None:
    model = layer([host("h")])
    flows = FlowBatch(("", ""), ("h", "x"), np.zeros((2, 78), np.float32))

    assert model.score(flows).scores[0] == model.score(events_on("h")).scores[0]
    assert model.score(flows).notes == {1: "host_unknown"}
    empty = model.score(events_on(), explain=True)
    assert len(empty.scores) == len(empty.details["worst_cve"]) == 0


def test_thresholds_that_cross_are_refused() -> None:
    with pytest.raises(ValueError, match="stale before it expires"):
        ResiliencePosture(
            knowledge(),
            build_inventory([host()]),
            now=FakeClock(),
            stale_after_days=30,
            expired_after_days=30,
        )


# --- parts


def test_both_artifacts_come_back_from_their_parts() -> None:
    known = knowledge(epss={CVES[3]: 0.3}, kev=CVES[:2], cvss_day=None)
    hosts = build_inventory(
        [host("b", cves=CVES[:4], controls=("edr", "waf")), host("a"), host("c", cves=CVES[8:9])]
    )

    known_again = PostureKnowledge.from_parts(known.to_parts())
    hosts_again = PostureInventory.from_parts(hosts.to_parts())

    for before, after in ((known, known_again), (hosts, hosts_again)):
        for field in dataclasses.fields(before):
            assert np.array_equal(getattr(before, field.name), getattr(after, field.name)), (
                field.name
            )
    assert not known_again.keys.flags.writeable
    assert hosts_again.rows == {"a": 0, "b": 1, "c": 2}


def test_parts_do_not_share_memory_with_the_model() -> None:
    parts = knowledge().to_parts()
    arrays = {name: array.copy() for name, array in parts.arrays.items()}
    model = PostureKnowledge.from_parts(Parts(arrays, parts.config))

    arrays["epss"][:] = 0

    assert (model.epss > 0).all()


def spoilt(
    parts: Parts, *, array: dict[str, Any] | None = None, config: dict[str, Any] | None = None
) -> Parts:
    return Parts(dict(parts.arrays) | (array or {}), dict(parts.config) | (config or {}))


KNOWLEDGE_PARTS = knowledge(kev=CVES[:2]).to_parts()
LOWER, SIZES = KNOWLEDGE_PARTS.arrays["lower"], KNOWLEDGE_PARTS.arrays["block_sizes"]
HOSTILE_KNOWLEDGE = [
    pytest.param({"config": {"format": "posture-knowledge/9"}}, id="another format"),
    pytest.param({"config": {"epss_day": "2026-01-01"}}, id="date as text"),
    pytest.param({"config": {"epss_day": True}}, id="date as truth"),
    pytest.param({"config": {"kev_day": -1}}, id="date before the epoch"),
    pytest.param({"config": {"kev_day": 1e9}}, id="date as float"),
    pytest.param({"array": {"lower": LOWER[::-1].copy()}}, id="CVEs out of order"),
    pytest.param({"array": {"lower": np.zeros_like(LOWER)}}, id="CVEs twice"),
    pytest.param({"array": {"lower": LOWER.astype(np.float32)}}, id="keys as floats"),
    pytest.param({"array": {"lower": LOWER[:-1]}}, id="a key short"),
    pytest.param(
        {"array": {"block_sizes": np.full_like(SIZES, 2**32 - 1)}},
        id="a block of four thousand million",
    ),
    pytest.param(
        {"array": {"blocks": KNOWLEDGE_PARTS.arrays["blocks"][::-1].copy()}},
        id="blocks out of order",
    ),
    pytest.param({"array": {"epss": np.zeros(3, np.uint16)}}, id="too few EPSS"),
    pytest.param(
        {"array": {"epss": np.full(len(LOWER), np.nan, np.float32)}}, id="EPSS not finite"
    ),
    pytest.param({"array": {"epss": np.array(7, np.uint16)}}, id="EPSS without dimension"),
    pytest.param({"array": {"cvss": np.full(len(LOWER), 101, np.uint8)}}, id="CVSS 10.1"),
    pytest.param(
        {"array": {"kev_rows": np.array([len(LOWER)], np.uint32)}}, id="KEV row beyond the end"
    ),
]


@pytest.mark.parametrize("change", HOSTILE_KNOWLEDGE)
def test_hostile_knowledge_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactIncompatible):
        PostureKnowledge.from_parts(spoilt(KNOWLEDGE_PARTS, **change))


INVENTORY_PARTS = build_inventory([host("a", cves=CVES[:3]), host("b", cves=CVES[2:4])]).to_parts()
HOSTILE_INVENTORY = [
    pytest.param({"config": {"format": "posture-knowledge/1"}}, id="knowledge in its place"),
    pytest.param({"config": {"control_words": ["prayer"]}}, id="another vocabulary"),
    pytest.param({"config": {"hosts": ["a"]}}, id="a host short"),
    pytest.param({"config": {"hosts": ["a", "a"]}}, id="a host twice"),
    pytest.param({"config": {"hosts": ["a", "B"]}}, id="a host that no look-up finds"),
    pytest.param({"config": {"hosts": ["a", "b" * 257]}}, id="a host name of 257 bytes"),
    pytest.param({"config": {"hosts": ["a", "b\n"]}}, id="a host with a line break"),
    pytest.param({"config": {"hosts": ["a", 7]}}, id="a host that is a number"),
    pytest.param({"config": {"hosts": "ab"}}, id="hosts as text"),
    pytest.param({"array": {"starts": np.array([0, 9, 5], np.uint32)}}, id="runs that fall"),
    pytest.param({"array": {"starts": np.array([0, 3, 4], np.uint32)}}, id="runs that end early"),
    pytest.param({"array": {"starts": np.array([0, 3, 999], np.uint32)}}, id="runs beyond the end"),
    pytest.param({"array": {"starts": np.array([], np.uint32)}}, id="no runs"),
    pytest.param(
        {"array": {"cves": INVENTORY_PARTS.arrays["cves"][::-1].copy()}}, id="CVEs out of order"
    ),
    pytest.param({"array": {"exposures": np.array([0, 3], np.uint8)}}, id="a fourth exposure"),
    pytest.param(
        {"array": {"criticalities": np.array([0, 4], np.uint8)}}, id="a fifth criticality"
    ),
    pytest.param({"array": {"controls": np.array([0, 64], np.uint8)}}, id="a seventh control"),
    pytest.param(
        {"array": {"scan_days": np.array([0, -1], np.int32)}}, id="a scan before the epoch"
    ),
    pytest.param({"array": {"scan_days": np.array([0, 1], np.int64)}}, id="days of another type"),
]


@pytest.mark.parametrize("change", HOSTILE_INVENTORY)
def test_a_hostile_inventory_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactIncompatible):
        PostureInventory.from_parts(spoilt(INVENTORY_PARTS, **change))


@pytest.mark.parametrize(
    ("cls", "parts"),
    [(PostureKnowledge, KNOWLEDGE_PARTS), (PostureInventory, INVENTORY_PARTS)],
    ids=["k", "i"],
)
def test_parts_that_lack_anything_are_refused(
    cls: type[PostureKnowledge | PostureInventory], parts: Parts
) -> None:
    for name in parts.arrays:
        with pytest.raises(ArtifactIncompatible, match=name):
            cls.from_parts(
                Parts({n: a for n, a in parts.arrays.items() if n != name}, parts.config)
            )
    for name in parts.config:
        with pytest.raises(ArtifactIncompatible):
            cls.from_parts(
                Parts(parts.arrays, {n: v for n, v in parts.config.items() if n != name})
            )


def test_empty_knowledge_and_an_empty_inventory_still_give_scores() -> None:
    nothing = PostureKnowledge(
        np.zeros(0, np.uint32),
        np.zeros(0, np.uint16),
        np.zeros(0, np.uint8),
        np.zeros(0, np.bool_),
        TODAY,
        TODAY,
        TODAY,
    )
    again = PostureKnowledge.from_parts(nothing.to_parts())

    assert layer([host("h", cves=CVES[:1])], again).score(events_on("h")).notes == {
        0: "CVEs without EPSS: 1"
    }
    empty = PostureInventory.from_parts(build_inventory([]).to_parts())
    assert ResiliencePosture(again, empty, now=FakeClock()).score(events_on("h")).notes == {
        0: "host_unknown"
    }


# --- names


@given(year=st.integers(1999, 2126), number=st.integers(0, 2**25 - 1))
def test_a_cve_name_is_recovered_from_its_key(year: int, number: int) -> None:
    name = f"CVE-{year}-{number:04d}"

    assert cve_name(cve_key(name)) == name


NO_CVE_NAMES = [
    pytest.param("", id="nothing"),
    pytest.param("CVE-2021", id="no number"),
    pytest.param("cve-2021-44228", id="lower case"),
    pytest.param("CVE-2021-123", id="three digits"),
    pytest.param("CVE-2021-012345", id="padded beyond four"),
    pytest.param("CVE-1998-1234", id="before the list began"),
    pytest.param("CVE-2021-99999999", id="a number beyond the key"),
    pytest.param("CVE-2021-44228\n", id="a line break"),
    pytest.param("CVE-2021-\uff14\uff14\uff12\uff12", id="digits of another script"),
    pytest.param("GHSA-jfh8-c2jp-5v3q", id="another list"),
]


@pytest.mark.parametrize("text", NO_CVE_NAMES)
def test_an_invalid_cve_name_has_no_key(text: str) -> None:
    with pytest.raises(ValueError, match="no CVE name"):
        cve_key(text)


def test_the_form_of_a_host_name_is_stable() -> None:
    assert host_key(host_key(" Web-1")) == host_key("WEB-1 ") == "web-1"
