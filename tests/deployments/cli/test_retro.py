"""`axon retro findings`.

What turned hostile at a second look, each event once, for a person or for a program.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from ensemble.retro.findings import FINDINGS, Finding, Findings
from ensemble.retro.segment import FirstVerdict
from ensemble.verdicts import VerdictLabel


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))


def shown(*options: str) -> Result:
    return CliRunner().invoke(cli.app, ["retro", "findings", *options])


def finding(number: int, word: str = "malicious", event_id: str = "") -> Finding:
    now = {
        "id": "",
        "score": 0.97,
        "low": 0.9,
        "high": 0.99,
        "verdict": word,
        "severity": "high",
        "coverage": 1.0,
        "degraded": False,
    }
    return Finding(
        id=event_id or f"e{number}",
        kind="flow",
        host="web-1",
        digest=f"{number:064x}",
        at="2026-01-01 08:00.000000+00:00",
        found_at="2026-01-01 09:30.000000+00:00",
        was=FirstVerdict(0.0213, VerdictLabel.INDETERMINATE, 0.0),
        verdict=msgspec.Raw(msgspec.json.encode(now)),
    )


def written(own_state: Path, *found: Finding) -> None:
    Findings(own_state / "retro", limit_bytes=1 << 20).append(found)


def test_the_table_says_when_it_came_what_it_was_and_what_it_is(own_state: Path) -> None:
    written(own_state, finding(1))

    said = shown().output

    for part in (
        "2026-01-01 08:00",
        "2026-01-01 09:30",
        "e1",
        "web-1",
        "indeterminate 0.0213",
        "0.9700",
        "malicious",
    ):
        assert part in said


def test_an_event_is_shown_once_with_the_last_word_on_it(own_state: Path) -> None:
    """A crash may repeat a finding; a later rescore may use more layers."""
    written(own_state, finding(1, "suspicious"), finding(2), finding(1, "malicious"))

    lines = [json.loads(line) for line in shown("--output", "jsonl").output.splitlines()]

    assert [(line["id"], line["verdict"]["verdict"]) for line in lines] == [
        ("e2", "malicious"),
        ("e1", "malicious"),
    ]
    assert "2 events turned hostile" in shown().output


def test_a_limit_keeps_the_newest(own_state: Path) -> None:
    written(own_state, *(finding(number) for number in range(5)))

    lines = shown("--output", "jsonl", "--limit", "2").output.splitlines()

    assert [json.loads(line)["id"] for line in lines] == ["e3", "e4"]


def test_a_line_that_is_no_finding_is_counted_and_passed_over(own_state: Path) -> None:
    written(own_state, finding(1))
    with (own_state / "retro" / FINDINGS).open("a") as file:
        file.write(
            '{"retro":\n'
            + msgspec.json.encode(
                msgspec.structs.replace(finding(2), verdict=msgspec.Raw(b"{}"))
            ).decode()
            + "\n"
        )

    result = shown()

    assert "e1" in result.output
    assert "2 lines of the file are not findings" in result.stderr


def test_an_id_of_a_stranger_moves_no_cursor(own_state: Path) -> None:
    written(own_state, finding(1, event_id="\x1b[2J[red]x"))

    assert "\x1b[2J" not in shown().output
    assert "?[2J[red]x" in shown().output


def test_without_findings_it_says_so() -> None:
    result = shown()

    assert (result.exit_code, result.output) == (0, "no event turned hostile\n")


def test_findings_that_cannot_be_read_are_a_sentence(own_state: Path) -> None:
    (own_state / "retro" / FINDINGS).mkdir(parents=True)

    result = shown()

    assert result.exit_code == 2
    assert "findings.jsonl: IsADirectoryError" in result.stderr
