"""Process starts as numbers: normalized names, cut lines, measured command lines."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.features import process
from ensemble.features.process import (
    FEATURE_NAMES,
    MAX_COMMAND_LINE_BYTES,
    MAX_NAME_BYTES,
    admit,
    command_line_features,
    has_command_line,
    image_name,
    image_names,
    schema_sha256,
)

NAMES = [
    pytest.param(r"C:\Windows\System32\CMD.EXE", "cmd.exe", id="Windows path"),
    pytest.param("C:/Windows/System32/cmd.exe", "cmd.exe", id="Windows path with slashes"),
    pytest.param("PowerShell.EXE", "powershell.exe", id="Windows name"),
    pytest.param(r"\??\C:\Windows\system32\Conhost", "conhost", id="device path without suffix"),
    pytest.param('"cmd.exe"', "cmd.exe", id="quoted"),
    pytest.param("cmd.exe. ", "cmd.exe", id="trailing dot and blank"),
    pytest.param("/usr/bin/Xvfb", "Xvfb", id="Unix path keeps its case"),
    pytest.param("/usr/bin/", "bin", id="trailing slash"),
    pytest.param(".profile", ".profile", id="leading dot"),
    pytest.param("", "", id="nothing"),
    pytest.param("/", "", id="only a slash"),
]


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_a_program_has_one_name(path: str, name: str) -> None:
    assert image_name(path) == name
    assert image_names([path, path]) == [name, name]


@given(st.text())
def test_normalizing_a_name_is_idempotent(path: str) -> None:
    name = image_name(path)

    assert len(name.encode("utf-8", "surrogatepass")) <= 3 * len(
        path.encode("utf-8", "surrogatepass")
    )
    assert "\\" not in name
    assert "/" not in name


def test_long_values_are_cut_and_flagged_and_never_rejected() -> None:
    path = "/" + "d" * MAX_NAME_BYTES + "/sh"
    events = [
        ProcessEvent("sh"),
        ProcessEvent("sh", command_line="é" * MAX_COMMAND_LINE_BYTES),
        ProcessEvent(path, command_line="x"),
    ]

    batch = admit(events, ["a", "b", "c"])

    assert batch.ids == ("a", "b", "c")
    assert batch.flags == {1: ("command_line_cut",), 2: ("name_cut",)}
    assert len(batch.command_lines[1].encode()) == MAX_COMMAND_LINE_BYTES
    assert image_name(batch.names[2]) == "sh"


def test_a_line_of_exactly_the_limit_is_not_cut() -> None:
    batch = admit(
        [ProcessEvent("sh", command_line="x" * MAX_COMMAND_LINE_BYTES, user="u" * MAX_NAME_BYTES)]
    )

    assert not batch.flags
    assert len(batch.command_lines[0]) == MAX_COMMAND_LINE_BYTES


def slow_features(line: str, surprisal: float) -> list[float]:
    """Measure one command line byte by byte: the oracle."""
    data = line.encode("utf-8", "surrogatepass")[:MAX_COMMAND_LINE_BYTES]
    size = max(len(data), 1)
    words = re.split(rb"[ \t\r\n\v\f\0]+", data)
    words = [word for word in words if word]
    runs = [
        run
        for run in re.findall(rb"[A-Za-z0-9+=]{24,}", data)
        if re.search(rb"[A-Z]", run) and re.search(rb"[a-z]", run) and re.search(rb"[0-9]", run)
    ]

    def share(pattern: bytes) -> float:
        return len(re.findall(pattern, data)) / size

    return [
        math.log1p(len(data)),
        -sum(n / size * math.log2(n / size) for n in Counter(data).values()),
        share(rb"[0-9]"),
        share(rb"[A-Z]"),
        share(rb"[!-/:-@\[-`{-~]"),
        share(rb"[\^`%$'\"]"),
        share(rb"[\x80-\xff]"),
        math.log1p(max(len(words) - 1, 0)),
        math.log1p(max(map(len, words), default=0)),
        math.log1p(max(map(len, runs), default=0)),
        surprisal,
    ]


LINES = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="ab AB12+=/\\^$\t\0é", max_size=120),
    st.sampled_from(
        ["", " ", "powershell -enc SQBFAFgAIAAoAE4AZQB3AC0ATwBiAGoAZQBjAHQA", "x" * 400]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINES, max_size=6))
def test_the_columns_agree_with_the_oracle(lines: list[str]) -> None:
    surprisal = np.arange(len(lines), dtype=np.float64)

    found = command_line_features(lines, surprisal)

    assert found.dtype == np.float32
    assert found.shape == (len(lines), len(FEATURE_NAMES))
    assert np.isfinite(found).all()
    for row, line in enumerate(lines):
        assert found[row] == pytest.approx(slow_features(line, surprisal[row]), abs=1e-5)


def test_a_line_measures_the_same_alone_as_among_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long batches are measured in parts; their boundaries must not matter."""
    lines = ["cmd /c dir", "y" * 50, "", "ls -la", "z9A" * 30]
    at_once = command_line_features(lines, np.zeros(5))
    monkeypatch.setattr(process, "BYTES_AT_ONCE", 16)

    in_portions = command_line_features(lines, np.zeros(5))
    alone = np.concatenate([command_line_features([line], np.zeros(1)) for line in lines])

    assert np.array_equal(at_once, in_portions)
    assert np.array_equal(at_once, alone)


def test_only_a_line_with_something_in_it_is_a_command_line() -> None:
    batch = ProcessBatch.of(
        [
            ProcessEvent("a"),
            ProcessEvent("a", command_line=" \t"),
            ProcessEvent("a", command_line="a -l"),
        ]
    )

    assert has_command_line(batch).tolist() == [False, False, True]


def test_the_schema_has_an_identity_that_changes_with_its_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = schema_sha256()
    monkeypatch.setattr(process, "FEATURE_NAMES", FEATURE_NAMES[::-1])

    assert re.fullmatch(r"[0-9a-f]{64}", before)
    assert schema_sha256() != before
