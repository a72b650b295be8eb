"""Process model: rarity and command line as one score, and training on an operator's processes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.errors import ArtifactIncompatible, TrainingError
from ensemble.events import FlowBatch, ProcessBatch, ProcessEvent
from ensemble.features.event_time import PlausibleTimes
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, Calibration, log_odds
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.layers.rarity import RarityTable
from ensemble.model import Parts
from ensemble.training.data.process_files import read_process_events
from ensemble.training.fit.calibration import tail_calibration
from ensemble.training.recipes.process_anomaly import TrainedProcesses, train_benign

ENCODED = (
    "powershell.exe -nop -w hidden -enc "
    "SQBFAFgAIAAoAE4AZQB3AC0ATwBiAGoAZQBjAHQAIABOAGUAdAAuAFcAZQBiAEMAbABpAGUAbgB0ACkA"
)


def ordinary_events(n: int, seed: int = 0) -> list[ProcessEvent]:
    """A small office: three users with habits, and short command lines under explorer.exe."""
    generator = np.random.default_rng(seed)
    programs = [
        "excel.exe",
        "outlook.exe",
        "chrome.exe",
        "notepad.exe",
        "teams.exe",
        "cmd.exe",
        "ping.exe",
        "calc.exe",
    ]
    events = []
    for _ in range(n):
        user = int(generator.integers(3))
        name = programs[(int(generator.geometric(0.35)) + 2 * user) % len(programs)]
        line = f"{name} /open file{generator.integers(100)}.txt" if generator.random() < 0.9 else ""
        events.append(ProcessEvent(name, "explorer.exe", line, f"user{user}", f"ws-{user}"))
    return events


@pytest.fixture(scope="module")
def trained() -> TrainedProcesses:
    return train_benign(ordinary_events(600), None, seed=1)


@pytest.fixture(scope="module")
def model(trained: TrainedProcesses) -> ProcessAnomaly:
    return trained.model


def scores_of(model: ProcessAnomaly, *events: ProcessEvent) -> np.ndarray:
    return model.score(ProcessBatch.of(events)).scores


ANY_EVENT = st.builds(
    ProcessEvent,
    name=st.one_of(st.text(max_size=20), st.sampled_from(["excel.exe", "CMD.EXE", "/bin/sh"])),
    parent=st.sampled_from(["", "explorer.exe", "winword.exe"]),
    command_line=st.one_of(st.text(max_size=60), st.sampled_from(["", ENCODED])),
    user=st.sampled_from(["", "user0", "eve"]),
    host=st.sampled_from(["", "ws-1", "ws-77", "zz"]),
)


@settings(max_examples=60, deadline=None)
@given(events=st.lists(ANY_EVENT, min_size=1, max_size=8), order=st.randoms(use_true_random=False))
def test_scores_are_in_range_and_the_same_alone_in_a_batch_and_in_any_order(
    model: ProcessAnomaly, events: list[ProcessEvent], order: Any
) -> None:
    rows = list(range(len(events)))
    order.shuffle(rows)

    together = scores_of(model, *events)

    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    assert ((together >= 0.0) & (together <= 1.0)).all()
    assert np.array_equal(scores_of(model, *(events[row] for row in rows)), together[rows])
    assert np.array_equal(np.concatenate([scores_of(model, event) for event in events]), together)


def test_an_empty_batch_has_no_scores(model: ProcessAnomaly) -> None:
    assert model.score(ProcessBatch.of([]), explain=True).scores.shape == (0,)


def test_flows_are_not_processes(model: ProcessAnomaly) -> None:
    with pytest.raises(TypeError, match="flow"):
        model.score(FlowBatch(("",), ("",), np.zeros((1, 78), np.float32)))


def test_an_encoded_command_under_a_document_scores_above_the_daily_work(
    model: ProcessAnomaly,
) -> None:
    """No training event has an encoded command: a plain isolation forest would miss it."""
    daily = ProcessEvent("cmd.exe", "explorer.exe", "cmd.exe /open file77.txt", "user1", "ws-1")
    hostile = replace(daily, parent="winword.exe", command_line=ENCODED)

    explained = model.score(ProcessBatch.of([daily, hostile]), explain=True)

    assert explained.scores[1] > explained.scores[0]
    assert explained.details["command_line"][1] > 0.05 > explained.details["command_line"][0]
    assert explained.details["rarity"][1] == explained.details["rarity"][0]


def test_a_forest_of_weight_zero_changes_nothing(model: ProcessAnomaly) -> None:
    assert model.command_lines is not None
    batch = ProcessBatch.of([*ordinary_events(50, seed=2), ProcessEvent("x", command_line=ENCODED)])

    without = replace(model, command_lines=None).score(batch).scores
    weightless = replace(model, command_lines=replace(model.command_lines, weight=0.0))

    assert np.array_equal(weightless.score(batch).scores, without)
    assert np.array_equal(weightless.score(batch, explain=True).scores, without)
    assert not np.array_equal(model.score(batch).scores, without)


def test_without_a_command_line_the_forest_has_no_effect(
    model: ProcessAnomaly,
) -> None:
    batch = ProcessBatch.of([ProcessEvent("excel.exe", "winword.exe", "", "user0", "ws-0")])

    explained = model.score(batch, explain=True)

    assert explained.details["command_line"][0] == pytest.approx(0.01)
    assert explained.scores[0] == explained.details["rarity"][0]


KNOWN, UNREAD, SILENT = (), ("command_line_not_read",), None
OPINIONS = [
    pytest.param(ProcessEvent("excel.exe", user="user0"), KNOWN, id="known user"),
    pytest.param(ProcessEvent("new.exe", host="ws-1"), KNOWN, id="known host, new program"),
    pytest.param(ProcessEvent("cmd.exe", user="eve"), KNOWN, id="known program alone"),
    pytest.param(ProcessEvent("cmd.exe", command_line=" "), KNOWN, id="a blank is no command line"),
    pytest.param(ProcessEvent("cmd.exe", "", "cmd /c x", "user1"), UNREAD, id="an unread line"),
    pytest.param(ProcessEvent("cmd.exe", "", ENCODED, "eve", "ws-77"), SILENT, id="unread"),
    pytest.param(ProcessEvent("new.exe", user="eve", host="zz"), SILENT, id="nothing known"),
    pytest.param(ProcessEvent("new.exe", host="ws-77"), SILENT, id="a group is not a host"),
    pytest.param(ProcessEvent("new.exe"), SILENT, id="nothing said"),
]


@pytest.mark.parametrize(("event", "flags"), OPINIONS)
@pytest.mark.parametrize("others", [0, 3])
def test_an_event_of_which_nothing_is_known_gets_no_opinion(
    model: ProcessAnomaly, event: ProcessEvent, flags: tuple[str, ...] | None, others: int
) -> None:
    """A7: every process start of a foreign network was `benign` with full coverage."""
    shipped = replace(model, command_lines=None)  # a forest is never shipped
    batch = ProcessBatch.of([*[ProcessEvent("excel.exe", user="user0")] * others, event])

    found = shipped.score(batch)

    assert list(found.uninformed) == ([] if flags is not None else [others])
    assert found.flags.get(others, ()) == (flags or ())
    assert shipped.score(batch, explain=True).uninformed == found.uninformed


def test_a_forest_that_reads_command_lines_has_an_opinion_of_a_foreign_user(
    model: ProcessAnomaly,
) -> None:
    batch = ProcessBatch.of([ProcessEvent("new.exe", "", ENCODED, "eve")])

    assert (model.score(batch).uninformed, model.score(batch).flags) == ({}, {})


def test_an_unknown_host_is_rated_against_its_group_with_a_note(model: ProcessAnomaly) -> None:
    scores = model.score(
        ProcessBatch.of(
            [ProcessEvent("excel.exe", user="user0"), ProcessEvent("excel.exe", host="ws-99")]
        )
    )

    assert scores.notes == {1: "host_unknown: rated against its group"}


@pytest.mark.parametrize(
    "has_forest", [pytest.param(True, id="with forest"), pytest.param(False, id="rarity only")]
)
def test_a_model_comes_back_from_arrays_and_json_equal(
    model: ProcessAnomaly, *, has_forest: bool
) -> None:
    fitted = model if has_forest else replace(model, command_lines=None)
    batch = ProcessBatch.of(
        [*ordinary_events(40, seed=3), ProcessEvent("new", "odd", ENCODED, "eve", "ws-9")]
    )
    parts = fitted.to_parts()

    again = ProcessAnomaly.from_parts(Parts(parts.arrays, json.loads(json.dumps(parts.config))))

    assert all(
        array.dtype.kind in "iuf" and array.flags.c_contiguous for array in parts.arrays.values()
    )
    assert np.array_equal(again.score(batch).scores, fitted.score(batch).scores)


def _without(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda arrays, _: arrays.pop(name)


def _array(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda arrays, _: arrays.update({name: change(arrays[name].copy())})


def _config(value: object, *path: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(_: dict[str, Any], config: dict[str, Any]) -> None:
        for step in path[:-1]:
            config = config[step]
        config[path[-1]] = value

    return change


HOSTILE_PARTS = [
    pytest.param(_config(2, "format"), id="another format"),
    pytest.param(_config(None, "rarity"), id="no rarity"),
    pytest.param(_config("x", "command_lines"), id="command lines of text"),
    pytest.param(_config(None, "rarity_calibration"), id="no calibration"),
    pytest.param(
        _config({"raw": [0, float("nan")], "log_odds": [0, 1]}, "rarity_calibration"),
        id="NaN in the calibration",
    ),
    pytest.param(
        _config({"raw": [0, 1], "log_odds": [1, 0]}, "rarity_calibration"),
        id="a falling calibration",
    ),
    pytest.param(_config(["a", "b"], "rarity", "names"), id="fewer names"),
    pytest.param(_config("abc", "rarity", "users"), id="users are no list"),
    pytest.param(_config([1, 2, 3], "rarity", "users"), id="users are numbers"),
    pytest.param(_config(["a", "a", "a"], "rarity", "hosts"), id="one host thrice"),
    pytest.param(_without("rarity.keys"), id="no keys"),
    pytest.param(_without("rarity.scatter"), id="no scatter"),
    pytest.param(_array("rarity.keys", lambda keys: keys + (1 << 40)), id="ids out of bounds"),
    pytest.param(
        _array("rarity.keys", lambda keys: keys.astype(np.float64)), id="ids that are no integers"
    ),
    pytest.param(_array("rarity.counts", lambda counts: -counts), id="negative counts"),
    pytest.param(_array("rarity.wider", lambda wider: wider[::-1].copy()), id="places upside down"),
    pytest.param(_array("rarity.scatter", lambda scatter: scatter * np.nan), id="NaN scatter"),
    pytest.param(_array("rarity.scatter", lambda scatter: scatter * 0), id="scatter of zero"),
    pytest.param(_array("rarity.scatter", lambda scatter: scatter[:-1]), id="a scatter short"),
    pytest.param(_config("0" * 64, "command_lines", "feature_schema"), id="another feature schema"),
    pytest.param(_config(float("inf"), "command_lines", "weight"), id="infinite weight"),
    pytest.param(_config(-1.0, "command_lines", "weight"), id="negative weight"),
    pytest.param(_config("1", "command_lines", "weight"), id="weight of text"),
    pytest.param(_config({}, "command_lines", "calibration"), id="empty calibration"),
    pytest.param(_config(["x"], "command_lines", "children"), id="fewer children"),
    pytest.param(_config(None, "command_lines", "parents"), id="no parents"),
    pytest.param(
        _array("command_lines.forest.feature", lambda feature: feature + 99),
        id="a feature that is not there",
    ),
    pytest.param(
        _array("command_lines.parents.keys", lambda keys: keys[::-1].copy()),
        id="parents out of order",
    ),
    pytest.param(_without("command_lines.forest.threshold"), id="no thresholds"),
]


@pytest.mark.parametrize("spoil", HOSTILE_PARTS)
def test_invalid_parts_are_rejected(
    model: ProcessAnomaly, spoil: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    parts = model.to_parts()
    arrays, config = dict(parts.arrays), json.loads(json.dumps(parts.config))
    spoil(arrays, config)

    with pytest.raises(ArtifactIncompatible):
        ProcessAnomaly.from_parts(Parts(arrays, config))


def test_the_result_of_training_can_be_published_and_fused(trained: TrainedProcesses) -> None:
    assert len(trained.golden_events) == 16
    assert np.array_equal(scores_of(trained.model, *trained.golden_events), trained.golden_scores)
    assert trained.benign_scores.shape == (200,)
    assert np.isfinite(trained.benign_scores).all()
    assert all(len(digest) == 64 for digest in trained.training_data.values())
    assert all(np.isfinite(figure) for figure in trained.metrics.values())
    assert trained.sizes["users"] == 3


def test_training_twice_gives_the_same_model(trained: TrainedProcesses) -> None:
    again = train_benign(ordinary_events(600), None, seed=1)

    assert np.array_equal(again.golden_scores, trained.golden_scores)
    assert again.training_data == trained.training_data


def test_about_one_in_a_hundred_new_ordinary_events_passes_the_threshold_at_one_percent(
    trained: TrainedProcesses,
) -> None:
    """Benign scores are out of sample, so that a threshold from them holds on other days."""
    threshold = np.quantile(trained.benign_scores, 0.99)

    assert np.mean(scores_of(trained.model, *ordinary_events(2000, seed=9)) > threshold) < 0.03


def test_command_names_alone_train_no_forest() -> None:
    events = [replace(event, command_line="", parent="") for event in ordinary_events(300)]

    assert train_benign(events, None, seed=0).model.command_lines is None


def test_a_base_model_gives_its_calibration_and_programs_but_not_its_users() -> None:
    theirs = RarityTable.fit(ProcessBatch.of([ProcessEvent("cron", user="them")] * 10_000))
    base = ProcessAnomaly(theirs, Calibration(np.array([0.0, 1.0]), np.array([-5.0, -4.0])))

    ours = train_benign(ordinary_events(200), base, seed=0).model

    assert ours.rarity_calibration is base.rarity_calibration
    assert ours.rarity.users == ("user0", "user1", "user2")
    assert ours.rarity.launches()["cron"] == 200


TOO_LITTLE = [
    pytest.param(ordinary_events(99), "99 process events", id="too few"),
    pytest.param([ProcessEvent("a")] * 200, "same raw score", id="all alike"),
]


@pytest.mark.parametrize(("events", "message"), TOO_LITTLE)
def test_events_that_do_not_suffice_are_rejected(events: list[ProcessEvent], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        train_benign(events, None, seed=0)


def test_calibration_by_the_benign_tail_is_worth_no_more_than_chance_on_benign_events() -> None:
    """An e-value: the likelihood ratio is about 1 on average when no event is hostile."""
    raw = np.random.default_rng(0).normal(size=20_000)
    calibration = tail_calibration(raw[:10_000])

    evidence = log_odds(calibration.apply(raw[10_000:])) - PRIOR_LOG_ODDS

    assert np.exp(evidence).mean() == pytest.approx(1.0, abs=0.1)
    assert (np.diff(calibration.log_odds) >= 0).all()


def test_events_are_read_from_json_lines_and_csv_alike(tmp_path: Path) -> None:
    wanted = [ProcessEvent("sh", "cron", "sh -c 'a,b'", "amy", "web-1"), ProcessEvent("ls")]
    rows = [
        {
            "kind": "process",
            "id": "1",
            "name": "sh",
            "parent": "cron",
            "command_line": "sh -c 'a,b'",
            "user": "amy",
            "host": "web-1",
        }
    ]
    (tmp_path / "events.jsonl").write_text(
        "\n".join(json.dumps(row) for row in [*rows, {"name": "ls"}]) + "\n\n"
    )
    text = (
        "time,host,process,parent,command_line,user\r\n"
        "1,web-1,sh,cron,\"sh -c 'a,b'\",amy\r\n2,,ls,,,\r\n"
    )
    (tmp_path / "events.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "events.csv.gz").write_bytes(gzip.compress(text.encode()))

    for file in ("events.jsonl", "events.csv", "events.csv.gz"):
        assert read_process_events(tmp_path / file) == wanted, file


def test_events_of_an_implausible_time_are_not_learnt_from(tmp_path: Path) -> None:
    """T2: a sensor with a wrong clock, or a record of another year, teaches nothing."""
    rows = [
        {"name": "old", "time": "2016-12-01T00:00:00Z"},
        {"name": "kept", "time": "2026-11-30T00:00:00Z"},
        {"name": "ahead", "time": 1.9e9},
        {"name": "no time", "time": "yesterday"},
        {"name": "kept too"},
        {"name": "null", "time": None},
    ]
    times, told = PlausibleTimes(1.77e9, 1.80e9), list[str]()
    (tmp_path / "events").write_text("\n".join(map(json.dumps, rows)))

    events = read_process_events(tmp_path / "events", times, told.append)

    assert [event.name for event in events] == ["kept", "kept too", "null"]
    assert told == ["left out 3 events: their time is no time, or too far ahead or behind"]
    (tmp_path / "events").write_text(json.dumps(rows[0]))
    with pytest.raises(TrainingError, match="no process events of a plausible time"):
        read_process_events(tmp_path / "events", times, told.append)
    assert [event.name for event in read_process_events(tmp_path / "events")] == ["old"]


def test_a_long_command_line_is_read_and_cut(tmp_path: Path) -> None:
    (tmp_path / "events").write_text(json.dumps({"name": "a", "command_line": "x" * 50_000}))

    assert len(read_process_events(tmp_path / "events")[0].command_line) == 32 * 1024


UNREADABLE = [
    pytest.param(
        b'{"name": "a"}\n{"name": 3}',
        r"line 2, column name: must be a string, not int",
        id="a number for a name",
    ),
    pytest.param(
        b'{"name": "a"}\n\n{"name": "a", "usr": "b"}',
        r"line 3, column usr: is no field",
        id="an unknown field",
    ),
    pytest.param(b'{"name": "a"}\n[1]', r"line 2: is not a JSON object", id="a list"),
    pytest.param(b'{"name": "a"', r"line 1, column \d+: is not JSON", id="no JSON"),
    pytest.param(b"{" + b'"a":{' * 100_000, r"line 1", id="a deep nest"),
    pytest.param(b'{"kind": "flow", "name": "a"}', r"line 1, column kind", id="another kind"),
    pytest.param(b'{"parent": "a"}', r"line 1, column name: is empty", id="no name"),
    pytest.param(
        b'{"name": "\\ud800"}', r"line 1, column name: half a surrogate", id="half a surrogate pair"
    ),
    pytest.param(
        b'{"name": "a", "user": "b", "user": "c"}', r"line 1: a name is given twice", id="a twin"
    ),
    pytest.param(
        b'{"name": "a", "time": [1]}',
        r"line 1, column time: must be a string or a number, not list",
        id="a list for a time",
    ),
    pytest.param(b"parent,user\na,b\n", r"line 1, column name: is missing", id="CSV without names"),
    pytest.param(
        b"name,user,user\na,b,c\n", r"line 1, column user: is repeated", id="a column twice"
    ),
    pytest.param(
        b"name,user\na,b\nc\n", r"line 3, column 2: 1 values under 2 columns", id="a short row"
    ),
    pytest.param(b"name,user\na,b\n ,c\n", r"line 3, column name: is empty", id="an empty name"),
    pytest.param(b'name,user\na,"b\n', r"line \d: is not CSV", id="an open quote"),
    pytest.param(b"name\n" + b"a" * 200_000, r"line 2: a value is longer", id="an endless value"),
    pytest.param(b"name\na\n\xff\n", r"line 3: is not UTF-8", id="no UTF-8"),
    pytest.param(b"name\n", r"holds no process events", id="only a header"),
    pytest.param(b"", r"holds no process events", id="nothing"),
]


@pytest.mark.parametrize(("content", "message"), UNREADABLE)
def test_a_file_that_cannot_be_read_is_refused_by_line_and_column(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "events").write_bytes(content)

    with pytest.raises(TrainingError, match=message) as refused:
        read_process_events(tmp_path / "events")

    assert str(tmp_path) not in str(refused.value)


def test_a_missing_file_is_reported_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="FileNotFoundError") as refused:
        read_process_events(tmp_path / "nothing")

    assert str(tmp_path) not in str(refused.value)
