"""The terminal.

Every verb teaches, names what is wrong in a file and goes on, and refuses in one sentence with a
stable exit code.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from click.testing import Result
from ray import serve as ray_serve
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.cli.lazy_group import verbs_below
from deployments.cli.local_store import own_store
from deployments.cli.verbs import VERBS
from deployments.config.settings import ROOT
from ensemble.features.flow import FEATURE_NAMES
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.release_fusion import FusionResolver
from ensemble.runtime.resolver import ReleaseResolver
from ensemble.training.data.flow_table import FlowTable
from tests.support.asgi_clients import Event
from tests.support.flow_files import csv_of, written

Axon = Callable[..., Result]
MakeFlows = Callable[..., FlowTable]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers
CASES = [
    [],
    ["serve"],
    ["score"],
    ["evaluate"],
    ["calibrate"],
    ["import"],
    ["export"],
    ["train"],
    ["train", "flows"],
    ["train", "processes"],
    ["train", "posture"],
    ["models"],
    ["models", "info"],
    ["models", "versions"],
    ["models", "promote"],
    ["models", "rollback"],
    ["models", "challenger"],
    ["models", "alias"],
    ["models", "delete"],
    ["models", "delete-release"],
    ["models", "retention"],
    ["models", "export"],
    ["models", "import"],
    ["models", "quarantine"],
    ["models", "audit"],
    ["trust"],
    ["trust", "init"],
    ["trust", "show"],
    ["trust", "pin"],
    ["status"],
    ["layers"],
    ["layers", "disable"],
    ["layers", "enable"],
    ["layers", "reset"],
    ["layers", "test"],
    ["replay"],
    ["retro"],
    ["retro", "findings"],
    ["keys"],
    ["keys", "create"],
    ["keys", "list"],
    ["keys", "revoke"],
]


@pytest.fixture
def axon(monkeypatch: pytest.MonkeyPatch) -> Axon:
    """`axon("score", "flows.csv", "--local")`, on a wide terminal without colours."""
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("TERM", "dumb")
    runner = CliRunner()

    def run(*arguments: str | Path) -> Result:
        return runner.invoke(cli.app, [str(argument) for argument in arguments])

    return run


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused here is refused before Ray starts.

    Should it not be, the test fails at once and starts nothing.
    """

    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", never)
    monkeypatch.setattr(ray_serve, "start", never)
    monkeypatch.setattr(ray_serve, "shutdown", lambda: None)
    monkeypatch.setattr("deployments.cli.serve.prepare_environment", lambda _: None)
    monkeypatch.setattr("deployments.cli.serve.signal.signal", lambda *_: None)


def refused(result: Result) -> str:
    """The sentence of a refusal: exit code 2, and no internal detail."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "\naxon: " in "\n" + result.stderr
    assert "Traceback" not in result.output
    return " ".join(result.stderr.split())


def changed(line: str, name: str, cell: str) -> str:
    cells = line.split(",")
    cells[FEATURE_NAMES.index(name)] = cell
    return ",".join(cells)


def digest_of(folder: Path) -> str:
    """Names and bytes of everything below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(
            str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        )
    return digest.hexdigest()


# -- help


@pytest.mark.parametrize("verb", CASES, ids=lambda verb: " ".join(verb) or "axon")
def test_every_verb_teaches(axon: Axon, verb: list[str]) -> None:
    result = axon(*verb, "--help")

    assert result.exit_code == 0
    assert "Usage" in result.output
    assert len(result.output.split()) > 20


def test_the_list_of_verbs_above_is_complete() -> None:
    assert {"", *VERBS} == {" ".join(verb) for verb in CASES}


@pytest.mark.parametrize("verb", VERBS)
def test_the_listed_help_of_a_verb_is_the_first_line_of_its_own(axon: Axon, verb: str) -> None:
    shown = " ".join(axon(*verb.split(), "--help").output.replace("│", " ").split())

    assert VERBS[verb].help in shown


@pytest.mark.parametrize("group", ["", "train", "models", "trust", "keys", "layers", "retro"])
def test_the_help_of_a_group_lists_its_verbs(axon: Axon, group: str) -> None:
    shown = axon(*group.split(), "--help").output

    for verb in verbs_below(group):
        assert re.search(rf"^\W*{verb} ", shown, re.MULTILINE), verb


