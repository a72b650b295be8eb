"""Recovery from broken files without a restart by the operator (P5, P7, P38, C-35)."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from deployments.config.settings import ROOT
from tests.support.callers import Reply, figures
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
RESCORED_WITHIN_S = 90.0  # thousands of events wait, and callers have priority
FEW = 4  # callers, to leave CPU time for the process that promotes


def test_files_truncated_under_load_do_not_affect_the_loaded_models(service: Service) -> None:
    """P5: a loaded model is verified; a file that breaks later is reported and not served."""
    with service.callers() as callers:
        callers.warm()
        with service.truncated_models():
            since, until = callers.go_on(POLLED_S)
    replies = callers.between(since, until)
    print(f"\nevery model file truncated: {figures(replies)}")

    assert [one for one in replies if not one.is_answered] == []
    assert all(
        {status for status, _ in one.layers.values()} <= SPEAKS | {"timeout"} for one in replies
    )
    # a busy machine misses some deadlines
    assert sum(one.is_degraded for one in replies) <= 0.02 * len(replies)


def test_a_start_on_truncated_files_scores_posture_only_and_recovers_after_their_repair(
    service: Service,
) -> None:
    """P7, P38, C-35: FALLBACK_MODE, no 5xx, no restart; FULLY_OPERATIONAL ten seconds after repair.

    N-02: an attack that no layer could detect is found by a later rescore, with its time.
    """
    with service.callers() as callers:
        callers.warm()
        with service.truncated_models("anomaly", "behavior", "classifier"):
            for layer in LAYERS_OF_FLOWS:
                at = kill(service.only_replica(layer))
            blind = callers.wait_for(is_blind, since=at + 0.5, within_s=4 * BACK_WITHIN_S)
            replicas = {layer: service.only_replica(layer).pid for layer in LAYERS_OF_FLOWS}
            unseen = service.score(an_attack())
            since, until = callers.go_on(HEALTH_CHECKED_S)
        healed = callers.wait_for(
            lambda one: one.system == "FULLY_OPERATIONAL", since=until, within_s=4 * HEALED_WITHIN_S
        )
    replies, while_blind = callers.between(at - 0.5), callers.between(since, until)
    print(
        f"\nstarted on truncated files: in fallback after {blind.at - at:.1f} s, healthy "
        f"{healed.at - until:.1f} s after the repair"
    )
    print(figures(replies))

    assert [one for one in replies if not one.is_answered] == []
    assert {one.system for one in while_blind} == {"FALLBACK_MODE"}
    assert {one.verdict for one in while_blind} == {"indeterminate"}
    assert {
        one.layers["anomaly"][1] for one in while_blind if one.status_of("anomaly") == "fallback"
    } == {"ARTIFACT_CORRUPT"}
    assert sum(one.status_of("resilience") == "live" for one in while_blind) >= 0.98 * len(
        while_blind
    )
    assert healed.at - until <= BUSY * HEALED_WITHIN_S
    # a missing model restarts no replica
    assert {layer: service.only_replica(layer).pid for layer in LAYERS_OF_FLOWS} == replicas
    assert (unseen["id"], unseen["verdict"]) == ("ddos", "indeterminate")
    assert wait_until(lambda: "ddos" in findings(service), RESCORED_WITHIN_S)
    found = findings(service)["ddos"]
    print(
        f"an undetected attack: {found['was']} at first, {found['verdict']['verdict']} after the "
        "rescore"
    )
    assert found["verdict"]["verdict"] == "malicious"
    assert found["at"] < found["found_at"]


def is_blind(one: Reply) -> bool:
    """Whether only the posture scores.

    An older release, loaded in the place of a broken one, has no classifier.
    """
    trained = [one.status_of(layer) for layer in ("anomaly", "behavior", "classifier")]
    return (
        trained[:2] == ["fallback"] * 2
        and trained[2] in {"fallback", "not_applicable"}
        and one.status_of("resilience") == "live"
    )


def an_attack() -> bytes:
    """Read the DDoS flow of the quick start."""
    return (ROOT / "examples" / "ddos_flow.json").read_bytes()


def findings(service: Service) -> dict[str, dict[str, Any]]:
    """Read the findings of the rescore, by the id of their event."""
    texts = [file.read_text() for file in service.state.glob("retro/findings*.jsonl")]
    return {
        one["id"]: one
        for text in texts
        for one in map(json.loads, text.splitlines()[: text.count("\n")])
    }  # without an incomplete last line


def test_a_new_release_is_live_within_ten_seconds_and_costs_no_request(
    service: Service, tmp_path: Path
) -> None:
    """P6, P7: another process publishes and promotes it, and the replicas poll the pointer."""
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
    replies = callers.between(since)
    promoted = next(service.state.rglob("CURRENT")).stat().st_mtime
    print(
        f"\nnew release promoted: followed within {followed - promoted:.1f} s; {figures(replies)}"
    )

    assert [one for one in replies if not one.is_answered] == []
    assert followed - promoted <= BUSY * HEALED_WITHIN_S
    assert service.is_complete()


def published(service: Service, inventory: Path) -> str:
    """Publish a release with this inventory without promotion, and return its number."""
    service.axon("trust", "init")
    output = service.axon(
        "train", "posture", "--inventory", str(inventory), "--publish", "--no-promote"
    )
    found = re.search(r"published release (\d+)", output)
    assert found, output
    return found[1]
