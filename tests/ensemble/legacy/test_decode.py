"""Decoding of each of the four files, and the errors; without the child, for speed."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import MinMaxScaler, PowerTransformer, RobustScaler, StandardScaler
from sklearn.tree._tree import Tree
from torch import nn

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES
from ensemble.features.sklearn_scalers import PlainScaler
from ensemble.kernels.isolation_forest import Forest
from ensemble.legacy import decode as page
from ensemble.legacy.decode import Terms
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, SCALER
from ensemble.legacy.import_models import WIDEST
from ensemble.model import Parts, below
from tests.support.legacy_models import TERMS, older_network, pickled, saved

COMPRESSIONS = [
    pytest.param(how, id=str(how))
    for how in (0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3))
]


def decode(name: str, data: bytes) -> Parts:
    return page.decode(name, data, TERMS)


def refusal(name: str, data: bytes) -> str:
    with pytest.raises(ArtifactError) as refused:
        decode(name, data)
    return str(refused.value)


# -- the forest


@pytest.mark.parametrize("compress", COMPRESSIONS)
def test_a_forest_scores_as_it_did(
    forest: IsolationForest, later: NDArray[np.float32], compress: object
) -> None:
    """S0-02: the trained model serves; joblib's compressions are read."""
    parts = decode(FOREST, pickled(forest, compress))

    ours = Forest.from_arrays(below("forest.", parts.arrays), 78)
    assert np.abs(ours.score_samples(later) + forest.score_samples(later)).max() <= 1e-6
    assert parts.arrays["positions"].tolist() == list(range(78))


def test_a_forest_over_fewer_columns_a_tree_scores_as_it_did(
    benign: NDArray[np.float32], later: NDArray[np.float32]
) -> None:
    fitted = IsolationForest(
        n_estimators=8, max_features=0.4, max_samples=64, random_state=np.random.RandomState(3)
    ).fit(benign)

    parts = decode(FOREST, pickled(fitted))

    ours = Forest.from_arrays(below("forest.", parts.arrays), 78)
    assert np.abs(ours.score_samples(later) + fitted.score_samples(later)).max() <= 1e-6


def test_a_forest_with_feature_names_reads_them_by_name(benign: NDArray[np.float32]) -> None:
    """A subset in another order is accepted with names; `feature_names_in_` is an object array."""
    names = ["Flow IAT Mean", "Flow Duration", "Total Fwd Packets"]
    table = pd.DataFrame(benign, columns=list(FEATURE_NAMES))[names]

    parts = decode(FOREST, pickled(IsolationForest(n_estimators=4, random_state=0).fit(table)))

    assert [FEATURE_NAMES[i] for i in parts.arrays["positions"]] == names


def test_a_forest_of_features_without_names_must_read_all_78(benign: NDArray[np.float32]) -> None:
    fitted = IsolationForest(n_estimators=4, random_state=0).fit(benign[:, :77])

    assert refusal(FOREST, pickled(fitted)) == (
        "anomaly_model.joblib: this Axon needs 78 features, or their names, the artifact has "
        "77 features without names"
    )


def test_a_forest_of_unknown_features_is_rejected_by_name(
    benign: NDArray[np.float32],
) -> None:
    table = pd.DataFrame(benign[:, :2], columns=["bytes_transferred", "packet_count"])

    assert "'bytes_transferred'" in refusal(
        FOREST, pickled(IsolationForest(n_estimators=4, random_state=0).fit(table))
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "Loaded model is None (corrupted file)", id="nothing"),
        pytest.param({"predict": 1}, "Anomaly model missing 'predict' method", id="a dictionary"),
        pytest.param([1, 2], "Anomaly model missing 'predict' method", id="a list"),
    ],
)
def test_a_file_without_a_model_is_rejected_with_the_older_message(
    content: object, words: str
) -> None:
    """S0-04, to the letter."""
    with pytest.raises(ArtifactCorrupt) as refused:
        decode(FOREST, pickled(content))

    assert refused.value.problem == words


