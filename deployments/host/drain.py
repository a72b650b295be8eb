"""Draining the front proxy before the service stops.

Serve's own shutdown ends the front proxy together with the calls in flight. HAProxy's soft stop
closes the listening socket, so that new connections are refused at once, and serves one more
request on every open connection before it closes it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["drain_proxy"]


def drain_proxy(within_s: float) -> None:
    """Stop the front proxy softly, and wait up to `within_s` seconds for its calls to end.

    Does nothing if Serve runs without HAProxy.
    """
    settings = os.environ.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC")
    if not settings:
        return
    # the folder is of this service alone, so no other HAProxy of the machine is stopped
    folder = f"{Path(settings).parent}{os.sep}"
    proxies = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if _is_proxy(process, folder)
    ]
    for proxy in proxies:
        with suppress(psutil.Error):
            proxy.send_signal(signal.SIGUSR1)
    psutil.wait_procs(proxies, timeout=within_s)


def _is_proxy(process: psutil.Process, folder: str) -> bool:
    return process.info["name"] == "haproxy" and any(
        word.startswith(folder) for word in process.info["cmdline"] or ()
    )
