"""A bad row affects only its own score (N-13, fault R6)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.events import EventBatch, FlowBatch, ProcessBatch, ProcessEvent
from ensemble.model import ModelScores
from ensemble.runtime.bad_rows import HOPELESS_TRIES, score_isolating_bad_rows


@dataclass
class Choking:
    """Scores a flow by its first feature; raises on a bad value and on a batch too long."""

    poison: frozenset[float]
    longest: int = 10**6
    calls: list[int] = field(default_factory=list)

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        del explain
        assert isinstance(batch, FlowBatch)
        self.calls.append(len(batch))
        values = batch.features[:, 0].astype(float)
        if self.poison.intersection(values.tolist()) or len(batch) > self.longest:
            raise ZeroDivisionError
        return ModelScores(
            values / 1e4, {row: f"note {value:g}" for row, value in enumerate(values) if value == 7}
        )


def flows(count: int) -> FlowBatch:
    """Flows whose first feature is their row."""
    features = np.zeros((count, 78), np.float32)
    features[:, 0] = np.arange(count)
    return FlowBatch(
        tuple(str(row) for row in range(count)),
        ("",) * count,
        features,
        {7: ("rates_undefined",)} if count > 7 else {},
    )


@given(
    st.integers(2, 300).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=8))
    )
)
def test_every_bad_row_is_found_and_every_other_keeps_its_score(
    case: tuple[int, set[int]],
) -> None:
    count, guilty = case
    if len(guilty) == count:
        return

    said, found = score_isolating_bad_rows(
        Choking(frozenset(guilty)), flows(count), explain=False, shown=0.25
    )

    assert set(found) == guilty
    assert said.scores.tolist() == [0.25 if row in guilty else row / 1e4 for row in range(count)]
    assert said.notes == ({7: "note 7"} if count > 7 and 7 not in guilty else {})


def test_a_batch_without_bad_rows_costs_one_call() -> None:
    model = Choking(frozenset())

    score_isolating_bad_rows(model, flows(1000), explain=False, shown=0.0)

    assert model.calls == [1000]


def test_a_batch_that_is_only_too_long_is_scored_in_parts() -> None:
    """R7: the memory of a GPU ends before the events do."""
    said, found = score_isolating_bad_rows(
        Choking(frozenset(), longest=300), flows(1000), explain=False, shown=0.0
    )

    assert (list(found), said.scores.tolist()) == ([], [row / 1e4 for row in range(1000)])


@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_a_model_that_fails_on_everything_is_abandoned_soon(count: int) -> None:
    """The search for good rows costs time for which the other layers wait."""
    model = Choking(frozenset(map(float, range(count))))

    with pytest.raises((ZeroDivisionError, ValueError)):
        score_isolating_bad_rows(model, flows(count), explain=False, shown=0.0)

    assert len(model.calls) <= HOPELESS_TRIES + 2


def test_rows_scored_before_the_limit_of_tries_keep_their_scores() -> None:
    """A hundred bad events of one caller must not affect the other callers of the batch."""
    said, guilty = score_isolating_bad_rows(
        Choking(frozenset(map(float, range(100)))), flows(1000), explain=False, shown=0.5
    )

    assert set(range(100)) <= set(guilty)
    assert len(guilty) < 200
    assert said.scores[500:].tolist() == [row / 1e4 for row in range(500, 1000)]


def test_a_part_of_a_batch_is_the_batch_of_those_rows() -> None:
    part = flows(10).part(6, 9)
    processes = ProcessBatch.of([ProcessEvent(f"p{n}", host=f"h{n}") for n in range(4)]).part(1, 3)

    assert (part.ids, part.features[:, 0].tolist(), part.flags) == (
        ("6", "7", "8"),
        [6.0, 7.0, 8.0],
        {1: ("rates_undefined",)},
    )
    assert (processes.names, processes.hosts, len(processes)) == (("p1", "p2"), ("h1", "h2"), 2)
