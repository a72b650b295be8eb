"""Recipe of the flow ensemble on small synthetic data: deterministic, nested, and three models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any, cast

import numpy as np
import pytest
import torch

from ensemble.errors import ArtifactIncompatible, TrainingError
from ensemble.events import FlowBatch, ProcessBatch, ProcessEvent
from ensemble.fusion import Fusion
from ensemble.layers.attack_classes import BENIGN_CLASS, UNKNOWN_CLASS
from ensemble.layers.behavior import margin
from ensemble.layers.flow_anomaly import DETECTORS
from ensemble.model import Parts
from ensemble.store.bundles.codecs import decode_parts, encode_parts
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.evaluation import evaluate
from ensemble.training.evaluation.evaluate import FUSED, evaluate_layers, leave_families_out
from ensemble.training.recipes import flow_ensemble
from ensemble.training.recipes.behavior import fit_behavior, synthetic_flows
from ensemble.training.recipes.flow_anomaly import LIMIT, fit_surprises, time_folds
from ensemble.training.recipes.flow_ensemble import (
    LAYER_NAMES,
    FlowLayers,
    FlowModel,
    InnerFit,
    UnseenScores,
    fit_flows,
    fit_on_benign,
    stretches,
)

EACH = [pytest.param(layer, id=layer) for layer in LAYER_NAMES]


@pytest.fixture
def model(layers: FlowLayers, request: pytest.FixtureRequest) -> FlowModel:
    return layers.models[request.param]


each_model = pytest.mark.parametrize("model", EACH, indirect=True)


# what every model promises


@each_model
def test_every_score_is_finite_and_calibrated(model: FlowModel, fresh_batch: FlowBatch) -> None:
    """P11."""
    scores = model.score(fresh_batch).scores

    assert (scores.shape, scores.dtype) == ((len(fresh_batch),), np.float64)
    assert ((scores >= 0.0024) & (scores <= 0.9976)).all()


@each_model
def test_a_flow_scores_the_same_alone_as_in_a_batch(model: FlowModel, fresh: FlowTable) -> None:
    """P15: within 1e-6 on a CPU."""
    together = model.score(fresh.batch()).scores

    alone = [
        model.score(fresh.select(np.array([row])).batch()).scores[0]
        for row in range(0, len(fresh), 5)
    ]

    assert alone == pytest.approx(together[::5].tolist(), abs=1e-6)


@each_model
def test_the_same_batch_scores_bit_by_bit_the_same_again(
    model: FlowModel, fresh_batch: FlowBatch
) -> None:
    """P15."""
    assert np.array_equal(model.score(fresh_batch).scores, model.score(fresh_batch).scores)


@each_model
def test_no_flow_is_no_error(model: FlowModel, fresh: FlowTable) -> None:
    assert model.score(fresh.select(np.empty(0, np.intp)).batch()).scores.shape == (0,)


@each_model
def test_a_model_of_flows_does_not_score_processes(model: FlowModel) -> None:
    with pytest.raises(TypeError, match="process"):
        model.score(ProcessBatch.of([ProcessEvent("cmd.exe")]))


@each_model
def test_attacks_score_higher_than_benign_flows(model: FlowModel, fresh: FlowTable) -> None:
    """Direction: the sign of scikit-learn is inverted exactly once."""
    scores = model.score(fresh.batch()).scores

    assert np.median(scores[fresh.is_hostile]) > np.median(scores[~fresh.is_hostile])


@each_model
def test_explaining_changes_no_score_and_explains_every_flow(
    model: FlowModel, fresh_batch: FlowBatch
) -> None:
    plain, explained = model.score(fresh_batch), model.score(fresh_batch, explain=True)

    assert plain.details == {}
    assert np.array_equal(plain.scores, explained.scores)
    assert {"Flow Duration", "Total Fwd Packets"} <= set(explained.details)
    assert all(len(column) == len(fresh_batch) for column in explained.details.values())
    assert not {"Destination Port", "Fwd Header Length.1"} & set(explained.details)


@each_model
def test_a_model_comes_back_from_the_bytes_of_its_parts_equal(
    model: FlowModel, fresh_batch: FlowBatch
) -> None:
    """Arrays and JSON: no pickle, and nothing is lost in a bundle."""
    again = type(model).from_parts(decode_parts(encode_parts(model.to_parts())))

    assert np.array_equal(again.score(fresh_batch).scores, model.score(fresh_batch).scores)


# hostile parts


def _drop(name: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda arrays, config: (arrays if name in arrays else config).pop(name)


def _array(
    name: str, change: Callable[[np.ndarray], np.ndarray]
) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda arrays, _: arrays.update({name: change(arrays[name].copy())})


def _config(**changes: Any) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    return lambda _, config: config.update(changes)


def _filled(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


FALLING = {"raw": [0.0, 1.0], "log_odds": [1.0, 0.0]}
HOSTILE_ANOMALY = [
    pytest.param(_drop("forest.feature"), id="no forest"),
    pytest.param(_drop("subspace.centre"), id="no subspace"),
    pytest.param(_drop("codebook.centres"), id="no codebook"),
    pytest.param(_drop("scaler.spread"), id="no scaler"),
    pytest.param(_drop("calibration"), id="no calibration"),
    pytest.param(_drop("limit"), id="no limit"),
    pytest.param(_drop("weights"), id="no weights"),
    pytest.param(_array("forest.feature", _filled(76)), id="a column past the end"),
    pytest.param(_array("forest.threshold", _filled(np.nan)), id="a cut of NaN"),
    pytest.param(_array("codebook.centres", lambda a: a[:, :-1]), id="a codebook of 75 features"),
    pytest.param(_array("codebook.centres", lambda a: a.ravel()), id="a codebook of one dimension"),
    pytest.param(_array("subspace.directions", lambda a: 2 * a), id="directions of length 2"),
    pytest.param(
        _array("subspace.directions", lambda a: a[:, :-1]), id="directions of 75 features"
    ),
    pytest.param(_config(weights={"codebook": 1.0}), id="a weight short"),
    pytest.param(_config(weights=dict.fromkeys(DETECTORS, 0.0)), id="weights all 0"),
    pytest.param(_config(weights=dict.fromkeys(DETECTORS, -1.0)), id="weights below 0"),
    pytest.param(_config(weights=dict.fromkeys(DETECTORS, "nan")), id="weights of NaN"),
    pytest.param(_config(weights=[0.6, 0.3, 0.1]), id="weights without names"),
    pytest.param(_config(surprises={}), id="no scales"),
    pytest.param(_config(calibration=FALLING), id="a calibration that falls"),
    pytest.param(_config(calibration=None), id="a calibration of nothing"),
]
HOSTILE_CLASSIFIER = [
    pytest.param(_drop("random_forest.feature"), id="no cuts"),
    pytest.param(_drop("random_forest.votes"), id="no votes"),
    pytest.param(_drop("hist_gradient_boosting.base"), id="no base"),
    pytest.param(_drop("scaler.centre"), id="no scaler"),
    pytest.param(_drop("calibration"), id="no calibration"),
    pytest.param(_drop("labels"), id="no labels"),
    pytest.param(_drop("models"), id="no names of models"),
    pytest.param(_drop("missing"), id="no word on what is missing"),
    pytest.param(_config(models=["decision_tree", "hist_gradient_boosting"]), id="no forest"),
    pytest.param(_config(models=["random_forest", "oracle"]), id="a model that nobody knows"),
    pytest.param(_config(missing={}), id="a model that is neither there nor missing"),
    pytest.param(_config(missing=["xgboost"]), id="missing without a reason"),
    pytest.param(_config(labels=["BENIGN", "Flood"]), id="labels short"),
    pytest.param(
        _config(labels=["Flood", "BENIGN", "Beacon", "Scan", "unknown"]), id="benign is not first"
    ),
    pytest.param(
        _config(labels=["BENIGN", "Scan", "Beacon", "Scan", "unknown"]), id="a label twice"
    ),
    pytest.param(_config(calibration=FALLING), id="a calibration that falls"),
    pytest.param(_array("random_forest.votes", _filled(np.nan)), id="a vote of NaN"),
    pytest.param(
        _array("random_forest.votes", lambda a: np.eye(a.shape[1], dtype=a.dtype)[[0] * len(a)]),
        id="a leaf that is sure",
    ),
]
HOSTILE_BEHAVIOR = [
    pytest.param(_drop("network.weights.0"), id="no first level"),
    pytest.param(_drop("network.biases.1"), id="no bias"),
    pytest.param(_drop("scaler.centre"), id="no scaler"),
    pytest.param(_drop("calibration"), id="no calibration"),
    pytest.param(_drop("classes"), id="no classes"),
    pytest.param(_config(classes=["BENIGN"]), id="classes short"),
    pytest.param(
        _config(classes=["Flood", "BENIGN", "Beacon", "Scan", "unknown"]), id="benign is not first"
    ),
    pytest.param(_config(classes=7), id="a number of classes"),
    pytest.param(_config(classes=None), id="classes of nothing"),
    pytest.param(_config(calibration=FALLING), id="a calibration that falls"),
    pytest.param(_array("network.weights.0", lambda a: a[:, :-1]), id="75 features"),
    pytest.param(_array("network.weights.0", lambda a: a[0]), id="no heads"),
    pytest.param(_array("network.weights.1", lambda a: a[:, :-1]), id="levels that do not chain"),
    pytest.param(_array("network.weights.2", lambda a: a[..., :-1]), id="a class short"),
    pytest.param(_array("network.biases.0", lambda a: a[..., :-1]), id="a bias short"),
    pytest.param(
        lambda arrays, _: arrays.update({"network.extra": np.zeros(1)}),
        id="an array that nobody knows",
    ),
]


@pytest.mark.parametrize(
    ("layer", "spoil"),
    [
        pytest.param("anomaly", *p.values, id=f"anomaly-{p.id}", marks=p.marks)
        for p in HOSTILE_ANOMALY
    ]
    + [
        pytest.param("behavior", *p.values, id=f"behavior-{p.id}", marks=p.marks)
        for p in HOSTILE_BEHAVIOR
    ]
    + [
        pytest.param("classifier", *p.values, id=f"classifier-{p.id}", marks=p.marks)
        for p in HOSTILE_CLASSIFIER
    ],
)
def test_invalid_parts_are_rejected(
    layers: FlowLayers, layer: str, spoil: Callable[[dict[str, Any], dict[str, Any]], object]
) -> None:
    """The contract of `from_parts`: an error that names the part, never one from deep inside."""
    model = layers.models[layer]
    parts = model.to_parts()
    arrays, config = dict(parts.arrays), json.loads(json.dumps(parts.config))
    spoil(arrays, config)

    with pytest.raises(ArtifactIncompatible):
        type(model).from_parts(Parts(arrays, config))


# what each model is


def test_the_raw_score_of_anomaly_is_the_weighted_sum_of_its_detectors_surprise(
    layers: FlowLayers, fresh: FlowTable
) -> None:
    flow_anomaly = layers.anomaly
    raw = flow_anomaly.detectors.raw(fresh.features)

    expected = sum(
        flow_anomaly.weights[name] * flow_anomaly.surprises[name].of(raw[name])
        for name in DETECTORS
    )

    assert flow_anomaly.raw(fresh.features) == pytest.approx(expected)


@pytest.mark.parametrize(
    "weights", [{"isolation": -1.0, "subspace": 1.0, "codebook": 1.0}, {"isolation": 1.0}]
)
def test_an_anomaly_model_has_one_weight_for_each_detector_and_none_below_0(
    layers: FlowLayers, weights: dict[str, float]
) -> None:
    """P11: with a negative weight, a more anomalous flow would score lower."""
    with pytest.raises(ArtifactIncompatible):
        replace(layers.anomaly, weights=weights)


def test_the_network_knows_benign_each_family_and_unknown(layers: FlowLayers) -> None:
    assert layers.behavior.classes == (BENIGN_CLASS, "Beacon", "Flood", "Scan", UNKNOWN_CLASS)


def test_the_margin_is_the_log_odds_of_not_benign_averaged_over_the_heads() -> None:
    logits = torch.tensor(
        [[[1.0, 0.0, 2.0]], [[0.0, 0.0, 0.0]]]
    )  # two heads, one row, three classes
    chances = torch.softmax(logits, dim=-1)[..., 0]

    assert margin(logits).item() == pytest.approx(
        torch.log((1 - chances) / chances).mean().item(), abs=1e-6
    )


def test_synthetic_flows_are_in_range_and_repeat_for_a_seed() -> None:
    benign, hostile = (
        torch.randn(50, 76, generator=torch.Generator().manual_seed(seed)).clamp(-LIMIT, LIMIT)
        for seed in (1, 2)
    )

    one, other = (
        synthetic_flows(benign, hostile, 256, torch.Generator().manual_seed(3)) for _ in range(2)
    )

    assert torch.equal(one, other)
    assert one.abs().max() <= LIMIT
    assert abs(len(one) - 256) <= 8
    assert not torch.isin(one[:, 0], benign[:, 0]).all()


def test_training_the_network_does_not_change_the_global_generator(table: FlowTable) -> None:
    """The seed must not reset the global generator of torch."""
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)

    fit_behavior(table.features, table.families, seed=1, steps=1)

    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "families", [pytest.param({}, id="no attack"), pytest.param({"Flood": 20}, id="no benign flow")]
)
def test_the_network_needs_both_sides(
    make_flows: Callable[..., FlowTable], families: dict[str, int]
) -> None:
    table = make_flows(benign=0 if families else 50, families=families)

    with pytest.raises(TrainingError, match="one of the two is missing"):
        fit_behavior(table.features, table.families, seed=0, steps=1)


# the recipe


@pytest.mark.usefixtures("quick_training")
def test_the_same_flows_and_the_same_seed_give_the_same_ensemble(
    table: FlowTable, layers: FlowLayers, fresh: FlowTable
) -> None:
    """A model that cannot be reproduced cannot be audited."""
    again = fit_flows(table, seed=3)

    assert again.fusion == layers.fusion
    assert all(
        np.array_equal(again.raw(fresh.features)[layer], raw)
        for layer, raw in layers.raw(fresh.features).items()
    )


def test_the_fused_score_finds_the_attacks_of_the_synthetic_data(
    layers: FlowLayers, fresh: FlowTable
) -> None:
    """A sanity check with few steps; tests/quality measures on real flows."""
    figures = evaluate_layers(layers, fresh).overall()

    assert figures[FUSED].auroc >= 0.98
    assert figures["anomaly"].auroc >= 0.9


class FakeLayers:
    """Layers that record what they were fitted on; attacks get higher raw scores."""

    def __init__(self, fitted_on: set[int]) -> None:
        self.fitted_on = fitted_on
        self.scored: set[int] = set()

    def raw(self, features: np.ndarray) -> dict[str, np.ndarray]:
        numbers = features[:, 1].astype(int)  # the recorder writes the number of the flow there
        self.scored |= set(numbers.tolist())
        noise = np.random.default_rng(numbers.size).normal(size=(3, numbers.size))
        return {
            "anomaly": features[:, 0] * 2 + noise[0],
            "behavior": features[:, 0] + noise[1],
            "classifier": features[:, 0] + noise[2],
        }


@pytest.fixture
def numbered(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """Four families; column 0 marks hostile flows, column 1 is the number of the flow."""
    table = make_flows(
        benign=400, families={"Beacon": 30, "Flood": 30, "Scan": 30, "Worm": 30}, seed=4
    )
    features = np.zeros((len(table), 78), np.float32)
    features[:, 0], features[:, 1] = table.is_hostile, np.arange(len(table))
    return replace(table, features=features)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[InnerFit, FakeLayers]]:
    """Record every inner fit of a recipe: what it left out, was fitted on, and scored."""
    made: list[tuple[InnerFit, FakeLayers]] = []

    def record(table: FlowTable, fit: InnerFit, _: int, **__: Any) -> FlowLayers:
        rest = table.select(~np.isin(table.families, fit.without) & ~fit.left_out)
        made.append((fit, FakeLayers(set(rest.features[:, 1].astype(int).tolist()))))
        return cast("FlowLayers", made[-1][1])

    monkeypatch.setattr(flow_ensemble, "fit_layers", record)
    monkeypatch.setattr(evaluate, "BOOTSTRAP_ROUNDS", 3)
    return made


def test_a_fit_uses_only_flows_that_it_does_not_leave_out(
    table: FlowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input of the three recipes in `fit_layers`."""
    calls: dict[str, Any] = {}
    monkeypatch.setattr(
        flow_ensemble,
        "uncalibrated",
        lambda features, times, days, seed: calls.update(
            benign=features, times=times, days=days, seed=seed
        ),
    )
    monkeypatch.setattr(
        flow_ensemble,
        "fit_behavior",
        lambda features, families, seed: calls.update(rest=features, families=families, seed=seed),
    )
    monkeypatch.setattr(
        flow_ensemble,
        "fit_classifier",
        lambda features, families, seed, **_: calls.update(
            rows=features, names=families, third=seed
        ),
    )
    left_out = np.arange(len(table)) % 5 == 0

    flow_ensemble.fit_layers(table, InnerFit(("Scan",), left_out), seed=8)

    rest = (table.families != "Scan") & ~left_out
    assert set(calls["families"]) == {"BENIGN", "Flood", "Beacon"}
    assert np.array_equal(calls["rest"], table.features[rest])
    assert np.array_equal(calls["rows"], table.features[rest])
    assert np.array_equal(calls["names"], table.families[rest])
    assert calls["seed"] == calls["third"] == 8
    assert np.array_equal(calls["benign"], table.features[rest & ~table.is_hostile])


