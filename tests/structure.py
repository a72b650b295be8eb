"""Counts of the house: places, levels, import edges, lines, callables, words of HOUSE 7.1.

`python -m tests.structure [CHECKOUT]` prints them for this checkout, or for another one, so that
two versions can be compared. Everything is read off the syntax tree; nothing of the checkout runs.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

__all__ = ["OLD_WORDS", "counts", "names_with_old_words"]

ROOT = Path(__file__).resolve().parents[1]
Edges = Mapping[str, set[str]]

OLD_WORDS = frozenset(
    [
        "say",
        "says",
        "said",
        "saying",
        "tell",
        "tells",
        "told",
        "telling",
        "ask",
        "asks",
        "asked",
        "asking",
        "look",
        "looks",
        "looked",
        "looking",
        "keep",
        "keeps",
        "kept",
        "keeping",
        "keeper",
        "held",
        "seen",
        "lend",
        "lends",
        "lent",
        "lender",
        "lending",
        "trouble",
        "whole",
        "takes",
        "took",
        "door",
        "stranger",
        "stall",
        "retreat",
        "retreats",
        "retreated",
        "retreating",
        "forgive",
        "forgives",
        "forgiven",
        "mend",
        "mends",
        "mended",
        "mendable",
        "who",
        "whoever",
        "nobody",
        "somebody",
        "charge",
        "charges",
    ]
)
"""Words of this repository's first version that have a standard word instead."""


def source_files(checkout: Path) -> dict[str, Path]:
    """Module name -> file, of `ensemble/` and `deployments/`."""
    found = {}
    for half in ("ensemble", "deployments"):
        for path in sorted((checkout / half).rglob("*.py")):
            name = ".".join(path.relative_to(checkout).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Modules of the checkout that a file imports."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                name = module if module in known else str(node.module)
                if name in known:
                    yield name


def place_edges(files: Mapping[str, Path], half: str, *, others_as_one: bool) -> Edges:
    """Place -> the places it imports; a place is a file or package directly under a half.

    Args:
        files: of the checkout.
        half: `ensemble` or `deployments`.
        others_as_one: count the other half as one place, else leave it out.
    """

    def place(name: str) -> str:
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] == half else parts[0]

    edges: dict[str, set[str]] = {}
    for name, path in files.items():
        own = place(name)
        if own == half or (own.split(".")[0] != half and not others_as_one):
            continue
        reached = {place(other) for other in imports(path, files)}
        known = {other for other in reached if others_as_one or other.split(".")[0] == half}
        edges.setdefault(own, set()).update(known - {own, half})
    return edges


def levels(edges: Edges) -> int:
    """Places on the longest way down, counted with circles cut."""

    def depth(place: str, above: frozenset[str]) -> int:
        below = edges.get(place, set()) - above - {place}
        return 1 + max((depth(other, above | {place}) for other in below), default=0)

    @cache
    def from_top(place: str) -> int:
        return depth(place, frozenset())

    try:
        return max(map(from_top, edges), default=0)
    except RecursionError:  # pragma: no cover  # a checkout of nothing but circles
        return len(edges)


def callable_parameters(files: Mapping[str, Path]) -> int:
    """Parameters of functions, methods and constructors whose type is a callable."""
    aliases = {"Callable"}
    for path in files.values():
        for node in tree_of(path).body:
            if isinstance(node, ast.Assign) and "Callable[" in ast.unparse(node.value):
                aliases |= {ast.unparse(target) for target in node.targets}
    pattern = re.compile(r"\b(" + "|".join(sorted(aliases)) + r")\b")
    total = 0
    for path in files.values():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                types = [ast.unparse(one.annotation) for one in named if one.annotation]
                total += sum(bool(pattern.search(text)) for text in types)
    return total


def names_with_old_words(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> names that it defines (functions, arguments, variables) with an old word."""
    found: dict[str, set[str]] = {}
    for module, path in files.items():
        names = {name for node in ast.walk(tree_of(path)) for name in defined(node)}
        names |= set(module.split(".")[-1:])
        old = {name for name in names if OLD_WORDS & words_in(name)}
        if old:
            found[module] = old
    return found


def defined(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.arg():
            yield node.arg
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.Attribute(ctx=ast.Store()):
            yield node.attr


def words_in(name: str) -> set[str]:
    """The words of a name in snake or camel case."""
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return {word.casefold() for word in spaced.split("_") if word}


def lines(paths: Iterator[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def counts(checkout: Path) -> dict[str, int]:
    """What is counted -> how many."""
    files = source_files(checkout)
    moving = place_edges(files, "deployments", others_as_one=False)
    core = place_edges(files, "ensemble", others_as_one=True)
    named = names_with_old_words(files)
    return {
        "places under deployments/": len(moving),
        "levels inside deployments/": levels(moving),
        "import edges inside deployments/": sum(map(len, moving.values())),
        "places under ensemble/": len(core) - 1,
        "levels, deployments/ as one": levels(core),
        "import edges, deployments/ as one": sum(map(len, core.values())),
        "modules": len(files),
        "lines of source": lines(iter(files.values())),
        "lines of tests": lines((checkout / "tests").rglob("*.py")),
        "parameters that are callables": callable_parameters(files),
        "names with an old word": sum(map(len, named.values())),
    }


def main() -> None:
    """Print the counts of this checkout or of the one named on the command line."""
    checkout = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for what, number in counts(checkout).items():
        print(f"{number:>7,}  {what}")
    if "--names" in sys.argv:
        for module, names in names_with_old_words(source_files(checkout)).items():
            print(module, *sorted(names))


if __name__ == "__main__":
    main()
