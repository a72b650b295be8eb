"""The end of a service: the front proxy drains before everything else stops.

Serve's own shutdown ends the front proxy with the calls that it holds. HAProxy's soft stop does
what is wanted: it listens no longer, so that a new caller is refused at once and goes elsewhere,
and it serves who is connected once more before it closes the connection.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["drain_proxy"]


def drain_proxy(within_s: float) -> None:
    """Let the front proxy accept no new connections, and wait up to `within_s` for its calls.

    Does nothing where Serve runs without HAProxy.
    """
    settings = os.environ.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
    if not settings:
        return
    # of this service alone: no other HAProxy of the machine is meant
    folder = f"{Path(settings).parent}{os.sep}"
    doors = [
        process for process in psutil.process_iter(["name", "cmdline"]) if _is_door(process, folder)
    ]
    for door in doors:
        with suppress(psutil.Error):
            door.send_signal(signal.SIGUSR1)
    psutil.wait_procs(doors, timeout=within_s)


def _is_door(process: psutil.Process, folder: str) -> bool:
    return process.info["name"] == "haproxy" and any(
        word.startswith(folder) for word in process.info["cmdline"] or ()
    )
