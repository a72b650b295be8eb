"""Event digests: equal if and only if the models read the same event (N-09)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ensemble.events import FlowBatch, ProcessBatch, ProcessEvent
from ensemble.features import flow, process
from ensemble.features.digest import event_digests
from ensemble.features.flow import FEATURE_NAMES, OTHER_DIALECTS, admit

HOSTS = st.text(max_size=40) | st.sampled_from(["", "ws-17", "10.0.0.7"])
NUMBERS = st.just(0.0) | st.floats(
    2.0**-10, 1e9, width=32
)  # a shorter duration than this makes a rate that is refused
FLOWS = arrays(np.float64, (3, 78), elements=NUMBERS)
TEXTS = st.text(max_size=60)
PROCESSES = st.builds(ProcessEvent, TEXTS, TEXTS, TEXTS, TEXTS, HOSTS)
REPEATED, REPEATS = (
    FEATURE_NAMES.index("Fwd Header Length.1"),
    FEATURE_NAMES.index("Fwd Header Length"),
)


def flows_of(
    values: Sequence[Sequence[float | None]] | np.ndarray,
    hosts: Sequence[str] = (),
    ids: Sequence[str] = (),
) -> FlowBatch:
    admitted = admit(values)
    size = len(admitted.features)
    return FlowBatch(
        tuple(ids) or ("",) * size, tuple(hosts) or ("",) * size, admitted.features, admitted.flags
    )


def digest_of(values: Sequence[float | None], host: str = "", event_id: str = "") -> str:
    (digest,) = event_digests(flows_of([values], [host], [event_id]))
    return digest


def a_flow(**changed: float) -> list[float | None]:
    values = [float(place) for place in range(78)]
    for place, value in changed.items():
        values[int(place[1:])] = value
    return list(values)


# what leaves no trace


@given(FLOWS, st.randoms(use_true_random=False), st.sampled_from([0, 1, 2]))
def test_a_flow_by_name_in_any_dialect_and_order_is_the_flow_by_position(
    values: np.ndarray, chance: object, spelling: int
) -> None:
    values[:, REPEATED] = values[:, REPEATS]
    names = [([name, *OTHER_DIALECTS.get(name, ())] * 3)[spelling] for name in FEATURE_NAMES]
    named = [list(zip(names, row, strict=True)) for row in values.tolist()]
    for row in named:
        chance.shuffle(row)  # type: ignore[attr-defined]  # hypothesis' own random.Random

    assert event_digests(flows_of([flow.in_order(dict(row)) for row in named])) == event_digests(
        flows_of(values)
    )


@given(FLOWS)
def test_minus_zero_is_zero(values: np.ndarray) -> None:
    """JSON has both, and models treat them alike."""
    assert event_digests(flows_of(np.where(values == 0.0, -0.0, values))) == event_digests(
        flows_of(values)
    )


@given(FLOWS, HOSTS, TEXTS)
def test_a_flow_alone_is_the_flow_in_a_batch_under_any_id(
    values: np.ndarray, host: str, event_id: str
) -> None:
    together = event_digests(flows_of(values, ["a", host, "b"]))

    assert digest_of(values[1].tolist(), host, event_id) == together[1]


def test_recomputed_rates_and_flags_do_not_change_the_digest() -> None:
    """Given rates are ignored.

    Without a duration they are 0 and the flow is flagged; the flag is not hashed.
    """
    claimed = [
        a_flow(f1=0.0, f14=rate, f15=rate) for rate in (0.0, 1e9, float("inf"), float("nan"))
    ]
    batch = flows_of([*claimed, [*a_flow(f1=0.0)[:14], None, None, *a_flow()[16:]]])

    assert batch.flags
    assert len(set(event_digests(batch))) == 1
    assert event_digests(batch) == event_digests(replace(batch, flags={}))


def test_a_number_that_is_not_finite_gets_no_digest_because_it_gets_no_verdict() -> None:
    batch = flows_of([a_flow(f20=float("nan")), a_flow(), a_flow(f30=float("-inf"))])

    assert event_digests(batch) == (digest_of(a_flow()),)


@given(st.lists(PROCESSES, min_size=1, max_size=4))
def test_a_process_start_alone_is_the_one_in_a_batch_under_any_id(
    events: list[ProcessEvent],
) -> None:
    together = event_digests(process.admit(events, [f"e{row}" for row in range(len(events))]))

    assert together == tuple(event_digests(process.admit([event]))[0] for event in events)


def test_the_digest_of_a_cut_command_line_is_that_of_the_rest() -> None:
    """The models read no more; a flag in the answer reports the cut."""
    long, cut = (
        process.admit([ProcessEvent("cmd.exe", command_line="x" * size)])
        for size in (40_000, 32 * 1024)
    )

    assert long.flags
    assert event_digests(long) == event_digests(cut)


# what has its own


@given(FLOWS, st.integers(0, 77), NUMBERS)
def test_flows_have_one_digest_only_if_every_admitted_feature_agrees(
    values: np.ndarray, place: int, value: float
) -> None:
    other = values.copy()
    other[0, place] = value
    one, two = flows_of(values), flows_of(other)

    assert (event_digests(one)[0] == event_digests(two)[0]) == bool(
        (one.features[0] == two.features[0]).all()
    )
    assert event_digests(one)[1:] == event_digests(two)[1:]


@given(HOSTS, HOSTS)
def test_the_host_is_part_of_it_because_its_posture_is_rated(one: str, two: str) -> None:
    """A host cannot imitate features: it comes last, after a part of fixed length."""
    assert (digest_of(a_flow(), one) == digest_of(a_flow(), two)) == (one == two)


@given(PROCESSES, PROCESSES)
def test_process_starts_have_one_digest_only_if_every_field_agrees(
    one: ProcessEvent, two: ProcessEvent
) -> None:
    """Fields are encoded as JSON, so that none can continue in the next."""
    digests = event_digests(process.admit([one, two]))

    assert (digests[0] == digests[1]) == (one == two)


def test_one_field_cannot_imitate_two() -> None:
    runs = [
        ProcessEvent("a", "b"),
        ProcessEvent("ab"),
        ProcessEvent('a","parent":"b'),
        ProcessEvent("", "ab"),
        ProcessEvent("b", "a"),
    ]

    assert len(set(event_digests(process.admit(runs)))) == len(runs)


@given(FLOWS, st.lists(PROCESSES, min_size=3, max_size=3))
def test_events_of_different_kinds_never_have_one_digest(
    values: np.ndarray, events: list[ProcessEvent]
) -> None:
    assert not set(event_digests(flows_of(values))) & set(event_digests(process.admit(events)))


def test_a_process_cannot_be_written_that_is_hashed_as_a_flow() -> None:
    """The first 32 bytes identify the kind, before any text of the event."""
    batch = flows_of([a_flow()])
    spelt = batch.features.tobytes().decode("latin-1")

    assert event_digests(process.admit([ProcessEvent(spelt)])) != event_digests(batch)


# the format, for whoever computes it elsewhere


def test_a_flow_is_hashed_as_documented() -> None:
    """Compared with the little-endian floats of `struct`."""
    values = flows_of([a_flow()]).features[0].tolist()
    kind = hashlib.sha256(f"axon input 1 flow {flow.schema_sha256()}".encode()).digest()

    expected = hashlib.sha256(
        kind + np.array(values, "<f4").tobytes() + "wëb-1".encode()
    ).hexdigest()

    assert digest_of(a_flow(), "wëb-1") == expected


def test_a_process_start_is_hashed_as_documented() -> None:
    kind = hashlib.sha256(b"axon input 1 process").digest()
    text = (
        '{"command_line":"ls -l \\u00e9","host":"ws-17","name":"ls","parent":"bash","user":"amy"}'
    )
    assert json.loads(text)["command_line"] == "ls -l é"

    batch = process.admit([ProcessEvent("ls", "bash", "ls -l é", "amy", "ws-17")], ["p1"])

    assert event_digests(batch) == (hashlib.sha256(kind + text.encode()).hexdigest(),)


@pytest.mark.parametrize(
    ("batch", "digest"),
    [
        pytest.param(
            flows_of([a_flow()], ["ws-17"]),
            "e1d6e32dbb1ecf17bc4515d5b6fedd5e37f2e7abcb89f2b9daebe5133cd61739",
            id="flow",
        ),
        pytest.param(
            process.admit([ProcessEvent("ls", "bash", "ls -l", "amy", "ws-17")]),
            "ab6dc1643a860754f91d91bcad61554bad2945c161ea6c091feabbabb030cf24",
            id="process",
        ),
    ],
)
def test_digests_stay_the_same_across_versions(
    batch: FlowBatch | ProcessBatch, digest: str
) -> None:
    """An old verdict must still match its event; another hash needs another format number."""
    assert event_digests(batch) == (digest,)


def test_no_events_have_no_digests() -> None:
    assert event_digests(flows_of(np.empty((0, 78)))) == ()
    assert event_digests(process.admit([])) == ()
