"""Admission of flows: the 78 features by any of their names, finite or rejected (promise 14)."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.ensemble import IsolationForest

from ensemble.errors import FeatureMismatch
from ensemble.features.flow import (
    FEATURE_NAMES,
    UNUSED,
    admit,
    feature_position,
    in_order,
    schema_sha256,
    used_positions,
)
from ensemble.training.data.flow_table import FlowTable

DURATION, RATES = FEATURE_NAMES.index("Flow Duration"), (14, 15)
COUNTED = [i for i in range(78) if i not in RATES]

NOT_FINITE = [
    pytest.param(np.nan, id="NaN"),
    pytest.param(np.inf, id="infinity"),
    pytest.param(-np.inf, id="minus infinity"),
    pytest.param(1e39, id="too large for float32"),
    pytest.param(None, id="null"),
]


def a_flow(**features: float | None) -> list[float | None]:
    """A flow of 10 packets and 1,000 bytes in half a second.

    `features` by position, e.g. `f1=0` for no duration.
    """
    flow: list[float | None] = [0.0] * 78
    for name, value in (
        {"f1": 500_000.0, "f2": 6.0, "f3": 4.0, "f4": 700.0, "f5": 300.0} | features
    ).items():
        flow[int(name[1:])] = value
    return flow


# names


def test_the_names_are_those_of_the_published_data(data_root: Path) -> None:
    """A model reads column 17, not a name: the position matters."""
    published = json.loads((data_root / "flows_cicids2017" / "features78.json").read_text())[
        "names"
    ]

    assert list(FEATURE_NAMES) == published


def test_there_are_78_names_and_no_two_are_alike() -> None:
    assert len({name.strip().casefold() for name in FEATURE_NAMES}) == 78


def test_the_two_rates_are_at_the_positions_that_this_test_uses() -> None:
    assert [FEATURE_NAMES[i] for i in RATES] == ["Flow Bytes/s", "Flow Packets/s"]


def test_shipped_models_do_not_read_the_column_that_reveals_the_label() -> None:
    """`Destination Port` is a shortcut, `Fwd Header Length.1` a repetition."""
    unread = set(range(78)) - set(used_positions().tolist())

    assert (
        {FEATURE_NAMES[i] for i in unread}
        == set(UNUSED)
        == {"Destination Port", "Fwd Header Length.1"}
    )


def test_the_schema_has_one_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of another order of features must not load."""
    ours = schema_sha256()
    swapped = (FEATURE_NAMES[1], FEATURE_NAMES[0], *FEATURE_NAMES[2:])

    assert ours == schema_sha256()
    monkeypatch.setattr("ensemble.features.flow.FEATURE_NAMES", swapped)
    assert schema_sha256() != ours


def test_every_dialect_is_put_in_order(dialect: tuple[str, ...]) -> None:
    """Three generations of extractors are in use; each writes the order of the 2017 release."""
    expected = [float(i) for i in range(78)]
    written = [
        i for i in range(78) if len(dialect) == 78 or FEATURE_NAMES[i] != "Fwd Header Length.1"
    ]
    if len(dialect) < 78:
        expected[55] = expected[34]  # what two of the dialects do not repeat

    assert in_order(dict(zip(dialect, map(float, written), strict=True))) == expected


def test_blanks_and_case_do_not_matter(dialect: tuple[str, ...]) -> None:
    assert [feature_position(f"  {name.upper()} ") for name in dialect] == [
        feature_position(name) for name in dialect
    ]


def test_names_in_any_order_give_one_row(dialect: tuple[str, ...]) -> None:
    features = {name: float(i) for i, name in enumerate(dialect)}

    assert in_order(dict(reversed(features.items()))) == in_order(features)


@pytest.mark.parametrize(
    "missing", [name for name in FEATURE_NAMES if name != "Fwd Header Length.1"]
)
def test_a_missing_feature_is_named(missing: str) -> None:
    """P14."""
    with pytest.raises(FeatureMismatch, match="is missing") as refusal:
        in_order({name: 1.0 for name in FEATURE_NAMES if name != missing})

    assert refusal.value.field == f"features.{missing}"


def test_an_unknown_feature_is_named() -> None:
    """P14: the caller may believe that an unknown name is read."""
    with pytest.raises(FeatureMismatch, match="not one of the 78") as refusal:
        in_order(dict.fromkeys(FEATURE_NAMES, 1.0) | {"Flow Colour": 1.0})

    assert refusal.value.field == "features.Flow Colour"


def test_a_feature_given_in_two_spellings_is_named() -> None:
    """The value that counts must not depend on the order of a JSON object."""
    with pytest.raises(FeatureMismatch, match="twice") as refusal:
        in_order(dict.fromkeys(FEATURE_NAMES, 1.0) | {"Tot Fwd Pkts": 2.0})

    assert refusal.value.field == "features.Tot Fwd Pkts"


def test_a_name_of_a_megabyte_is_shortened_in_the_error() -> None:
    with pytest.raises(FeatureMismatch) as refusal:
        in_order({"x" * 1_000_000: 1.0})

    assert len(str(refusal.value)) < 200


# rates


@given(claimed=st.sampled_from([0.0, 1e30, np.nan, np.inf, -np.inf, None]))
def test_the_rates_are_always_recomputed_from_the_counts(claimed: float | None) -> None:
    """Extractors write Infinity there, and an attacker any value that looks calm."""
    admitted = admit([a_flow(f14=claimed, f15=claimed)])

    assert not admitted.refused
    assert admitted.features[0, list(RATES)].tolist() == [2000.0, 20.0]
    assert admitted.flags == {}


