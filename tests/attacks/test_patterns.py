"""Regular expressions on text of a caller: none takes longer than its text deserves.

A pattern that tries each place of a text again takes quadratic time: 60 kB stopped the ingress for
6 s, for all tenants.
"""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from deployments.config.settings import ROOT
from tests.support.asgi_clients import IngressClient

BUDGET_S = 0.5  # CPU time for one text; a linear search of 1 MB takes 0.01 to 0.1
# Characters. A quadratic search fails at the second size; the long form also has 1 MB.
SIZES = [1 << 12, 1 << 16, *([1 << 20] if os.environ.get("AXON_VERIFY") == "1" else [])]
CALLS = {"search", "match", "fullmatch", "sub", "split", "findall", "finditer", "compile"}
FILLERS = [
    "a",
    "1",
    " ",
    ".",
    '"',
    "\\",
    "`",
    "\n",
    "[",
    "a.",
    "1.",
    "-a",
    "\\u",
    "\\ud800",
    "\u0130",
]


def patterns() -> Iterator[tuple[str, str | bytes, int]]:
    """Module, pattern and flags of every regular expression in the source."""
    for package in ("ensemble", "deployments"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(tree):
                if not (isinstance(node, ast.Call) and is_of_re(node.func) and node.args):
                    continue
                first = node.args[0]
                if isinstance(first, ast.Constant):
                    yield name, first.value, flags_of(node)


def is_of_re(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "re"
        and function.attr in CALLS
    )


def flags_of(call: ast.Call) -> int:
    named = [*call.args[1:], *(word.value for word in call.keywords if word.arg == "flags")]
    found = 0
    for node in named:
        text = ast.unparse(node)
        if re.fullmatch(r"re\.[A-Z]+(?: \| re\.[A-Z]+)*", text):
            for flag in text.split(" | "):
                found |= getattr(re, flag.removeprefix("re."))
    return found


def samples(parsed: Any) -> set[str]:
    """Texts that parts of a pattern match: what an attacker who reads the source would repeat."""
    parts = list(parsed)
    found = {
        "".join(map(sample, parts[start:end]))
        for start in range(len(parts))
        for end in range(start + 1, len(parts) + 1)
    }
    for part in parts:
        for inside in inner(part):
            found |= samples(inside)
    return found - {""}


def inner(part: Any) -> list[Any]:
    """The patterns inside one part of a pattern."""
    kind, value = str(part[0]), part[1]
    if kind.endswith("REPEAT"):
        return [value[2]]
    if kind in {"SUBPATTERN", "ATOMIC_GROUP"}:
        return [value[-1] if kind == "SUBPATTERN" else value]
    return list(value[1]) if kind == "BRANCH" else []


def sample(part: Any) -> str:
    """A text that one part of a pattern matches."""
    kind, value = str(part[0]), part[1]
    if kind == "LITERAL":
        return chr(value)
    if kind == "IN":
        return {"LITERAL": chr, "RANGE": lambda both: chr(both[0])}.get(
            str(value[0][0]), lambda _: "a"
        )(value[0][1])
    if kind.endswith("REPEAT"):
        return "".join(map(sample, value[2])) * max(value[0], 1)
    if kind in {"ANY", "NOT_LITERAL"}:
        return "a"
    return "".join(map(sample, next(iter(inner(part)), [])))


def hostile_texts(pattern: str | bytes, flags: int, size: int) -> Iterator[str]:
    """Texts that repeat a part of the pattern, and end in what it does not take."""
    parsed = re._parser.parse(pattern, flags)  # type: ignore[attr-defined]
    for unit in sorted({*FILLERS, *samples(parsed)}):
        for start in ("", "".join(map(sample, list(parsed)[:1]))):
            yield start + unit * (size // len(unit)) + "\x00!"


FOUND = list(patterns())
assert len(FOUND) > 25


@pytest.mark.parametrize(
    ("module", "pattern", "flags"),
    FOUND,
    ids=[f"{module}-{number}" for number, (module, *_) in enumerate(FOUND)],
)
def test_no_pattern_takes_more_than_linear_time(
    module: str, pattern: str | bytes, flags: int
) -> None:
    del module
    compiled: re.Pattern[Any] = re.compile(pattern, flags)
    for size in SIZES:
        for text in hostile_texts(pattern, flags, size):
            given: Any = text.encode() if isinstance(pattern, bytes) else text
            for method in (compiled.search, compiled.fullmatch):
                started = time.process_time()
                method(given)
                took_s = time.process_time() - started
                assert took_s < BUDGET_S, (size, text[:60], method.__name__)


AT = " - at `$"
NAMES = [
    pytest.param(AT * 8000, id="places"),
    pytest.param("unknown field `" * 4000, id="fields"),
    pytest.param("features[1" * 6000, id="features"),
    pytest.param("`" * 60_000, id="backticks"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["field", "kind"])
def test_a_refusal_of_a_long_name_is_worded_at_once(
    client: IngressClient, name: str, where: str
) -> None:
    """60 kB of a field's name took 6 s of the ingress."""
    body = {"field": {"kind": "flow", name: 1}, "kind": {"kind": name}}[where]
    started = time.process_time()

    answer = client.post("/v1/score", body)

    assert time.process_time() - started < BUDGET_S
    assert answer.status_code in {200, 422}
    assert len(answer.content) < 4000
