"""Tabular detector: training, rejected rows, and threat levels (S4-08 to S4-11, C-23, C-27)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

from ensemble.errors import ArtifactIncompatible, FeatureMismatch, TrainingError
from ensemble.features.tabular import NETWORK_FEATURES, Missing, admit_rows, declared
from ensemble.layers.tabular import RATES, TabularDetector, ThreatLevel
from ensemble.runtime.builder import proven_detector
from ensemble.store.bundles.codecs import decode_parts, encode_parts
from ensemble.store.bundles.metadata import Metadata
from ensemble.store.bundles.open import open_bundle
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, Tenant
from ensemble.store.releases.aliases import Alias, read_model_alias
from ensemble.store.signing import Signer
from ensemble.training.data.tabular_rows import LEAST_ROWS, training_table
from ensemble.training.publish import Trained, make_champion, publish_detector
from ensemble.training.recipes.tabular import fit_steps, fit_tabular

Row = dict[str, Any]
Rows = list[Row]


def transfers(count: int, seed: int = 0) -> Rows:
    """Ordinary transfers of S4-09: heavy tails, and packets that follow the bytes."""
    chance = np.random.default_rng(seed)
    sent = chance.lognormal(8, 1.2, count)
    columns = (sent, np.ceil(sent / 900), chance.lognormal(1, 0.8, count))
    return [
        dict(zip(NETWORK_FEATURES, row, strict=True)) for row in np.stack(columns, axis=1).tolist()
    ]


def matrix(rows: Rows, features: tuple[str, ...] = NETWORK_FEATURES) -> NDArray[np.float64]:
    return admit_rows(rows, features, Missing.REFUSE).values


@pytest.fixture(scope="module")
def trained() -> Trained:
    return fit_tabular(transfers(800))


@pytest.fixture(scope="module")
def detector(trained: Trained) -> TabularDetector:
    return TabularDetector.from_parts(trained.parts)


# -- scores


def test_a_level_fires_for_its_share_of_held_out_rows() -> None:
    """Exact to the row: a tenth is medium or worse, a hundredth high, a thousandth critical."""
    rates = fit_tabular(transfers(4000)).training["held_out_rates"]

    assert rates == {
        "medium": pytest.approx(0.1, abs=1 / 4000),
        "high": pytest.approx(0.01, abs=1 / 4000),
        "critical": 4 / 4000,
    }


def test_a_level_fires_for_about_its_share_of_new_rows() -> None:
    """A thousandth is measured by four rows of four thousand: right within a factor of four."""
    detector = TabularDetector.from_parts(fit_tabular(transfers(4000)).parts)

    scores = detector.score(matrix(transfers(40_000, seed=1)))

    for (level, rate), factor in zip(RATES.items(), (1.3, 2, 4), strict=True):
        share = np.isin(
            scores.threat_level, list(ThreatLevel)[list(ThreatLevel).index(level) :]
        ).mean()
        assert rate / factor < share < rate * factor


def test_the_scale_is_fitted_on_held_out_rows() -> None:
    """With many features, nearly every new row is outside the range. Training rows never are."""
    names = tuple(f"f{column}" for column in range(64))
    chance = np.random.default_rng(0)
    taught, new = chance.normal(size=(200, 64)), chance.normal(size=(2000, 64))
    detector = TabularDetector.from_parts(
        fit_tabular([dict(zip(names, row, strict=True)) for row in taught.tolist()], names).parts
    )

    assert (detector.score(new).anomaly_score >= 0.99).mean() < 0.05


@pytest.mark.parametrize("rows", [100, 1000])
@pytest.mark.parametrize("feature", NETWORK_FEATURES)
def test_one_value_far_beyond_training_is_critical(feature: str, rows: int) -> None:
    """C-23: the source system called 1e9 in every feature "high"; nothing was "critical"."""
    detector = TabularDetector.from_parts(fit_tabular(transfers(rows)).parts)
    strange = transfers(1, seed=5)[0] | {feature: 1e9}

    scores = detector.score(matrix([strange]))

    assert scores.threat_level.tolist() == ["critical"]
    assert scores.is_anomaly.tolist() == [True]


def test_the_source_s_threshold_of_critical_is_one_that_nothing_reaches() -> None:
    """C-23, measured: `decision_function` of the source's model is never below -0.5."""
    rows = matrix(transfers(1000))
    scaler = StandardScaler().fit(rows)
    forest = IsolationForest(n_estimators=100, contamination=0.1, random_state=42).fit(
        scaler.transform(rows)
    )

    worst = forest.decision_function(np.full((1, 3), 1e9)).min()

    assert worst > -0.5


