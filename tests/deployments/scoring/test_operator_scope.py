"""Operating the service is a right of its own, and every act of an operator is in the audit log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deployments.config.settings import read_settings
from deployments.web.api_keys import Scope, create_key
from ensemble.rollout.comparison import Comparison
from ensemble.runtime.controls import read_controls
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.store.audit_log import LOG, Outcome, read_audit
from ensemble.store.layout import Store
from ensemble.store.names import Tenant
from ensemble.store.signing import Trust
from tests.support.asgi_clients import IngressClient, OpenIngress
from tests.support.scoring_client import error_of

ACME = Tenant("acme")
SWITCHES = ["disable", "enable", "reset", "test"]
OF_A_TENANT = frozenset(Scope) - {Scope.OPERATE}
WITH_KEYS = {"ingress": {"deadline_ms": 30_000}, "auth": {"stall_s": 0.0}}


def key_of(*scopes: Scope, tenant: Tenant = ACME) -> dict[str, str]:
    made, token = create_key(read_settings({}).keys, tenant, scopes, "", None, time.time())
    return {"Authorization": f"Bearer {token}", "x-key-id": made.id}


@pytest.fixture
def operator() -> dict[str, str]:
    """The headers of a key that may operate, and nothing else."""
    return key_of(Scope.OPERATE)


@pytest.fixture
def tenant() -> dict[str, str]:
    """The headers of a key that may do everything with its tenant's models."""
    return key_of(*OF_A_TENANT)


@pytest.fixture
def client(
    operator: dict[str, str], tenant: dict[str, str], open_client: OpenIngress
) -> IngressClient:
    """With keys on; the keys exist before it starts."""
    del operator, tenant
    return open_client(overrides=WITH_KEYS)


def begin_rollout(client: IngressClient, **flips: int) -> None:
    """Roll out a release that flips so many of 40 verdicts of each tenant."""
    controller = client.ingress._pipelines.default.controller
    controller.switch_to(ReleaseFusion("default/9"), at_once=True)
    controller.switch_to(ReleaseFusion("default/10"), at_once=False)
    by_tenant = {tenant: (40, count) for tenant, count in flips.items()}
    events, flipped = 40 * len(flips), sum(flips.values())
    controller.record(
        "default/10", Comparison(events, flipped, 3, 0, 0, 0.004, 0.004, by_tenant=by_tenant)
    )


def rollout_seen_by(client: IngressClient, key: dict[str, str]) -> tuple[str, int, int]:
    """State, compared events and flips of the rollout that a key sees."""
    found = client.get("/v1/status", headers=key).json()["rollout"]
    return found["state"], found["events"], found["flips"]


def acts(state: Path) -> list[tuple[str, str, str, Outcome]]:
    """Act, target, actor and outcome of each line of the audit log, oldest first."""
    entries = read_audit(Store(state, None, Trust({}, frozenset())), ACME, limit=20)
    return [(one.act, one.what, one.who, one.outcome) for one in reversed(entries)]


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_key_with_every_right_on_its_tenant_operates_nothing(
    client: IngressClient, tenant: dict[str, str], own_state: Path, switch: str
) -> None:
    """A switch affects all tenants, so no right on one tenant implies it."""
    answer = client.post(f"/v1/layers/behavior/{switch}", {}, headers=tenant)

    error_of(answer, 403, "FORBIDDEN")
    assert "`operate`" in answer.json()["error"]["message"]
    assert read_controls(own_state).disabled == frozenset()
    assert not (own_state / LOG).exists()


def test_every_act_of_an_operator_is_a_line_of_the_audit_log(
    client: IngressClient, operator: dict[str, str], own_state: Path
) -> None:
    for switch in SWITCHES:
        answer = client.post(f"/v1/layers/behavior/{switch}", {}, headers=operator)
        assert answer.status_code == 200, answer.text

    assert acts(own_state) == [
        (f"{switch}_layer", "layer behavior", operator["x-key-id"], Outcome.DONE)
        for switch in SWITCHES
    ]


@pytest.mark.parametrize("switch", SWITCHES)
def test_nothing_is_switched_or_tested_without_its_line(
    client: IngressClient, operator: dict[str, str], own_state: Path, switch: str
) -> None:
    own_state.mkdir(exist_ok=True)
    (own_state / LOG).mkdir()

    answer = client.post(f"/v1/layers/behavior/{switch}", {}, headers=operator)

    error_of(answer, 503, "CONTROLS_NOT_KEPT")
    assert read_controls(own_state).disabled == frozenset()
    assert read_controls(own_state).resets == {}


def test_a_switch_that_fails_is_recorded_as_failed(
    client: IngressClient,
    operator: dict[str, str],
    own_state: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deployments.scoring.layer_switches.change_controls", full)

    error_of(
        client.post("/v1/layers/behavior/disable", {}, headers=operator), 503, "CONTROLS_NOT_KEPT"
    )

    assert [act[3] for act in acts(own_state)] == [Outcome.FAILED]


@pytest.mark.parametrize("path", ["/health", "/ready", "/v2/health/live", "/v2/health/ready"])
def test_a_probe_needs_no_key(client: IngressClient, path: str) -> None:
    """An orchestrator has no key; with a 401 it would restart the pod for ever."""
    assert client.get(path).status_code == 200


def test_without_a_key_health_names_neither_versions_nor_reasons_nor_models(
    client: IngressClient, tenant: dict[str, str]
) -> None:
    public, full = client.get("/health").json(), client.get("/health", headers=tenant).json()

    assert {name: one["status"] for name, one in public["providers"].items()} == {
        name: one["status"] for name, one in full["providers"].items()
    }
    assert {(one["version"], one["reason"]) for one in public["providers"].values()} == {("", "")}
    assert public["available_models"] == []
    assert full["available_models"]
    assert any(one["version"] for one in full["providers"].values())


def test_a_key_without_read_sees_what_everybody_sees(
    client: IngressClient, operator: dict[str, str]
) -> None:
    assert client.get("/health", headers=operator).json()["available_models"] == []


def test_of_a_rollout_a_tenant_sees_its_own_counts_and_an_operator_all(
    client: IngressClient, operator: dict[str, str], tenant: dict[str, str]
) -> None:
    """A4: who sends how much is nobody else's business."""
    del operator
    everything = key_of(Scope.OPERATE, Scope.READ)
    client.ingress._authenticator._keys.reload()
    begin_rollout(client, acme=3, globex=0)

    assert rollout_seen_by(client, tenant) == ("in_progress", 40, 3)
    assert rollout_seen_by(client, everything) == ("in_progress", 80, 3)


def test_where_several_tenants_have_keys_one_ends_no_rollout_of_a_shared_release(
    client: IngressClient, tenant: dict[str, str]
) -> None:
    """A4: the only tenant of a service decides; one of several does not."""
    key_of(Scope.SCORE, tenant=Tenant("globex"))
    client.ingress._authenticator._keys.reload()
    begin_rollout(client, acme=40)
    shared, _, _ = rollout_seen_by(client, tenant)

    begin_rollout(client, acme=40, globex=40)
    agreed, _, _ = rollout_seen_by(client, tenant)

    assert (shared, agreed) == ("in_progress", "rolled_back")


def test_the_only_tenant_of_a_service_ends_a_rollout(
    client: IngressClient, tenant: dict[str, str]
) -> None:
    begin_rollout(client, acme=40)

    assert rollout_seen_by(client, tenant)[0] == "rolled_back"
