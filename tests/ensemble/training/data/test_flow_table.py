"""Files of flows as one table: labels in any spelling, times that sort, splits by time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ensemble.errors import TrainingError
from ensemble.features.flow import FEATURE_NAMES
from ensemble.sources import cicflowmeter, find_source
from ensemble.training.data.flow_table import BENIGN, FlowTable, read_flow_table
from tests.support.flow_files import a_line, write_flows

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return partial(write_flows, tmp_path)


def test_flags_and_line_numbers_continue_across_blocks(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read in blocks of lines; their boundaries must not matter."""
    lines = [
        a_line(seed, c1=0 if seed in {1, 5} else 100, c6="?" if seed == 3 else 1)
        for seed in range(7)
    ]
    at_once = read_flow_table(write(FEATURE_NAMES, lines))
    monkeypatch.setattr(cicflowmeter, "LINES_A_BLOCK", 2)

    path = write(FEATURE_NAMES, lines)
    table = read_flow_table(path)

    blocks = list(find_source(path).read(path))
    assert [len(rows.lines) for block in blocks for rows in block.rows] == [2, 1, 2, 1]
    assert np.array_equal(table.features, at_once.features)
    assert table.lines.tolist() == [2, 3, 4, 6, 7, 8]
    assert table.flags == at_once.flags == {1: ("rates_undefined",), 4: ("rates_undefined",)}
    assert table.refused == at_once.refused


def test_a_file_without_a_readable_line_is_an_error_that_names_the_first(write: Write) -> None:
    with pytest.raises(
        TrainingError,
        match=r"flows.csv holds no flow that can be read; "
        r"line 2, column Fwd Packet Length Max: 'x'",
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
    """A benign flow with another label would be a family of its own, and the largest."""
    table = read_flow_table(write([*FEATURE_NAMES, "Label"], [[*a_line(), written]]))

    assert table.families.tolist() == [family]
    assert table.is_hostile.tolist() == [family != BENIGN]


def test_absent_columns_are_empty(write: Write) -> None:
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
    """As text, 8:55 comes after 13:05, and a split by such times would leak the future."""
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
    """Days have different attacks: a split over the week would put a family on one side only."""
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


def test_selected_rows_are_complete(make_flows: Callable[..., FlowTable]) -> None:
    table = make_flows(benign=20, families={"Flood": 5}, seed=3)

    taken = table.select(np.array([7, 3]))

    assert np.array_equal(taken.features, table.features[[7, 3]])
    assert taken.lines.tolist() == table.lines[[7, 3]].tolist()
    assert taken.families.tolist() == table.families[[7, 3]].tolist()


def test_the_raw_style_of_the_published_files_is_read(data_root: Path) -> None:
    """Leading blanks, `Infinity`, `NaN` and odd dashes, over 420 real flows: none is lost."""
    table = read_flow_table(data_root / "flows_cicids2017" / "raw_style_fixture.csv.gz")

    assert (len(table), table.refused) == (420, ())
    assert np.isfinite(table.features).all()
