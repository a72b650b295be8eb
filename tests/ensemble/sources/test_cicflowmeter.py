"""CICFlowMeter files: every dialect, packed or not, and bad lines named instead of fatal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ensemble.errors import FeatureMismatch, UnreadableSource
from ensemble.events import FlowBatch
from ensemble.features.flow import FEATURE_NAMES
from ensemble.sources import Refused, find_source
from tests.support.flow_files import a_line, write_flows

COLUMN = {name: i for i, name in enumerate(FEATURE_NAMES)}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_flows, tmp_path)


@dataclass(frozen=True)
class Flows:
    """The only block of a short file."""

    batch: FlowBatch
    lines: Sequence[int]
    labels: Sequence[str]
    refused: Sequence[Refused]

    @property
    def features(self) -> NDArray[np.float32]:
        return self.batch.features


def read(path: Path) -> Flows:
    (block,) = find_source(path).read(path)
    (rows,) = block.rows
    assert isinstance(rows.batch, FlowBatch)
    return Flows(rows.batch, rows.lines, rows.notes.get("label", ()), block.refused)


def test_every_dialect_gives_the_same_flows(write: Write, dialect: tuple[str, ...]) -> None:
    """A file is read by the names in its header, never by position."""
    lines = [a_line(seed, c55=float(seed + 34)) for seed in range(3)]
    written = [i for i in range(78) if len(dialect) == 78 or i != 55]

    flows = read(write(dialect, [[line[i] for i in written] for line in lines]))

    assert flows.features == pytest.approx(read(write(FEATURE_NAMES, lines)).features)
    assert flows.features[1, COLUMN["Down/Up Ratio"]] == 1 + COLUMN["Down/Up Ratio"]
    assert (flows.features[:, 55] == flows.features[:, 34]).all()


def test_columns_may_be_in_any_order_with_any_others_between(write: Write) -> None:
    header = ["src_ip", *reversed(FEATURE_NAMES), "Label", "colour"]

    flows = read(write(header, [["10.0.0.1", *reversed(a_line(5)), "DDoS", "red"]]))

    assert flows.features == pytest.approx(read(write(FEATURE_NAMES, [a_line(5)])).features)
    assert list(flows.labels) == ["DDoS"]


def test_the_column_that_the_2017_release_writes_twice_is_read_twice(write: Write) -> None:
    """Both are called `Fwd Header Length`; pandas calls the second one `.1`."""
    header = [name.replace("Fwd Header Length.1", "Fwd Header Length") for name in FEATURE_NAMES]

    flows = read(write(header, [a_line(c34=40, c55=41)]))

    assert flows.features[0, [34, 55]].tolist() == [40.0, 41.0]


@pytest.mark.parametrize("name", ["Flow Duration", " flow duration "])
def test_any_other_repeated_column_is_an_error(write: Write, name: str) -> None:
    with pytest.raises(FeatureMismatch, match="repeated") as refusal:
        read(write([*FEATURE_NAMES, name], [[*a_line(), 1]]))

    assert refusal.value.field == f"header.{name.strip()}"


def test_a_column_that_is_missing_is_named(write: Write) -> None:
    with pytest.raises(FeatureMismatch, match=r"header\.Idle Min: is missing"):
        read(write(FEATURE_NAMES[:-1], [a_line()[:-1]]))


def test_an_empty_file_is_reported_as_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()

    with pytest.raises(FeatureMismatch, match="empty"):
        read(path)


def test_a_byte_order_mark_is_no_part_of_a_name(write: Write) -> None:
    """Spreadsheets write one, and the first column would be missing."""
    assert read(write(FEATURE_NAMES, [a_line()], before="\ufeff")).lines == [2]


def test_a_packed_file_reads_like_a_plain_one(write: Write) -> None:
    lines = [a_line(seed) for seed in range(4)]

    packed, plain = (
        read(write(FEATURE_NAMES, lines, name=name)) for name in ("flows.csv.gz", "flows.csv")
    )

    assert np.array_equal(packed.features, plain.features)


def test_a_file_that_breaks_off_is_an_error_of_the_caller(write: Write) -> None:
    """It was an error of training, also where the file was only scored."""
    too_long = a_line(c6="1" * 200_000)  # the CSV reader takes cells of 131,072 characters
    lines = write(FEATURE_NAMES, [a_line(), too_long])
    packed = write(FEATURE_NAMES, [a_line()], name="flows.csv.gz")
    packed.write_bytes(packed.read_bytes()[:-20])

    with pytest.raises(UnreadableSource, match=r"from line \d on the file cannot be read: Error"):
        list(find_source(lines).read(lines))
    with pytest.raises(UnreadableSource, match="the file cannot be read: EOFError"):
        list(find_source(packed).read(packed))


BAD = [
    pytest.param(a_line(c6="many"), "Fwd Packet Length Max", "'many' is not a number", id="a word"),
    pytest.param(a_line(c6=""), "Fwd Packet Length Max", "'' is not a number", id="an empty cell"),
    pytest.param(
        a_line(c6="NaN"),
        "Fwd Packet Length Max",
        "must be a finite float32 number, not nan",
        id="NaN",
    ),
    pytest.param(
        a_line(c6="Infinity"),
        "Fwd Packet Length Max",
        "must be a finite float32 number, not inf",
        id="Infinity",
    ),
    pytest.param(
        a_line(c6="1e39"),
        "Fwd Packet Length Max",
        "must be a finite float32 number, not 1e+39",
        id="too large",
    ),
    pytest.param(a_line()[:-1], "-", "has 77 cells, the header has 78", id="a cell short"),
    pytest.param([*a_line(), 1], "-", "has 79 cells, the header has 78", id="a cell too many"),
]


def test_the_line_from_which_a_file_cannot_be_read_is_named(write: Write) -> None:
    """`csv` refuses a cell of 128 KiB; it has counted the line then."""
    path = write(FEATURE_NAMES, [a_line(1), [*a_line()[:-1], "x" * (1 << 18)], a_line(2)])

    with pytest.raises(UnreadableSource, match="from line 3 on the file cannot be read: Error"):
        read(path)


@pytest.mark.parametrize(("line", "column", "problem"), BAD)
def test_a_bad_line_is_skipped_and_named(
    write: Write, line: list[object], column: str, problem: str
) -> None:
    """P14: one broken line of a million is a line of a report, not the end of the training."""
    flows = read(write(FEATURE_NAMES, [a_line(1), line, a_line(2)]))

    assert flows.lines == [2, 4]
    assert [(bad.line, bad.column, bad.cause) for bad in flows.refused] == [(3, column, problem)]
    assert str(flows.refused[0]) == f"line 3, column {column}: {problem}"


def test_a_long_cell_is_shortened_in_the_message(write: Write) -> None:
    flows = read(write(FEATURE_NAMES, [a_line(), a_line(c6="x" * 100_000)]))

    assert len(flows.refused[0].cause) < 100


def test_rates_that_the_extractor_could_not_write_cost_no_line(write: Write) -> None:
    """Flows without duration, as the 2017 release writes them."""
    flows = read(write(FEATURE_NAMES, [a_line(), a_line(c1=0, c14="Infinity", c15="NaN")]))

    assert (flows.refused, flows.batch.flags) == ([], {1: ("rates_undefined",)})
    assert flows.features[1, [14, 15]].tolist() == [0.0, 0.0]


def test_rates_that_pandas_left_empty_cost_no_line(write: Write) -> None:
    """`to_csv` writes NaN as an empty cell, and recomputed rates are not read."""
    flows = read(write(FEATURE_NAMES, [a_line(c14="", c15="")]))

    assert (flows.lines, flows.refused) == ([2], [])


def test_blank_lines_are_ignored(write: Write) -> None:
    assert read(write(FEATURE_NAMES, [[], a_line(), [], a_line()])).lines == [
        3,
        5,
    ]
