"""Detection on real flows (CICIDS2017) in a minute: later flows, and two families left out.

The network is trained with a seventh of its steps here. `axon train flows` does the full
evaluation, nested over all ten families.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ensemble.training.data.flow_table import FlowTable, read_flow_table
from ensemble.training.evaluation.evaluate import FUSED, Evaluation, evaluate_layers
from ensemble.training.recipes import behavior, flow_ensemble
from ensemble.training.recipes.flow_ensemble import fit_flows

STEPS = 200
# of each family: a hundred flows of a flood train as well as four thousand
BENIGN_FLOWS, FLOWS_OF_A_FAMILY = 1200, 120
UNSEEN = ("DDoS", "Portscan")
SEEN = ("Botnet", "FTP-Patator", "DoS GoldenEye")


@pytest.fixture(scope="module")
def real(data_root: Path) -> FlowTable:
    return read_flow_table(data_root / "flows_cicids2017" / "flows.csv.gz")


@pytest.fixture(scope="module")
def evaluation(real: FlowTable) -> Evaluation:
    """Scores of layers fitted on the first 70 % of each (day, label), without the unseen families.

    The scores are of the other flows and of the unseen families.
    """
    early, late = real.split_by_time(0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_ensemble, "fit_behavior", partial(behavior.fit_behavior, steps=STEPS))
        layers = fit_flows(_thinned(real.select(early), SEEN), seed=1)
    return evaluate_layers(layers, _thinned(real.select(late), (*SEEN, *UNSEEN)))


def _thinned(table: FlowTable, families: tuple[str, ...]) -> FlowTable:
    """Select some flows of each family and of benign traffic, evenly over time."""
    selected = []
    for family in ("BENIGN", *families):
        rows = np.flatnonzero(table.families == family)
        most = BENIGN_FLOWS if family == "BENIGN" else FLOWS_OF_A_FAMILY
        selected.append(rows[np.linspace(0, rows.size - 1, min(most, rows.size)).astype(int)])
    return table.select(np.sort(np.concatenate(selected)))


def _auroc(evaluation: Evaluation, family: str) -> float:
    figures = evaluation.by_family()[family]
    print(
        f"\n{family}: "
        + ", ".join(
            f"{name} {figure.auroc:.4f} / {figure.tpr_at_1_fpr:.3f}"
            for name, figure in figures.items()
        )
    )
    return figures[FUSED].auroc


def test_later_flows_of_known_families_are_detected(evaluation: Evaluation) -> None:
    """Needs ../shared/data. The split is by time; a random split would give too high figures."""
    known = ~np.isin(evaluation.families, UNSEEN)
    later = Evaluation(
        {name: column[known] for name, column in evaluation.scores.items()},
        evaluation.families[known],
        evaluation.is_hostile[known],
    )

    fused = later.overall()[FUSED]
    print(f"\nlater flows: {fused}")

    assert fused.auroc >= 0.99


@pytest.mark.parametrize("family", UNSEEN)
def test_a_family_that_was_not_in_the_training_is_detected_too(
    evaluation: Evaluation, family: str
) -> None:
    """Needs ../shared/data. The layers, the calibration and the fusion were fitted without it."""
    assert _auroc(evaluation, family) >= 0.95
