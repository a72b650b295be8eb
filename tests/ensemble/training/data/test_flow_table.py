"""Labelled flows from CSV files as they are found.

Every dialect, packed or not, and bad lines named instead of fatal.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from ensemble.errors import FeatureMismatch, TrainingError
from ensemble.features.flow import FEATURE_NAMES
from ensemble.training.data import flow_table
from ensemble.training.data.flow_table import BENIGN, FlowTable, read_flow_blocks, read_flow_table

COLUMN = {name: i for i, name in enumerate(FEATURE_NAMES)}
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(header, lines)`.

    A CSV file; `name` ending in .gz packs it, `before` comes first in it.
    """

    def one(
        header: Sequence[str],
        lines: Iterable[Sequence[object]],
        *,
        name: str = "flows.csv",
        before: str = "",
    ) -> Path:
        path = tmp_path / name
        text = io.StringIO(newline="")
        text.write(before)
        csv.writer(text).writerows([header, *lines])
        data = text.getvalue().encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return one


def a_line(seed: int = 0, **cells: object) -> list[object]:
    """78 cells in order, different for each `seed`; `cells` by position, e.g. `c6="x"`."""
    line: list[object] = [float(seed + i) for i in range(78)]
    for name, value in cells.items():
        line[int(name[1:])] = value
    return line


def test_every_dialect_gives_the_same_flows(write: Write, dialect: tuple[str, ...]) -> None:
    """A file is read by the names in its header, never by position."""
    lines = [a_line(seed, c55=float(seed + 34)) for seed in range(3)]
    written = [i for i in range(78) if len(dialect) == 78 or i != 55]

    table = read_flow_table(write(dialect, [[line[i] for i in written] for line in lines]))

    assert table.features == pytest.approx(read_flow_table(write(FEATURE_NAMES, lines)).features)
    assert table.features[1, COLUMN["Down/Up Ratio"]] == 1 + COLUMN["Down/Up Ratio"]
    assert (table.features[:, 55] == table.features[:, 34]).all()


def test_columns_may_stand_in_any_order_with_any_others_between(write: Write) -> None:
    header = ["src_ip", *reversed(FEATURE_NAMES), "Label", "colour"]

    table = read_flow_table(write(header, [["10.0.0.1", *reversed(a_line(5)), "DDoS", "red"]]))

    assert table.features == pytest.approx(
        read_flow_table(write(FEATURE_NAMES, [a_line(5)])).features
    )
    assert table.families.tolist() == ["DDoS"]


def test_the_column_that_the_2017_release_writes_twice_is_read_twice(write: Write) -> None:
    """Both are called `Fwd Header Length`; the second is the one that pandas calls `.1`."""
    header = [name.replace("Fwd Header Length.1", "Fwd Header Length") for name in FEATURE_NAMES]

    table = read_flow_table(write(header, [a_line(c34=40, c55=41)]))

    assert table.features[0, [34, 55]].tolist() == [40.0, 41.0]


@pytest.mark.parametrize("name", ["Flow Duration", " flow duration "])
def test_any_other_column_that_stands_twice_is_an_error(write: Write, name: str) -> None:
    with pytest.raises(FeatureMismatch, match="twice") as refusal:
        read_flow_table(write([*FEATURE_NAMES, name], [[*a_line(), 1]]))

    assert refusal.value.field == f"header.{name.strip()}"


def test_a_column_that_is_missing_is_named(write: Write) -> None:
    with pytest.raises(FeatureMismatch, match=r"header\.Idle Min: is missing"):
        read_flow_table(write(FEATURE_NAMES[:-1], [a_line()[:-1]]))


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "empty.csv"
    path.touch()

    with pytest.raises(FeatureMismatch, match="empty"):
        read_flow_table(path)


def test_a_byte_order_mark_is_no_part_of_a_name(write: Write) -> None:
    """Spreadsheets write one, and the first column would be missing."""
    assert len(read_flow_table(write(FEATURE_NAMES, [a_line()], before="\ufeff"))) == 1


