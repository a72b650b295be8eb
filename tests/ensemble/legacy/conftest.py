"""Files of a small older engine: a forest, counts, a network and its scaler.

They are fitted once, on synthetic flows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler
from torch import nn

from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, PAIRS, SCALER
from ensemble.legacy.import_models import OldLayer
from ensemble.legacy.sandbox import read_answer
from ensemble.legacy.sandbox_child import answer
from ensemble.training.data.flow_table import FlowTable
from tests.support.legacy_models import LAUNCHES, LIMITS, TERMS, older_network, pickled, saved


@pytest.fixture(scope="session")
def benign(make_flows: Callable[..., FlowTable]) -> NDArray[np.float32]:
    """Benign flows that the older models were fitted on, float32 (300, 78)."""
    return make_flows(benign=300, families={}, seed=11).features


@pytest.fixture(scope="session")
def later(make_flows: Callable[..., FlowTable]) -> NDArray[np.float32]:
    """Other benign flows, float32 (400, 78)."""
    return make_flows(benign=400, families={}, seed=12).features


@pytest.fixture(scope="session")
def forest(benign: NDArray[np.float32]) -> IsolationForest:
    return IsolationForest(n_estimators=20, random_state=5).fit(benign)


@pytest.fixture(scope="session")
def scaler(benign: NDArray[np.float32]) -> StandardScaler:
    return StandardScaler().fit(benign.astype(np.float64))


@pytest.fixture(scope="session")
def network() -> nn.Sequential:
    return older_network()


@pytest.fixture(scope="session")
def four(
    forest: IsolationForest, scaler: StandardScaler, network: nn.Sequential
) -> Mapping[str, bytes]:
    """File name -> bytes, all valid."""
    return {
        FOREST: pickled(forest, 3),
        FREQUENCIES: pickled(LAUNCHES),
        CLASSIFIER: saved(network.state_dict()),
        SCALER: pickled(scaler),
    }


@pytest.fixture
def folder(tmp_path: Path, four: Mapping[str, bytes]) -> Path:
    """The four files in a folder."""
    for name, data in four.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.fixture(scope="session")
def old(four: Mapping[str, bytes]) -> dict[str, OldLayer]:
    """Both layers, decoded in this process: the files are trusted here."""
    return {
        layer: OldLayer(
            {name: read_answer(name, answer(name, four[name], TERMS), LIMITS) for name in pair}, {}
        )
        for layer, pair in PAIRS.items()
    }
