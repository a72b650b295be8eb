"""No scoring route writes a model (P32).

After requests to every route, no file in artifacts/ or in a tenant's folder was opened for writing.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.routing import Route

from deployments.config.settings import ROOT
from deployments.scoring.app import IngressApp
from tests.support.asgi_clients import LONG_DEADLINE, Event, IngressClient
from tests.support.local_mode import WITHIN_S, is_live, run_locally
from tests.support.timing import wait_until

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "os.utime",
}


class Monitor:
    """Recorder of all changes to files in this process, from the audit events of Python.

    The hook cannot be removed, so one recorder serves all tests.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, str]] | None = None
        sys.addaudithook(self._record)

    def _record(self, event: str, args: tuple[object, ...]) -> None:
        if self.changes is None:
            return
        if (
            event == "open"
            and isinstance(args[2], int)
            and args[2] & WRITING
            and isinstance(args[0], str | bytes | os.PathLike)
        ):
            self.changes.append((event, os.fsdecode(args[0])))
        elif event in CHANGES:
            self.changes.extend(
                (event, os.fsdecode(name))
                for name in args
                if isinstance(name, str | bytes | os.PathLike)
            )


@pytest.fixture(scope="module")
def watch() -> Monitor:
    return Monitor()


@contextmanager
def watched(watch: Monitor) -> Iterator[list[tuple[str, str]]]:
    watch.changes = changes = []
    try:
        yield changes
    finally:
        watch.changes = None


def touches(changes: list[tuple[str, str]], *folders: Path) -> list[tuple[str, str]]:
    """Select the changes that may be in one of the folders.

    A relative name may be in any folder that is open.
    """
    return [
        (event, name)
        for event, name in changes
        if not Path(name).is_absolute() or any(Path(name).is_relative_to(f) for f in folders)
    ]


def test_the_scoring_application_writes_nothing_in_the_folders_of_models(
    watch: Monitor,
    own_state: Path,
    tmp_path: Path,
    flow_events: list[Event],
    process_events: list[Event],
) -> None:
    shipped = tmp_path / "artifacts"
    shutil.copytree(ROOT / "artifacts", shipped)
    with watched(watch) as changes:
        settings, handles = run_locally(
            "axon-watched",
            {**LONG_DEADLINE, "store": {"state": str(own_state), "shipped": str(shipped)}},
        )
        assert wait_until(lambda: all(is_live(handle) for handle in handles.values()), WITHIN_S)
        client = IngressClient(IngressApp(settings, handles))
        routes = [route for route in client.app.router.routes if isinstance(route, Route)]
        for route in routes:
            for method in route.methods or ():
                client.request(
                    method, route.path.replace("{layer}", "behavior"), json=flow_events[0]
                )
        client.post("/v1/layers/behavior/enable", {})
        scored = [
            client.post("/v1/score", event).json()["status"]
            for event in (flow_events[0], process_events[0])
        ]
        client.post("/v1/score/batch", {"events": flow_events[:3]})
        client.close()

    assert scored == ["FULLY_OPERATIONAL"] * 2, (
        "the models were not loaded, so the test proves nothing"
    )
    assert touches(changes, own_state), "the layer switches are written and must be recorded"
    assert not touches(changes, shipped, own_state / "tenants")


def test_the_monitor_records_a_write(watch: Monitor, tmp_path: Path) -> None:
    with watched(watch) as changes:
        (tmp_path / "model").write_bytes(b"x")
        folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        os.close(os.open("model", os.O_WRONLY, dir_fd=folder))
        os.rename("model", "other", src_dir_fd=folder, dst_dir_fd=folder)
        os.close(folder)

    found = touches(changes, tmp_path)
    assert [event for event, _ in found] == ["open", "open", "os.rename", "os.rename"]