def test_a_packed_file_reads_like_a_plain_one(write: Write) -> None:
    lines = [a_line(seed) for seed in range(4)]

    packed, plain = (
        read_flow_table(write(FEATURE_NAMES, lines, name=name))
        for name in ("flows.csv.gz", "flows.csv")
    )

    assert np.array_equal(packed.features, plain.features)


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


@pytest.mark.parametrize(("line", "column", "problem"), BAD)
def test_a_bad_line_is_passed_over_and_named(
    write: Write, line: list[object], column: str, problem: str
) -> None:
    """P14: one broken line of a million is a line of a report, not the end of the training."""
    table = read_flow_table(write(FEATURE_NAMES, [a_line(1), line, a_line(2)]))

    assert table.lines.tolist() == [2, 4]
    assert [(bad.line, bad.column, bad.problem) for bad in table.bad] == [(3, column, problem)]
    assert str(table.bad[0]) == f"line 3, column {column}: {problem}"


def test_a_long_cell_is_not_repeated_whole(write: Write) -> None:
    table = read_flow_table(write(FEATURE_NAMES, [a_line(), a_line(c6="x" * 100_000)]))

    assert len(table.bad[0].problem) < 100


def test_rates_that_the_extractor_could_not_write_cost_no_line(write: Write) -> None:
    """Flows without duration, as the 2017 release writes them."""
    table = read_flow_table(
        write(FEATURE_NAMES, [a_line(), a_line(c1=0, c14="Infinity", c15="NaN")])
    )

    assert (table.bad, table.flags) == ((), {1: ("rates_undefined",)})
    assert table.features[1, [14, 15]].tolist() == [0.0, 0.0]


def test_rates_that_pandas_left_empty_cost_no_line(write: Write) -> None:
    """`to_csv` writes NaN as nothing, and what is recomputed is not read."""
    table = read_flow_table(write(FEATURE_NAMES, [a_line(c14="", c15="")]))

    assert (len(table), table.bad) == (1, ())


