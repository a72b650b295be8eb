"""Environment of a service, set before Ray is imported."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable, Scope

from deployments.config.settings import ROOT
from deployments.host import environment, prepare_environment
from deployments.host.ports import PORTS_EACH

LOWEST, HIGHEST = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
SHARED = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "environ", {"PATH": os.environ["PATH"], "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    )


def test_every_port_that_services_share_by_default_is_in_a_block_of_this_service(
    tmp_path: Path,
) -> None:
    """The front proxy of one service must not reach a replica or a proxy of another one."""
    seen: set[int] = set()
    for _ in range(2):
        for name in (*SHARED, LOWEST, HIGHEST):
            os.environ.pop(name, None)

        prepare_environment(tmp_path)

        first, last = int(os.environ[LOWEST]), int(os.environ[HIGHEST])
        shared = {int(os.environ[name]) for name in SHARED}
        assert len(shared) == len(SHARED)
        assert max(shared) < first < last
        assert last - min(shared) < PORTS_EACH
        assert not seen & {*shared, first, last}
        seen |= {*shared, first, last}


def test_variables_of_the_operator_are_not_changed(tmp_path: Path) -> None:
    os.environ |= {LOWEST: "30000", HIGHEST: "30010"}

    prepare_environment(tmp_path)

    assert (os.environ[LOWEST], os.environ[HIGHEST]) == ("30000", "30010")


def test_without_a_proxy_of_ours_no_caller_names_its_own_address(tmp_path: Path) -> None:
    """I1: by default a server believes the header of any caller on its own machine."""
    seen: list[tuple[str, int]] = []

    async def app(scope: Scope, _receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        seen.append(scope["client"] or ("", 0))

    prepare_environment(tmp_path)
    server = uvicorn.Config(app, log_config=None)
    server.load()
    request = {
        "type": "http",
        "client": ("127.0.0.1", 1),
        "headers": [(b"x-forwarded-for", b"192.0.2.1")],
    }
    asyncio.run(server.loaded_app(request, None, None))  # type: ignore[arg-type]

    assert seen == [("127.0.0.1", 1)]


def test_axon_serve_imports_nothing_that_reads_the_environment_before_it_is_set() -> None:
    """Serve reads it once, at import. Half of the throughput, and HAProxy, depend on this order."""
    found = "import sys, deployments.cli, deployments.cli.serve; print('ray.serve' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", found], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"


def test_a_version_of_serve_without_a_place_for_the_limits_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A start without the limits of the front proxy must not pass in silence."""
    monkeypatch.setattr(environment, "_FRONTEND", "\nfrontend of_another_version\n")
    os.environ |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "AXON_HAPROXY_BINARY": "/usr/bin/haproxy"}

    with pytest.raises(OSError, match="frontend of_another_version"):
        prepare_environment(tmp_path)


def test_the_installed_version_of_serve_has_a_place_for_the_limits(tmp_path: Path) -> None:
    os.environ |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "AXON_HAPROXY_BINARY": "/usr/bin/haproxy"}

    prepare_environment(tmp_path)

    assert os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"].endswith("haproxy_loopback.sh")