def test_a_forest_that_was_never_fitted_is_refused() -> None:
    """F8 and fact 2: an unfitted forest has `predict` too."""
    assert "never fitted" in refusal(FOREST, pickled(IsolationForest()))


def test_a_forest_of_another_version_is_refused_and_both_versions_are_named(
    forest: IsolationForest,
) -> None:
    """F6, S0-29, C-09: scikit-learn itself loads it and warns."""
    older = pickled(forest).replace(b"\x05" + TERMS.sklearn.encode(), b"\x051.3.0")

    assert refusal(FOREST, older) == (
        f"anomaly_model.joblib: this Axon needs sklearn version {TERMS.sklearn}, the "
        "artifact has incompatible sklearn version 1.3.0"
    )


def test_an_invalid_version_is_not_repeated(forest: IsolationForest) -> None:
    data = pickled(forest)

    with pytest.raises(ArtifactIncompatible, match=r"incompatible sklearn version unknown"):
        page.decode(FOREST, data.replace(b"\x05" + TERMS.sklearn.encode(), b"\x05\x1b[31m"), TERMS)


SPOILT_TREES: list[Any] = [
    pytest.param(
        {"left_child": (0, 1 << 40)}, "a child that is not there", id="a child far outside"
    ),
    pytest.param(
        {"left_child": (0, -7)}, "a child that is not there", id="a child before the beginning"
    ),
    pytest.param({"left_child": (0, 0)}, "a circle", id="the root below itself"),
    pytest.param({"right_child": (0, 1)}, "a circle", id="one child twice"),
    pytest.param({"left_child": (0, -1)}, "a node with one", id="one child"),
    pytest.param({"feature": (0, 78)}, "a cut of another feature", id="a feature too many"),
    pytest.param({"feature": (0, -1)}, "a cut of another feature", id="a feature before the first"),
    pytest.param({"threshold": (0, np.nan)}, "NaN", id="a threshold that is no number"),
    pytest.param(
        {"threshold": (0, 1e300)},
        "NaN, infinity, or a number beyond it",
        id="a threshold beyond float32",
    ),
    pytest.param(
        {"n_node_samples": (1, 0)}, "a node without any", id="a node that nothing reached"
    ),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILT_TREES)
def test_an_invalid_tree_is_rejected(
    benign: NDArray[np.float32], spoil: dict[str, tuple[int, float]], words: str
) -> None:
    """N-04: scikit-learn traverses it in C without checks, and crashes or never ends."""
    fitted = IsolationForest(n_estimators=2, max_samples=32, random_state=0).fit(benign)
    tree = fitted.estimators_[0].tree_
    state = tree.__getstate__()
    for name, (row, value) in spoil.items():
        state["nodes"][name][row] = value
    tree.__setstate__(state)

    assert words in refusal(FOREST, pickled(fitted))


def test_a_tree_deeper_than_any_heap_is_refused(benign: NDArray[np.float32]) -> None:
    """A complete heap doubles with each level: depth is memory."""
    fitted = IsolationForest(n_estimators=1, max_samples=2, random_state=0).fit(benign)
    depth = 40
    nodes = np.zeros(2 * depth + 1, fitted.estimators_[0].tree_.__getstate__()["nodes"].dtype)
    nodes["left_child"], nodes["right_child"], nodes["n_node_samples"] = -1, -1, 1
    nodes["left_child"][: 2 * depth : 2] = np.arange(1, 2 * depth, 2)
    nodes["right_child"][: 2 * depth : 2] = np.arange(2, 2 * depth + 1, 2)
    tree = fitted.estimators_[0].tree_ = Tree(
        78, np.ones(1, np.intp), 1
    )  # a fresh one: `__setstate__` does not make room in an old one
    tree.__setstate__(
        {
            "max_depth": 1,
            "node_count": len(nodes),
            "nodes": nodes,
            "values": np.zeros((len(nodes), 1, 1)),
        }
    )

    assert "depth 12 or less" in refusal(FOREST, pickled(fitted))


