"""README, runbook and docs: their examples work, and the names in them exist.

Each test reads every page and lists all offenders.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import typer

from deployments.cli import app
from deployments.config.settings import read_settings
from deployments.scoring import verdict_wire, wire
from ensemble.errors import EventError
from tests.support.contracts import management_document, scoring_document
from tests.support.pages import (
    PAGES,
    README,
    ROOT,
    RUNBOOK,
    address_of,
    anchors,
    blocks,
    body_of,
    commands,
    curls,
    links,
    method_of,
    shell_words,
)

LONGEST_README = 130  # lines
EXAMPLES = sorted((ROOT / "examples").glob("*.json"))
MADE_BY_OPERATORS = {"configs/tenants.yaml"}
LEAST_CHECKED = 40  # links, commands: a pattern that no longer matches must not pass


def test_the_readme_is_short_and_starts_with_the_two_main_commands() -> None:
    """Two commands are enough on a new machine."""
    assert len(README.read_text().splitlines()) <= LONGEST_README
    first = [shell_words(command) for command in commands(README)][:2]
    assert first == [["make", "serve"], ["make", "test"]]


def test_every_shell_block_is_valid_shell() -> None:
    wrong = []
    for page in PAGES:
        for block in blocks(page, "sh", "bash", "shell"):
            checked = subprocess.run(
                ["bash", "-n"], input=block, text=True, capture_output=True, check=False
            )
            wrong += [f"{page.name}: {checked.stderr}"] if checked.returncode else []
    assert wrong == []


def test_every_command_is_a_verb_with_options_that_exist() -> None:
    wrong, checked = [], 0
    for page in PAGES:
        for command in commands(page):
            words = shell_words(command)
            if not words[0].endswith("/axon"):
                continue
            checked += 1
            verb, rest = _verb_of(words[1:])
            options = {
                option
                for parameter in verb.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            unknown = {word for word in rest if word.startswith("--")} - options - {"--help"}
            is_group = hasattr(verb, "list_commands")
            if unknown or (is_group and not verb.invoke_without_command and "--help" not in rest):
                wrong.append(f"{page.name}: {command.strip()}")
    assert wrong == []
    assert checked > LEAST_CHECKED


def test_every_verb_of_the_terminal_is_on_a_page() -> None:
    texts = [page.read_text() for page in PAGES]
    verbs = [" ".join(path) for path, _ in _verbs(_terminal(), ())]

    assert len(verbs) > LEAST_CHECKED // 2
    assert [verb for verb in verbs if not _is_named(f"axon {verb}", texts)] == []


def test_every_curl_example_requests_a_route_that_exists_on_the_default_port() -> None:
    wrong = []
    for page in PAGES:
        for curl in curls(page):
            local = r"(?:http://)?(?:127\.0\.0\.1|localhost):8000(/[^?]*)?(\?.*)?"
            found = re.fullmatch(local, address_of(curl))
            if not found or not is_route(method_of(curl), found[1] or "/"):
                wrong.append(f"{page.name}: {' '.join(curl)}")
    assert wrong == []
    assert curls(RUNBOOK)
    assert sum("/v1/score" in address_of(curl) for curl in curls(README)) >= len("abc")


def test_the_body_of_every_curl_example_passes_validation() -> None:
    checked = 0
    for page in PAGES:
        for curl in curls(page):
            body = body_of(curl)
            if body is not None:
                _check_body(address_of(curl), body)
                checked += 1
    assert checked > len(EXAMPLES)


def test_every_example_is_shown_on_a_page() -> None:
    texts = [page.read_text() for page in PAGES]
    files = [file for file in (ROOT / "examples").iterdir() if file.is_file()]

    assert EXAMPLES
    assert [file.name for file in files if not _is_named(f"examples/{file.name}", texts)] == []


def test_every_json_block_is_json_and_its_events_are_events() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            shown = json.loads(block)
            if "kind" in shown:
                _check_body("/v1/score", block)


def test_the_shown_responses_have_fields_of_a_response() -> None:
    shown = [json.loads(block) for page in PAGES for block in blocks(page, "json")]
    verdicts = [one for one in shown if "verdict" in one]

    assert len(verdicts) > 1
    assert set().union(*verdicts) <= set(verdict_wire.Verdict.__struct_fields__)


def test_every_field_of_a_verdict_is_explained_and_every_explained_field_exists() -> None:
    fields = set(verdict_wire.Verdict.__struct_fields__)
    concepts = _explained(ROOT / "docs" / "concepts.md")

    assert concepts | {"id"} == fields
    assert _explained(README) <= fields
    assert _explained(README)


def test_every_link_has_a_target() -> None:
    wrong, checked = [], 0
    for page in (*PAGES, ROOT / "CHANGELOG.md"):
        for path, anchor in links(page):
            checked += 1
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                wrong.append(f"{page.name}: {path}#{anchor}")
    assert wrong == []
    assert checked > LEAST_CHECKED


def test_every_page_is_in_the_index() -> None:
    listed = {path for path, _ in links(ROOT / "docs" / "index.md")}

    assert {page.name for page in (ROOT / "docs").glob("*.md")} - listed == {"index.md"}


def test_every_path_in_code_style_exists() -> None:
    """A path that is not a link would not fail the test of the links."""
    roots = "ensemble|deployments|tests|examples|configs|docs"
    missing = {
        f"{page.name}: {path}"
        for page in PAGES
        for path in re.findall(rf"`((?:{roots})/[\w./-]+)`", page.read_text())
        if not (ROOT / path).exists() and path not in MADE_BY_OPERATORS
    }
    assert missing == set()


def test_no_page_has_a_placeholder() -> None:
    left = [
        page.name for page in PAGES if re.search(r"@@\w+@@|TODO|TBD|XXX|FIXME", page.read_text())
    ]
    assert left == []


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        inline or alone
        for page in PAGES
        for inline, alone in re.findall(
            r"`make ([a-z]+)|^make ([a-z]+)", page.read_text(), re.MULTILINE
        )
    }

    assert {"serve", "test"} <= named <= targets


def test_every_route_that_a_page_names_exists() -> None:
    """Routes of the older runbooks begin with /api, and are skipped."""
    wrong, checked = [], 0
    for page in PAGES:
        for method, path in re.findall(r"`(GET|POST) (/[^` ?]*)", page.read_text()):
            checked += 1
            if not path.startswith("/api/") and not is_route(method.lower(), path):
                wrong.append(f"{page.name}: {method} {path}")
    assert wrong == []
    assert checked > LEAST_CHECKED // 2


def is_route(method: str, path: str) -> bool:
    """Whether one of the two applications has the route; a parameter matches any name."""
    return any(method in operations for operations in operations_at(path))


def operations_at(path: str) -> list[dict[str, Any]]:
    """List the operations of the routes that match a path."""
    return [
        operations
        for known, operations in _paths().items()
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path)
    ]


@cache
def _paths() -> dict[str, Any]:
    return scoring_document()["paths"] | management_document()["paths"]


def _check_body(address: str, body: str) -> None:
    """Fail unless the route at `address` accepts `body`."""
    path = re.sub(r"^.*?:\d+|\?.*$", "", address)
    if path == "/v1/score/batch":
        parsed = wire.parse_batch(body.encode(), limit=read_settings().ingress.max_events)
        assert [one for one in parsed if isinstance(one, tuple)] == []
    elif path == "/v1/score":
        try:
            event = wire.parse_event(body.encode())
        except EventError as error:
            raise AssertionError(body) from error
        _, _, refused = wire.admit(wire.kind_of(event), [event])
        assert not refused
    else:
        jsonschema.validate(json.loads(body), _schema_of(path), cls=jsonschema.Draft202012Validator)


def _schema_of(path: str) -> dict[str, Any]:
    """Return the schema of the body that a route reads."""
    (body,) = [
        one["requestBody"]
        for operations in operations_at(path)
        for one in operations.values()
        if "requestBody" in one
    ]
    schemas = {
        name: schema
        for document in (scoring_document(), management_document())
        for name, schema in document["components"]["schemas"].items()
    }
    schema: dict[str, Any] = body["content"]["application/json"]["schema"]
    return schema | {"components": {"schemas": schemas}}


def _terminal() -> Any:
    return app if hasattr(app, "list_commands") else typer.main.get_command(app)


def _verbs(group: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every verb below a group with its words, and every group that is also a verb."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        verb = group.resolve_command(context, [name])[1]
        if hasattr(verb, "list_commands"):
            yield from [((*path, name), verb)] if verb.invoke_without_command else []
            yield from _verbs(verb, (*path, name))
        else:
            yield (*path, name), verb


def _verb_of(words: list[str]) -> tuple[Any, list[str]]:
    """Find the verb that the words name, and the words after it."""
    verb = _terminal()
    while words and hasattr(verb, "list_commands"):
        if words[0] not in verb.list_commands(typer.Context(verb)):
            break
        _, verb, words = verb.resolve_command(typer.Context(verb), words)
    return verb, words


def _explained(page: Path) -> set[str]:
    """Collect the names in the first column of the page's table of the fields of a verdict."""
    table = page.read_text().partition("| field | meaning |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", table, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def _is_named(words: str, texts: list[str]) -> bool:
    return any(re.search(rf"{re.escape(words)}\b", text) for text in texts)
