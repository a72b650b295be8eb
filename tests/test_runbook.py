"""The runbook explains every status word, code, cause, metric and log event of Axon (P37)."""

from __future__ import annotations

import ast
import re

from deployments.observability.metrics import METRICS, RULES
from ensemble import errors
from ensemble.verdicts import SPEAKING, LayerStatus, SystemStatus
from tests.support.pages import ROOT, RUNBOOK

DEPLOYMENTS = [path.read_text() for path in sorted((ROOT / "deployments").rglob("*.py"))]
SOURCES = [*DEPLOYMENTS, *(path.read_text() for path in sorted((ROOT / "ensemble").rglob("*.py")))]
ROOTS = {"EnsembleError"}  # only its subclasses are raised
CODES = {getattr(errors, name).code for name in errors.__all__ if name not in ROOTS}
CODES_OF_HTTP = {
    code
    for text in DEPLOYMENTS
    for code in re.findall(r'(?:error_response\(request, |: \()(?:\w+, )?"([A-Z_]{5,})"', text)
}
LOAD_FAILURES = [
    kind
    for name in errors.__all__
    if issubclass(kind := getattr(errors, name), errors.ArtifactError)
]


def rows() -> dict[str, list[str]]:
    """Map the first cell of every table row of the runbook to the other cells."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in RUNBOOK.read_text().splitlines()
        if line.startswith("|")
    ]
    return {first.strip("`"): others for first, *others in cells}


def test_every_status_word_has_an_action() -> None:
    table = rows()
    words = [*LayerStatus, *SystemStatus]

    assert [word for word in words if len(table[word]) != 3 or not all(table[word])] == []


def test_the_runbook_states_which_layer_statuses_count() -> None:
    table = rows()
    expected = {status: "yes" if status in SPEAKING else "no" for status in LayerStatus}
    expected[LayerStatus.NOT_APPLICABLE] = "-"

    assert {status: table[status][0] for status in LayerStatus} == expected


def test_every_code_is_in_the_runbook() -> None:
    text = RUNBOOK.read_text()

    assert CODES_OF_HTTP
    assert [code for code in CODES | CODES_OF_HTTP if not re.search(rf"\b{code}\b", text)] == []


def test_the_runbook_gives_every_load_failure_its_own_cause_and_a_cure() -> None:
    """S1-26."""
    table = rows()

    for kind in LOAD_FAILURES:
        cause, means, cure = table[kind.code]
        assert cause == kind.cause, kind.code
        assert means, kind.code
        assert cure, kind.code
        assert table[kind.cause][0], kind.code


def test_the_runbook_describes_every_metric_exactly() -> None:
    table = rows()
    expected = {}
    for name, metric in METRICS.items():
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        expected[name] = [metric.instrument, labels, metric.unit, metric.meaning]

    assert {name: table.get(name) for name in METRICS} == expected


def test_every_metric_that_the_runbook_names_exists() -> None:
    """An alert on a metric that no process records never fires."""
    text = RUNBOOK.read_text()
    named = set(re.findall(r"\b(?:ray_)?(axon_[a-z_]+)", text))

    assert named <= METRICS.keys() | RULES.keys()
    assert [rule for rule in RULES.values() if rule not in text] == []


def test_every_log_event_is_in_the_runbook() -> None:
    text = RUNBOOK.read_text()
    events = _logged_events()

    assert len(events) > 30  # the search still finds events
    assert [event for event in events if f"`{event}`" not in text] == []


def test_every_log_line_has_its_event_as_a_key() -> None:
    """S0-23: `log_event` writes the key; a direct logger call with a traceback has it too."""
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


def _logged_events() -> set[str]:
    """Collect the second arguments of `log_event` and the values of `event` in dictionaries."""
    values: list[ast.expr | None] = []
    for node in (node for text in DEPLOYMENTS for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("log_event"):
            values.append(node.args[1])
        elif isinstance(node, ast.Dict):
            values += [
                value
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and key.value == "event"
            ]
    return {
        part.value
        for value in values
        if value is not None
        for part in ast.walk(value)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }
