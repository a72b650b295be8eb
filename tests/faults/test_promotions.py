"""Promotions under load: no request is lost, and each verdict is made by one release (P6, P15).

The verdicts of each release are also computed in this process from the same files. A response that
names a release must equal them; where a layer missed the deadline, without that layer.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from deployments.cli.local_store import own_store
from deployments.config.settings import Settings
from deployments.scoring import verdict_wire, wire
from ensemble.events import EventBatch
from ensemble.features.flow import FEATURE_NAMES
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.resolver import PinnedRelease
from ensemble.store.names import ReleaseRef, Tenant
from ensemble.verdicts import LayerScores, LayerStatus
from tests.load.flows import made_up_flows
from tests.support.callers import figures
from tests.support.running_service import BUSY, Service
from tests.support.timing import wait_until

pytestmark = pytest.mark.cluster

# each of two promotions and two roll-backs; with the first and the last move fifty
ROUNDS = 12 if os.environ.get("AXON_VERIFY") == "1" else 1
FEW = 4  # callers, to leave CPU time for the replicas that load a release
FOLLOWED_WITHIN_S = 10.0  # P7
TOLERANCE = 1e-6  # P15, DESIGN decision 12
BENIGN_FLOWS = 1500
BEFORE_THE_CLASSIFIER, SHIPPED = "3", "4"


@dataclass
class ExpectedVerdicts:
    """The verdicts of a service's releases on its callers' events, computed in this process.

    Attributes:
        settings: of the service.
        events: id -> a batch of that event.
    """

    settings: Settings
    events: dict[str, EventBatch]
    made: dict[tuple[str, str], LocalEnsemble] = field(default_factory=dict)
    scores: dict[tuple[str, str, str], Sequence[LayerScores]] = field(default_factory=dict)

    @classmethod
    def of(cls, service: Service) -> ExpectedVerdicts:
        parsed = [wire.parse_event(body) for body in service.bodies]
        batches = [wire.admit(wire.kind_of(event), [event])[0] for event in parsed]
        return cls(service.settings(), {batch.ids[0]: batch for batch in batches})

    def ensemble(self, release: str, sha256: str) -> LocalEnsemble:
        """Load a release; fail if its file has another digest."""
        if (release, sha256) not in self.made:
            fusion, posture = self.settings.fusion, self.settings.posture
            tenant, _, serial = release.partition("/")
            store = own_store(self.settings)
            self.made[release, sha256] = LocalEnsemble(
                PinnedRelease(lambda: store, Tenant(tenant), ReleaseRef(int(serial), sha256)),
                min_coverage=fusion.min_coverage,
                posture_bound=fusion.posture_bound,
                stale_after_days=posture.stale_after_days,
                expired_after_days=posture.expired_after_days,
            )
        return self.made[release, sha256]

    def layer_scores(self, verdict: verdict_wire.Verdict) -> Sequence[LayerScores]:
        """Score the event of a verdict with each layer of the release that it names."""
        key = (verdict.release, verdict.release_sha256, verdict.id)
        if key not in self.scores:
            ensemble = self.ensemble(verdict.release, verdict.release_sha256)
            self.scores[key] = [
                slot.score(self.events[verdict.id], ensemble.release.name)
                for slot in ensemble.slots.values()
            ]
        return self.scores[key]

    def differences(self, verdict: verdict_wire.Verdict) -> list[str]:
        """List the differences between a verdict and the release that it names."""
        ensemble, event = (
            self.ensemble(verdict.release, verdict.release_sha256),
            self.events[verdict.id],
        )
        received = {layer.layer: layer for layer in verdict.layers}
        layers = [
            _unless_absent(scores, received[scores.layer]) for scores in self.layer_scores(verdict)
        ]
        fusion = self.settings.fusion
        (computed,) = ensemble.release.fuse(
            event.kind,
            layers,
            min_coverage=fusion.min_coverage,
            posture_bound=fusion.posture_bound,
        )
        numbers = {
            "score": (verdict.score, computed.score[0]),
            "low": (verdict.low, computed.low[0]),
            "high": (verdict.high, computed.high[0]),
            "coverage": (verdict.coverage, computed.coverage),
        } | {one.layer: (received[one.layer].score, one.scores[0]) for one in layers if one.speaks}
        words = {
            "verdict": (verdict.verdict, str(computed.label[0])),
            "severity": (verdict.severity, str(computed.severity[0])),
            "status": (verdict.status, str(computed.status)),
        } | {
            f"version of {one.layer}": (received[one.layer].version, one.version)
            for one in layers
            if one.speaks
        }
        wrong = [
            f"{what} {found} for {expected}"
            for what, (found, expected) in numbers.items()
            if abs(found - expected) > TOLERANCE
        ]
        return wrong + [
            f"{what} {found} for {expected}"
            for what, (found, expected) in words.items()
            if found != expected
        ]


def _unless_absent(expected: LayerScores, received: verdict_wire.LayerScore) -> LayerScores:
    """Return the scores of a layer, or its absence if it is absent in the verdict."""
    if received.status in {"live", "last_good"} or not expected.speaks:
        return expected
    return LayerScores(
        received.layer,
        LayerStatus(received.status),
        received.version,
        "",
        np.array([received.score]),
        received.reason,
    )


@pytest.fixture
def releases(service: Service, tmp_path: Path) -> Sequence[str]:
    """Numbers of three releases that score flows differently, in order.

    Without a classifier, as shipped, and with a newly trained anomaly layer.
    """
    file = tmp_path / "benign.csv"
    pd.DataFrame(made_up_flows(BENIGN_FLOWS, seed=8), columns=list(FEATURE_NAMES)).to_csv(
        file, index=False
    )
    service.axon("trust", "init")
    output = service.axon("train", "flows", "--benign", str(file), "--publish", "--no-promote")
    found = re.search(r"published release (\d+)", output)
    assert found, output
    return [BEFORE_THE_CLASSIFIER, SHIPPED, found[1]]


def move(service: Service, to: str | None) -> None:
    """Promote a release at once, because a canary rollout would roll it back; or roll back."""
    path, body = ("rollback", {}) if to is None else (f"releases/{to}/promote", {"at_once": True})
    response = httpx.post(
        f"http://127.0.0.1:{service.port}/models/{path}", json=body, timeout=30.0, trust_env=False
    )
    assert response.status_code == 200, response.text


def test_promotions_and_roll_backs_under_load_lose_no_request_and_mix_no_releases(
    service: Service, releases: Sequence[str]
) -> None:
    first, second, third = releases
    around = [
        (second, second),
        (third, third),
        (None, second),
        (None, first),
    ]  # (release to promote or None to roll back, release then in use)
    moves = [(first, first), *around * ROUNDS, (second, second)]
    with service.callers(connections=FEW, records_bodies=True) as callers:
        callers.warm()
        since, _ = callers.go_on(0.0)
        for to, number in moves:
            at, _ = callers.go_on(0.0)
            move(service, to)
            assert wait_until(partial(is_in_use, service, number), BUSY * FOLLOWED_WITHIN_S), number
            callers.wait_for(
                lambda one, number=number: one.release == f"default/{number}",
                since=at,
                within_s=FOLLOWED_WITHIN_S,
            )  # type: ignore[misc]
    replies = callers.between(since)
    verdicts = [
        msgspec.json.decode(one.body, type=verdict_wire.Verdict)
        for one in replies
        if one.is_answered
    ]
    named = Counter(verdict.release for verdict in verdicts)
    print(
        f"\n{len(moves)} promotions and roll-backs: {figures(replies)}; verdicts by release "
        f"{dict(named)}"
    )
    expected = ExpectedVerdicts.of(service)

    assert [one for one in replies if not one.is_answered] == []
    assert named.keys() == {f"default/{number}" for number in releases}
    assert [wrong for verdict in verdicts for wrong in expected.differences(verdict)] == []


def is_in_use(service: Service, number: str) -> bool:
    return bool(service.get("/v1/status")["release"] == f"default/{number}")