def test_calibration_and_fusion_are_fitted_on_scores_of_unseen_flows(
    numbered: FlowTable, fitted: list[tuple[InnerFit, FakeLayers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each family is left out of one fit; each benign flow is scored once, by a fit without it."""

    class EnoughError(Exception):
        """Ends the recipe after all fits; fitting on their scores is another test."""

    def stop(_: UnseenScores) -> None:
        raise EnoughError

    monkeypatch.setattr(flow_ensemble, "fit_top", stop)

    with pytest.raises(EnoughError):
        fit_flows(numbered, seed=0)

    inner, final = fitted[:-1], fitted[-1]

    assert [fit.without for fit, _ in inner] == [("Beacon",), ("Flood",), ("Scan",), ("Worm",)]
    for fit, fake in inner:
        assert not fake.fitted_on & fake.scored
        assert not np.isin(numbered.families[list(fake.fitted_on)], fit.without).any()
        assert set(np.flatnonzero(numbered.families == fit.without[0])) <= fake.scored
    benign = np.flatnonzero(~numbered.is_hostile)
    assert (
        sorted(n for _, fake in inner for n in fake.scored if n in set(benign)) == benign.tolist()
    )
    assert final[1].fitted_on == set(range(len(numbered)))


def test_a_family_is_left_out_of_the_layers_the_calibration_and_the_fusion(
    numbered: FlowTable, fitted: list[tuple[InnerFit, FakeLayers]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested: fits without the family, from scores without it, on none of the evaluation flows."""
    tops = []
    honest = flow_ensemble.fit_top
    monkeypatch.setattr(
        evaluate,
        "fit_top",
        lambda scores: (tops.append(set(scores.families.tolist())), honest(scores))[1],
    )

    figures = leave_families_out(numbered, 0, lambda *_: None, jobs=1)

    families = ["Beacon", "Flood", "Scan", "Worm"]
    benign = np.flatnonzero(~numbered.is_hostile)
    judging = set(benign[numbered.select(benign).split_by_time(0.7)[1]].tolist())
    assert sorted(fit.without for fit, _ in fitted) == sorted(
        [*combinations(families, 2), *((f,) for f in families)]
    )
    assert all(
        not np.isin(numbered.families[list(fake.fitted_on)], fit.without).any()
        for fit, fake in fitted
    )
    assert all(
        not fake.fitted_on & judging and not fake.fitted_on & fake.scored for _, fake in fitted
    )
    assert [set(families) - families_seen for families_seen in tops] == [
        {family} for family in families
    ]
    assert set(figures.families) == set(families)
    assert set(figures.versus_best) == {"auroc", "tpr_at_1_fpr"}


@pytest.mark.parametrize("teams", range(2, 12))
def test_the_pairs_of_one_family_leave_out_stretches_that_are_all_different(teams: int) -> None:
    """A round-robin tournament: the calibration for a family has every benign flow once."""
    colour, rounds = evaluate._rounds(teams)

    for team in range(teams):
        met = [
            colour[min(team, other), max(team, other)] for other in range(teams) if other != team
        ]
        assert len(set(met)) == teams - 1
        assert set(met) <= set(range(rounds))
    assert rounds in {teams - 1, teams}


def test_stretches_are_contiguous_in_time_within_each_day_and_label(table: FlowTable) -> None:
    """Neighbours in time are alike; random folds would give too good a result."""
    stretch = stretches(table, 3)

    for day in set(table.days.tolist()):
        for family in set(table.families.tolist()):
            rows = np.flatnonzero((table.days == day) & (table.families == family))
            with_timeout = stretch[rows[np.argsort(table.times[rows])]]
            assert (np.diff(with_timeout) >= 0).all()
            assert set(with_timeout.tolist()) == {0, 1, 2}


def test_rows_without_times_stay_in_their_order() -> None:
    assert time_folds(np.full(6, ""), np.full(6, ""), 3).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.usefixtures("quick_training")
def test_the_scales_of_surprise_come_from_detectors_fitted_without_the_flow(
    table: FlowTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detectors rate their own training flows as ordinary, so that the scale would be too low."""
    # the page under test, for its names
    from ensemble.training.recipes import flow_anomaly  # noqa: PLC0415

    benign = table.select(~table.is_hostile)
    fitted_rows: list[np.ndarray] = []
    honest = flow_anomaly.fit_detectors
    monkeypatch.setattr(
        flow_anomaly,
        "fit_detectors",
        lambda rows, seed: (fitted_rows.append(rows), honest(rows, seed))[1],
    )
    folds = np.arange(len(benign)) % 2

    fit_surprises(benign.features, folds, seed=0)

    assert [
        np.array_equal(rows, benign.features[folds != fold])
        for fold, rows in enumerate(fitted_rows)
    ] == [True, True]


@pytest.mark.parametrize(
    ("benign", "families", "message"),
    [
        pytest.param(420, {"Flood": 50}, "two attack families", id="one family"),
        pytest.param(420, {}, "two attack families", id="no attack"),
        pytest.param(110, {"Flood": 30, "Scan": 30}, "benign flows", id="too few benign flows"),
    ],
)
@pytest.mark.usefixtures("quick_training")
def test_flows_that_do_not_suffice_are_rejected(
    make_flows: Callable[..., FlowTable], benign: int, families: dict[str, int], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        fit_flows(make_flows(benign=benign, families=families), seed=0)


# one's own traffic


@pytest.fixture(scope="module")
def own(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """Benign flows of another network: longer, larger."""
    table = make_flows(benign=300, families={}, seed=21)
    return replace(table, features=table.features * np.float32(2.0))


@pytest.fixture(scope="module")
def base(layers: FlowLayers) -> FlowLayers:
    """The current ensemble, with a fusion whose scores leave room above.

    300 flows set the rarest threshold far beyond the last of them.
    """
    assert layers.fusion is not None
    return replace(layers, fusion=replace(layers.fusion, sharpness=0.5))


@pytest.fixture(scope="module")
# asked for by its effect
def adapted(own: FlowTable, base: FlowLayers, quick_training: None) -> FlowLayers:  # noqa: ARG001
    return fit_on_benign(own, base, seed=5)


def test_training_on_own_benign_flows_carries_over_the_labelled_fit(
    adapted: FlowLayers, base: FlowLayers
) -> None:
    """Calibration, shares and the other layers stay; the detectors and the thresholds are new."""
    assert adapted.behavior is base.behavior
    assert adapted.classifier is base.classifier
    assert adapted.anomaly.calibration is base.anomaly.calibration
    assert adapted.fusion is not None
    assert base.fusion is not None
    assert (adapted.fusion.shares, adapted.fusion.sharpness) == (
        base.fusion.shares,
        base.fusion.sharpness,
    )
    assert adapted.fusion.thresholds != base.fusion.thresholds
    assert set(adapted.fusion.thresholds) == set(base.fusion.thresholds)


def test_own_flows_score_lower_with_the_own_model(
    adapted: FlowLayers, layers: FlowLayers, own: FlowTable
) -> None:
    assert np.median(adapted.anomaly.raw(own.features)) < np.median(
        layers.anomaly.raw(own.features)
    )


def test_a_release_without_a_classifier_is_adapted_without_one(
    own: FlowTable,
    base: FlowLayers,
    quick_training: None,  # noqa: ARG001
) -> None:  # asked for by its effect
    """Older releases, and those imported from older files, have two layers."""
    assert base.fusion is not None
    two = Fusion({"anomaly": 0.4, "behavior": 0.6}, base.fusion.sharpness, {})

    adapted = fit_on_benign(own, replace(base, classifier=None, fusion=two), seed=5)

    assert adapted.classifier is None
    assert adapted.fusion is not None
    assert set(adapted.fusion.thresholds) == {"anomaly", "behavior", "anomaly+behavior"}


def test_without_a_fusion_there_is_nothing_to_carry_over(
    own: FlowTable, layers: FlowLayers
) -> None:
    with pytest.raises(TrainingError, match="no fusion"):
        fit_on_benign(own, replace(layers, fusion=None), seed=5)
