"""What a run leaves when it is killed, and how the next start clears it away."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deployments.cli.errors import CommandFailed
from deployments.cli.start_checks import require_free_port, require_own_state
from deployments.config.settings import read_settings
from deployments.host import end_last_run, make_run_folder, prepare_environment, sweep_old_runs
from deployments.host.run_folder import RETAINED_S
from tests.support.ports import free_port

MAKE = "import sys; from pathlib import Path; from deployments.host import make_run_folder; "
MAKE += "print(make_run_folder(Path(sys.argv[1])))"
LISTEN = "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[-1])));"
LISTEN += " s.listen(); print('listening', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which runs get theirs, in place of the one that all programs share."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr("deployments.host.run_folder._PARENT", None)
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def ended_run(state: Path) -> Path:
    """The folder of a run on `state` whose process has ended."""
    command = [sys.executable, "-c", MAKE, str(state)]
    environment = os.environ | {"TMPDIR": str(tempfile.gettempdir())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


@contextmanager
def listening(folder: Path, *words: str, name: str = "haproxy") -> Iterator[subprocess.Popen[str]]:
    """A process with this name and these words in its command line, listening on the last one."""
    program = folder / name
    program.symlink_to(sys.executable)
    command = [str(program), "-c", LISTEN, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_start_ends_the_proxy_that_a_killed_run_left_on_the_port(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, port = ended_run(state), free_port()
    settings = read_settings({"store": {"state": str(state)}})

    with listening(tmp_path, "-f", f"{run}/haproxy.cfg", str(port)) as orphan:
        require_own_state(settings)
        require_free_port("127.0.0.1", port)

        assert orphan.poll() is not None
        assert f"haproxy ({orphan.pid})" in capsys.readouterr().out
        assert not run.exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        pytest.param("haproxy", "/run/axon-run-other/haproxy.cfg", id="proxy of another run"),
        pytest.param("tail", "{run}/ray/session_latest/logs/serve/x.log", id="reader of its logs"),
        pytest.param("haproxy", "{run}x/haproxy.cfg", id="folder with a longer name"),
    ],
)
def test_a_start_never_ends_what_is_not_of_its_last_run(
    state: Path, tmp_path: Path, name: str, word: str
) -> None:
    run, port = ended_run(state), free_port()

    with listening(tmp_path, "-f", word.format(run=run), str(port), name=name) as other:
        assert end_last_run(state) == []

        assert other.poll() is None
        with pytest.raises(CommandFailed, match=rf"taken by {name} \(process {other.pid}\)"):
            require_free_port("127.0.0.1", port)


def test_a_copy_of_the_state_of_a_live_service_ends_nothing_of_it(
    state: Path, tmp_path: Path
) -> None:
    run = make_run_folder(state)
    shutil.copytree(state, tmp_path / "copy", symlinks=True)

    assert end_last_run(tmp_path / "copy") == []

    assert run.is_dir()


@pytest.mark.parametrize("target", ["missing", "axon-run-unlocked", "documents"])
def test_a_link_to_what_is_no_run_removes_nothing(state: Path, tmp_path: Path, target: str) -> None:
    if target != "missing":
        (tmp_path / target).mkdir()
    (state / "run").symlink_to(tmp_path / target)

    assert end_last_run(state) == []

    assert (tmp_path / target).exists() == (target != "missing")


def test_only_old_folders_of_ended_runs_are_swept(state: Path, own_temporary_folder: Path) -> None:
    live, old, new = make_run_folder(state), ended_run(state), ended_run(state)
    foreign = own_temporary_folder / "axon-run-notes"
    foreign.mkdir()
    for one in (live, old):
        then = (one / "run.lock").stat().st_mtime - RETAINED_S - 60.0
        os.utime(one / "run.lock", (then, then))

    sweep_old_runs()

    assert set(own_temporary_folder.iterdir()) == {live, new, foreign}


def test_the_folder_and_the_token_of_a_run_are_private(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own folder is open to every user, and its token is one for all services of a user."""
    monkeypatch.setattr(os, "environ", {"PATH": os.environ["PATH"]})

    run = make_run_folder(state)
    prepare_environment(run)

    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert (state / "run").readlink() == run
    assert os.environ["RAY_AUTH_MODE"] == "token"
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.parent == run
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) == 64
