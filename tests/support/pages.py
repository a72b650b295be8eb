"""Code blocks, commands, requests and links of the Markdown pages."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

__all__ = [
    "PAGES",
    "README",
    "ROOT",
    "RUNBOOK",
    "address_of",
    "anchors",
    "blocks",
    "body_of",
    "commands",
    "curls",
    "links",
    "method_of",
    "shell_words",
]

ROOT = Path(__file__).resolve().parents[2]
README, RUNBOOK = ROOT / "README.md", ROOT / "configs" / "RUNBOOK.md"
PAGES = (
    README,
    RUNBOOK,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
)
SHELL = ("sh", "bash", "shell", "console")
BODY_OPTIONS = {"-d", "--data", "--data-raw", "--data-binary", "--json"}


def blocks(page: Path, *languages: str) -> list[str]:
    """List the code blocks of a page in one of these languages."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[str]:
    """List every command of the shell blocks of a page.

    A command continues while a quote is open or a line ends in a backslash.
    """
    return [command for block in blocks(page, *SHELL) for command in _commands_of(block)]


def _commands_of(block: str) -> list[str]:
    found: list[str] = []
    current = ""
    for line in block.splitlines():
        current += line + "\n"
        try:
            words = shlex.split(current, comments=True)
        except ValueError:
            continue
        if not line.endswith("\\"):
            if words:
                found.append(current)
            current = ""
    assert not current.strip(), f"a quote is never closed: {current[:80]}"
    return found


def shell_words(command: str) -> list[str]:
    """Split a command into its words, without its comment."""
    return shlex.split(command, comments=True)


def curls(page: Path) -> list[list[str]]:
    """List the words of every curl command of a page."""
    return [words for words in map(shell_words, commands(page)) if words[0] == "curl"]


def body_of(curl: list[str]) -> str | None:
    """Return the body that a curl command sends, from its file if it names one.

    None without a body, or if the file is not in the repository.
    """
    bodies = (value for option, value in itertools.pairwise(curl) if option in BODY_OPTIONS)
    body = next(bodies, None)
    if body is None or not body.startswith("@"):
        return body
    file = body.removeprefix("@")
    return None if file.startswith("/") else (ROOT / file).read_text()


def method_of(curl: list[str]) -> str:
    """Return the HTTP method of a curl command, in lower case."""
    named = (word.lower() for word in curl if word in {"POST", "PUT", "DELETE"})
    return next(named, "post" if BODY_OPTIONS & set(curl) else "get")


def address_of(curl: list[str]) -> str:
    """Return the URL that a curl command requests."""
    return next(word for word in curl if re.search(r":\d+", word))


def links(page: Path) -> list[tuple[str, str]]:
    """List the links of a page into the repository: path ("" for the page itself), anchor."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    return [(path, anchor) for path, anchor in found if not re.match(r"[a-z]+:", path)]


def anchors(page: Path) -> set[str]:
    """Collect the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
