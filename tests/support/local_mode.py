"""The whole application composed by Serve in this process: no cluster, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ray import serve

from deployments.app import build
from deployments.scoring.app import IngressApp
from ensemble.runtime.hot_reload import ANY_RELEASE
from ensemble.verdicts import LayerStatus

__all__ = ["WITHIN_S", "Made", "is_live", "run_locally"]

WITHIN_S = 30.0

Made = tuple[dict[str, Any], dict[str, Any]]


def run_locally(name: str, args: Mapping[str, Any]) -> Made:
    """Run the application and return the arguments of its ingress: settings and layer handles.

    The ingress that Serve makes does not start, because it would poll until the last test. A test
    makes another one from the arguments.
    """
    caught: list[Made] = []
    made = IngressApp.__init__

    def recording(
        self: IngressApp, settings: Mapping[str, Any], handles: Mapping[str, Any]
    ) -> None:
        made(self, settings, handles)
        caught.append((dict(settings), dict(handles)))

    @asynccontextmanager
    async def lifeless(_self: IngressApp, _app: object) -> AsyncIterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IngressApp, "__init__", recording)
        patch.setattr(IngressApp, "_lifespan", lifeless)
        serve.run(
            build({key: value for key, value in args.items() if key != "auth"}),
            name=name,
            _local_testing_mode=True,
        )
    ((settings, handles),) = caught
    # `build` rejects an application without keys; an ingress without a network needs none
    return settings | {"auth": {**settings["auth"], **args.get("auth", {})}}, handles


def is_live(handle: Any) -> bool:
    """Whether every kind of a layer is live, by the state that its handle returns."""
    state, _ = handle.state.remote(ANY_RELEASE).result(timeout_s=WITHIN_S)
    return {kind.status for kind in state.kinds.values()} == {LayerStatus.LIVE}
