"""Verdicts: opinions that cannot hold invalid scores, and the status of the ensemble."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.verdicts import SPEAKING, LayerScores, LayerStatus, SystemStatus, system_status

LIVE, FALLBACK, ABSENT = LayerStatus.LIVE, LayerStatus.FALLBACK, LayerStatus.NOT_APPLICABLE

WORDS = [
    pytest.param([LIVE, LIVE], SystemStatus.FULLY_OPERATIONAL, id="both speak"),
    pytest.param([LIVE, FALLBACK], SystemStatus.PARTIALLY_OPERATIONAL, id="behavior is silent"),
    pytest.param([FALLBACK, LIVE], SystemStatus.PARTIALLY_OPERATIONAL, id="anomaly is silent"),
    pytest.param([FALLBACK, FALLBACK], SystemStatus.FALLBACK_MODE, id="none speaks"),
    pytest.param(
        [LIVE, ABSENT], SystemStatus.FULLY_OPERATIONAL, id="the other has no business here"
    ),
    pytest.param([FALLBACK, ABSENT], SystemStatus.FALLBACK_MODE, id="the only one is silent"),
    pytest.param([], SystemStatus.FALLBACK_MODE, id="no layer at all"),
    pytest.param([ABSENT, ABSENT], SystemStatus.FALLBACK_MODE, id="nobody's business"),
]


@pytest.mark.parametrize(("statuses", "word"), WORDS)
def test_the_status_summarizes_the_available_layers(
    statuses: list[LayerStatus], word: SystemStatus
) -> None:
    """S0-12."""
    assert system_status(statuses) is word


@pytest.mark.parametrize(("one", "other"), list(product(LayerStatus, repeat=2)))
def test_the_status_does_not_depend_on_the_order_of_the_layers(
    one: LayerStatus, other: LayerStatus
) -> None:
    assert system_status([one, other]) is system_status([other, one])


def test_only_a_live_model_an_older_proven_one_and_written_rules_speak() -> None:
    """P12: every other status weighs nothing; a new one must be added here on purpose."""
    assert {LayerStatus.LIVE, LayerStatus.LAST_GOOD, LayerStatus.RULES} == SPEAKING
    assert [LayerScores.silent("anomaly", status, 1, "").speaks for status in LayerStatus] == [
        status in SPEAKING for status in LayerStatus
    ]


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1.0000001, -1e-9, 2.0])
@given(place=st.integers(0, 4))
def test_no_score_outside_0_to_1_enters_an_opinion(wrong: float, place: int) -> None:
    """P11: NaN passes every `>` and would become a benign verdict."""
    scores = np.full(5, 0.5)
    scores[place] = wrong

    with pytest.raises(ValueError, match=r"anomaly: a score is outside \[0, 1\]"):
        LayerScores("anomaly", LIVE, "1", "default/1", scores)


def test_an_opinion_is_a_column() -> None:
    with pytest.raises(ValueError, match="outside"):
        LayerScores("anomaly", LIVE, "1", "default/1", np.full((2, 2), 0.5))


def test_an_opinion_never_changes_once_given() -> None:
    """Fusion, the wire and the explanation read the same array."""
    opinion = LayerScores("anomaly", LIVE, "1", "default/1", np.array([0.0, 0.5, 1.0]))

    with pytest.raises(ValueError, match="read-only"):
        opinion.scores[0] = 1.0


def test_an_abstention_shows_a_score_and_names_no_model() -> None:
    """S0: the fallback numbers are for display."""
    silent = LayerScores.silent("behavior", FALLBACK, 3, "ARTIFACT_MISSING", score=0.1)

    assert silent.scores.tolist() == [0.1, 0.1, 0.1]
    assert (silent.version, silent.release, silent.reason, silent.speaks) == (
        "",
        "",
        "ARTIFACT_MISSING",
        False,
    )