def test_the_help_of_axon_has_a_panel_for_each_task(axon: Axon) -> None:
    shown = axon("--help").output

    panels = [shown.index(f"─ {panel} ─") for panel in ("Score", "Train", "Models", "Operate")]
    assert panels == sorted(panels)


LIBRARIES = {"ray", "torch", "sklearn", "numpy", "starlette", "httpx", "cryptography"}
ENTRY_POINTS = [
    pytest.param(["-m", "deployments.cli"], id="module"),
    pytest.param(["-c", "from deployments.cli import main; main()"], id="console script"),
]


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize("words", [[], ["models"], ["train"]], ids=["axon", "models", "train"])
def test_the_list_of_verbs_imports_nothing_heavy(entry: list[str], words: list[str]) -> None:
    """`axon --help` answers at once; only a group that is a verb too imports that verb."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *entry, *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )

    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "Usage: " in run.stdout
    if words != ["models"]:
        assert imported & LIBRARIES == set()
        assert not {name for name in imported if name.startswith("ensemble")}
    assert imported & {"ray", "torch", "sklearn", "starlette"} == set()


def test_every_option_says_what_it_is_for(axon: Axon) -> None:
    for verb in CASES:
        lines = [
            line
            for line in axon(*verb, "--help").output.splitlines()
            if line.strip(" │|").startswith("--")
        ]
        for line in lines:
            assert len(line.split()) > 4, line


# -- score


def test_a_broken_csv_is_scored_around_its_broken_lines(
    axon: Axon, tmp_path: Path, flows: FlowTable, ensemble: LocalEnsemble
) -> None:
    """A bad line is reported with line and column and skipped; the exit code is 1."""
    # a slice takes as an index does
    lines = csv_of(flows.select(slice(0, 8)))  # type: ignore[arg-type]
    lines[2] = changed(lines[2], "Flow IAT Mean", "twelve")
    lines[4] = ",".join(lines[4].split(",")[:-3])
    lines[6] = changed(lines[6], "Idle Max", "NaN")
    lines[7] = changed(
        changed(lines[7], "Flow Bytes/s", "Infinity"), "Flow Packets/s", "NaN"
    )  # the two rates are recomputed
    file = written(tmp_path / "flows.csv", lines)

    result = axon("score", file, "--local", "--output", "jsonl")

    assert result.exit_code == 1, result.output
    verdicts = [json.loads(line) for line in result.stdout.splitlines()]
    assert [verdict["line"] for verdict in verdicts] == [2, 4, 6, 8, 9]
    good = [line - 2 for line in (2, 4, 6, 8, 9)]
    expected = ensemble.score(flows.select(good).batch()).score.tolist()  # type: ignore[arg-type]
    assert [verdict["score"] for verdict in verdicts] == pytest.approx(expected, abs=1e-6)
    assert "flows.csv line 3, column Flow IAT Mean: 'twelve' is not a number" in result.stderr
    assert "flows.csv line 5, column -: has 75 cells, the header has 78" in result.stderr
    assert "flows.csv line 7, column Idle Max: must be a finite float32 number" in result.stderr
    assert "3 lines could not be scored; 5 could" in result.stderr


def test_a_whole_csv_is_a_table_with_the_worst_first(
    axon: Axon, tmp_path: Path, flows: FlowTable
) -> None:
    result = axon("score", written(tmp_path / "flows.csv", csv_of(flows)), "--local")

    assert result.exit_code == 0, result.output
    rows = [
        line.split()
        for line in result.stdout.splitlines()
        if line.strip()[:1].isdigit() and "events:" not in line
    ]
    scores = [float(next(cell for cell in row[1:] if "." in cell)) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert f"{len(flows)} events: " in result.stdout


def test_a_gzipped_csv_is_read_as_well(axon: Axon, tmp_path: Path, flows: FlowTable) -> None:
    file = tmp_path / "flows.csv.gz"
    file.write_bytes(gzip.compress("\n".join(csv_of(flows)).encode()))

    result = axon("score", file, "--local", "--output", "jsonl", "--limit", "3")

    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 3


def test_events_of_both_kinds_are_read_from_lines_of_json(
    axon: Axon, tmp_path: Path, flow_events: list[Event], process_events: list[Event]
) -> None:
    events = [flow_events[0], process_events[0], flow_events[1]]
    lines = [json.dumps(event) for event in events]
    lines[1:1] = [
        "{",
        "",
        '{"kind": "flow", "id": "short", "features": [1, 2]}',
        '{"kind": "process", "name": 7}',
    ]

    result = axon(
        "score",
        written(tmp_path / "events.jsonl", lines),
        "--local",
        "--output",
        "jsonl",
        "--explain",
    )

    assert result.exit_code == 1, result.output
    verdicts = {verdict["line"]: verdict for verdict in map(json.loads, result.stdout.splitlines())}
    assert {line: verdict["id"] for line, verdict in verdicts.items()} == {
        1: "f0",
        6: "p0",
        7: "f1",
    }
    assert all(verdict["explanation"] for verdict in verdicts.values())
    for said in ("line 2", "line 4, column features", "line 5, column name"):
        assert said in result.stderr
    assert "3 lines could not be scored; 3 could" in result.stderr


def test_verdicts_come_in_the_order_of_the_file(
    axon: Axon, tmp_path: Path, flow_events: list[Event], process_events: list[Event]
) -> None:
    events = [flow_events[0], process_events[0], flow_events[1], process_events[1], flow_events[2]]

    result = axon(
        "score",
        written(tmp_path / "e.jsonl", [json.dumps(event) for event in events]),
        "--local",
        "--output",
        "jsonl",
    )

    assert [json.loads(line)["line"] for line in result.stdout.splitlines()] == [1, 2, 3, 4, 5]


def test_markup_in_a_file_is_printed_and_not_obeyed(axon: Axon, tmp_path: Path) -> None:
    """Text that an attacker puts into an event must not break the terminal that shows it."""
    event = {"kind": "process", "id": "[/red] [bold]", "name": "sh"}

    result = axon(
        "score", written(tmp_path / "e.jsonl", [json.dumps(event), '{"kind": "[/red]"}']), "--local"
    )

    assert result.exit_code == 1, result.output
    assert "[/red] [bold]" in result.stdout
    assert "[/red]" in result.stderr


NO_FLOWS = [
    pytest.param("", "empty", id="an empty file"),
    pytest.param("a,b,c\n1,2,3\n", "Destination Port", id="another header"),
    pytest.param(
        ",".join([*FEATURE_NAMES, "Flow Duration"]) + "\n", "Flow Duration", id="a column twice"
    ),
]


@pytest.mark.parametrize(("text", "said"), NO_FLOWS)
def test_a_file_of_something_else_is_refused_by_what_it_lacks(
    axon: Axon, tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "other.csv"
    file.write_text(text)

    assert said in refused(axon("score", file, "--local"))


def test_a_file_that_is_not_there_is_said_so(axon: Axon, tmp_path: Path) -> None:
    assert "there is no file" in refused(axon("score", tmp_path / "none.csv", "--local"))


def test_a_service_that_is_not_there_is_said_so_with_what_to_do(
    axon: Axon, tmp_path: Path, flows: FlowTable
) -> None:
    said = refused(axon("score", written(tmp_path / "f.csv", csv_of(flows)), "--url", NOWHERE))

    assert "make serve" in said
    assert "--local" in said


def test_a_file_that_only_calls_itself_gzipped_is_refused(axon: Axon, tmp_path: Path) -> None:
    file = tmp_path / "flows.csv.gz"
    file.write_bytes(b"not gzip at all")

    refused(axon("score", file, "--local"))


# -- models


def test_models_shows_what_serves(axon: Axon) -> None:
    result = axon("models")

    assert result.exit_code == 0
    for model in (
        "anomaly-flow",
        "behavior-flow",
        "anomaly-process",
        "posture-knowledge",
        "posture-inventory",
    ):
        assert model in result.stdout
    assert "serves" in result.stdout
    assert "shipped" in result.stdout


def test_a_tenant_without_models_is_said_so(axon: Axon) -> None:
    result = axon("models", "--tenant", "nobody")

    assert result.exit_code == 0
    assert "no release yet" in result.stdout


@pytest.fixture
def own_key(axon: Axon) -> None:
    """A key of this test alone, trusted by this test alone."""
    assert axon("trust", "init").exit_code == 0


@pytest.mark.usefixtures("own_key")
def test_a_release_that_is_not_there_cannot_be_promoted(axon: Axon, own_state: Path) -> None:
    assert "release 99" in refused(axon("models", "promote", "99"))
    assert not list(own_state.rglob("CURRENT"))


@pytest.mark.parametrize("tenant", ["../x", "UPPER", "a/b", ""])
def test_a_tenant_that_is_no_name_is_refused(axon: Axon, tenant: str) -> None:
    if tenant:
        refused(axon("models", "--tenant", tenant))


def test_wrong_settings_are_told_by_their_place(
    axon: Axon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P36."""
    from deployments.config import settings  # noqa: PLC0415  # patched here only

    monkeypatch.setattr(settings, "deep_merge", lambda below, _above: dict(below) | {"stor": 1})

    assert "stor" in refused(axon("models"))


