"""A file of flows as one table, with the labels, days and times that training needs.

The file is of any format of `ensemble/sources/` that holds flows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.events import FlowBatch
from ensemble.sources import Refused, Rows, find_source

__all__ = ["BENIGN", "FlowTable", "read_flow_table"]

BENIGN = "BENIGN"
BENIGN_SPELLINGS = frozenset({"benign", "normal", "normal traffic"})


@dataclass(frozen=True, slots=True)
class FlowTable:
    """Flows of a file as columns.

    Attributes:
        features: float32 (n, 78), finite.
        families: n labels; `BENIGN` for benign flows, "" where the file has no label.
        days: n strings, "" where the file has none.
        times: n strings that sort by time, ISO 8601; "" where the file has none, or one whose
            order cannot be known.
        hosts: n strings, "" where the file has none.
        ids: n strings, "" where the file has none.
        lines: int (n,), line in the file, the header being line 1.
        flags: row -> what admission noticed.
        refused: lines that were left out.
    """

    features: NDArray[np.float32]
    families: NDArray[np.str_]
    days: NDArray[np.str_]
    times: NDArray[np.str_]
    hosts: NDArray[np.str_]
    ids: NDArray[np.str_]
    lines: NDArray[np.int64]
    flags: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()

    def __len__(self) -> int:
        return len(self.features)

    @property
    def is_hostile(self) -> NDArray[np.bool_]:
        """Which flows are labelled with an attack family."""
        return np.asarray(self.families != BENIGN)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> FlowTable:
        """Select the flows at `rows`, in that order, without flags and refused lines."""
        return FlowTable(
            self.features[rows],
            self.families[rows],
            self.days[rows],
            self.times[rows],
            self.hosts[rows],
            self.ids[rows],
            self.lines[rows],
        )

    def batch(self) -> FlowBatch:
        """Convert to the batch that every layer reads."""
        return FlowBatch(
            tuple(self.ids.tolist()), tuple(self.hosts.tolist()), self.features, self.flags
        )

    def split_by_time(self, first: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Split rows into the first share of each (day, label) by time, and the rest.

        Both parts are in the order of the file.

        Args:
            first: share in (0, 1).

        Raises:
            TrainingError: the file has no time column.
        """
        if not self.times.all():
            raise TrainingError(
                "a split by time needs an ISO 8601 `timestamp` on every line,"
                " e.g. 2017-07-05 08:55:00"
            )
        early = np.zeros(len(self), bool)
        groups = np.char.add(np.char.add(self.days, "\x00"), self.families)
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            in_time = rows[np.argsort(self.times[rows], kind="stable")]
            early[in_time[: round(first * len(rows))]] = True
        return np.flatnonzero(early), np.flatnonzero(~early)


def read_flow_table(path: Path) -> FlowTable:
    """Read a file at once.

    Raises:
        FeatureMismatch: the header lacks a feature.
        UnreadableSource: the file breaks off, or is not of its format from some line on.
        TrainingError: no line of the file can be read.
    """
    tables: list[FlowTable] = []
    refused: list[Refused] = []
    for block in find_source(path).read(path):
        refused += block.refused
        tables += [
            _table(rows.batch, rows) for rows in block.rows if isinstance(rows.batch, FlowBatch)
        ]
    if not tables:
        first = f"; {refused[0]}" if refused else ""
        raise TrainingError(f"{path.name} holds no flow that can be read{first}")
    flags: dict[int, tuple[str, ...]] = {}
    start = 0
    for table in tables:
        flags |= {start + row: flag for row, flag in table.flags.items()}
        start += len(table)
    return FlowTable(
        features=np.concatenate([table.features for table in tables]),
        families=np.concatenate([table.families for table in tables]),
        days=np.concatenate([table.days for table in tables]),
        times=np.concatenate([table.times for table in tables]),
        hosts=np.concatenate([table.hosts for table in tables]),
        ids=np.concatenate([table.ids for table in tables]),
        lines=np.concatenate([table.lines for table in tables]),
        flags=flags,
        refused=tuple(refused),
    )


def _table(flows: FlowBatch, rows: Rows) -> FlowTable:
    absent = ("",) * len(flows)
    labels = rows.notes.get("label", absent)
    return FlowTable(
        features=flows.features,
        families=_strings(
            BENIGN if label.casefold() in BENIGN_SPELLINGS else label for label in labels
        ),
        days=_strings(rows.notes.get("day", absent)),
        times=_strings(_sortable(time) for time in rows.notes.get("time", absent)),
        hosts=_strings(flows.hosts),
        ids=_strings(flows.ids),
        lines=np.array(rows.lines, np.int64),
        flags=flows.flags,
    )


def _sortable(time: str) -> str:
    """Normalise an ISO 8601 time; "" for any other format.

    `5/7/2017 8:55` does not even determine the month.
    """
    try:
        return datetime.fromisoformat(time).isoformat(timespec="microseconds")
    except ValueError:
        return ""


def _strings(values: Iterable[str]) -> NDArray[np.str_]:
    return np.array(list(values), dtype=np.str_)
