"""Diagnosis of a verdict that differs at replay (N-09).

Settings are found by fusing the recorded scores again; the rest is reported as unexplained.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.events import Kind
from ensemble.fusion import Fusion, Thresholds
from ensemble.replay.diagnosis import FusionRule, why_fused, why_layer
from ensemble.replay.recorded_verdict import RecordedOpinion, RecordedVerdict, ReplaySettings
from ensemble.runtime.release_fusion import ReleaseFusion
from ensemble.verdicts import LayerScores, LayerStatus, VerdictLabel

TOLERANCE = 1e-6
NOON = 43_200.0
NOW = ReplaySettings(
    min_coverage=0.5, posture_bound=0.35, stale_after_days=30, expired_after_days=730
)
WAYS = Thresholds(0.02, 0.6, 0.9)  # further apart than any bound in the tests
FUSION = Fusion(
    {"anomaly": 0.4, "behavior": 0.6},
    1.7,
    {"anomaly": WAYS, "behavior": WAYS, "anomaly+behavior": WAYS},
)
RELEASE = ReleaseFusion("acme/1", {Kind.FLOW: FUSION}, "ab" * 32)
STATUSES = st.sampled_from(
    [LayerStatus.LIVE, LayerStatus.LAST_GOOD, LayerStatus.TIMEOUT, LayerStatus.FALLBACK]
)
SCORES = st.floats(0.01, 0.99)
BOUNDS = st.floats(0.0, 2.0)


@st.composite
def layers(draw: st.DrawFn) -> tuple[RecordedOpinion, ...]:
    """Opinions or abstentions of three layers."""
    return tuple(
        RecordedOpinion(name, draw(SCORES), draw(STATUSES), "1", "")
        for name in ("anomaly", "behavior", "resilience")
    )


def verdict_of(
    opinions: tuple[RecordedOpinion, ...], conditions: ReplaySettings
) -> RecordedVerdict:
    """The verdict of these opinions under these settings."""
    verdicts = FusionRule(RELEASE, Kind.FLOW, conditions).fuse(
        [one.to_scores() for one in opinions]
    )
    return RecordedVerdict(
        release="acme/1",
        release_sha256="ab" * 32,
        input_sha256="cd" * 32,
        scored_at=NOON,
        score=float(verdicts.score[0]),
        low=float(verdicts.low[0]),
        high=float(verdicts.high[0]),
        verdict=str(verdicts.label[0]),
        severity=str(verdicts.severity[0]),
        coverage=verdicts.coverage,
        degraded=verdicts.degraded,
        status=str(verdicts.status),
        layers=opinions,
    )


def why(recorded: RecordedVerdict, now: ReplaySettings = NOW) -> list[str]:
    return why_fused(recorded, FusionRule(RELEASE, Kind.FLOW, now), TOLERANCE)


@given(layers())
def test_the_same_opinions_under_the_same_settings_have_no_reason(
    opinions: tuple[RecordedOpinion, ...],
) -> None:
    assert why(verdict_of(opinions, NOW)) == []


@given(layers(), BOUNDS)
def test_another_posture_bound_is_found_if_it_changes_a_value(
    opinions: tuple[RecordedOpinion, ...], then: float
) -> None:
    """No other cause is named: with the bound found, every value is the recorded one."""
    recorded = verdict_of(opinions, replace(NOW, posture_bound=then))
    reach = min(then, float(np.log(0.6 / 0.4) - np.log(0.02 / 0.98)))

    reasons = why(recorded)

    if not reasons:
        verdicts = FusionRule(RELEASE, Kind.FLOW, NOW).fuse([one.to_scores() for one in opinions])
        assert abs(float(verdicts.low[0]) - recorded.low) <= TOLERANCE
        return
    (reason,) = reasons
    assert reason.startswith("fusion.posture_bound is 0.35 now; with ")
    found = float(reason.split("with ")[1].split()[0])
    replayed = verdict_of(opinions, replace(NOW, posture_bound=found))
    assert (
        found == pytest.approx(reach, abs=0.01) or abs(replayed.score - recorded.score) <= 1e-3
    )  # a posture near 0.5 shifts next to nothing


@given(layers(), st.floats(0.0, 1.0))
def test_another_min_coverage_is_found_by_the_verdict_alone(
    opinions: tuple[RecordedOpinion, ...], then: float
) -> None:
    recorded = verdict_of(opinions, replace(NOW, min_coverage=then))

    reasons = why(recorded)

    is_now = verdict_of(opinions, NOW)
    if recorded.verdict == is_now.verdict:
        assert reasons == []
    else:
        (reason,) = reasons
        side = "above" if recorded.verdict == VerdictLabel.INDETERMINATE else "at most"
        assert reason == f"fusion.min_coverage is 0.5 now, and was {side} {recorded.coverage:g}"


def test_two_changed_settings_are_both_named() -> None:
    opinions = (
        RecordedOpinion("anomaly", 0.9, LayerStatus.LIVE, "1", ""),
        RecordedOpinion("behavior", 0.1, LayerStatus.TIMEOUT, "", ""),
        RecordedOpinion("resilience", 0.8, LayerStatus.LIVE, "1.1", ""),
    )

    reasons = why(verdict_of(opinions, replace(NOW, min_coverage=0.2, posture_bound=0.1)))

    assert [reason.split()[0] for reason in reasons] == [
        "fusion.posture_bound",
        "fusion.min_coverage",
    ]


@given(layers(), SCORES)
def test_a_score_that_no_setting_explains_is_reported_as_altered(
    opinions: tuple[RecordedOpinion, ...], score: float
) -> None:
    true = verdict_of(opinions, NOW)
    recorded = replace(true, score=score)

    reasons = why(recorded)

    is_altered = abs(score - true.score) > TOLERANCE
    assert any("altered" in reason for reason in reasons) == is_altered
    assert not any("posture_bound" in reason for reason in reasons)


@pytest.mark.parametrize(
    "changed",
    [{"severity": "low"}, {"degraded": True}, {"status": "FALLBACK_MODE"}, {"coverage": 0.9}],
)
def test_a_value_that_contradicts_the_layers_is_reported_as_altered(
    changed: dict[str, object],
) -> None:
    opinions = tuple(
        RecordedOpinion(name, 0.9, LayerStatus.LIVE, "1", "")
        for name in ("anomaly", "behavior", "resilience")
    )

    # each of its own type
    (reason,) = why(replace(verdict_of(opinions, NOW), **changed))  # type: ignore[arg-type]

    assert next(iter(changed)) in reason
    assert "altered" in reason


# one layer

SPOKE = RecordedOpinion("behavior", 0.7, LayerStatus.LIVE, "2", "")


def opinion(score: float, **fields: object) -> LayerScores:
    defaults = {
        "layer": "behavior",
        "status": LayerStatus.LIVE,
        "version": "2",
        "release": "acme/1",
        "scores": np.array([score]),
    }
    return LayerScores(**{**defaults, **fields})  # type: ignore[arg-type]


def why_one(
    recorded: RecordedOpinion,
    now: LayerScores,
    *,
    at: float = NOON,
    libraries: tuple[str, ...] = (),
) -> str:
    """The only reason, or ""."""
    return "".join(why_layer(recorded, now, at, libraries, TOLERANCE))


def test_an_equal_score_has_no_reason() -> None:
    assert (
        why_one(SPOKE, opinion(0.7 + 9e-7), libraries=("made with torch 2.0, running 2.1",)) == ""
    )
    assert why_one(replace(SPOKE, status=LayerStatus.TIMEOUT), opinion(0.1)) == ""


def test_a_difference_within_the_tolerance_of_a_gpu_is_explained_by_the_device() -> None:
    """DESIGN, decision 12: golden scores agree within 1e-5 on a GPU."""
    assert "--tolerance 1e-05" in why_one(SPOKE, opinion(0.7 + 9e-6))
    assert "device" not in why_one(SPOKE, opinion(0.7 + 2e-5))


def test_a_library_of_another_version_is_the_reason_if_nothing_else_differs() -> None:
    assert (
        why_one(SPOKE, opinion(0.8), libraries=("made with torch 2.0, running 2.1",))
        == "behavior: made with torch 2.0, running 2.1"
    )
    assert "altered" in why_one(SPOKE, opinion(0.8))


def test_another_version_of_the_model_is_the_only_reason() -> None:
    assert "records version 2, its release has version 3" in why_one(
        SPOKE, opinion(0.8, version="3"), libraries=("x",)
    )


def test_a_layer_that_abstains_now_is_reported_with_its_reason() -> None:
    silent = opinion(0.0, status=LayerStatus.FALLBACK, version="", reason="LAYER_CRASHED")

    assert why_one(SPOKE, silent) == "behavior has no opinion of this event now: LAYER_CRASHED"


@pytest.mark.parametrize(
    ("at", "is_told"),
    [
        (NOON, False),
        (86_400.0 * 9 - 0.2, True),
        (86_400.0 * 9 + 0.2, True),
        (86_400.0 * 9 + 2, False),
    ],
)
def test_aged_posture_is_explained_by_the_settings_or_near_midnight_by_the_day(
    at: float, *, is_told: bool
) -> None:
    recorded = replace(SPOKE, layer="resilience", reason="epss stale: 40 days")

    reason = why_one(
        recorded, opinion(0.6, layer="resilience", notes={0: "epss stale: 41 days"}), at=at
    )

    assert "remarked epss stale: 40 days then, epss stale: 41 days now" in reason
    assert "posture.stale_after_days" in reason
    assert ("midnight" in reason) == is_told
