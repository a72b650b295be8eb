"""`axon status` and `axon layers`.

The routes for operators in a terminal, with exit codes that a script can use.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from deployments import cli
from deployments.cli import console
from deployments.config.settings import read_settings
from deployments.web.api_keys import Scope, create_key
from ensemble.events import Kind
from ensemble.layers.catalog import LAYERS
from ensemble.runtime import LoadCheck
from ensemble.store.names import Tenant
from tests.support.asgi_clients import LONG_DEADLINE, IngressClient, OpenIngress
from tests.support.fake_handles import FakeHandle
from tests.support.slot_states import load_check
from tests.support.slots import broken_slot

Axon = Callable[..., Result]
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers


@pytest.fixture
def axon_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[IngressClient], Axon]:
    """`axon_at(client)("status")`: run `axon`, with its requests sent by `client`."""
    monkeypatch.setattr(console, "out", Console(width=250))
    monkeypatch.setattr(console, "err", Console(width=250, stderr=True))
    monkeypatch.setenv("TERM", "dumb")

    def at(client: IngressClient) -> Axon:
        def request(
            method: str, url: str, *, headers: Mapping[str, str], **_: Any
        ) -> httpx.Response:
            return client.request(method, httpx.URL(url).path, headers=dict(headers))

        monkeypatch.setattr("deployments.cli.status.httpx.request", request)
        return lambda *arguments: CliRunner().invoke(cli.app, list(arguments))

    return at


def test_a_whole_ensemble_is_shown_with_exit_code_zero(
    axon_at: Callable[[IngressClient], Axon], client: IngressClient
) -> None:
    result = axon_at(client)("status")

    assert result.exit_code == 0, result.output
    for shown in (
        "FULLY_OPERATIONAL",
        "coverage",
        "flow 100%",
        "release default/",
        *LAYERS,
        "live",
        "closed",
    ):
        assert shown in result.stdout


def test_a_degraded_ensemble_is_shown_with_its_reasons_and_exit_code_one(
    axon_at: Callable[[IngressClient], Axon], open_client: OpenIngress
) -> None:
    """S1-26: the code, the cause, what it means, and where to read on."""
    client = open_client(down={"behavior"})
    client.post("/v1/layers/resilience/disable", {})

    result = axon_at(client)("status")

    assert result.exit_code == 1, result.output
    for shown in (
        "PARTIALLY_OPERATIONAL",
        "fallback",
        "ARTIFACT_MISSING",
        "files",
        "disabled",
        "resilience",
        "RUNBOOK.md",
    ):
        assert shown in result.stdout


def test_the_status_for_programs_is_that_of_the_service(
    axon_at: Callable[[IngressClient], Axon], open_client: OpenIngress
) -> None:
    client = open_client(down={"behavior"})

    result = axon_at(client)("status", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["ml_status"] == "PARTIALLY_OPERATIONAL"


@pytest.mark.parametrize(
    "verb",
    [["status"], ["layers"], ["layers", "disable", "behavior"], ["layers", "test", "behavior"]],
)
def test_without_a_service_there_is_a_sentence_and_exit_code_two(verb: list[str]) -> None:
    result = CliRunner().invoke(cli.app, [*verb, "--url", NOWHERE])

    assert result.exit_code == 2
    assert "no service answers" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


NO_AXON = [b"<html>", b"[]", b"{}", b'{"error": 5}']


@pytest.mark.parametrize("body", NO_AXON)
def test_what_is_no_axon_is_said_so(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr(
        "deployments.cli.status.httpx.request", lambda *_, **__: httpx.Response(500, content=body)
    )

    result = CliRunner().invoke(cli.app, ["status"])

    assert result.exit_code == 2
    assert "no Axon" in " ".join(result.stderr.split())


def test_a_service_with_keys_is_asked_with_that_of_the_environment(
    axon_at: Callable[[IngressClient], Axon],
    open_client: OpenIngress,
    own_state: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del own_state
    _, token = create_key(read_settings().keys, Tenant("acme"), [Scope.READ], "", None, time.time())
    axon = axon_at(open_client(overrides=LONG_DEADLINE | {"auth": {"mode": "keys"}}))

    without = axon("status")
    monkeypatch.setenv("AXON_KEY", token)
    with_it = axon("status")

    assert (without.exit_code, with_it.exit_code) == (2, 0)
    assert "UNAUTHORIZED" in without.stderr
    assert "AXON_KEY" in without.stderr


def test_the_layers_are_listed(
    axon_at: Callable[[IngressClient], Axon], open_client: OpenIngress
) -> None:
    result = axon_at(open_client(down={"behavior"}))("layers")

    assert result.exit_code == 0
    rows = {
        line.split()[0]: line.split()
        for line in result.stdout.splitlines()
        if line.split()[:1] and line.split()[0] in LAYERS
    }
    assert rows["anomaly"][1:4] == ["yes", "yes", "live"]
    assert rows["behavior"][1:4] == ["yes", "no", "fallback"]


def test_a_layer_is_switched_off_and_on(
    axon_at: Callable[[IngressClient], Axon], client: IngressClient
) -> None:
    """S1-06, S1-07, S1-09."""
    axon = axon_at(client)

    assert "behavior is disabled" in axon("layers", "disable", "behavior").stdout
    assert axon("status").exit_code == 1
    assert "behavior is enabled" in axon("layers", "enable", "behavior").stdout
    assert "starts again" in axon("layers", "reset", "behavior").stdout
    assert axon("status").exit_code == 0


def test_a_layer_that_the_environment_disables_is_said_to_stay_off(
    axon_at: Callable[[IngressClient], Axon],
    open_client: OpenIngress,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AXON_DISABLED_LAYERS", "behavior")

    result = axon_at(open_client())("layers", "enable", "behavior")

    assert "behavior is disabled" in result.stdout
    assert "AXON_DISABLED_LAYERS" in result.stdout


@pytest.mark.parametrize("layer", ["nobody", "../../health", "a b"])
def test_a_layer_that_is_not_there_is_refused_by_the_service(
    axon_at: Callable[[IngressClient], Axon], client: IngressClient, layer: str
) -> None:
    result = axon_at(client)("layers", "disable", layer)

    assert result.exit_code == 2
    assert "UNKNOWN_LAYER" in result.stderr


TRIALS = [
    pytest.param(
        {Kind.FLOW: load_check(ok=True, version="2")},
        0,
        ["behavior flow: ok version 2"],
        id="passes",
    ),
    pytest.param(
        {Kind.FLOW: load_check(ok=False, code="LOAD_TIMEOUT")},
        1,
        ["failed", "LOAD_TIMEOUT"],
        id="fails",
    ),
    pytest.param({}, 1, [], id="says nothing"),
]


@pytest.mark.parametrize(("checks", "code", "shown"), TRIALS)
def test_a_test_of_a_layer_ends_with_its_outcome(
    axon_at: Callable[[IngressClient], Axon],
    open_client: OpenIngress,
    checks: Mapping[Kind, LoadCheck],
    code: int,
    shown: list[str],
) -> None:
    """S1-05."""
    client = open_client(handles={"behavior": FakeHandle(broken_slot("behavior"), checks)})

    result = axon_at(client)("layers", "test", "behavior")

    assert result.exit_code == code
    assert all(words in result.stdout for words in shown)


@pytest.mark.parametrize("verb", ["disable", "enable", "reset"])
def test_options_before_the_verb_of_a_group_reach_the_verb(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """`axon layers --url U enable X` called port 8000 of this machine."""
    called: list[str] = []

    def request(_: str, url: str, **__: Any) -> httpx.Response:
        called.append(url)
        return httpx.Response(200, json={"enabled": True, "disabled_by_environment": False})

    monkeypatch.setattr("deployments.cli.status.httpx.request", request)
    before = ["layers", "--url", "http://a:1", "--json", verb, "behavior"]
    first = CliRunner().invoke(cli.app, before)
    CliRunner().invoke(cli.app, [*before, "--url", "http://b:2"])

    assert called == [f"http://{at}/v1/layers/behavior/{verb}" for at in ("a:1", "b:2")]
    assert json.loads(first.stdout)["enabled"] is True