# -- calibrate, train, evaluate


@pytest.fixture
def shipped_is_untouched() -> Iterator[None]:
    """artifacts/ is the same afterwards, byte by byte."""
    before = digest_of(ROOT / "artifacts")
    yield
    assert digest_of(ROOT / "artifacts") == before


@pytest.mark.usefixtures("shipped_is_untouched", "own_key")
def test_calibrating_publishes_a_new_release_of_the_same_models(
    axon: Axon, own_state: Path, tmp_path: Path, make_flows: MakeFlows, ensemble: LocalEnsemble
) -> None:
    file = written(tmp_path / "benign.csv", csv_of(make_flows(benign=300, families={}, seed=5)))
    result = axon("calibrate", "--benign", file, "--fpr", "0.01")

    assert result.exit_code == 0, result.output
    assert "published release" in result.stdout
    assert "promoted" in result.stdout
    after = ensemble_now()
    assert after.release.name != ensemble.release.name
    assert not list(own_state.rglob("model.safetensors"))
    flows = make_flows(benign=300, families={}, seed=5)
    called = sum(word == "malicious" for word in after.score(flows.batch()).label)
    assert called <= 6  # of 300, at a stated 1 %: the file itself was used to set it
    listed = axon("models").stdout
    assert "own" in listed
    assert axon("models", "promote", ensemble.release.name.split("/")[1]).exit_code == 0
    assert (
        FusionResolver(ReleaseResolver(own_store, ["default"])).load().name == ensemble.release.name
    )


