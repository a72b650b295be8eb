"""`axon export` and `axon import`.

The four files of an older engine, at the terminal, into a store of its own and out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from ensemble.features.flow import FEATURE_NAMES
from ensemble.legacy.files import CHECKSUMS, FOREST, PAIRS
from ensemble.training.data.flow_table import FlowTable

Axon = Callable[..., Result]
FILES = {name for pair in PAIRS.values() for name in pair} | {CHECKSUMS}


@pytest.fixture
def axon(monkeypatch: pytest.MonkeyPatch) -> Axon:
    """`axon("import", folder)`, on a wide terminal without colours."""
    monkeypatch.setattr(console, "out", Console(width=400))
    monkeypatch.setattr(console, "err", Console(width=400, stderr=True))
    runner = CliRunner()
    return lambda *arguments: runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped models as an older engine's files."""
    home = tmp_path_factory.mktemp("older")
    folder = home / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AXON_STATE", str(home / "state"))
        exported = CliRunner().invoke(cli.app, ["export", str(folder)])
    assert exported.exit_code == 0, exported.output
    return folder


@pytest.fixture
def own_key(axon: Axon) -> None:
    """A key of this test alone, trusted by this test alone."""
    assert axon("trust", "init").exit_code == 0


@pytest.fixture
def benign(tmp_path: Path, make_flows: Callable[..., FlowTable]) -> Path:
    rows = make_flows(benign=300, families={}, seed=21).features.astype(float).tolist()
    path = tmp_path / "benign.csv"
    path.write_text(
        "\n".join(
            [",".join(FEATURE_NAMES), *(",".join(f"{value:.9g}" for value in row) for row in rows)]
        )
        + "\n"
    )
    return path


def test_export_writes_the_four_files_and_says_what_they_cannot_hold(
    axon: Axon, tmp_path: Path
) -> None:
    done = axon("export", tmp_path / "out")

    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "left out of the anomaly layer: the detectors subspace and codebook" in done.output
    assert "left out of the behavior layer: which of" in done.output


def test_export_replaces_nothing(axon: Axon, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / FOREST).write_bytes(b"mine")

    done = axon("export", folder)

    assert done.exit_code == 2
    assert f"{FOREST} exists already" in done.stderr
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [(FOREST, b"mine")]


def test_import_looks_at_the_files_and_publishes_nothing_by_itself(
    axon: Axon, older: Path, own_state: Path
) -> None:
    done = axon("import", older)

    assert done.exit_code == 0, done.output
    assert "the anomaly layer is sound" in done.output
    assert "--benign FILE --publish" in done.output
    assert not list(own_state.rglob("manifest.json"))


@pytest.mark.usefixtures("own_key")
def test_publishing_without_benign_flows_is_refused_and_says_why(axon: Axon, older: Path) -> None:
    done = axon("import", older, "--publish")

    assert done.exit_code == 2
    assert "need benign flows" in " ".join(done.stderr.split())


@pytest.mark.usefixtures("own_key")
def test_what_was_exported_can_be_imported_and_serves(
    axon: Axon, older: Path, benign: Path
) -> None:
    """Out and in again: four files, three bundles, one release that scores."""
    done = axon("import", older, "--benign", benign, "--publish")

    assert done.exit_code == 0, done.output
    assert "published anomaly-flow version" in done.output
    assert "published behavior-flow version" in done.output
    assert "published anomaly-process version" in done.output
    scored = axon("score", benign, "--local", "--limit", "5")
    assert scored.exit_code == 0, scored.output
    assert "does not speak" not in scored.output


@pytest.mark.usefixtures("own_key")
def test_a_layer_that_fails_is_named_and_the_other_one_is_taken(
    axon: Axon, older: Path, benign: Path, tmp_path: Path
) -> None:
    """S0-01, S0-07."""
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in FILES:
        (broken / name).write_bytes((older / name).read_bytes())
    (broken / FOREST).write_bytes(b"torn")

    done = axon("import", broken, "--benign", benign, "--publish")

    assert done.exit_code == 1, done.output
    assert (
        "the anomaly layer is not imported, neither of its files: anomaly_model.joblib"
        in done.stderr
    )
    assert "published behavior-flow version" in done.output
    assert "published anomaly" not in done.output


def test_a_folder_without_any_of_the_files_is_refused(axon: Axon, tmp_path: Path) -> None:
    done = axon("import", tmp_path)

    assert done.exit_code == 2
    assert FOREST in done.stderr
