"""Rows on which a layer abstains: all other rows are scored as if they were not in the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.fusion import Fusion, Thresholds
from ensemble.verdicts import (
    Abstention,
    LayerScores,
    LayerStatus,
    SystemStatus,
    VerdictLabel,
    Verdicts,
    by_row,
)

RISING = Thresholds(0.1, 0.5, 0.9)
FUSION = Fusion(
    {"anomaly": 0.6, "behavior": 0.4},
    1.0,
    {"anomaly+behavior": RISING, "anomaly": RISING, "behavior": RISING},
)
POISONED = Abstention(LayerStatus.FALLBACK, "LAYER_CRASHED")
UNKNOWN = Abstention(LayerStatus.UNINFORMED, "nothing known")
SCORES = np.array([0.01, 0.2, 0.7, 0.95, 0.5])


def opinions(
    *,
    abstained: dict[int, Abstention],
    size: int = 5,
    other: dict[int, Abstention] | None = None,
) -> list[LayerScores]:
    """Anomaly abstains from some rows and notes every row; behavior abstains from `other`."""
    scores = np.resize(SCORES, size)
    return [
        LayerScores(
            "anomaly",
            LayerStatus.LIVE,
            "3",
            "default/1",
            scores,
            notes={row: f"note {row}" for row in range(size)},
            details={"Flow Duration": np.arange(size, dtype=float)},
            abstained=abstained,
        ),
        LayerScores(
            "behavior",
            LayerStatus.LIVE,
            "4",
            "default/1",
            scores[::-1].copy(),
            abstained=other or {},
        ),
        LayerScores("resilience", LayerStatus.LIVE, "5", "default/1", np.full(size, 0.6)),
    ]


def judged(said: list[LayerScores]) -> tuple[Verdicts, ...]:
    return FUSION.fuse_each(said, min_coverage=0.5, posture_bound=0.5)


def test_without_abstentions_there_is_one_group_of_all_rows() -> None:
    (verdicts,) = judged(opinions(abstained={}))

    assert verdicts.rows is None
    assert verdicts.coverage == 1.0
    assert verdicts.score.shape == (5,)


@given(guilty=st.sets(st.integers(0, 39), max_size=6), size=st.integers(1, 40))
def test_the_other_rows_are_byte_equal_to_a_batch_without_the_bad_ones(
    guilty: set[int], size: int
) -> None:
    """R6, N-13: one event must not change the verdict of another by a bit."""
    rows = sorted(row for row in guilty if row < size)
    kept = np.array([row for row in range(size) if row not in rows], dtype=np.intp)
    said = opinions(abstained=dict.fromkeys(rows, POISONED), size=size)

    groups = judged(said)

    assert sorted(
        row
        for group in groups
        for row in (range(size) if group.rows is None else group.rows.tolist())
    ) == list(range(size))
    if not kept.size:
        return
    (alone,) = judged([replace(one, abstained={}).select(kept) for one in said])
    whole = next(group for group in groups if group.coverage == 1.0)
    for column in ("score", "low", "high"):
        assert getattr(whole, column).tobytes() == getattr(alone, column).tobytes()
    assert (whole.label, whole.severity, whole.degraded, whole.status) == (
        alone.label,
        alone.severity,
        alone.degraded,
        alone.status,
    )


def test_a_bad_row_is_scored_by_the_other_layers_and_shows_it() -> None:
    """P12: coverage, bounds and reason are those of a layer that abstains."""
    healthy, poisoned = judged(opinions(abstained={2: POISONED}))

    assert healthy.rows is not None
    assert healthy.rows.tolist() == [0, 1, 3, 4]
    assert poisoned.rows is not None
    assert poisoned.rows.tolist() == [2]
    assert (poisoned.coverage, poisoned.degraded, poisoned.status) == (
        pytest.approx(0.4),
        True,
        SystemStatus.PARTIALLY_OPERATIONAL,
    )
    assert poisoned.label == (VerdictLabel.INDETERMINATE,)
    assert poisoned.low[0] < poisoned.score[0] < poisoned.high[0]
    silent = poisoned.layers[0]
    assert (silent.layer, silent.status, silent.reason, silent.version) == (
        "anomaly",
        LayerStatus.FALLBACK,
        POISONED.reason,
        "",
    )
    assert silent.scores.tolist() == [0.7]
    assert (healthy.coverage, healthy.degraded, healthy.status) == (
        1.0,
        False,
        SystemStatus.FULLY_OPERATIONAL,
    )


def test_the_score_of_a_bad_row_is_the_one_without_that_layer() -> None:
    said = opinions(abstained={2: POISONED})
    _, poisoned = judged(said)

    row = np.array([2])
    without = [
        LayerScores.silent("anomaly", LayerStatus.FALLBACK, 1, POISONED.reason),
        *(one.select(row) for one in said[1:]),
    ]

    assert poisoned.score == FUSION.fuse(without, min_coverage=0.5, posture_bound=0.5).score


def test_notes_and_explanations_stay_with_their_rows() -> None:
    healthy, poisoned = judged(opinions(abstained={1: POISONED}))

    assert healthy.layers[0].notes == {0: "note 0", 1: "note 2", 2: "note 3", 3: "note 4"}
    assert healthy.layers[0].details["Flow Duration"].tolist() == [0.0, 2.0, 3.0, 4.0]
    assert poisoned.layers[0].notes == {0: "note 1"}


def test_rows_are_grouped_by_the_layers_that_abstain_and_their_reasons() -> None:
    groups = judged(
        opinions(abstained={0: POISONED, 1: POISONED, 2: UNKNOWN}, other={1: POISONED, 3: POISONED})
    )

    assert [
        (group.rows.tolist(), group.coverage) for group in groups if group.rows is not None
    ] == [
        ([0], pytest.approx(0.4)),
        ([1], 0.0),
        ([2], pytest.approx(0.4)),
        ([3], pytest.approx(0.6)),
        ([4], 1.0),
    ]


def test_a_layer_that_abstains_from_the_batch_forms_no_groups() -> None:
    said = opinions(abstained={})
    silent = replace(
        LayerScores.silent("anomaly", LayerStatus.TIMEOUT, 5, "LAYER_TIMEOUT"),
        abstained={2: POISONED},
    )

    (verdicts,) = judged([silent, *said[1:]])

    assert verdicts.rows is None
    assert verdicts.layers[0].status is LayerStatus.TIMEOUT


def test_a_column_of_all_groups_is_in_the_order_of_the_events() -> None:
    said = opinions(abstained={0: POISONED, 3: POISONED})
    groups = judged(said)

    assert by_row(groups, lambda group: group.coverage).tolist() == pytest.approx(
        [0.4, 1.0, 1.0, 0.4, 1.0]
    )
    assert by_row(groups, lambda group: group.layers[0].scores).tolist() == SCORES.tolist()


def test_a_row_of_which_a_layer_knows_nothing_is_no_outage() -> None:
    """A7: the layer works, so the verdict is indeterminate, and not degraded."""
    known, unknown = judged(opinions(abstained={2: UNKNOWN}))

    assert (unknown.coverage, unknown.degraded) == (pytest.approx(0.4), False)
    assert (unknown.label, unknown.status) == (
        (VerdictLabel.INDETERMINATE,),
        SystemStatus.FULLY_OPERATIONAL,
    )
    silent = unknown.layers[0]
    assert (silent.status, silent.reason, silent.version) == (
        LayerStatus.UNINFORMED,
        "nothing known",
        "3",
    )
    assert unknown.low[0] < unknown.score[0] < unknown.high[0]
    assert (known.is_uninformed, unknown.is_uninformed) == (False, True)


def test_an_outage_beside_it_is_still_one() -> None:
    groups = judged(opinions(abstained={2: UNKNOWN}, other={2: POISONED}))

    assert [group.degraded for group in groups] == [False, True]