def ensemble_now() -> LocalEnsemble:
    """The current release as this test's settings have it."""
    return LocalEnsemble(
        ReleaseResolver(own_store, ["default"]),
        min_coverage=0.5,
        posture_bound=0.5,
        stale_after_days=30,
        expired_after_days=730,
    )


@pytest.mark.usefixtures("shipped_is_untouched")
def test_calibrating_without_publishing_only_reports(
    axon: Axon, own_state: Path, tmp_path: Path, make_flows: MakeFlows
) -> None:
    file = written(tmp_path / "benign.csv", csv_of(make_flows(benign=100, families={}, seed=5)))

    result = axon("calibrate", "--benign", file, "--no-publish")

    assert result.exit_code == 0, result.output
    assert "malicious above" in result.stdout
    assert not own_state.exists()


@pytest.mark.usefixtures("own_key")
@pytest.mark.parametrize("rate", ["0", "-1", "0.5", "nan"])
def test_a_rate_that_cannot_be_is_refused(
    axon: Axon, tmp_path: Path, make_flows: MakeFlows, rate: str
) -> None:
    file = written(tmp_path / "benign.csv", csv_of(make_flows(benign=100, families={}, seed=5)))

    assert "--fpr" in refused(axon("calibrate", "--benign", file, "--fpr", rate))


@pytest.mark.usefixtures("own_key")
def test_too_few_flows_set_no_thresholds(
    axon: Axon, own_state: Path, tmp_path: Path, make_flows: MakeFlows
) -> None:
    file = written(tmp_path / "benign.csv", csv_of(make_flows(benign=5, families={}, seed=5)))

    assert "5 benign events" in refused(axon("calibrate", "--benign", file))
    assert not own_state.exists()


def test_evaluating_prints_every_score_and_family(
    axon: Axon, tmp_path: Path, make_flows: MakeFlows
) -> None:
    file = written(
        tmp_path / "labelled.csv",
        csv_of(make_flows(benign=120, families={"Flood": 30, "Scan": 30}, seed=4), labelled=True),
    )

    result = axon("evaluate", "--data", file)

    assert result.exit_code == 0, result.output
    for word in (
        "AUROC",
        "AUPRC",
        "TPR at 1 % FPR",
        "TPR at 0.1 % FPR",
        "anomaly",
        "behavior",
        "fused",
        "Flood",
        "Scan",
    ):
        assert word in result.stdout
    assert "of 120" in result.stdout