# -- the counts


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param({"cmd.exe": 3, "sh": 1}, id="dict"),
        pytest.param(Counter({"cmd.exe": 3, "sh": 1}), id="Counter"),
        pytest.param(OrderedDict([("cmd.exe", 3), ("sh", 1)]), id="OrderedDict"),
        pytest.param(defaultdict(int, {"cmd.exe": 3, "sh": 1}), id="defaultdict"),
        pytest.param({"cmd.exe": np.int64(3), "sh": np.float64(1.0)}, id="numbers of numpy"),
        pytest.param({"cmd.exe": 0.75, "sh": 0.25}, id="shares"),
        pytest.param({"cmd.exe": 3, "sh": 1, "never": 0}, id="a count of 0"),
    ],
)
def test_counts_and_shares_become_launches(counts: object) -> None:
    assert decode(FREQUENCIES, pickled(counts)).config == {"launches": {"cmd.exe": 3, "sh": 1}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param([("cmd.exe", 3)], "Process frequencies is not a dictionary", id="a list"),
        pytest.param(None, "Process frequencies is not a dictionary", id="nothing"),
        pytest.param({}, "1 to 1,000,000 programs", id="empty"),
        pytest.param({"cmd.exe": -1, "sh": 2}, "above 0", id="negative"),
        pytest.param({"cmd.exe": float("nan")}, "a count or a share", id="NaN"),
        pytest.param({"cmd.exe": "many"}, "a count or a share", id="text"),
        pytest.param(
            {"cmd.exe": 0.5, "sh": 0.9}, "shares that sum to 1", id="shares of more than all"
        ),
        pytest.param({7: 3}, "names that are text", id="a number as name"),
        pytest.param({"\ud800": 3}, "names that are text", id="half a character"),
        pytest.param({"cmd.exe": 1 << 50}, "launches", id="more launches than can be added up"),
    ],
)
def test_invalid_counts_are_rejected(content: object, words: str) -> None:
    """S0-04 for the first two, to the letter."""
    assert words in refusal(FREQUENCIES, pickled(content))


# -- the network


def test_a_network_keeps_its_layers_in_order(network: nn.Sequential) -> None:
    """S0-05: keys of any name, in pairs and in order."""
    renamed = {
        f"module.layer{i // 2}.{'weight' if i % 2 == 0 else 'bias'}": t
        for i, t in enumerate(network.state_dict().values())
    }

    parts = decode(CLASSIFIER, saved(renamed))

    shapes = [parts.arrays[f"weight.{level}"].shape for level in range(4)]
    assert shapes == [(256, 78), (128, 256), (64, 128), (1, 64)]
    assert (parts.arrays["bias.3"] == network.state_dict()["6.bias"].numpy()).all()