def test_flags_and_line_numbers_go_on_from_block_to_block(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read some lines at a time; the seams must not show."""
    lines = [
        a_line(seed, c1=0 if seed in {1, 5} else 100, c6="?" if seed == 3 else 1)
        for seed in range(7)
    ]
    whole = read_flow_table(write(FEATURE_NAMES, lines))
    monkeypatch.setattr(flow_table, "LINES_A_BLOCK", 2)

    path = write(FEATURE_NAMES, lines)
    table = read_flow_table(path)

    assert [len(block) for block in read_flow_blocks(path)] == [2, 1, 2, 1]
    assert np.array_equal(table.features, whole.features)
    assert table.lines.tolist() == [2, 3, 4, 6, 7, 8]
    assert table.flags == whole.flags == {1: ("rates_undefined",), 4: ("rates_undefined",)}
    assert table.bad == whole.bad


def test_blank_lines_are_nothing(write: Write) -> None:
    assert read_flow_table(write(FEATURE_NAMES, [[], a_line(), [], a_line()])).lines.tolist() == [
        3,
        5,
    ]


def test_a_file_without_a_readable_line_is_an_error_that_names_the_first(write: Write) -> None:
    with pytest.raises(
        TrainingError,
        match=r"flows.csv holds no flow that can be read; line 2, column Fwd Packet Length Max: 'x'",
    ):
        read_flow_table(write(FEATURE_NAMES, [a_line(c6="x")]))


LABELS = [
    pytest.param("BENIGN", BENIGN, id="as published"),
    pytest.param(" Benign ", BENIGN, id="blanks and case"),
    pytest.param("normal", BENIGN, id="normal"),
    pytest.param("Normal Traffic", BENIGN, id="normal traffic"),
    pytest.param("DoS Hulk", "DoS Hulk", id="an attack"),
    pytest.param("Web Attack \ufffd XSS", "Web Attack \ufffd XSS", id="an odd dash"),
]


@pytest.mark.parametrize(("written", "family"), LABELS)
def test_benign_is_understood_in_every_spelling(write: Write, written: str, family: str) -> None:
    """A benign flow under another word would be a family of its own, and the largest."""
    table = read_flow_table(write([*FEATURE_NAMES, "Label"], [[*a_line(), written]]))

    assert table.families.tolist() == [family]
    assert table.is_hostile.tolist() == [family != BENIGN]


def test_what_a_file_does_not_say_is_empty(write: Write) -> None:
    table = read_flow_table(write(FEATURE_NAMES, [a_line()]))

    assert [
        column.tolist()
        for column in (table.families, table.days, table.times, table.hosts, table.ids)
    ] == [[""]] * 5


def test_day_time_host_and_id_are_read_by_name(write: Write) -> None:
    header = [" Timestamp", "Day", "HOST", "id", *FEATURE_NAMES]

    table = read_flow_table(
        write(header, [["2017-07-05 08:55:00", "Wednesday", "ws-1", "e7", *a_line()]])
    )

    assert (table.times.tolist(), table.days.tolist()) == (
        ["2017-07-05T08:55:00.000000"],
        ["Wednesday"],
    )
    assert (table.batch().ids, table.batch().hosts) == (("e7",), ("ws-1",))


TIMES = [
    pytest.param(
        ["2017-07-05 08:55:00", "2017-07-05 08:55:00.5", "2017-07-05T08:55:01"],
        True,
        id="ISO 8601 in three spellings",
    ),
    pytest.param(
        ["5/7/2017 8:55", "5/7/2017 8:56", "5/7/2017 8:57"], False, id="who knows which month"
    ),
    pytest.param(
        ["2017-07-05 08:55:00", "noon", "2017-07-05 08:55:01"], False, id="a word among them"
    ),
]


@pytest.mark.parametrize(("written", "is_sortable"), TIMES)
def test_times_sort_by_time_or_are_not_taken_for_times(
    write: Write, written: list[str], *, is_sortable: bool
) -> None:
    """As text, 8:55 comes after 13:05, and a split by such a time would leak the future."""
    table = read_flow_table(
        write(["Timestamp", *FEATURE_NAMES], [[time, *a_line()] for time in written])
    )

    assert bool(table.times.all()) == is_sortable
    if is_sortable:
        assert sorted(table.times.tolist()) == table.times.tolist()
    else:
        with pytest.raises(TrainingError, match="timestamp"):
            table.split_by_time(0.5)


def test_the_first_share_of_each_day_and_label_comes_first(
    make_flows: Callable[..., FlowTable],
) -> None:
    """Days hold different attacks.

    A split over the whole week would put a family on one side only.
    """
    table = make_flows(benign=200, families={"Flood": 41, "Scan": 30}, seed=2)

    early, late = table.split_by_time(0.7)

    assert sorted([*early, *late]) == list(range(len(table)))
    for day in ("Monday", "Tuesday"):
        for family in (BENIGN, "Flood", "Scan"):
            of_group = np.flatnonzero((table.days == day) & (table.families == family))
            first, second = np.intersect1d(of_group, early), np.intersect1d(of_group, late)
            assert len(first) == round(0.7 * len(of_group))
            assert max(table.times[first].tolist()) < min(table.times[second].tolist())


def test_a_split_by_time_needs_times(write: Write) -> None:
    with pytest.raises(TrainingError, match="timestamp"):
        read_flow_table(write(FEATURE_NAMES, [a_line()])).split_by_time(0.5)


def test_taking_rows_keeps_what_belongs_together(make_flows: Callable[..., FlowTable]) -> None:
    table = make_flows(benign=20, families={"Flood": 5}, seed=3)

    taken = table.select(np.array([7, 3]))

    assert np.array_equal(taken.features, table.features[[7, 3]])
    assert taken.lines.tolist() == table.lines[[7, 3]].tolist()
    assert taken.families.tolist() == table.families[[7, 3]].tolist()


def test_the_raw_style_of_the_published_files_is_read_whole(data_root: Path) -> None:
    """Leading blanks, `Infinity`, `NaN` and odd dashes, over 420 real flows: not one is lost."""
    table = read_flow_table(data_root / "flows_cicids2017" / "raw_style_fixture.csv.gz")

    assert (len(table), table.bad) == (420, ())
    assert np.isfinite(table.features).all()