def test_inside_the_range_of_training_it_equals_the_source_s_model() -> None:
    """S4-08: standard scaler and isolation forest of 100 trees, seed 42, as arrays."""
    rows = matrix(transfers(500))
    detector = TabularDetector.from_parts(fit_tabular(transfers(500)).parts)
    scaled = StandardScaler().fit(rows).transform(rows)
    forest = IsolationForest(
        n_estimators=100, max_samples="auto", contamination=0.1, random_state=42
    ).fit(scaled.astype(np.float32))

    np.testing.assert_allclose(
        detector.raw(rows), -forest.score_samples(scaled.astype(np.float32)), atol=1e-6
    )


def test_a_farther_row_never_scores_lower(detector: TabularDetector) -> None:
    far = matrix(
        [transfers(1)[0] | {"bytes_transferred": 10.0**power} for power in range(5, 300, 5)]
    )

    scores = detector.score(far).anomaly_score

    assert (np.diff(scores) >= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_an_anomaly_is_what_is_at_least_medium(detector: TabularDetector) -> None:
    """S4-08's contamination of 0.1 is the most anomalous tenth."""
    scores = detector.score(matrix(transfers(2000, seed=3)))

    assert (scores.is_anomaly == (scores.threat_level != "low")).all()
    assert (scores.is_anomaly == (scores.anomaly_score >= 0.9)).all()


def test_a_row_is_scored_the_same_alone_as_among_others(detector: TabularDetector) -> None:
    rows = matrix(transfers(50, seed=4))

    together = detector.score(rows).anomaly_score

    assert [detector.score(row[None, :]).anomaly_score[0] for row in rows] == together.tolist()


def test_the_same_rows_and_seed_give_the_same_bytes() -> None:
    """Training is deterministic."""
    one, other = (encode_parts(fit_tabular(transfers(150)).parts) for _ in range(2))

    assert one == other


def test_the_order_of_declared_features_is_that_of_the_columns() -> None:
    turned = tuple(reversed(NETWORK_FEATURES))
    detector = TabularDetector.from_parts(fit_tabular(transfers(200), turned).parts)

    assert detector.features == turned
    assert matrix(transfers(1), turned)[0, 0] == transfers(1)[0]["connection_duration"]


def test_a_constant_feature_has_no_effect_until_it_changes() -> None:
    rows = [row | {"flag": 7.0} for row in transfers(300)]
    detector = TabularDetector.from_parts(fit_tabular(rows, (*NETWORK_FEATURES, "flag")).parts)
    names = (*NETWORK_FEATURES, "flag")

    same, rounded, changed = detector.score(
        matrix([rows[0] | {"flag": flag} for flag in (7.0, 7.0 + 1e-12, 70.0)], names)
    ).threat_level

    assert same == rounded != "critical"
    assert changed == "critical"


# -- rejected input


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param(None, "is missing", id="null"),
        pytest.param(float("nan"), "must be finite", id="NaN"),
        pytest.param(float("inf"), "must be finite", id="infinity"),
        pytest.param(10**400, "must be finite", id="a whole number without end"),
        pytest.param("12", "must be a number, not text", id="text"),
        pytest.param(True, "must be a number, not true or false", id="bool"),
        pytest.param([1], "must be a number, not a list", id="list"),
    ],
)
def test_a_row_with_an_invalid_value_is_rejected_alone_and_named(
    value: object, problem: str
) -> None:
    rows = [*transfers(3)]
    rows[1] = rows[1] | {"packet_count": value}

    admitted = admit_rows(rows, NETWORK_FEATURES, Missing.REFUSE)

    assert {row: str(error) for row, error in admitted.refused.items()} == {
        1: f"rows[1].packet_count: {problem}"
    }
    assert admitted.rows.tolist() == [0, 2]
    assert admitted.values.shape == (2, 3)


