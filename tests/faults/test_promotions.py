"""Promotions under load: no request is lost, and each verdict is made by one release (P6, P15).

The verdicts of each release are also computed in this process from the same files. A response that
names a release must equal them; where a layer was too late, it must equal them without that layer.
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

ROUNDS = (
    12 if os.environ.get("AXON_VERIFY") == "1" else 1
)  # of two promotions and two roll-backs; with the first and the last move fifty
FEW = 4  # callers: the replicas that load a release want a core too
FOLLOWED_WITHIN_S = 10.0  # P7
TOLERANCE = 1e-6  # P15, DESIGN decision 12
BENIGN_FLOWS = 1500
BEFORE_THE_CLASSIFIER, SHIPPED = "3", "4"


@dataclass
class Golden:
    """What the releases of a service say of its callers' events.

    Attributes:
        settings: as the service has them.
        events: id -> a batch of the one event.
    """

    settings: Settings
    events: dict[str, EventBatch]
    made: dict[tuple[str, str], LocalEnsemble] = field(default_factory=dict)
    said: dict[tuple[str, str, str], Sequence[LayerScores]] = field(default_factory=dict)

    @classmethod
    def of(cls, service: Service) -> Golden:
        parsed = [wire.parse_event(body) for body in service.bodies]
        batches = [wire.admit(wire.kind_of(event), [event])[0] for event in parsed]
        return cls(service.settings(), {batch.ids[0]: batch for batch in batches})

    def ensemble(self, release: str, sha256: str) -> LocalEnsemble:
        """The release of that name; refused where its file has another digest."""
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

    def opinions(self, answer: verdict_wire.Verdict) -> Sequence[LayerScores]:
        """What each layer says of the event of an answer, by the release that it names."""
        key = (answer.release, answer.release_sha256, answer.id)
        if key not in self.said:
            ensemble = self.ensemble(answer.release, answer.release_sha256)
            self.said[key] = [
                slot.score(self.events[answer.id], ensemble.release.name)
                for slot in ensemble.slots.values()
            ]
        return self.said[key]

    def contradictions(self, answer: verdict_wire.Verdict) -> list[str]:
        """What an answer says otherwise than the release that it names.

        Empty where it says the same.
        """
        ensemble, event = (
            self.ensemble(answer.release, answer.release_sha256),
            self.events[answer.id],
        )
        heard = {layer.layer: layer for layer in answer.layers}
        opinions = [
            _unless_silent(opinion, heard[opinion.layer]) for opinion in self.opinions(answer)
        ]
        fusion = self.settings.fusion
        (verdicts,) = ensemble.release.fuse(
            event.kind,
            opinions,
            min_coverage=fusion.min_coverage,
            posture_bound=fusion.posture_bound,
        )
        numbers = {
            "score": (answer.score, verdicts.score[0]),
            "low": (answer.low, verdicts.low[0]),
            "high": (answer.high, verdicts.high[0]),
            "coverage": (answer.coverage, verdicts.coverage),
        } | {one.layer: (heard[one.layer].score, one.scores[0]) for one in opinions if one.speaks}
        words = {
            "verdict": (answer.verdict, str(verdicts.label[0])),
            "severity": (answer.severity, str(verdicts.severity[0])),
            "status": (answer.status, str(verdicts.status)),
        } | {
            f"version of {one.layer}": (heard[one.layer].version, one.version)
            for one in opinions
            if one.speaks
        }
        wrong = [
            f"{what} {said} for {golden}"
            for what, (said, golden) in numbers.items()
            if abs(said - golden) > TOLERANCE
        ]
        return wrong + [
            f"{what} {said} for {golden}"
            for what, (said, golden) in words.items()
            if said != golden
        ]


def _unless_silent(opinion: LayerScores, heard: verdict_wire.LayerScore) -> LayerScores:
    """What a layer says, or its silence where it was silent in the answer."""
    if heard.status in {"live", "last_good"} or not opinion.speaks:
        return opinion
    return LayerScores(
        heard.layer,
        LayerStatus(heard.status),
        heard.version,
        "",
        np.array([heard.score]),
        heard.reason,
    )


@pytest.fixture
def releases(service: Service, tmp_path: Path) -> Sequence[str]:
    """Numbers of three releases that rate flows differently, in order.

    Without a classifier, as shipped, and with an own anomaly layer.
    """
    file = tmp_path / "benign.csv"
    pd.DataFrame(made_up_flows(BENIGN_FLOWS, seed=8), columns=list(FEATURE_NAMES)).to_csv(
        file, index=False
    )
    service.axon("trust", "init")
    said = service.axon("train", "flows", "--benign", str(file), "--publish", "--no-promote")
    found = re.search(r"published release (\d+)", said)
    assert found, said
    return [BEFORE_THE_CLASSIFIER, SHIPPED, found[1]]


def move(service: Service, to: str | None) -> None:
    """Promote a release at once, because a canary rollout would roll it back; or roll back."""
    path, body = ("rollback", {}) if to is None else (f"releases/{to}/promote", {"at_once": True})
    answer = httpx.post(
        f"http://127.0.0.1:{service.port}/models/{path}", json=body, timeout=30.0, trust_env=False
    )
    assert answer.status_code == 200, answer.text


def test_promotions_and_roll_backs_under_load_lose_no_request_and_mix_no_releases(
    service: Service, releases: Sequence[str]
) -> None:
    first, second, third = releases
    around = [
        (second, second),
        (third, third),
        (None, second),
        (None, first),
    ]  # (what is asked for, what is in use then)
    moves = [(first, first), *around * ROUNDS, (second, second)]
    with service.callers(connections=FEW, keeps_answers=True) as callers:
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
    asked = callers.between(since)
    answers = [
        msgspec.json.decode(one.answer, type=verdict_wire.Verdict)
        for one in asked
        if one.is_answered
    ]
    named = Counter(answer.release for answer in answers)
    print(
        f"\n{len(moves)} promotions and roll-backs: {figures(asked)}; answers by release "
        f"{dict(named)}"
    )
    golden = Golden.of(service)

    assert [one for one in asked if not one.is_answered] == []
    assert named.keys() == {f"default/{number}" for number in releases}
    assert [wrong for answer in answers for wrong in golden.contradictions(answer)] == []


def is_in_use(service: Service, number: str) -> bool:
    return bool(service.get("/v1/status")["release"] == f"default/{number}")
