"""One service at a time writes a state folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cli.errors import CommandFailed
from deployments.cli.start_checks import require_own_state
from deployments.config.settings import read_settings
from deployments.host import lock_state

HOLD = "import sys, time; from pathlib import Path; from deployments.host import lock_state; "
HOLD += "lock_state(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"


def test_a_second_service_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    first = lock_state(tmp_path)
    assert first is not None
    with pytest.raises(BlockingIOError):
        lock_state(tmp_path)

    os.close(first)

    second = lock_state(tmp_path)
    assert second is not None
    os.close(second)


def test_a_service_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "locked\n"
    with pytest.raises(BlockingIOError):
        lock_state(tmp_path)

    killed.kill()
    killed.communicate()

    lock = lock_state(tmp_path)
    assert lock is not None
    os.close(lock)


def test_a_new_state_folder_is_private(tmp_path: Path) -> None:
    lock = lock_state(tmp_path / "new" / "var")
    assert lock is not None
    os.close(lock)

    assert stat.S_IMODE((tmp_path / "new" / "var").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "new" / "var" / "serve.lock").stat().st_mode) == 0o600


def test_a_state_folder_that_other_users_could_read_becomes_private(tmp_path: Path) -> None:
    """Older versions left the folder as the operator's umask made it."""
    tmp_path.chmod(0o755)

    lock = lock_state(tmp_path)
    assert lock is not None
    os.close(lock)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("where the folder should be")

    assert lock_state(tmp_path / "file") is None


def test_the_operator_reads_which_folder_is_in_use() -> None:
    settings = read_settings()
    lock = lock_state(settings.state)

    with pytest.raises(CommandFailed, match=r"another axon serve uses .*AXON_STATE"):
        require_own_state(settings)

    assert lock is not None
    os.close(lock)