def spoilt(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = dict(older_network(78, 8, 1).state_dict())
    change(state)
    return state


STATES: list[Any] = [
    pytest.param(None, "State dict is not a dictionary (corrupted file)", id="nothing"),
    pytest.param([torch.zeros(1)], "State dict is not a dictionary (corrupted file)", id="a list"),
    pytest.param({}, "State dict is empty (corrupted file)", id="empty"),
    pytest.param(
        spoilt(lambda s: s.pop("2.bias")),
        "keys NAME.weight and NAME.bias in pairs",
        id="a key missing",
    ),
    pytest.param(
        spoilt(lambda s: s.update({"norm.running_mean": torch.zeros(8)})),
        "'norm.running_mean'",
        id="a key too many",
    ),
    pytest.param(
        spoilt(lambda s: s.update({"2.bias": torch.zeros(2)})),
        "linear layers that chain",
        id="another shape",
    ),
    pytest.param(
        spoilt(lambda s: s.update({"2.weight": torch.zeros(1, 9)})),
        "linear layers that chain",
        id="layers that do not chain",
    ),
    pytest.param(
        spoilt(lambda s: s.update({"0.weight": torch.zeros(8, 78).double()})),
        "tensors of float32",
        id="another type",
    ),
    pytest.param(spoilt(lambda s: s.update({"0.bias": 3})), "tensors of float32", id="no tensor"),
    pytest.param(
        spoilt(lambda s: s["0.weight"].fill_(float("nan"))), "finite weights", id="NaN weights"
    ),
    pytest.param(
        spoilt(lambda s: s["2.bias"].fill_(float("inf"))), "finite weights", id="an infinite bias"
    ),
    pytest.param(older_network(78, 8, 2).state_dict(), "down to width 1", id="two outputs"),
    pytest.param(
        {"0.weight": torch.zeros(1, 1).expand(1, 1 << 40), "0.bias": torch.zeros(1)},
        "67,108,864 numbers",
        id="a stride of 0",
    ),
]


@pytest.mark.parametrize(("state", "words"), STATES)
def test_a_state_dict_that_does_not_fit_is_refused(state: object, words: str) -> None:
    """S0-05, F7, F8, F9; the first three texts are those of the older engine."""
    assert words in refusal(CLASSIFIER, saved(state))


def test_a_pickled_module_is_rejected(network: nn.Sequential) -> None:
    """S0-05: only weights are read; a module is a program."""
    assert "cannot be decoded as weights alone" in refusal(CLASSIFIER, saved(network))


# -- the scaler


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(StandardScaler(), id="standard"),
        pytest.param(StandardScaler(with_mean=False), id="standard without mean"),
        pytest.param(StandardScaler(with_std=False), id="standard without spread"),
        pytest.param(MinMaxScaler(feature_range=(-1, 1)), id="min-max"),
        pytest.param(RobustScaler(), id="robust"),
        pytest.param(RobustScaler(with_centering=False), id="robust without centre"),
        pytest.param(PowerTransformer(), id="power"),
        pytest.param(PowerTransformer(standardize=False), id="power alone"),
    ],
)
def test_a_scaler_scales_as_it_did(
    make: Any, benign: NDArray[np.float32], later: NDArray[np.float32]
) -> None:
    """S0-03."""
    fitted = make.fit(benign.astype(np.float64))

    arrays = {
        f"scaler.{name}": array for name, array in decode(SCALER, pickled(fitted)).arrays.items()
    }

    ours = PlainScaler.from_arrays(arrays, WIDEST).scale(later)
    assert np.allclose(
        ours,
        np.clip(fitted.transform(later.astype(np.float64)), -WIDEST, WIDEST),
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "Scaler missing 'transform' method", id="nothing"),
        pytest.param({"mean": 0}, "Scaler missing 'transform' method", id="a dictionary"),
        pytest.param(StandardScaler(), "this Axon needs a fitted", id="never fitted"),
        pytest.param(
            MinMaxScaler(clip=True).fit(np.eye(78)), "MinMaxScaler(clip=True)", id="clipping"
        ),
        pytest.param(
            PowerTransformer(method="box-cox").fit(np.eye(78) + 1),
            "Yeo and Johnson",
            id="Box and Cox",
        ),
    ],
)
def test_an_unsupported_scaler_is_rejected(content: object, words: str) -> None:
    """S0-05."""
    assert words in refusal(SCALER, pickled(content))


@pytest.mark.parametrize(
    "value",
    [pytest.param(0.0, id="0"), pytest.param(np.nan, id="NaN"), pytest.param(-1.0, id="negative")],
)
def test_a_scaler_with_a_spread_of_zero_is_rejected(
    benign: NDArray[np.float32], value: float
) -> None:
    fitted = StandardScaler().fit(benign.astype(np.float64))
    fitted.scale_[3] = value

    with pytest.raises(ArtifactIncompatible):
        decode(SCALER, pickled(fitted))


def test_a_scaler_of_another_version_is_refused(scaler: StandardScaler) -> None:
    with pytest.raises(ArtifactIncompatible, match="incompatible sklearn version"):
        page.decode(SCALER, pickled(scaler), Terms(TERMS.limit_bytes, "0.0.1"))
