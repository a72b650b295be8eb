"""The whole application composed by Serve in this process: no cluster, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray import serve

from deployments.app import build
from deployments.scoring.app import IngressApp

__all__ = ["Made", "run_locally"]

Made = tuple[dict[str, Any], dict[str, Any]]


def run_locally(name: str, args: Mapping[str, Any]) -> Made:
    """Run the application; return the arguments of its ingress: settings, and the layers' handles.

    The ingress that Serve makes is not started: it would poll until the last test. A test makes
    another one.
    """
    caught: list[Made] = []
    made = IngressApp.__init__

    def watched(self: IngressApp, settings: Mapping[str, Any], handles: Mapping[str, Any]) -> None:
        made(self, settings, handles)
        caught.append((dict(settings), dict(handles)))

    @asynccontextmanager
    async def lifeless(_self: IngressApp, _app: object) -> AsyncIterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngressApp, "__init__", watched)
        patch.setattr(IngressApp, "_lifespan", lifeless)
        serve.run(
            build({key: value for key, value in args.items() if key != "auth"}),
            name=name,
            _local_testing_mode=True,
        )
    ((settings, handles),) = caught
    return settings | {
        "auth": {**settings["auth"], **args.get("auth", {})}
    }, handles  # keys are off behind a door without a network
