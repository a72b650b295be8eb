"""Model cards and charts: all figures, the weak families by name, and the same bytes each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ensemble.fusion import Fusion, Thresholds
from ensemble.training.data.flow_table import BENIGN
from ensemble.training.evaluation.charts import reliability_picture, roc_picture, score_picture
from ensemble.training.evaluation.evaluate import Evaluation, FamilyOut
from ensemble.training.evaluation.model_card import family_table, flow_card, separation_table
from ensemble.training.fit.calibration import event_weights
from ensemble.training.markdown import table
from ensemble.training.metrics import Separation

SCORES = ("anomaly", "behavior", "fused")
LIMITS = Thresholds(0.2, 0.6, 0.9)
FUSION = Fusion(
    {"anomaly": 0.4, "behavior": 0.6},
    1.5,
    {"anomaly": Thresholds(0.123, 0.5, 0.9), "anomaly+behavior": LIMITS},
)


def cells_of(markdown: str) -> list[list[str]]:
    """Lines of a Markdown table, with the ruler."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


@pytest.fixture
def evaluation() -> Evaluation:
    """1,000 benign flows, exactly 12 of them above the threshold, and two families."""
    generator = np.random.default_rng(0)
    families = np.repeat([BENIGN, "Flood", "Scan"], [1000, 40, 40])
    calm, loud = (
        np.r_[generator.uniform(0.01, 0.19, 988), np.full(12, 0.5)],
        generator.uniform(0.4, 0.99, 80),
    )
    return Evaluation(
        dict.fromkeys(SCORES, np.r_[calm, loud]), families, families != BENIGN, thresholds=LIMITS
    )


def figures(tpr: float, hostile: int = 40) -> dict[str, Separation]:
    return dict.fromkeys(SCORES, Separation(0.9, 0.8, tpr, 0.1, 1000, hostile))


@pytest.fixture
def unseen() -> FamilyOut:
    """A family that is found, one that is not, and one of six flows."""
    versus = {"auroc": (0.0123, -0.001, 0.02), "tpr_at_1_fpr": (0.05, 0.01, 0.09)}
    families = {
        "Flood": figures(1.0),
        "Botnet": figures(0.2),
        "Heartbleed": figures(0.6, hostile=6),
    }
    return FamilyOut(families, {"auroc": "anomaly", "tpr_at_1_fpr": "behavior"}, versus)


def card_of(**changes: Any) -> str:
    given: dict[str, Any] = {
        "name": "anomaly-flow",
        "about": "What it is.",
        "training": {"recipe": "flows", "rows": 28448},
        "fusion": FUSION,
    }
    return flow_card(**(given | {"later": None, "unseen": None} | changes))


def test_a_table_is_valid_markdown() -> None:
    assert cells_of(table(["a", "b"], [[1, "x"], [2, "y"]])) == [
        ["a", "b"],
        ["---", "---"],
        ["1", "x"],
        ["2", "y"],
    ]


def test_the_card_names_the_training_data_and_the_fusion() -> None:
    card = card_of()

    assert card.startswith("# anomaly-flow\n\nWhat it is.\n")
    assert ["rows", "28448"] in cells_of(card)
    assert ["anomaly", "0.1230", "0.5000", "0.9000"] in cells_of(card)
    assert "anomaly 0.40, behavior 0.60; sharpness 1.50" in card
    assert card.endswith("\n")


def test_the_card_claims_nothing_that_was_not_measured() -> None:
    assert "AUROC" not in card_of()
    assert "## Limits" in card_of()


def test_the_card_gives_every_figure_of_every_score(evaluation: Evaluation) -> None:
    lines = cells_of(separation_table(evaluation.overall()))

    assert lines[0] == [
        "score",
        "AUROC",
        "AUPRC",
        "TPR at 1 % FPR",
        "TPR at 0.1 % FPR",
        "benign",
        "hostile",
    ]
    assert [line[0] for line in lines[2:]] == list(SCORES)
    assert lines[2][5:] == ["1000", "80"]


def test_the_card_counts_false_positives_with_an_interval(evaluation: Evaluation) -> None:
    """12 of 1,000 is no rate without its interval."""
    card = card_of(later=evaluation)

    assert "12 of 1000 (1.20%, 95 % interval 0.69% to 2.09%)" in card
    assert all(f"]({picture}.png)" in card for picture in ("roc", "reliability", "scores"))


def test_the_card_has_a_line_for_each_family_and_means_over_them(unseen: FamilyOut) -> None:
    lines = cells_of(card_of(unseen=unseen))

    assert ["Botnet", "40", *["0.900 / 0.200"] * 3] in lines
    assert ["**mean**", "", *["**0.900 / 0.600**"] * 3] in lines
    assert ["**mean without Heartbleed**", "", *["**0.900 / 0.600**"] * 3] in lines, (
        "six flows are no rate: a mean without them beside it"
    )


def test_the_card_names_the_families_that_it_does_not_find(unseen: FamilyOut) -> None:
    """A user of the model must know what it misses."""
    card = card_of(unseen=unseen)

    assert (
        "**Weak when unseen** (less than half is found at 1 % false positives): Botnet (0.20)."
        in card
    )
    assert "auroc: +0.0123 over anomaly (95 % interval -0.0010 to +0.0200)" in card


def test_the_card_of_own_traffic_does_not_mention_other_networks() -> None:
    assert "CICIDS2017" in card_of()
    assert "CICIDS2017" not in card_of(own_traffic=True)


def test_a_table_of_families_without_means_has_none(unseen: FamilyOut) -> None:
    assert len(cells_of(family_table(unseen.families))) == 2 + 3


PICTURES = [
    pytest.param(lambda j: roc_picture("ROC", j.scores, j.is_hostile), id="roc"),
    pytest.param(
        lambda j: reliability_picture(
            "Reliability", j.scores["fused"], j.is_hostile, event_weights(j.families)
        ),
        id="reliability",
    ),
    pytest.param(
        lambda j: score_picture("Scores", j.scores["fused"], j.is_hostile, LIMITS), id="scores"
    ),
]


@pytest.mark.parametrize("draw", PICTURES)
def test_a_picture_is_a_png_and_the_same_bytes_each_time(
    evaluation: Evaluation, draw: Callable[[Evaluation], bytes]
) -> None:
    """Charts are files of a bundle: the same training gives the same digests."""
    one, other = draw(evaluation), draw(evaluation)

    assert one.startswith(b"\x89PNG\r\n\x1a\n")
    assert b"Software" not in one
    assert hashlib.sha256(one).hexdigest() == hashlib.sha256(other).hexdigest()


def test_another_score_gives_another_picture(evaluation: Evaluation) -> None:
    worse = Evaluation(
        {name: column[::-1].copy() for name, column in evaluation.scores.items()},
        evaluation.families,
        evaluation.is_hostile,
    )

    assert all(param.values[0](evaluation) != param.values[0](worse) for param in PICTURES)
