"""The README keeps its word: what it shows can be pasted, what it links is there, and every verb and setting is explained."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from deployments import wire
from deployments.cli import app, models, train
from ensemble.errors import EventError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
MAX_EVENTS = 1000
OPTIONS_WITH_A_VALUE = {"-X", "--request", "-H", "--header", "-d", "--data", "--data-raw", "--data-binary", "--json", "-m", "-o"}
BODY_OPTIONS = {"-d", "--data", "--data-raw", "--data-binary", "--json"}


def blocks(*languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def commands(block: str) -> list[str]:
    """Commands of a shell block; one goes on while a quote is open or a line ends in a backslash."""
    whole: list[str] = []
    open_one = ""
    for line in block.splitlines():
        open_one += line + "\n"
        try:
            words = shlex.split(open_one, comments=True)
        except ValueError:
            continue
        if not line.endswith("\\"):
            if words:
                whole.append(open_one)
            open_one = ""
    assert not open_one.strip(), f"a quote is never closed: {open_one[:80]}"
    return whole


def curls() -> list[list[str]]:
    said = [shlex.split(command, comments=True) for block in blocks("sh", "bash", "shell", "console") for command in commands(block)]
    return [words for words in said if words[0] == "curl"]


def body_of(curl: list[str]) -> str | None:
    return next((value for option, value in itertools.pairwise(curl) if option in BODY_OPTIONS), None)


def address_of(curl: list[str]) -> str:
    return next(word for word in curl if "/v1/" in word or re.search(r":\d+", word))


def verbs() -> list[str]:
    groups = {"": app, "train ": train, "models ": models}
    named = []
    for group, typed in groups.items():
        for command in typed.registered_commands:
            assert command.callback is not None
            named.append(group + (command.name or command.callback.__name__.replace("_", "-")))
    return [*named, "models"]


def test_the_two_commands_come_first() -> None:
    first = blocks("sh", "bash", "shell")[0]

    assert [shlex.split(command, comments=True) for command in commands(first)][:2] == [["make", "serve"], ["make", "test"]]


def test_every_shell_block_is_valid_shell() -> None:
    for block in blocks("sh", "bash", "shell"):
        checked = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert checked.returncode == 0, checked.stderr


def test_there_are_three_curl_examples_that_score() -> None:
    assert sum("/v1/score" in address_of(curl) for curl in curls()) >= 3


def test_the_body_of_every_curl_example_passes_the_door() -> None:
    for curl in curls():
        body = body_of(curl)
        if body is None:
            continue
        json.loads(body)
        if "/v1/score/batch" in address_of(curl):
            parsed = wire.parse_batch(body.encode(), limit=MAX_EVENTS)
            assert not [one for one in parsed if isinstance(one, tuple)]
            continue
        event = wire.parse_event(body.encode())
        _, _, refused = wire.to_batch(wire.kind_of(event), [event])
        assert not refused


def test_every_curl_example_asks_a_route_that_exists_on_the_default_port() -> None:
    from deployments.openapi import document  # noqa: PLC0415  # imports what only this test needs

    paths = document(MAX_EVENTS)["paths"]
    for curl in curls():
        found = re.fullmatch(r"(?:http://)?(?:127\.0\.0\.1|localhost):8000(/[^?]*)?(\?.*)?", address_of(curl))
        assert found, address_of(curl)
        assert (found[1] or "/") in paths


def test_every_json_block_is_json() -> None:
    for block in blocks("json"):
        json.loads(block)


def test_the_shown_answer_has_fields_of_an_answer() -> None:
    fields = set(wire.Verdict.__struct_fields__)
    for block in blocks("json"):
        shown = json.loads(block)
        if "verdict" in shown:
            assert shown.keys() <= fields
            return
    raise AssertionError("no answer is shown")


def test_every_field_that_is_explained_exists() -> None:
    names = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", README.read_text(), re.MULTILINE)
    explained = {name for row in names for name in re.findall(r"`(\w+)`", row)}

    assert explained
    assert explained <= set(wire.Verdict.__struct_fields__)


def test_every_relative_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", README.read_text())

    assert links
    missing = [link for link in links if not re.match(r"[a-z]+:", link) and not (ROOT / link).exists()]
    assert not missing


def test_nothing_is_left_to_be_filled_in() -> None:
    assert not re.findall(r"@@\w+@@|TODO|TBD|XXX|FIXME", README.read_text())


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_of_the_terminal_is_in_the_readme(verb: str) -> None:
    assert re.search(rf"\baxon {verb}\b", README.read_text())


def test_every_command_of_the_readme_is_a_verb_with_options_that_exist() -> None:
    import typer  # noqa: PLC0415

    root = typer.main.get_command(app)
    for block in blocks("sh", "bash", "shell"):
        for command in commands(block):
            words = shlex.split(command, comments=True)
            if not words[0].endswith("axon"):
                continue
            found, rest = root, words[1:]
            while rest and rest[0] in getattr(found, "commands", {}):
                found, rest = found.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
            known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
            assert {word for word in rest if word.startswith("--")} <= known, command


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", README.read_text(), re.MULTILINE)) != set()
    named = {one or other for one, other in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", README.read_text(), re.MULTILINE)}
    assert named <= targets


def test_the_readme_makes_no_event_that_the_wire_refuses() -> None:
    """Also outside curl: every JSON object of a block that has a `kind` is an event."""
    for block in blocks("json", "jsonl"):
        for line in block.splitlines():
            if line.strip().startswith('{"kind"') and "..." not in line:
                try:
                    wire.parse_event(line.strip().rstrip(",").encode())
                except EventError as error:
                    raise AssertionError(line) from error
