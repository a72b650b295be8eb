"""P32.

What scores cannot write a model: with every route asked, nothing below artifacts/ or the tenants'
folders is opened for writing.
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
    """Everything in this process that is about to change a file, from Python's own audit events.

    There is one for good.
    """

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[object, ...]) -> None:
        if self.seen is None:
            return
        if (
            event == "open"
            and isinstance(args[2], int)
            and args[2] & WRITING
            and isinstance(args[0], str | bytes | os.PathLike)
        ):
            self.seen.append((event, os.fsdecode(args[0])))
        elif event in CHANGES:
            self.seen.extend(
                (event, os.fsdecode(name))
                for name in args
                if isinstance(name, str | bytes | os.PathLike)
            )


@pytest.fixture(scope="module")
def watch() -> Monitor:
    return Monitor()


@contextmanager
def watched(watch: Monitor) -> Iterator[list[tuple[str, str]]]:
    watch.seen = seen = []
    try:
        yield seen
    finally:
        watch.seen = None


def touches(seen: list[tuple[str, str]], *folders: Path) -> list[tuple[str, str]]:
    """What of it may have been in one of the folders.

    A name without a folder is opened below one that is open already.
    """
    return [
        (event, name)
        for event, name in seen
        if not Path(name).is_absolute() or any(Path(name).is_relative_to(f) for f in folders)
    ]


def test_the_scoring_application_writes_nothing_where_models_are(
    watch: Monitor,
    own_state: Path,
    tmp_path: Path,
    flow_events: list[Event],
    process_events: list[Event],
) -> None:
    shipped = tmp_path / "artifacts"
    shutil.copytree(ROOT / "artifacts", shipped)
    with watched(watch) as seen:
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
        "or the models were never loaded, and there was nothing to see"
    )
    assert touches(seen, own_state), "the switches of layers are written, and were seen to be"
    assert not touches(seen, shipped, own_state / "tenants")


def test_the_watch_sees_a_write(watch: Monitor, tmp_path: Path) -> None:
    with watched(watch) as seen:
        (tmp_path / "model").write_bytes(b"x")
        folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        os.close(os.open("model", os.O_WRONLY, dir_fd=folder))
        os.rename("model", "other", src_dir_fd=folder, dst_dir_fd=folder)
        os.close(folder)

    found = touches(seen, tmp_path)
    assert [event for event, _ in found] == ["open", "open", "os.rename", "os.rename"]
