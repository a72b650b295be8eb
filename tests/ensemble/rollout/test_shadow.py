"""Shadow evaluation: a challenger is measured on the champion's traffic; no caller sees it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.rollout.sampler import TrafficSampler
from ensemble.rollout.shadow import Agreement, ShadowEvaluation
from ensemble.verdicts import (
    LayerScores,
    LayerStatus,
    Severity,
    SystemStatus,
    VerdictLabel,
    Verdicts,
)

WORDS = {
    "b": VerdictLabel.BENIGN,
    "s": VerdictLabel.SUSPICIOUS,
    "m": VerdictLabel.MALICIOUS,
    "i": VerdictLabel.INDETERMINATE,
}


def verdicts(
    words: str,
    scores: Sequence[float] = (),
    *,
    coverage: float = 1.0,
    status: LayerStatus = LayerStatus.LIVE,
) -> Verdicts:
    """Verdicts of a batch by one layer, one letter for each event."""
    column = np.array(scores or [0.5] * len(words))
    layer = LayerScores("anomaly", status, "1", "default/2", np.full(len(words), 0.5))
    return Verdicts(
        score=column,
        low=column,
        high=column,
        label=tuple(WORDS[letter] for letter in words),
        severity=(Severity.LOW,) * len(words),
        coverage=coverage,
        degraded=False,
        status=SystemStatus.FULLY_OPERATIONAL,
        layers=(layer,),
    )


@pytest.fixture
def shadow() -> ShadowEvaluation:
    return ShadowEvaluation("default/2", "default/1", share=1.0)


def test_without_events_every_counter_is_zero(shadow: ShadowEvaluation) -> None:
    assert shadow.agreement == Agreement("default/2", "default/1")


def test_flips_are_counted_by_both_verdicts(shadow: ShadowEvaluation) -> None:
    flips = shadow.record([verdicts("bmmsb")], [verdicts("bbbss")])
    shadow.record([verdicts("bb")], [verdicts("bm")])

    assert flips == {"benign>malicious": 2, "suspicious>benign": 1}
    assert shadow.agreement.events == 7
    assert shadow.agreement.agree == 3
    assert shadow.agreement.flips == {
        "benign>malicious": 2,
        "suspicious>benign": 1,
        "malicious>benign": 1,
    }


def test_scores_are_compared_with_their_sign(shadow: ShadowEvaluation) -> None:
    shadow.record([verdicts("bb", [0.9, 0.2])], [verdicts("bb", [0.5, 0.3])])

    assert shadow.agreement.mean_difference == pytest.approx(0.15)
    assert shadow.agreement.largest_difference == pytest.approx(0.4)


def test_less_coverage_is_an_abstention_and_no_flip(shadow: ShadowEvaluation) -> None:
    """A layer that has not loaded yet must make the challenger look neither worse nor better."""
    shadow.record([verdicts("ii", coverage=0.3, status=LayerStatus.WARMING_UP)], [verdicts("bm")])

    assert shadow.agreement.events == 0
    assert shadow.agreement.flips == {}
    assert (
        shadow.agreement.silent_challenger,
        shadow.agreement.silent_champion,
        shadow.agreement.calls,
    ) == (1, 0, 1)


@given(
    st.lists(st.integers(1, 300), min_size=20, max_size=200),
    st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]),
)
def test_a_share_is_a_share_of_the_events_whatever_the_batches(
    sizes: list[int], share: float
) -> None:
    sampler = TrafficSampler(share)
    taken = 0
    for size in sizes:
        if sampler.should_take(size):
            sampler.record(size)
            taken += size

    assert abs(taken - share * sum(sizes)) <= max(sizes)
    assert taken == sum(sizes) or share < 1.0
