"""Processes of one run of the service, told apart from all others by the folder of the run.

HAProxy has the path of its settings in its command line, and the processes of Ray have that of
their session there or in the log file that they write. The folder has a random name and is of one
run alone, so that a match is never a process of another service, even if an id was given again.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["is_alive", "kill_processes", "processes_of", "ray_head"]

HEAD = ("gcs_server", "raylet")
TITLED = ("ray::", "ray-dashboard-")  # a title in place of the command line
PROGRAMS = ("haproxy", *HEAD, "python", *TITLED)
ENDED_WITHIN_S = 5.0


def processes_of(folder: Path) -> list[psutil.Process]:
    """List the live processes of a run: HAProxy and those of Ray; without this process."""
    found = []
    for process in psutil.process_iter(["name", "cmdline", "uids"]):
        with suppress(psutil.Error):
            if process.pid != os.getpid() and _is_of(process, f"{folder}{os.sep}"):
                found.append(process)
    return found


def kill_processes(folder: Path) -> list[str]:
    """End the processes of a run at once; return their names with their ids."""
    ended: dict[int, str] = {}
    while found := [one for one in processes_of(folder) if one.pid not in ended]:
        for process in found:  # Ray or Serve may just have started another: look again
            with suppress(psutil.Error):
                process.kill()
            ended[process.pid] = f"{process.info['name']} ({process.pid})"
        psutil.wait_procs(found, timeout=ENDED_WITHIN_S)
    return list(ended.values())


def ray_head() -> list[psutil.Process]:
    """List the processes of Ray without which this service cannot go on: children of this one."""
    return [child for child in psutil.Process().children() if child.name() in HEAD]


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that has ended may still wait for its parent."""
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _is_of(process: psutil.Process, folder: str) -> bool:
    """Whether a process is of the run, not one with which an operator reads its logs."""
    name, uids = process.info["name"] or "", process.info["uids"]
    if not name.startswith(PROGRAMS) or uids is None or uids.real != os.getuid():
        return False
    words = process.info["cmdline"] or []
    if name == "haproxy":
        return any(word.startswith(folder) for word in words)
    if any(word.startswith("--") and f"={folder}" in word for word in words):
        return True
    return name.startswith(TITLED) and any(
        file.path.startswith(folder) for file in process.open_files()
    )
