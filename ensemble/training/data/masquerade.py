"""The data set process_masquerade: process starts of 30 users in labelled blocks of 100.

The first 50 blocks of a user are that user's own. Some of the later 100 blocks contain commands of
another user: a masquerade. A label applies to the entire block, though most commands in a marked
block are innocent by themselves.

Source: Schonlau et al., "Computer intrusion: detecting masquerades", Statistical Science 16(1),
2001.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.events import ProcessBatch

__all__ = ["MasqueradeBlocks", "read_masquerade"]

CLEAN_BLOCKS = 50  # of each user of process_masquerade; its SOURCE.txt


@dataclass(frozen=True, slots=True)
class MasqueradeBlocks:
    """Process starts in blocks of 100, each by its user or by another user in that user's name.

    Attributes:
        events: as columns, in the order of the file.
        block: int64 (n,), number of the block that each event belongs to, counted over all
            users from 0.
        is_masquerade: bool (n,), the same for all events of a block.
    """

    events: ProcessBatch
    block: NDArray[np.int64]
    is_masquerade: NDArray[np.bool_]

    def mean_by_block(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average `values` by block, float64 (blocks,)."""
        sizes = np.bincount(self.block)
        return np.asarray(np.bincount(self.block, weights=values) / sizes, np.float64)

    @property
    def is_masquerade_block(self) -> NDArray[np.bool_]:
        """Which blocks hold the commands of another user, bool (blocks,)."""
        _, first = np.unique(self.block, return_index=True)
        return self.is_masquerade[first]


def read_masquerade(data_dir: Path) -> tuple[MasqueradeBlocks, MasqueradeBlocks, str]:
    """Read the clean blocks to learn from, the blocks to calibrate on, and the file's sha256.

    Raises:
        TrainingError: the file is missing or lacks a column that SOURCE.txt describes.
    """
    file = data_dir / "process_masquerade" / "commands.csv.gz"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows = pd.read_csv(
            file,
            keep_default_na=False,
            dtype={"user": str, "command": str, "block": np.int64, "label": np.int64},
        )
    except (OSError, ValueError) as wrong:
        raise TrainingError(
            f"process_masquerade/commands.csv.gz cannot be read: {type(wrong).__name__}"
        ) from None
    missing = [name for name in ("user", "block", "command", "label") if name not in rows.columns]
    if missing:
        raise TrainingError(f"process_masquerade/commands.csv.gz: column {missing[0]} is missing")
    is_clean = rows["block"] < CLEAN_BLOCKS
    return _blocks(rows[is_clean]), _blocks(rows[~is_clean]), digest


def _blocks(rows: pd.DataFrame) -> MasqueradeBlocks:
    users, commands = (tuple(rows[column].tolist()) for column in ("user", "command"))
    empty = ("",) * len(rows)
    events = ProcessBatch(
        ids=empty,
        hosts=empty,
        users=users,
        names=commands,
        parents=empty,
        command_lines=empty,
    )
    block = rows.groupby(["user", "block"], sort=False).ngroup().to_numpy().astype(np.int64)
    return MasqueradeBlocks(events, block, rows["label"].to_numpy() != 0)