def test_a_row_without_a_feature_is_refused_unless_missing_means_zero() -> None:
    """S4-09 silently fills with 0; here the caller requests it, and it is counted."""
    rows = transfers(2)
    del rows[1]["packet_count"]

    assert list(admit_rows(rows, NETWORK_FEATURES, Missing.REFUSE).refused) == [1]
    filled = admit_rows(rows, NETWORK_FEATURES, Missing.ZERO)
    assert (filled.values[1, 1], filled.filled, dict(filled.refused)) == (0.0, 1, {})


def test_missing_means_zero_excuses_nothing_else() -> None:
    rows = [transfers(1)[0] | {"packet_count": "many"}]

    assert list(admit_rows(rows, NETWORK_FEATURES, Missing.ZERO).refused) == [0]


@pytest.mark.parametrize(
    "features",
    [
        pytest.param(("a", "b"), id="two"),
        pytest.param(tuple(f"f{i}" for i in range(65)), id="sixty-five"),
        pytest.param(("a", "b", "a"), id="one twice"),
        pytest.param(("a", "b", ""), id="empty"),
        pytest.param(("a", "b", " c"), id="a blank around"),
        pytest.param(("a", "b", "c\n"), id="a line break"),
        pytest.param(("a", "b", "c" * 65), id="too long"),
        pytest.param(("a", "b", 3), id="a number"),
    ],
)
def test_features_are_declared_by_name(features: tuple[str, ...]) -> None:
    with pytest.raises(FeatureMismatch):
        declared(features)


# -- what cannot teach


