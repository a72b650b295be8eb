"""README and runbook keep their word.

What they show can be pasted, what they name exists, and what exists is explained.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from deployments.cli import app, keys, layers, models, train
from deployments.config.settings import read_settings
from deployments.management import openapi
from deployments.observability.metrics import METRICS, RULES
from deployments.scoring import wire
from deployments.scoring.openapi import document
from ensemble import errors
from ensemble.errors import EventError
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus

ROOT = Path(__file__).resolve().parents[1]
README, RUNBOOK = ROOT / "README.md", ROOT / "configs" / "RUNBOOK.md"
BOTH = [pytest.param(README, id="README"), pytest.param(RUNBOOK, id="RUNBOOK")]
MAX_EVENTS, MAX_BODY_BYTES = 1000, 8 << 20
OPTIONS_WITH_A_VALUE = {
    "-X",
    "--request",
    "-H",
    "--header",
    "-d",
    "--data",
    "--data-raw",
    "--data-binary",
    "--json",
    "-m",
    "-o",
}
BODY_OPTIONS = {"-d", "--data", "--data-raw", "--data-binary", "--json"}


def blocks(*languages: str, page: Path = README) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def commands(block: str) -> list[str]:
    """Commands of a shell block.

    One goes on while a quote is open or a line ends in a backslash.
    """
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


def curls(page: Path = README) -> list[list[str]]:
    shell = blocks("sh", "bash", "shell", "console", page=page)
    said = [shlex.split(command, comments=True) for block in shell for command in commands(block)]
    return [words for words in said if words[0] == "curl"]


def body_of(curl: list[str]) -> str | None:
    return next(
        (value for option, value in itertools.pairwise(curl) if option in BODY_OPTIONS), None
    )


def address_of(curl: list[str]) -> str:
    return next(word for word in curl if "/v1/" in word or re.search(r":\d+", word))


def verbs() -> list[str]:
    groups = {"": app, "train ": train, "models ": models, "layers ": layers, "keys ": keys}
    named = []
    for group, typed in groups.items():
        for command in typed.registered_commands:
            assert command.callback is not None
            named.append(group + (command.name or command.callback.__name__.replace("_", "-")))
    return [*named, "models", "layers"]


def test_the_two_commands_come_first() -> None:
    first = blocks("sh", "bash", "shell")[0]

    assert [shlex.split(command, comments=True) for command in commands(first)][:2] == [
        ["make", "serve"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("page", BOTH)
def test_every_shell_block_is_valid_shell(page: Path) -> None:
    for block in blocks("sh", "bash", "shell", page=page):
        checked = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


def test_there_are_three_curl_examples_that_score() -> None:
    assert sum("/v1/score" in address_of(curl) for curl in curls()) >= 3


def test_the_body_of_every_curl_example_passes_the_door() -> None:
    for curl in curls():
        body = body_of(curl)
        if body is None or body.startswith("@"):  # a file
            continue
        if "/v1/score" not in address_of(curl):
            jsonschema.validate(
                json.loads(body), schema_of(address_of(curl)), cls=jsonschema.Draft202012Validator
            )
            continue
        if "/v1/score/batch" in address_of(curl):
            parsed = wire.parse_batch(body.encode(), limit=MAX_EVENTS)
            assert not [one for one in parsed if isinstance(one, tuple)]
            continue
        event = wire.parse_event(body.encode())
        _, _, refused = wire.to_batch(wire.kind_of(event), [event])
        assert not refused


@pytest.mark.parametrize("page", BOTH)
def test_every_curl_example_asks_a_route_that_exists_on_the_default_port(page: Path) -> None:
    assert curls(page)
    for curl in curls(page):
        found = re.fullmatch(
            r"(?:http://)?(?:127\.0\.0\.1|localhost):8000(/[^?]*)?(\?.*)?", address_of(curl)
        )
        assert found, address_of(curl)
        method = next(
            (word.lower() for word in curl if word in {"POST", "PUT", "DELETE"}),
            "post" if body_of(curl) else "get",
        )
        assert is_route(method, found[1] or "/"), curl


def is_route(method: str, path: str) -> bool:
    """Whether one of the contracts has it; a name in braces is any name."""
    return any(method in operations for operations in operations_at(path))


def operations_at(path: str) -> list[dict[str, Any]]:
    """The operations of the routes that a path may be of."""
    paths = document(MAX_EVENTS, MAX_BODY_BYTES)["paths"] | openapi.paths()
    return [
        operations
        for known, operations in paths.items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path)
    ]


def schema_of(address: str) -> dict[str, Any]:
    """The schema of the body that a route reads."""
    path = re.sub(r"^.*?:\d+|\?.*$", "", address)
    (body,) = [
        one["requestBody"]
        for operations in operations_at(path)
        for one in operations.values()
        if "requestBody" in one
    ]
    schemas = document(MAX_EVENTS, MAX_BODY_BYTES)["components"]["schemas"] | openapi.schemas(
        read_settings()
    )
    return body["content"]["application/json"]["schema"] | {"components": {"schemas": schemas}}


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
    missing = [
        link for link in links if not re.match(r"[a-z]+:", link) and not (ROOT / link).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", BOTH)
def test_nothing_is_left_to_be_filled_in(page: Path) -> None:
    assert not re.findall(r"@@\w+@@|TODO|TBD|XXX|FIXME", page.read_text())


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_of_the_terminal_is_in_the_readme_or_in_the_runbook(verb: str) -> None:
    assert any(re.search(rf"\baxon {verb}\b", page.read_text()) for page in (README, RUNBOOK))


@pytest.mark.parametrize("page", BOTH)
def test_every_command_is_a_verb_with_options_that_exist(page: Path) -> None:
    import typer  # noqa: PLC0415

    root = typer.main.get_command(app)
    for block in blocks("sh", "bash", "shell", page=page):
        for command in commands(block):
            words = shlex.split(command, comments=True)
            if not words[0].endswith("axon"):
                continue
            found, rest = root, words[1:]
            while rest and rest[0] in getattr(found, "commands", {}):
                found, rest = found.commands[rest[0]], rest[1:]  # type: ignore[attr-defined]
            known = {
                option
                for parameter in found.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            } | {"--help"}
            assert {word for word in rest if word.startswith("--")} <= known, command


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert (
        set(re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", README.read_text(), re.MULTILINE))
        != set()
    )
    named = {
        one or other
        for one, other in re.findall(
            r"`make ([a-z]+)`|^make ([a-z]+)", README.read_text(), re.MULTILINE
        )
    }
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


# -- the runbook: P37, whatever Axon says of itself has its place there

DEPLOYMENTS = [path.read_text() for path in sorted((ROOT / "deployments").rglob("*.py"))]
SOURCES = [*DEPLOYMENTS, *(path.read_text() for path in sorted((ROOT / "ensemble").rglob("*.py")))]
ROOTS = {"EnsembleError"}  # raised by nobody
CODES = sorted({getattr(errors, name).code for name in errors.__all__ if name not in ROOTS})
CODES_OF_THE_EDGE = sorted(
    {
        code
        for text in DEPLOYMENTS
        for code in re.findall(r'(?:error_response\(request, |: \()(?:\w+, )?"([A-Z_]{5,})"', text)
    }
)
CAUSES = sorted(
    {
        kind.cause
        for name in errors.__all__
        if issubclass(kind := getattr(errors, name), errors.ArtifactError)
    }
)
EVENTS = sorted(
    {
        event
        for text in DEPLOYMENTS
        for event in re.findall(r'(?:log_event\(\s*[\w. ]+?, |"event": )"(\w+)"', text)
    }
)


def rows() -> dict[str, list[str]]:
    """First cell of every row of a table of the runbook -> its other cells."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in RUNBOOK.read_text().splitlines()
        if line.startswith("|")
    ]
    return {first.strip("`"): others for first, *others in cells}


