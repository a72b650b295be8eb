"""Formats found by their content; a new format is one file in `ensemble/sources/`."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

import ensemble.sources
from deployments import cli
from deployments.cli import console
from ensemble.errors import FeatureMismatch
from ensemble.features.flow import FEATURE_NAMES
from ensemble.sources import find_source, sources
from tests.support.flow_files import a_line, write_flows

TOY = '''"""Process starts as `PARENT > NAME` under the line `#toy`."""

from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.sources.source import Block, Refused, Rows


class _Toy:
    about = "Process starts, one a line"

    def sniff(self, head, name):
        return head.startswith(b"#toy")

    def read(self, path):
        events, lines, refused = [], [], []
        for number, line in enumerate(path.read_text().splitlines()[1:], start=2):
            parent, arrow, name = line.partition(" > ")
            if arrow:
                events.append(ProcessEvent(name, parent))
                lines.append(number)
            else:
                refused.append(Refused(number, "-", "has no arrow"))
        yield Block([Rows(ProcessBatch.of(events), lines)], refused)


SOURCE = _Toy()
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the toy format, and the one file that adds the format."""
    package = tmp_path / "added"
    package.mkdir()
    (package / "toy.py").write_text(TOY)
    path = [*ensemble.sources.__path__, str(package)]
    monkeypatch.setattr(ensemble.sources, "__path__", path)
    file = tmp_path / "starts.csv"
    file.write_text("#toy\nwinword.exe > powershell.exe\nno arrow\nexplorer.exe > excel.exe\n")
    yield file
    sys.modules.pop("ensemble.sources.toy", None)
    vars(ensemble.sources).pop("toy", None)


def test_a_format_is_one_file(toy: Path) -> None:
    assert len(sources()) == 2

    (block,) = find_source(toy).read(toy)

    assert [list(rows.lines) for rows in block.rows] == [[2, 4]]
    assert [str(refused) for refused in block.refused] == ["line 3, column -: has no arrow"]


def test_the_terminal_scores_a_file_of_a_new_format(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))

    result = CliRunner().invoke(cli.app, ["score", str(toy), "--local", "--output", "jsonl"])

    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1, result.output
    assert [one["line"] for one in verdicts] == [2, 4]
    assert all(0.0 <= one["score"] <= 1.0 for one in verdicts)
    assert "starts.csv line 3, column -: has no arrow" in result.stderr


def test_the_content_counts_and_not_the_suffix(tmp_path: Path) -> None:
    (cicflowmeter,) = sources()
    file = write_flows(tmp_path, FEATURE_NAMES, [a_line()], name="flows.log.gz")

    assert find_source(file) is cicflowmeter
    assert cicflowmeter.sniff(gzip.decompress(file.read_bytes()), "")
    assert not cicflowmeter.sniff(b"time,Src Port,Dst Port,action\n1,2,3,drop\n", "fw.csv")


def test_an_unrecognised_file_is_rejected_by_its_header(tmp_path: Path) -> None:
    """The reader of CICFlowMeter names the missing column."""
    file = tmp_path / "any.csv"
    file.write_text("a,b\n1,2\n")

    with pytest.raises(FeatureMismatch, match=r"header\.Destination Port: is missing"):
        next(find_source(file).read(file))


def test_a_file_that_cannot_be_unpacked_has_no_head(tmp_path: Path) -> None:
    """The reader names the cause; recognition does not fail before it."""
    file = tmp_path / "flows.csv.gz"
    file.write_bytes(b"not packed")

    assert find_source(file) is sources()[0]
