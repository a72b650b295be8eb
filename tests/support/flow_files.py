"""Files of flows as CICFlowMeter writes them, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from ensemble.features.flow import FEATURE_NAMES
from ensemble.training.data.flow_table import FlowTable

__all__ = ["a_line", "csv_of", "write_flows", "written"]


def write_flows(
    folder: Path,
    header: Sequence[str],
    lines: Iterable[Sequence[object]],
    *,
    name: str = "flows.csv",
    before: str = "",
) -> Path:
    """Write a CSV file: `before`, the header, the lines. A `name` ending in .gz compresses it."""
    path = folder / name
    text = io.StringIO(newline="")
    text.write(before)
    csv.writer(text).writerows([header, *lines])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def a_line(seed: int = 0, **cells: object) -> list[object]:
    """Make 78 cells, different for each `seed`; `cells` replace by position, e.g. `c6="x"`."""
    line: list[object] = [float(seed + i) for i in range(78)]
    for name, value in cells.items():
        line[int(name[1:])] = value
    return line


def csv_of(flows: FlowTable, *, labelled: bool = False) -> list[str]:
    """Format flows as CICFlowMeter does: a header and one line each."""
    header = ",".join([*FEATURE_NAMES, "Timestamp", "Day", "Label"] if labelled else FEATURE_NAMES)
    lines = [
        ",".join(f"{value:.9g}" for value in row) for row in flows.features.astype(float).tolist()
    ]
    if labelled:
        meta = zip(flows.times.tolist(), flows.days.tolist(), flows.families.tolist(), strict=True)
        lines = [
            f"{line},{time},{day},{label}"
            for line, (time, day, label) in zip(lines, meta, strict=True)
        ]
    return [header, *lines]


def written(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path
