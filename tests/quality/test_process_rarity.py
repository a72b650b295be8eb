"""Detection of masqueraders on real commands.

The model is fitted on the first 50 blocks of 30 users, and scores the next 100.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from ensemble.kernels.calibration import Calibration
from ensemble.training.data.masquerade import MasqueradeBlocks, read_masquerade
from ensemble.training.data.process_files import read_process_events
from ensemble.training.metrics import separation
from ensemble.training.recipes.process_anomaly import (
    TrainedProcesses,
    train_benign,
    train_masquerade,
)


@pytest.fixture(scope="module")
def data_dir() -> Path:
    """The labelled data: ../shared/data, or the folder that AXON_DATA names."""
    folder = Path(
        os.environ.get("AXON_DATA")
        or Path(__file__).resolve().parents[2].parent / "shared" / "data"
    )
    if not (folder / "process_masquerade").is_dir():
        pytest.skip(
            "the labelled data (../shared/data/process_masquerade, or AXON_DATA) is not here"
        )
    return folder


@pytest.fixture(scope="module")
def masquerade(data_dir: Path) -> tuple[MasqueradeBlocks, MasqueradeBlocks]:
    clean, later, _ = read_masquerade(data_dir)
    return clean, later


@pytest.fixture(scope="module")
def trained(data_dir: Path) -> TrainedProcesses:
    return train_masquerade(data_dir, seed=7)


def plain_surprisal(clean: MasqueradeBlocks, later: MasqueradeBlocks) -> np.ndarray:
    """Compute the surprisal under each user's command frequencies, with add-one smoothing.

    This is the obvious baseline.
    """
    launches: dict[str, Counter[str]] = defaultdict(Counter)
    for user, name in zip(clean.events.users, clean.events.names, strict=True):
        launches[user][name] += 1
    slots = len(set(clean.events.names)) + 1
    totals = {user: table.total() + slots for user, table in launches.items()}
    chances = [
        (launches[user][name] + 1) / totals[user]
        for user, name in zip(later.events.users, later.events.names, strict=True)
    ]
    return -np.log(chances)


def test_masqueraders_are_detected_better_than_by_a_plain_frequency_table(
    trained: TrainedProcesses, masquerade: tuple[MasqueradeBlocks, MasqueradeBlocks]
) -> None:
    """The score of a block is the mean of its events' calibrated scores.

    Each user's calibration is fitted without the labels of that user.
    """
    clean, later = masquerade
    by_block, is_masquerade = (
        later.mean_by_block(plain_surprisal(clean, later)),
        later.is_masquerade_block,
    )
    plain = separation(by_block[~is_masquerade], by_block[is_masquerade])
    shipped_by_block = later.mean_by_block(trained.model.score(later.events).scores)
    shipped = separation(shipped_by_block[~is_masquerade], shipped_by_block[is_masquerade])
    print(
        f"\nblocks, each user held out in turn: {trained.metrics}\nblocks, shipped "
        f"calibration: {shipped}\nblocks, plain table: {plain}"
    )

    assert trained.metrics["block_auroc"] >= 0.915
    assert trained.metrics["block_auroc"] >= plain.auroc
    assert trained.metrics["block_tpr_at_1_fpr"] >= plain.tpr_at_1_fpr
    assert shipped.auroc >= plain.auroc


def test_the_shipped_model_scores_rarity_alone_and_its_benign_scores_are_those_of_clean_blocks(
    trained: TrainedProcesses, masquerade: tuple[MasqueradeBlocks, MasqueradeBlocks]
) -> None:
    assert trained.model.command_lines is None
    assert isinstance(trained.model.rarity_calibration, Calibration)
    assert trained.benign_scores.size == int((~masquerade[1].is_masquerade).sum())
    assert trained.sizes["users"] == 30


def test_real_windows_processes_train_a_model_of_a_tenant(
    data_dir: Path, trained: TrainedProcesses
) -> None:
    """The recordings have no benign label.

    The test shows only that training works on real command lines.
    """
    events = read_process_events(data_dir / "process_windows" / "process_creations.csv.gz")

    own = train_benign(events, trained.model, seed=0)

    assert len(events) == 2119
    assert own.model.command_lines is not None
    assert np.isfinite(own.benign_scores).all()