@pytest.mark.parametrize("word", [*LayerStatus, *SystemStatus])
def test_every_status_word_says_what_to_do(word: str) -> None:
    assert len(rows()[word]) == 3
    assert all(rows()[word])


@pytest.mark.parametrize("status", list(LayerStatus))
def test_the_runbook_knows_which_status_words_speak(status: LayerStatus) -> None:
    assert rows()[status][0] == (
        "-" if status is LayerStatus.NOT_APPLICABLE else "yes" if status in SPEAKING else "no"
    )


@pytest.mark.parametrize("code", [*CODES, *CODES_OF_THE_EDGE])
def test_every_code_is_in_the_runbook(code: str) -> None:
    assert re.search(rf"\b{code}\b", RUNBOOK.read_text())


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for name in errors.__all__
        if issubclass(kind := getattr(errors, name), errors.ArtifactError)
    ],
    ids=lambda kind: kind.code,
)
def test_the_runbook_gives_every_load_failure_its_own_cause_and_a_cure(
    kind: type[errors.ArtifactError],
) -> None:
    """S1-26."""
    cause, means, cure = rows()[kind.code]

    assert cause == kind.cause
    assert means
    assert cure


@pytest.mark.parametrize("cause", CAUSES)
def test_every_cause_says_where_to_look(cause: str) -> None:
    assert rows()[cause][0]


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_stands_in_the_runbook_as_it_is(name: str) -> None:
    metric = METRICS[name]

    labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
    assert rows()[name] == [metric.instrument, labels, metric.unit, metric.meaning]


def test_every_metric_that_the_runbook_names_exists() -> None:
    """An alert on a metric that nobody records never fires."""
    named = set(re.findall(r"\b(?:ray_)?(axon_[a-z_]+)", RUNBOOK.read_text()))

    assert named <= METRICS.keys() | RULES.keys()
    assert all(rule in RUNBOOK.read_text() for rule in RULES.values())


@pytest.mark.parametrize("event", EVENTS)
def test_every_log_event_is_in_the_runbook(event: str) -> None:
    assert f"`{event}`" in RUNBOOK.read_text()


def test_every_log_line_has_its_event_as_a_key() -> None:
    """S0-23: `log_event` writes it; a call past it, with a traceback, names it too."""
    levels = {"info", "warning", "error", "exception", "critical"}
    calls = [
        node
        for text in SOURCES
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in levels
        and "logg" in ast.unparse(node.func.value).casefold()
    ]

    assert calls
    assert [ast.unparse(call) for call in calls if "'event': " not in ast.unparse(call)] == []


def test_every_route_that_the_runbook_names_exists() -> None:
    """Those of the older runbooks begin with /api."""
    named = re.findall(r"`(GET|POST) (/[^` ]*)", RUNBOOK.read_text())

    assert len(named) > 5
    assert [
        route
        for route in named
        if not route[1].startswith("/api/") and not is_route(route[0].lower(), route[1])
    ] == []
