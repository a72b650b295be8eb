"""Files break under a running service, and are mended.

Nobody restarts anything (P5, P7, P38, C-35).
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.config.settings import ROOT
from tests.support.callers import Asked, figures
from tests.support.running_service import (
    BUSY,
    HEALTH_CHECK_PERIOD_S,
    LAYERS_OF_FLOWS,
    Service,
    kill,
)
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

SPEAKS = {"live", "last_good"}
HEALED_WITHIN_S = 10.0  # P7
POLLED_S = 3.0  # a slot polls its files every 2 s
HEALTH_CHECKED_S = 4 * HEALTH_CHECK_PERIOD_S  # three failures in a row restart a replica
BACK_WITHIN_S = 15.0
SECOND_LOOK_WITHIN_S = 90.0  # thousands of events wait, and a second look lets callers go first
FEW = 4  # callers: the process that promotes wants a core too


def test_models_torn_under_load_change_nothing_for_who_holds_them(service: Service) -> None:
    """P5: what is in memory was proven; a file that breaks afterwards is told, not served."""
    with service.callers() as callers:
        callers.warm()
        with service.torn():
            since, until = callers.go_on(POLLED_S)
    asked = callers.between(since, until)
    print(f"\nevery model file torn: {figures(asked)}")

    assert [one for one in asked if not one.is_answered] == []
    assert all(
        {status for status, _ in one.layers.values()} <= SPEAKS | {"timeout"} for one in asked
    )
    assert sum(one.is_degraded for one in asked) <= 0.02 * len(
        asked
    )  # a busy machine misses a deadline now and then


def test_a_start_on_torn_models_scores_posture_only_and_heals_when_they_are_put_back(
    service: Service,
) -> None:
    """P7, P38, C-35: FALLBACK_MODE, no 5xx, no restart; FULLY_OPERATIONAL ten seconds after repair.

    N-02: and an attack that came while nobody could see it is found afterwards, with its own time.
    """
    with service.callers() as callers:
        callers.warm()
        with service.torn("anomaly", "behavior", "classifier"):
            for layer in LAYERS_OF_FLOWS:
                at = kill(service.only_replica(layer))
            blind = callers.wait_for(is_blind, since=at + 0.5, within_s=4 * BACK_WITHIN_S)
            replicas = {layer: service.only_replica(layer).pid for layer in LAYERS_OF_FLOWS}
            unseen = service.score(an_attack())
            since, until = callers.go_on(HEALTH_CHECKED_S)
        healed = callers.wait_for(
            lambda one: one.system == "FULLY_OPERATIONAL", since=until, within_s=4 * HEALED_WITHIN_S
        )
    asked, while_blind = callers.between(at - 0.5), callers.between(since, until)
    print(
        f"\nstarted on torn models: in fallback after {blind.at - at:.1f} s, whole "
        f"{healed.at - until:.1f} s after the repair"
    )
    print(figures(asked))

    assert [one for one in asked if not one.is_answered] == []
    assert {one.system for one in while_blind} == {"FALLBACK_MODE"}
    assert {one.verdict for one in while_blind} == {"indeterminate"}
    assert {
        one.layers["anomaly"][1] for one in while_blind if one.status_of("anomaly") == "fallback"
    } == {"ARTIFACT_CORRUPT"}
    assert sum(one.status_of("resilience") == "live" for one in while_blind) >= 0.98 * len(
        while_blind
    )
    assert healed.at - until <= BUSY * HEALED_WITHIN_S
    assert {
        layer: service.only_replica(layer).pid for layer in LAYERS_OF_FLOWS
    } == replicas  # a missing model restarts nobody
    assert (unseen["id"], unseen["verdict"]) == ("ddos", "indeterminate")
    assert wait_until(lambda: "ddos" in findings(service), SECOND_LOOK_WITHIN_S)
    found = findings(service)["ddos"]
    print(
        f"an attack that nobody saw: {found['was']} then, {found['verdict']['verdict']} at a "
        "second look"
    )
    assert found["verdict"]["verdict"] == "malicious"
    assert found["at"] < found["found_at"]


def is_blind(one: Asked) -> bool:
    """Nothing but the posture speaks.

    A release from before the classifier, in the place of a torn one, has no such layer.
    """
    learnt = [one.status_of(layer) for layer in ("anomaly", "behavior", "classifier")]
    return (
        learnt[:2] == ["fallback"] * 2
        and learnt[2] in {"fallback", "not_applicable"}
        and one.status_of("resilience") == "live"
    )


def an_attack() -> bytes:
    """The DDoS flow of the quick start."""
    return (ROOT / "examples" / "ddos_flow.json").read_bytes()


def findings(service: Service) -> dict[str, dict[str, Any]]:
    """What turned hostile at a second look, by the event's id."""
    texts = [file.read_text() for file in service.state.glob("retro/findings*.jsonl")]
    return {
        one["id"]: one
        for text in texts
        for one in map(json.loads, text.splitlines()[: text.count("\n")])
    }  # the last may be half written


def test_a_new_release_is_live_within_ten_seconds_and_costs_no_request(
    service: Service, tmp_path: Path
) -> None:
    """P6, P7.

    Published and promoted by another process; the replicas follow the pointer by themselves.
    """
    inventory = tmp_path / "inventory.csv"
    inventory.write_text(
        "host,cves,exposure,criticality,controls,scan_time\nweb-9,CVE-2021-44228,internet,high,,2026-11-20\n"
    )
    number = published(service, inventory)
    with service.callers(connections=FEW) as callers:
        callers.warm()
        since, _ = callers.go_on(0.0)
        service.axon("models", "promote", number)
        assert wait_until(
            lambda: service.get("/v1/status")["release"] == f"default/{number}", 4 * HEALED_WITHIN_S
        )
        followed = time.time()
        callers.go_on(1.0)
    asked = callers.between(since)
    promoted = next(service.state.rglob("CURRENT")).stat().st_mtime
    print(f"\nnew release promoted: followed within {followed - promoted:.1f} s; {figures(asked)}")

    assert [one for one in asked if not one.is_answered] == []
    assert followed - promoted <= BUSY * HEALED_WITHIN_S
    assert service.is_whole()


def published(service: Service, inventory: Path) -> str:
    """Number of a new release with this inventory, to which nothing points yet."""
    service.axon("trust", "init")
    said = service.axon(
        "train", "posture", "--inventory", str(inventory), "--publish", "--no-promote"
    )
    found = re.search(r"published release (\d+)", said)
    assert found, said
    return found[1]
