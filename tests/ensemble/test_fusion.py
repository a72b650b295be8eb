"""Fusion: promises 11 and 12. Scores are finite and monotone, and silence is not innocence.

The promises hold for any shares, sharpness and thresholds, so these are generated. How the evidence
is pooled is not tested here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, combinations, permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.fusion import RESILIENCE, Fusion, Thresholds, layer_set
from ensemble.verdicts import (
    LayerScores,
    LayerStatus,
    Severity,
    SystemStatus,
    VerdictLabel,
    Verdicts,
)

LAYERS = ("anomaly", "behavior", "logs")
SUBSETS = list(chain.from_iterable(combinations(LAYERS, k) for k in range(4)))
EVERY_SUBSET = [pytest.param(subset, id="+".join(subset) or "none") for subset in SUBSETS]
SILENT = [
    s
    for s in LayerStatus
    if s
    not in {LayerStatus.LIVE, LayerStatus.LAST_GOOD, LayerStatus.RULES, LayerStatus.NOT_APPLICABLE}
]
POSTURE_BOUND = 1.0
MILD = Thresholds(0.2, 0.6, 0.9)

SCORE = st.floats(0, 1)
COLUMN = st.lists(SCORE, min_size=3, max_size=3).map(np.array)


@st.composite
def thresholds(draw: st.DrawFn) -> Thresholds:
    return Thresholds(*sorted(draw(st.tuples(*[st.floats(1e-4, 1 - 1e-4)] * 3))))


@st.composite
def fusions(draw: st.DrawFn) -> Fusion:
    """Three layers of any shares, with thresholds for every set of them that may speak."""
    parts = np.array(draw(st.tuples(*[st.floats(0.05, 1.0)] * 3)))
    shares = dict(zip(LAYERS, (parts / parts.sum()).tolist(), strict=True))
    return Fusion(
        shares, draw(st.floats(0.25, 4.0)), {layer_set(s): draw(thresholds()) for s in SUBSETS if s}
    )


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """A fusion, the scores of each layer for three events, the speaking layers, and the host."""
    columns = {layer: draw(COLUMN) for layer in LAYERS}
    return World(
        draw(fusions()),
        columns,
        draw(st.sampled_from(SUBSETS)),
        draw(st.none() | COLUMN),
        draw(st.floats(0, 1)),
        draw(st.floats(0, 2)),
    )


@dataclass(frozen=True)
class World:
    """Input of one fusion.

    Attributes:
        columns: scores of each layer, also of silent ones.
        speaking: the layers that speak.
        posture: scores of the three hosts, None if that layer is silent.
    """

    fusion: Fusion
    columns: Mapping[str, NDArray[np.float64]]
    speaking: tuple[str, ...]
    posture: NDArray[np.float64] | None = None
    min_coverage: float = 0.5
    posture_bound: float = POSTURE_BOUND

    def opinions(self) -> list[LayerScores]:
        size = len(next(iter(self.columns.values())))
        opinions = [
            live(layer, column)
            if layer in self.speaking
            else LayerScores.silent(
                layer, LayerStatus.FALLBACK, size, "ARTIFACT_MISSING", score=0.1
            )
            for layer, column in self.columns.items()
        ]
        host = (
            LayerScores.silent(RESILIENCE, LayerStatus.STALE, size, "", score=0.5)
            if self.posture is None
            else live(RESILIENCE, self.posture)
        )
        return [*opinions, host]

    def verdicts(self, opinions: list[LayerScores] | None = None) -> Verdicts:
        return self.fusion.fuse(
            opinions or self.opinions(),
            min_coverage=self.min_coverage,
            posture_bound=self.posture_bound,
        )


def live(
    layer: str, scores: NDArray[np.float64], status: LayerStatus = LayerStatus.LIVE
) -> LayerScores:
    return LayerScores(layer, status, "1", "default/1", scores.copy())


def same(one: Verdicts, other: Verdicts) -> bool:
    columns = ("score", "low", "high")
    words = ("label", "severity", "coverage", "degraded", "status")
    return all(np.array_equal(getattr(one, c), getattr(other, c)) for c in columns) and all(
        getattr(one, w) == getattr(other, w) for w in words
    )


@pytest.fixture
def fusion() -> Fusion:
    return Fusion(
        {"anomaly": 0.5, "behavior": 0.3, "logs": 0.2},
        1.0,
        {layer_set(s): MILD for s in SUBSETS if s},
    )


@pytest.fixture
def calm() -> Mapping[str, NDArray[np.float64]]:
    """Three events that every layer rates as benign."""
    return {layer: np.full(3, 0.003) for layer in LAYERS}


# promise 11


@given(worlds())
def test_every_score_is_finite_and_lies_between_its_bounds(world: World) -> None:
    """P11."""
    verdicts = world.verdicts()

    assert np.isfinite([verdicts.score, verdicts.low, verdicts.high]).all()
    assert (verdicts.low >= 0.0).all()
    assert (verdicts.high <= 1.0).all()
    assert (verdicts.low <= verdicts.score).all()
    assert (verdicts.score <= verdicts.high).all()


@given(worlds(), st.data())
def test_the_score_never_falls_when_a_layers_score_rises(world: World, data: st.DataObject) -> None:
    """P11: also for the posture of the host."""
    layer = data.draw(
        st.sampled_from(
            [*world.speaking, *([RESILIENCE] if world.posture is not None else [])] or [None]
        )
    )
    if layer is None:
        return
    before = world.posture if layer == RESILIENCE else world.columns[layer]
    risen = np.maximum(before, data.draw(COLUMN))
    louder = (
        replace(world, posture=risen)
        if layer == RESILIENCE
        else replace(world, columns={**world.columns, layer: risen})
    )

    quiet, loud = world.verdicts(), louder.verdicts()

    assert (loud.score >= quiet.score - 1e-12).all()
    assert (loud.low >= quiet.low - 1e-12).all()
    assert (loud.high >= quiet.high - 1e-12).all()


@given(worlds(), st.permutations(range(4)))
def test_the_order_of_the_opinions_changes_nothing(world: World, order: list[int]) -> None:
    """P11: replicas answer in any order."""
    opinions = world.opinions()

    shuffled, ordered = world.verdicts([opinions[i] for i in order]), world.verdicts(opinions)

    assert shuffled.score == pytest.approx(ordered.score, abs=1e-12)
    assert shuffled.low == pytest.approx(ordered.low, abs=1e-12)
    assert shuffled.high == pytest.approx(ordered.high, abs=1e-12)
    assert (shuffled.coverage, shuffled.degraded, shuffled.status) == (
        ordered.coverage,
        ordered.degraded,
        ordered.status,
    )


def test_the_order_of_the_opinions_changes_not_even_the_last_bit() -> None:
    """The order of answers must not move a score across a threshold."""
    fusion = Fusion({"anomaly": 4 / 9, "behavior": 3 / 9, "logs": 2 / 9}, 1.0, {})
    world = World(
        fusion, {"anomaly": np.zeros(1), "behavior": np.ones(1), "logs": np.zeros(1)}, LAYERS
    )

    assert (
        len(
            {world.verdicts(list(opinions)).score[0] for opinions in permutations(world.opinions())}
        )
        == 1
    )


@given(worlds())
def test_an_event_gets_the_same_answer_alone_as_in_a_batch(world: World) -> None:
    """P11, P15: the micro-batcher forms batches at will."""
    together = world.verdicts()

    for row in range(3):
        posture = None if world.posture is None else world.posture[row : row + 1]
        alone = replace(
            world,
            columns={layer: column[row : row + 1] for layer, column in world.columns.items()},
            posture=posture,
        ).verdicts()
        assert alone.score[0] == pytest.approx(together.score[row], abs=1e-12)
        assert (alone.label[0], alone.severity[0], alone.coverage) == (
            together.label[row],
            together.severity[row],
            together.coverage,
        )


# promise 12


@given(worlds(), st.lists(st.tuples(*[SCORE] * 4), min_size=1, max_size=8))
def test_the_score_is_between_the_bounds_for_any_answer_of_the_silent_layers(
    world: World, guesses: list[tuple[float, ...]]
) -> None:
    """P12: `low` and `high` bound every possible answer, so many are tried, with the extremes."""
    verdicts = world.verdicts()

    for guess in [*guesses, *product((0.0, 1.0), repeat=4)]:
        pairs = zip(world.columns.items(), guess, strict=False)
        filled = {
            layer: column if layer in world.speaking else np.full(3, value)
            for (layer, column), value in pairs
        }
        posture = np.full(3, guess[3]) if world.posture is None else world.posture
        complete = replace(world, columns=filled, speaking=LAYERS, posture=posture).verdicts()
        assert (complete.score >= verdicts.low - 1e-9).all()
        assert (complete.score <= verdicts.high + 1e-9).all()


@given(worlds(), COLUMN)
def test_what_a_silent_layer_shows_weighs_nothing(world: World, shown: NDArray[np.float64]) -> None:
    """P12: the 0.0 that a broken layer displays is no evidence of innocence."""
    opinions = [
        LayerScores(o.layer, o.status, "", "", shown.copy()) if not o.speaks else o
        for o in world.opinions()
    ]

    assert same(world.verdicts(opinions), world.verdicts())


@pytest.mark.parametrize("status", SILENT)
@pytest.mark.parametrize("speaking", EVERY_SUBSET)
def test_coverage_is_the_share_of_the_ensemble_that_spoke(
    fusion: Fusion,
    calm: Mapping[str, NDArray[np.float64]],
    speaking: tuple[str, ...],
    status: LayerStatus,
) -> None:
    """P12: all subsets of layers, silent for every reason."""
    opinions = [
        live(layer, column) if layer in speaking else LayerScores.silent(layer, status, 3, "why")
        for layer, column in calm.items()
    ]

    verdicts = fusion.fuse(opinions, min_coverage=0.5, posture_bound=POSTURE_BOUND)

    assert verdicts.coverage == pytest.approx(sum(fusion.shares[layer] for layer in speaking))
    is_outage = set(speaking) != set(LAYERS) and status is not LayerStatus.UNINFORMED
    assert verdicts.degraded == is_outage
    assert (verdicts.label[0] is VerdictLabel.BENIGN) == (verdicts.coverage >= 0.5)
    assert (verdicts.label[0] is VerdictLabel.INDETERMINATE) == (verdicts.coverage < 0.5)


@pytest.mark.parametrize("speaking", EVERY_SUBSET)
def test_a_missing_opinion_counts_like_an_abstention(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]], speaking: tuple[str, ...]
) -> None:
    """P12: a lost opinion must not raise the coverage."""
    abstaining = World(fusion, calm, speaking)
    lost = abstaining.verdicts(
        [o for o in abstaining.opinions() if o.speaks or o.layer == RESILIENCE]
    )

    assert (lost.coverage, lost.degraded, lost.label) == (
        abstaining.verdicts().coverage,
        abstaining.verdicts().degraded,
        abstaining.verdicts().label,
    )
    assert np.array_equal(lost.low, abstaining.verdicts().low)
    assert np.array_equal(lost.high, abstaining.verdicts().high)


@given(worlds())
def test_below_the_minimal_coverage_nothing_is_called_benign(world: World) -> None:
    """P12."""
    verdicts = world.verdicts()

    if verdicts.coverage < world.min_coverage:
        assert set(verdicts.label) == {VerdictLabel.INDETERMINATE}
    if verdicts.coverage == 0.0:
        assert VerdictLabel.BENIGN not in verdicts.label


def test_a_complete_ensemble_is_never_below_the_minimal_coverage(
    calm: Mapping[str, NDArray[np.float64]],
) -> None:
    """P11, P12: rounded shares must sum to a `min_coverage` of 1 in any order."""
    fusion = Fusion(
        {"anomaly": 4 / 9, "behavior": 3 / 9, "logs": 2 / 9}, 1.0, {layer_set(LAYERS): MILD}
    )

    every = [
        fusion.fuse(
            [live(layer, calm[layer]) for layer in order],
            min_coverage=1.0,
            posture_bound=POSTURE_BOUND,
        )
        for order in permutations(LAYERS)
    ]

    assert {(verdicts.coverage, *verdicts.label) for verdicts in every} == {
        (1.0, *[VerdictLabel.BENIGN] * 3)
    }


@given(fusions(), COLUMN, st.floats(0, 2))
def test_when_nothing_spoke_the_score_is_the_prior_moved_by_the_host(
    fusion: Fusion, posture: NDArray[np.float64], bound: float
) -> None:
    """RESILIENCE_SCORING_ONLY: a score without a verdict."""
    silent = {layer: np.zeros(3) for layer in LAYERS}
    only_host = World(fusion, silent, (), posture, 0.0, bound).verdicts()
    no_host = World(fusion, silent, (), None, 0.0, bound).verdicts()

    assert no_host.score == pytest.approx(0.01)
    assert set(only_host.label) == set(no_host.label) == {VerdictLabel.INDETERMINATE}
    assert (only_host.coverage, only_host.status) == (0.0, SystemStatus.FALLBACK_MODE)
    assert (np.sign(np.round(only_host.score - no_host.score, 12)) * (posture - 0.5) >= 0).all()


def test_when_nothing_spoke_the_severity_is_unknown_and_not_low(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    """P12: `low` would seem harmless."""
    assert set(World(fusion, calm, ()).verdicts().severity) == {Severity.UNKNOWN}


# the posture of the host


@given(worlds().filter(lambda world: world.speaking), COLUMN, st.floats(0.5, 0.999))
def test_the_host_can_never_turn_malicious_into_benign(
    world: World, posture: NDArray[np.float64], narrow: float
) -> None:
    """DESIGN section 4: for any configured bound, and thresholds at any distance."""
    neutral = replace(world, posture=np.full(3, 0.5), min_coverage=0.0, posture_bound=2.0)
    malicious = neutral.verdicts().score.min() * 0.999  # all three events lie just above
    limits = {layer_set(world.speaking): Thresholds(malicious * narrow, malicious, malicious)}
    neutral = replace(neutral, fusion=replace(world.fusion, thresholds=limits))

    before, after = neutral.verdicts(), replace(neutral, posture=posture).verdicts()

    assert set(before.label) == {VerdictLabel.MALICIOUS}
    assert VerdictLabel.BENIGN not in after.label


@given(worlds(), COLUMN)
def test_the_host_moves_the_score_by_no_more_than_the_bound(
    world: World, posture: NDArray[np.float64]
) -> None:
    def odds(world: World) -> NDArray[np.float64]:
        score = np.clip(world.verdicts().score, 1e-9, 1 - 1e-9)
        return np.log(score) - np.log1p(-score)

    neutral = odds(replace(world, posture=np.full(3, 0.5)))
    inside = (
        np.abs(neutral) < 15
    )  # farther out a float64 probability has no room for the difference

    moved = np.abs(odds(replace(world, posture=posture)) - neutral)[inside]

    assert (moved <= world.posture_bound + 1e-3).all()


@given(worlds())
def test_an_unknown_host_changes_nothing(world: World) -> None:
    unknown, silent = (
        replace(world, posture=np.full(3, 0.5)).verdicts(),
        replace(world, posture=None).verdicts(),
    )

    assert unknown.score == pytest.approx(silent.score, abs=1e-12)
    assert (unknown.coverage, unknown.status) == (silent.coverage, silent.status)


@given(worlds(), COLUMN)
def test_a_silent_posture_layer_is_inside_the_bounds(
    world: World, posture: NDArray[np.float64]
) -> None:
    """`low` and `high` include the host."""
    silent, speaking = (
        replace(world, posture=None).verdicts(),
        replace(world, posture=posture).verdicts(),
    )

    assert (speaking.score >= silent.low - 1e-12).all()
    assert (speaking.score <= silent.high + 1e-12).all()


def test_a_silent_posture_layer_is_degraded_and_costs_no_coverage(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    verdicts = World(fusion, calm, LAYERS, None).verdicts()

    assert (verdicts.coverage, verdicts.degraded, verdicts.status) == (
        1.0,
        True,
        SystemStatus.FULLY_OPERATIONAL,
    )


def test_a_layer_of_another_kind_of_event_is_not_missed(
    calm: Mapping[str, NDArray[np.float64]],
) -> None:
    """`not_applicable` is outside the denominator."""
    fusion = Fusion({"anomaly": 1.0}, 1.0, {"anomaly": MILD})
    other = LayerScores.silent(
        "behavior", LayerStatus.NOT_APPLICABLE, 3, "has no opinion on process events"
    )

    verdicts = fusion.fuse(
        [live("anomaly", calm["anomaly"]), other], min_coverage=0.5, posture_bound=POSTURE_BOUND
    )

    assert (verdicts.coverage, verdicts.degraded, verdicts.status) == (
        1.0,
        False,
        SystemStatus.FULLY_OPERATIONAL,
    )


@pytest.mark.parametrize("status", SILENT)
def test_a_layer_without_a_share_is_shown_and_changes_nothing(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]], status: LayerStatus
) -> None:
    """A new detector weighs nothing until it is calibrated, so its failure degrades nothing."""
    opinions = World(fusion, calm, LAYERS, np.full(3, 0.5)).opinions()
    shown = LayerScores.silent("extremes", status, 3, "why")

    alone = fusion.fuse(opinions, min_coverage=0.5, posture_bound=POSTURE_BOUND)
    beside = fusion.fuse([*opinions, shown], min_coverage=0.5, posture_bound=POSTURE_BOUND)

    assert same(alone, beside)
    assert beside.layers[-1] is shown
    assert not beside.degraded


def test_a_layer_without_a_share_alone_is_no_evidence(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    opinions = World(fusion, calm, ()).opinions()
    speaking = live("extremes", np.ones(3))

    verdicts = fusion.fuse([*opinions, speaking], min_coverage=0.5, posture_bound=POSTURE_BOUND)

    assert (verdicts.coverage, verdicts.status) == (0.0, SystemStatus.FALLBACK_MODE)


# verdict and severity


@given(COLUMN)
def test_without_a_fitted_fusion_every_verdict_is_indeterminate(
    column: NDArray[np.float64],
) -> None:
    """The builtin shares are not validated: no coverage, and the answer is degraded."""
    builtin = Fusion.builtin(LAYERS)

    verdicts = builtin.fuse(
        [live(layer, column) for layer in LAYERS], min_coverage=0.0, posture_bound=POSTURE_BOUND
    )

    assert set(verdicts.label) == {VerdictLabel.INDETERMINATE}
    assert (verdicts.coverage, verdicts.degraded) == (0.0, True)
    assert ((verdicts.score >= 0) & (verdicts.score <= 1)).all()


def test_a_builtin_rule_with_thresholds_is_indeterminate_still(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    assert set(World(replace(fusion, source="builtin"), calm, LAYERS).verdicts().label) == {
        VerdictLabel.INDETERMINATE
    }


@pytest.mark.parametrize("speaking", [p for p in EVERY_SUBSET if p.values[0]])
def test_each_set_of_speaking_layers_has_thresholds_of_its_own(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]], speaking: tuple[str, ...]
) -> None:
    """One layer alone is noisier than three: shared thresholds would raise false positives."""
    strict = replace(
        fusion,
        thresholds=dict(fusion.thresholds) | {layer_set(speaking): Thresholds(1e-6, 2e-6, 3e-6)},
    )
    loud = [
        subset
        for subset in SUBSETS
        if set(World(strict, calm, subset, min_coverage=0.0).verdicts().label)
        == {VerdictLabel.MALICIOUS}
    ]

    assert loud == [speaking]


def test_without_thresholds_for_the_speaking_layers_there_is_no_verdict(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    unfitted = replace(fusion, thresholds={"anomaly": MILD})

    assert set(World(unfitted, calm, LAYERS).verdicts().label) == {VerdictLabel.INDETERMINATE}


@given(worlds())
def test_labels_and_severities_rise_with_the_score_and_agree(world: World) -> None:
    """Both use the same quantiles; a score exceeds a threshold if it is strictly above it."""
    limits = world.fusion.thresholds.get(layer_set(world.speaking))
    verdicts = replace(world, min_coverage=0.0).verdicts()
    if limits is None:
        return

    levels = [
        sum(score > t for t in (limits.suspicious, limits.malicious, limits.critical))
        for score in verdicts.score
    ]

    assert [list(Severity).index(s) for s in verdicts.severity] == levels
    assert [
        (
            VerdictLabel.BENIGN,
            VerdictLabel.SUSPICIOUS,
            VerdictLabel.MALICIOUS,
            VerdictLabel.MALICIOUS,
        )[n]
        for n in levels
    ] == list(verdicts.label)


@pytest.mark.parametrize("status", [LayerStatus.LAST_GOOD, LayerStatus.RULES])
def test_an_older_proven_model_and_written_rules_count_like_a_live_one(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]], status: LayerStatus
) -> None:
    spoken = fusion.fuse(
        [live(layer, column, status) for layer, column in calm.items()],
        min_coverage=0.5,
        posture_bound=POSTURE_BOUND,
    )

    assert same(
        spoken,
        fusion.fuse(
            [live(layer, column) for layer, column in calm.items()],
            min_coverage=0.5,
            posture_bound=POSTURE_BOUND,
        ),
    )


def test_every_opinion_is_in_the_answer(
    fusion: Fusion, calm: Mapping[str, NDArray[np.float64]]
) -> None:
    opinions = World(fusion, calm, ("anomaly",)).opinions()

    assert fusion.fuse(opinions, min_coverage=0.5, posture_bound=POSTURE_BOUND).layers == tuple(
        opinions
    )


# what the evidence means


def test_layers_that_agree_and_are_loud_make_a_loud_score(fusion: Fusion) -> None:
    """Direction: all at the top is malicious, all at the bottom is benign."""
    loud, quiet = ({layer: np.full(3, value) for layer in LAYERS} for value in (0.9975, 0.0025))

    assert set(World(fusion, loud, LAYERS).verdicts().label) == {VerdictLabel.MALICIOUS}
    assert set(World(fusion, quiet, LAYERS).verdicts().label) == {VerdictLabel.BENIGN}


def test_layers_at_the_prior_leave_the_score_at_the_prior(fusion: Fusion) -> None:
    """A calibrated 1 % is no evidence."""
    nothing = {layer: np.full(3, 0.01) for layer in LAYERS}

    assert World(fusion, nothing, LAYERS).verdicts().score == pytest.approx(0.01)


# the file


@given(fusions())
def test_a_fusion_comes_back_from_json_equal(fusion: Fusion) -> None:
    again = Fusion.from_config(json.loads(json.dumps(fusion.to_config())))

    assert again == fusion


GOOD: dict[str, Any] = {
    "shares": {"anomaly": 0.6, "behavior": 0.4},
    "sharpness": 1.5,
    "thresholds": {"anomaly": {"suspicious": 0.1, "malicious": 0.5, "critical": 0.9}},
}


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.pop(name)


def _with(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.update(changes)


def _limits(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda config: config["thresholds"]["anomaly"].update(changes)


REFUSED = [
    pytest.param(_without("shares"), id="no shares"),
    pytest.param(_without("sharpness"), id="no sharpness"),
    pytest.param(_without("thresholds"), id="no thresholds"),
    pytest.param(_with(shares={}), id="no layer"),
    pytest.param(_with(shares={"anomaly": 0.6, "behavior": 0.6}), id="shares above 1"),
    pytest.param(_with(shares={"anomaly": 1.5, "behavior": -0.5}), id="a negative share"),
    pytest.param(_with(shares={"anomaly": float("nan"), "behavior": 0.4}), id="a share of NaN"),
    pytest.param(_with(shares={"anomaly": 0.6, "behavior": "nan"}), id="a share of NaN in words"),
    pytest.param(_with(shares=[0.6, 0.4]), id="shares without names"),
    pytest.param(_with(shares={"anomaly": None}), id="a share of nothing"),
    pytest.param(_with(sharpness=0.0), id="sharpness 0"),
    pytest.param(_with(sharpness=-1.0), id="sharpness below 0"),
    pytest.param(_with(sharpness=float("inf")), id="sharpness infinite"),
    pytest.param(_with(sharpness=float("nan")), id="sharpness NaN"),
    pytest.param(_with(thresholds=[1]), id="thresholds without names"),
    pytest.param(_with(thresholds={"anomaly": {"suspicious": 0.1}}), id="a threshold short"),
    pytest.param(_limits(suspicious=0.6), id="thresholds that fall"),
    pytest.param(_limits(critical=1.0), id="a threshold of 1"),
    pytest.param(_limits(suspicious=0.0), id="a threshold of 0"),
    pytest.param(_limits(malicious=float("nan")), id="a threshold of NaN"),
    pytest.param(_limits(extra=1.0), id="a threshold that nobody knows"),
    pytest.param(_limits(suspicious="0.1"), id="a threshold in words"),
]


@pytest.mark.parametrize("spoil", REFUSED)
def test_an_invalid_fusion_is_rejected(spoil: Callable[[dict[str, Any]], object]) -> None:
    """A release may be hostile: a negative share would turn the loudest layer into an alibi."""
    config = json.loads(json.dumps(GOOD))
    spoil(config)

    with pytest.raises(ArtifactIncompatible):
        Fusion.from_config(config)


def test_the_base_of_the_invalid_cases_is_accepted() -> None:
    assert Fusion.from_config(GOOD).shares == GOOD["shares"]


def test_the_name_of_a_set_of_layers_does_not_depend_on_their_order() -> None:
    assert layer_set(["logs", "anomaly"]) == layer_set(("anomaly", "logs")) == "anomaly+logs"


def test_the_fallback_score_of_behavior_lies_below_the_threshold_of_the_compatibility_view() -> (
    None
):
    """S0-11: the displayed 0.1 must not look malicious at the threshold of that view, 0.95."""
    # the one test here that needs it
    from ensemble.layers.catalog import LAYERS as PLANS  # noqa: PLC0415

    compatibility_threshold = 0.95

    assert PLANS["behavior"].fallback_score == 0.1
    assert PLANS["behavior"].fallback_score < compatibility_threshold
