"""What the terminal prints at 80 and 160 columns, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.cli.console import Column, minutes, table

Axon = Callable[..., Result]
WIDTHS = [80, 160]
LONG = "a note that is far longer than the room that is left for it in a narrow terminal " * 2


@pytest.fixture
def axon_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Axon]:
    """`axon_at(80)("models")`."""
    monkeypatch.setenv("TERM", "dumb")

    def at(width: int) -> Axon:
        monkeypatch.setattr(console, "out", Console(width=width, highlight=False))
        monkeypatch.setattr(console, "err", Console(width=width, stderr=True, highlight=False))
        return lambda *words: CliRunner().invoke(cli.app, [str(word) for word in words])

    return at


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("models",), ["classifier-flow", "posture-knowledge", "2026-11-25 10:00", "shipped"]),
        (("models", "versions", "classifier-flow"), ["classifier-flow", "2026-11-25 10:00"]),
        (("models", "audit"), ["axon_key", "create_key", "done"]),
        (("keys", "list"), ["acme", "live", "a collector"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.usefixtures("own_state")
def test_a_table_cuts_neither_names_nor_times(
    axon_at: Callable[[int], Axon], width: int, words: tuple[str, ...], shown: list[str]
) -> None:
    axon = axon_at(width)
    made = axon("keys", "create", "--tenant", "acme", "--scope", "score", "--name", "a collector")
    key = made.stdout.split("_")[1]

    tenant = ["--tenant", "acme"] if words[-1] == "audit" else []
    result = axon(*words, *tenant)

    assert result.exit_code == 0, result.output
    assert "…" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= width
    for part in shown:
        assert part.replace("axon_key", key) in result.stdout


@pytest.mark.parametrize("width", WIDTHS)
def test_long_text_is_folded_and_names_are_not(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    narrow = Console(width=width, highlight=False)
    monkeypatch.setattr(console, "out", narrow)

    with narrow.capture() as printed:
        narrow.print(
            table(
                ["model", "time", Column("notes", wraps=True), Column("sha256", optional=True)],
                [["classifier-flow", "2026-12-01 00:20", LONG, "0" * 64]],
            )
        )

    lines = printed.get().splitlines()
    assert "classifier-flow" in lines[1]
    assert "2026-12-01 00:20" in lines[1]
    assert max(map(len, lines)) <= width
    assert ("sha256" in lines[0]) is (width >= 160), "an optional column needs room"
    assert all(word in printed.get() for word in LONG.split())


def test_a_column_without_text_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Console(width=80)
    monkeypatch.setattr(console, "out", wide)

    with wide.capture() as printed:
        wide.print(table(["model", "problem"], [["a", ""]]))

    assert "problem" not in printed.get()


def test_a_time_is_read_in_minutes() -> None:
    assert minutes("2026-12-01T00:20:33.123456+00:00") == "2026-12-01 00:20"
    assert minutes(1796084433.0) == "2026-12-01 00:20"
    assert minutes(None) == ""


@pytest.mark.parametrize(
    "words",
    [
        ("models",),
        ("models", "versions", "anomaly-flow"),
        ("models", "info", "anomaly-flow"),
        ("models", "challenger"),
        ("models", "alias", "anomaly-flow", "challenger"),
        ("models", "quarantine"),
        ("models", "audit"),
        ("models", "audit", "--verify"),
        ("keys", "list"),
        ("trust", "show"),
    ],
    ids=" ".join,
)
def test_json_is_one_document(
    axon_at: Callable[[int], Axon], own_state: Path, words: tuple[str, ...]
) -> None:
    """JSON is for programs: nothing else is printed, and no line is broken at the width."""
    del own_state

    result = axon_at(40)(*words, "--json")

    assert result.exit_code == 0, result.output
    assert isinstance(json.loads(result.stdout), dict | list)


HOSTILE = ["\u009b2J", "\u202emoc.live", "\u2066x\u2069", "\u200bx", "\U0001f4a3", "\U000e0041"]


@pytest.mark.parametrize("text", [*HOSTILE, "\x1b]0;owned\x07"], ids=ascii)
@pytest.mark.parametrize("stream", [console.out, console.err], ids=["out", "err"])
def test_no_text_is_printed_that_a_terminal_obeys_or_hides(stream: Console, text: str) -> None:
    """Errors, model cards and origins are printed as they are; a tenant may have written them."""
    with stream.capture() as printed:
        stream.print(f"axon: {text}", markup=False, soft_wrap=True)
        stream.print(f"the [bold]{text}[/]")
        stream.print(console.table([console.Column("name")], [[text]], title=text))

    assert printed.get().replace("\n", "").isprintable()


def test_lines_and_colours_of_our_own_stay() -> None:
    stream = console.SafeConsole(force_terminal=True, color_system="standard", width=40)

    with stream.capture() as printed:
        stream.print("[red]a[/]\n\tb \u009b1mc", soft_wrap=True)

    assert printed.get() == "\x1b[31ma\x1b[0m\n        b ?1mc\n"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_json_for_a_terminal_has_nothing_that_it_obeys_or_hides(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """A tenant names its models and events; an operator reads them in a terminal."""
    monkeypatch.setattr(console, "out", Console(highlight=False))

    console.print_json({"name": text})
    console.print_json_line(json.dumps({"name": text}, ensure_ascii=False).encode())

    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    lines = printed.split("\n}\n")
    assert json.loads(lines[0] + "}") == json.loads(lines[1]) == {"name": text}