def test_rows_without_any_of_the_features_are_rejected() -> None:
    """C-27: the source system trained on a column of zeros."""
    with pytest.raises(FeatureMismatch, match=r"rows\[0\].bytes_transferred: is missing"):
        fit_tabular([{"other": 1.0}] * 200)
    with pytest.raises(TrainingError, match="all rows are alike"):
        fit_tabular([{"other": 1.0}] * 200, missing=Missing.ZERO)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param(
            lambda: transfers(LEAST_ROWS - 1),
            "99 rows are too few to train on; at least 100 are needed",
            id="too few",
        ),
        pytest.param(list, "0 rows are too few", id="none"),
        pytest.param(lambda: transfers(1) * 200, "all rows are alike", id="one row many times"),
        pytest.param(
            lambda: transfers(1) * 199 + transfers(1, seed=9),
            "nearly all rows are equal",
            id="one other row",
        ),
        pytest.param(
            lambda: [row | {"packet_count": 1.7e308} for row in transfers(200)],
            "packet_count are too large",
            id="too large",
        ),
    ],
)
def test_a_table_that_does_not_suffice_is_rejected_with_the_reason(
    rows: Callable[[], Rows], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        fit_tabular(rows())


def test_a_bad_row_of_training_is_named() -> None:
    rows = transfers(200)
    rows[150]["connection_duration"] = float("nan")

    with pytest.raises(FeatureMismatch, match=r"rows\[150\].connection_duration: must be finite"):
        fit_tabular(rows)


# -- what it remembers


def test_the_model_has_the_metadata_of_the_source() -> None:
    """S4-06, S4-08."""
    metadata = Metadata(label="20261120_081500", user_metadata={"ticket": "SEC-7"})
    training = fit_tabular(transfers(200), seed=7, metadata=metadata).training

    assert training["training_samples"] == training["rows"] == 200
    assert training["feature_count"] == 3
    assert len(training["data_sha256"]) == 64
    assert training["feature_names"] == list(NETWORK_FEATURES)
    assert (training["model_type"], training["model_module"]) == (
        "TabularDetector",
        "ensemble.layers.tabular",
    )
    assert training["model_params"] == {
        "n_estimators": 100,
        "max_samples": "auto",
        "contamination": 0.1,
        "random_state": 7,
    }
    assert (training["label"], training["user_metadata"]) == (
        "20261120_081500",
        {"ticket": "SEC-7"},
    )
    json.dumps(training)


def test_values_that_counted_as_zero_are_noted_in_the_model() -> None:
    rows = transfers(200)
    del rows[5]["packet_count"]

    trained = fit_tabular(rows, missing=Missing.ZERO)

    assert trained.training["missing_filled_with_zero"] == 1
    assert "1 values were missing and count as 0" in trained.card


def test_a_model_contains_no_row_of_the_training_data(trained: Trained) -> None:
    given = {tuple(row.values()) for row in transfers(800)}

    assert not given & {tuple(event["features"].values()) for event in trained.golden.events}


def test_a_fit_reports_its_progress_and_ends_with_the_model() -> None:
    *steps, last = fit_steps(training_table(transfers(200)))

    shares = [step.done for step in steps if not isinstance(step, Trained)]
    assert shares == sorted(shares)
    assert len(shares) == 5
    assert isinstance(last, Trained)


# -- published and proven


@pytest.fixture
def publish_it(
    store: Store,
    signer: Signer,
    now: datetime,
    acme: Tenant,
    no_fsync: None,  # noqa: ARG001
) -> Callable[[Trained], BundleRef]:
    return lambda trained: publish_detector(store, acme, trained, now=now, signer=signer)


def test_a_published_detector_is_the_one_that_was_trained(
    store: Store,
    publish_it: Callable[[Trained], BundleRef],
    trained: Trained,
    detector: TabularDetector,
) -> None:
    loaded = proven_detector(open_bundle(store, publish_it(trained)))

    rows = matrix(transfers(100, seed=2))
    assert loaded.score(rows).anomaly_score.tolist() == detector.score(rows).anomaly_score.tolist()


def test_a_detector_with_other_golden_answers_does_not_serve(
    store: Store, publish_it: Callable[[Trained], BundleRef], trained: Trained
) -> None:
    other = fit_tabular(transfers(800, seed=8))

    ref = publish_it(replace(trained, parts=other.parts))

    with pytest.raises(ArtifactIncompatible, match="golden scores"):
        proven_detector(open_bundle(store, ref))


def test_a_model_of_another_type_does_not_serve(
    store: Store, publish_it: Callable[[Trained], BundleRef], trained: Trained
) -> None:
    """S4-07 warned; C-21."""
    ref = publish_it(replace(trained, training={**trained.training, "model_type": "FlowAnomaly"}))

    with pytest.raises(ArtifactIncompatible, match="Model type mismatch"):
        proven_detector(open_bundle(store, ref))


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda arrays, _: arrays.pop("range.low"), id="an array is gone"),
        pytest.param(
            lambda arrays, _: arrays.update({"range.spread": np.zeros(3)}), id="a spread of 0"
        ),
        pytest.param(
            lambda arrays, _: arrays.update({"range.centre": np.zeros(4)}), id="another shape"
        ),
        pytest.param(
            lambda arrays, _: arrays.update({"range.low": arrays["range.high"] + 1}),
            id="least above greatest",
        ),
        pytest.param(lambda _, config: config.update(features=["a", "b"]), id="other features"),
        pytest.param(lambda _, config: config.update(features=7), id="no features"),
        pytest.param(lambda _, config: config.pop("surprise"), id="no scale"),
    ],
)
def test_invalid_parts_are_rejected(trained: Trained, spoil: Callable[[Any, Any], object]) -> None:
    parts = decode_parts(encode_parts(trained.parts))
    arrays, config = dict(parts.arrays), dict(parts.config)
    spoil(arrays, config)

    with pytest.raises(ArtifactIncompatible):
        TabularDetector.from_parts(replace(parts, arrays=arrays, config=config))


def test_the_last_one_made_champion_is_the_champion(
    store: Store,
    publish_it: Callable[[Trained], BundleRef],
    trained: Trained,
    signer: Signer,
    acme: Tenant,
) -> None:
    first, second = publish_it(trained), publish_it(trained)

    for ref in (first, second):
        make_champion(store, ref, signer=signer)

    assert read_model_alias(store, acme, ModelName(trained.name), Alias.CHAMPION) == second