def test_evaluating_the_last_share_by_time_judges_fewer(
    axon: Axon, tmp_path: Path, make_flows: MakeFlows
) -> None:
    file = written(
        tmp_path / "labelled.csv",
        csv_of(make_flows(benign=120, families={"Flood": 40}, seed=4), labelled=True),
    )

    result = axon("evaluate", "--data", file, "--last", "0.3")

    assert result.exit_code == 0, result.output
    assert "of 36" in result.stdout


@pytest.mark.parametrize(
    ("families", "labelled"),
    [({}, True), ({"Flood": 20}, False)],
    ids=["benign flows alone", "no label column"],
)
def test_evaluating_needs_labels_of_both_sorts(
    axon: Axon,
    tmp_path: Path,
    make_flows: MakeFlows,
    families: dict[str, int],
    labelled: bool,  # noqa: FBT001  # a case
) -> None:
    file = written(
        tmp_path / "f.csv",
        csv_of(make_flows(benign=50, families=families, seed=4), labelled=labelled),
    )

    assert "label" in refused(axon("evaluate", "--data", file))


@pytest.mark.parametrize(
    "verb",
    [
        ["evaluate", "--data"],
        ["calibrate", "--benign"],
        ["train", "flows", "--data"],
        ["train", "flows", "--benign"],
    ],
)
def test_every_verb_that_reads_a_file_says_when_it_is_not_there(
    axon: Axon, tmp_path: Path, verb: list[str]
) -> None:
    assert "there is no" in refused(axon(*verb, tmp_path / "none.csv"))


def test_processes_of_ten_years_ago_are_not_learnt_from(axon: Axon, tmp_path: Path) -> None:
    """T2, by the settings `ingress.time_ahead_s` and `ingress.time_behind_days`."""
    file = tmp_path / "starts.jsonl"
    file.write_text('{"name": "sh", "time": "2016-12-01T00:00:00Z"}\n')

    assert "plausible time" in refused(axon("train", "processes", "--benign", str(file)))


@pytest.mark.parametrize("verb", ["flows", "processes"])
def test_training_needs_one_source(axon: Axon, tmp_path: Path, verb: str) -> None:
    assert "--data" in refused(axon("train", verb))
    assert "--benign" in refused(axon("train", verb, "--data", tmp_path, "--benign", tmp_path))


# -- serve

# refused is the point
REFUSED_HOSTS = ["0.0.0.0", "::", "192.0.2.1", "example.org", ""]  # noqa: S104


@pytest.mark.parametrize("host", REFUSED_HOSTS)
def test_without_keys_nobody_but_this_machine_may_ask(axon: Axon, host: str) -> None:
    said = refused(
        axon("serve", "--config", ROOT / "serve_config.yaml", "--host", host, "--auth", "off")
    )

    assert "--auth off is refused" in said


def test_a_taken_port_is_named_before_anything_starts(axon: Axon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        said = refused(axon("serve", "--config", ROOT / "serve_config.yaml", "--port", str(port)))

    assert f"port {port} of 127.0.0.1 is taken" in said


def test_a_missing_config_is_said_so_with_where_to_stand(axon: Axon, tmp_path: Path) -> None:
    said = refused(axon("serve", "--config", tmp_path / "none.yaml"))

    assert "there is no" in said
    assert "repository's root" in said


NO_CONFIGS = [
    "",
    "[]",
    "applications: []",
    "applications: 5",
    "a: [",
    "http_options: {port: 8000}",
    "applications: [{name: x, args: 5}]",
]
NO_CONFIGS += [
    "applications: [{}]\nhttp_options: 7",
    "applications: [{}]\nhttp_options: {port: many}",
    "applications: [7]",
]


@pytest.mark.parametrize("text", NO_CONFIGS)
def test_a_file_that_is_no_serve_config_is_refused(axon: Axon, tmp_path: Path, text: str) -> None:
    """P36."""
    config = written(tmp_path / "config.yaml", [text])

    refused(axon("serve", "--config", config))


def test_wrong_settings_of_a_config_are_refused_before_ray_starts(
    axon: Axon, tmp_path: Path
) -> None:
    """P36: every mistake in one message, and nothing was started for it."""
    config = written(
        tmp_path / "c.yaml",
        [
            "applications:",
            (
                "  - {name: axon, route_prefix: /, import_path: deployments.app:build, args: "
                "{ingres: {}, fusion: {min_coverage: 7}}}"
            ),
            "http_options: {port: 18999}",
        ],
    )

    said = refused(axon("serve", "--config", config))

    assert "ingres" in said
    assert "min_coverage" in said