def test_without_a_duration_the_rates_are_0_and_the_flow_is_flagged() -> None:
    admitted = admit([a_flow(), a_flow(f1=0.0), a_flow(f1=-1.0, f14=np.inf)])

    assert admitted.features[1:, list(RATES)].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert admitted.flags == {1: ("rates_undefined",), 2: ("rates_undefined",)}


@given(
    arrays(
        np.float64,
        (4, 78),
        elements=st.floats(0, 1e15) | st.sampled_from([0.0, 1e-50, 119_999_999.0, 1e300]),
    )
)
def test_admitting_an_admitted_flow_changes_nothing(values: np.ndarray) -> None:
    """The terminal sends what it admitted itself: a long flow must stay equal to the last bit."""
    once = admit(values)

    again = admit(once.features.astype(np.float64))

    assert not again.refused
    assert again.features.tobytes() == once.features.tobytes()
    assert again.flags == once.flags


def test_a_flag_moves_with_its_flow_when_an_earlier_one_is_refused() -> None:
    """Flags are numbered by admitted row, refusals by the place in what came."""
    admitted = admit([a_flow(f20=np.nan), a_flow(), a_flow(f1=0.0)])

    assert admitted.rows.tolist() == [1, 2]
    assert admitted.flags == {1: ("rates_undefined",)}
    assert set(admitted.refused) == {0}


def test_real_flows_with_infinite_rates_are_admitted(data_root: Path) -> None:
    """14 rows of the original release, unchanged."""
    with gzip.open(data_root / "flows_cicids2017" / "real_infinity_rows.csv.gz", "rt") as text:
        rows = list(csv.DictReader(text))
    numbers = [
        {
            name: float(cell or "nan")
            for name, cell in row.items()
            if feature_position(name) is not None
        }
        for row in rows
    ]
    flows = [
        in_order({"Destination Port": 0.0} | row) for row in numbers
    ]  # the file lacks that one

    admitted = admit(flows)

    assert len(admitted.features) == len(rows) == 14
    assert np.isfinite(admitted.features).all()


def test_counts_too_large_for_a_rate_are_refused_by_name() -> None:
    """The counts are finite; the resulting rate is not."""
    admitted = admit([a_flow(f1=1e-6, f2=1e38, f3=1e38)])

    assert admitted.refused[0].field == "features.Flow Packets/s"


# finite or refused


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("position", COUNTED, ids=[FEATURE_NAMES[i] for i in COUNTED])
def test_what_is_not_a_finite_float32_is_refused_by_name(
    value: float | None, position: int
) -> None:
    """P14: no model reads it, and the error names the feature."""
    admitted = admit([a_flow(**{f"f{position}": value})])

    assert len(admitted.features) == 0
    assert admitted.refused[0].field == f"features.{FEATURE_NAMES[position]}"


@given(
    arrays(np.float64, (6, 78), elements=st.floats(width=64) | st.sampled_from([0.0, 1.0, np.nan])),
    st.sets(st.integers(0, 5)),
)
def test_only_finite_rows_are_admitted_and_each_flow_gets_one_answer(
    values: np.ndarray, calm: set[int]
) -> None:
    """P14, with generated tables; the rows in `calm` are valid."""
    values[list(calm)] = a_flow()

    with np.errstate(all="ignore"):
        admitted = admit(values)

    assert np.isfinite(admitted.features).all()
    assert sorted([*admitted.rows.tolist(), *admitted.refused]) == list(range(6))
    assert calm <= set(admitted.rows.tolist())


def test_an_invalid_flow_is_rejected_alone() -> None:
    """In a batch of a thousand, one NaN gives one error; the others score as in a clean batch."""
    clean = [a_flow(f6=float(i)) for i in range(10)]
    spoilt = [list(flow) for flow in clean]
    spoilt[4][30] = np.nan

    admitted, expected = admit(spoilt), admit(clean)

    assert set(admitted.refused) == {4}
    assert np.array_equal(admitted.features, np.delete(expected.features, 4, axis=0))


def test_admitted_features_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        admit([a_flow()]).features[0, 0] = np.nan


def test_admission_does_not_change_the_callers_array() -> None:
    values = np.array([a_flow(f14=7.0)], np.float64)

    admit(values)

    assert values[0, 14] == 7.0


def test_no_flow_at_all_is_no_error() -> None:
    admitted = admit([])

    assert admitted.features.shape == (0, 78)
    assert (len(admitted.rows), admitted.refused) == (0, {})


def test_a_row_of_nan_would_look_normal_to_a_forest_and_therefore_never_reaches_one(
    make_flows: Callable[..., FlowTable],
) -> None:
    """RELIABILITY, fact 4, as a regression: it fails if scikit-learn begins to reject NaN."""
    benign = make_flows(benign=300, families={}, seed=5).features
    attacks = make_flows(benign=0, families={"Flood": 50}, seed=6).features
    forest = IsolationForest(n_estimators=30, random_state=0).fit(benign)
    nan_row = np.full((1, 78), np.nan, np.float32)

    evades = forest.score_samples(nan_row)[0] > np.median(forest.score_samples(attacks))

    assert evades
    assert admit(nan_row.astype(np.float64)).refused[0].field == "features.Destination Port"
