"""The end of `axon serve` when Ray's processes died first, or when Ray does not end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import ray
from ray import serve

from deployments.cli import shutdown
from deployments.cli.shutdown import Watchdog

WITHIN_S = 5.0


class Ends:
    """Records the end of this process, and of the processes of its run, in place of it."""

    def __init__(self) -> None:
        self.code: int | None = None
        self.folders: list[Path] = []
        self.is_called = threading.Event()

    def exit(self, code: int) -> None:
        self.code = code
        self.is_called.set()

    def kill(self, folder: Path) -> list[str]:
        self.folders.append(folder)
        return []


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Ends:
    found = Ends()
    monkeypatch.setattr(os, "_exit", found.exit)
    monkeypatch.setattr(shutdown, "kill_processes", found.kill)
    monkeypatch.setattr(shutdown, "drain_proxy", lambda _: None)
    monkeypatch.setattr(shutdown, "POLL_EVERY_S", 0.01)
    monkeypatch.setattr(shutdown, "AFTER_HEAD_S", 0.02)
    return found


@pytest.fixture
def dead_head() -> list[psutil.Process]:
    """A process of Ray's head that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = psutil.Process(process.pid)
    process.kill()
    process.communicate()
    return [found]


@pytest.mark.parametrize(("signals", "code"), [([], 1), ([15], 0)], ids=["alone", "by a signal"])
def test_a_service_whose_ray_head_died_ends(
    ends: Ends, dead_head: list[psutil.Process], tmp_path: Path, signals: list[int], code: int
) -> None:
    """A supervisor starts it again after the code 1; the code 0 is an end that was requested."""
    Watchdog(tmp_path, dead_head, signals)

    assert ends.is_called.wait(WITHIN_S)
    assert (ends.code, ends.folders) == (code, [tmp_path])


def test_an_orderly_end_ends_what_is_left_of_the_run(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(serve, "shutdown", lambda: calls.append("serve"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("ray"))

    Watchdog(tmp_path, [psutil.Process()], [15]).shut_down()

    assert calls == ["serve", "ray"]
    assert (ends.code, ends.folders) == (None, [tmp_path])


def test_an_end_for_which_ray_takes_too_long_is_forced(
    ends: Ends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "STOP_WITHIN_S", 0.02)
    monkeypatch.setattr(serve, "shutdown", lambda: ends.is_called.wait(WITHIN_S))
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    Watchdog(tmp_path, [psutil.Process()], [15]).shut_down()

    assert ends.code == 0
