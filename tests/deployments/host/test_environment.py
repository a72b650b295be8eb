"""Environment of a service, set before Ray is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deployments.config.settings import ROOT
from deployments.host import environment
from deployments.host.environment import PORT_BLOCKS, PORTS_EACH, PORTS_FROM, prepare_environment

LOWEST, HIGHEST = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"
FIRST_EPHEMERAL = 32_768  # Linux assigns ports from here on


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        os, "environ", {"PATH": os.environ["PATH"], "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    )


@pytest.mark.parametrize("block", [0, 1, PORT_BLOCKS - 1])
def test_services_of_one_machine_use_different_ports(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """A proxy that still has the port of a dead replica must not reach another service there."""
    monkeypatch.setattr(environment.secrets, "randbelow", lambda _: block)

    prepare_environment()

    first, last = int(os.environ[LOWEST]), int(os.environ[HIGHEST])
    assert (first, last) == (
        PORTS_FROM + block * PORTS_EACH,
        PORTS_FROM + (block + 1) * PORTS_EACH - 1,
    )
    assert last < FIRST_EPHEMERAL


def test_variables_of_the_operator_are_not_changed() -> None:
    os.environ |= {LOWEST: "30000", HIGHEST: "30010"}

    prepare_environment()

    assert (os.environ[LOWEST], os.environ[HIGHEST]) == ("30000", "30010")


def test_axon_serve_imports_nothing_that_reads_the_environment_before_it_is_set() -> None:
    """Serve reads it once, at import. Half of the throughput, and HAProxy, depend on this order."""
    found = "import sys, deployments.cli, deployments.cli.serve; print('ray.serve' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", found], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "False"
