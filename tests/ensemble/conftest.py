"""What the tests of the core share.

The spellings of an extractor, and one small ensemble, trained once for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from ensemble.events import FlowBatch
from ensemble.features.flow import FEATURE_NAMES
from ensemble.training.data.flow_table import FlowTable
from ensemble.training.recipes import behavior, classifier, flow_anomaly, flow_ensemble
from ensemble.training.recipes.flow_ensemble import FlowLayers, fit_flows

RELEASE_2017 = tuple(f" {name}" for name in FEATURE_NAMES)  # the blanks are in the published files

VERSION_4 = (  # header of CSE-CIC-IDS2018, without `Fwd Header Length.1`
    "Dst Port,Flow Duration,Tot Fwd Pkts,Tot Bwd Pkts,TotLen Fwd Pkts,TotLen Bwd Pkts,Fwd "
    "Pkt Len Max,Fwd Pkt Len Min,"
    "Fwd Pkt Len Mean,Fwd Pkt Len Std,Bwd Pkt Len Max,Bwd Pkt Len Min,Bwd Pkt Len Mean,Bwd "
    "Pkt Len Std,Flow Byts/s,"
    "Flow Pkts/s,Flow IAT Mean,Flow IAT Std,Flow IAT Max,Flow IAT Min,Fwd IAT Tot,Fwd IAT "
    "Mean,Fwd IAT Std,Fwd IAT Max,"
    "Fwd IAT Min,Bwd IAT Tot,Bwd IAT Mean,Bwd IAT Std,Bwd IAT Max,Bwd IAT Min,Fwd PSH Flags,"
    "Bwd PSH Flags,Fwd URG Flags,"
    "Bwd URG Flags,Fwd Header Len,Bwd Header Len,Fwd Pkts/s,Bwd Pkts/s,Pkt Len Min,Pkt Len "
    "Max,Pkt Len Mean,Pkt Len Std,"
    "Pkt Len Var,FIN Flag Cnt,SYN Flag Cnt,RST Flag Cnt,PSH Flag Cnt,ACK Flag Cnt,URG Flag "
    "Cnt,CWE Flag Count,ECE Flag Cnt,"
    "Down/Up Ratio,Pkt Size Avg,Fwd Seg Size Avg,Bwd Seg Size Avg,Fwd Byts/b Avg,Fwd Pkts/b "
    "Avg,Fwd Blk Rate Avg,"
    "Bwd Byts/b Avg,Bwd Pkts/b Avg,Bwd Blk Rate Avg,Subflow Fwd Pkts,Subflow Fwd Byts,"
    "Subflow Bwd Pkts,Subflow Bwd Byts,"
    "Init Fwd Win Byts,Init Bwd Win Byts,Fwd Act Data Pkts,Fwd Seg Size Min,Active Mean,"
    "Active Std,Active Max,Active Min,"
    "Idle Mean,Idle Std,Idle Max,Idle Min"
)
MASTER = (  # header of CICFlowMeter's master branch, without `Fwd Header Length.1`
    "Dst Port,Flow Duration,Total Fwd Packet,Total Bwd packets,Total Length of Fwd Packet,"
    "Total Length of Bwd Packet,"
    "Fwd Packet Length Max,Fwd Packet Length Min,Fwd Packet Length Mean,Fwd Packet Length "
    "Std,Bwd Packet Length Max,"
    "Bwd Packet Length Min,Bwd Packet Length Mean,Bwd Packet Length Std,Flow Bytes/s,Flow "
    "Packets/s,Flow IAT Mean,Flow IAT Std,"
    "Flow IAT Max,Flow IAT Min,Fwd IAT Total,Fwd IAT Mean,Fwd IAT Std,Fwd IAT Max,Fwd IAT "
    "Min,Bwd IAT Total,Bwd IAT Mean,"
    "Bwd IAT Std,Bwd IAT Max,Bwd IAT Min,Fwd PSH Flags,Bwd PSH Flags,Fwd URG Flags,Bwd URG "
    "Flags,Fwd Header Length,"
    "Bwd Header Length,Fwd Packets/s,Bwd Packets/s,Packet Length Min,Packet Length Max,"
    "Packet Length Mean,Packet Length Std,"
    "Packet Length Variance,FIN Flag Count,SYN Flag Count,RST Flag Count,PSH Flag Count,ACK "
    "Flag Count,URG Flag Count,"
    "CWR Flag Count,ECE Flag Count,Down/Up Ratio,Average Packet Size,Fwd Segment Size Avg,"
    "Bwd Segment Size Avg,"
    "Fwd Bytes/Bulk Avg,Fwd Packet/Bulk Avg,Fwd Bulk Rate Avg,Bwd Bytes/Bulk Avg,Bwd "
    "Packet/Bulk Avg,Bwd Bulk Rate Avg,"
    "Subflow Fwd Packets,Subflow Fwd Bytes,Subflow Bwd Packets,Subflow Bwd Bytes,FWD Init "
    "Win Bytes,Bwd Init Win Bytes,"
    "Fwd Act Data Pkts,Fwd Seg Size Min,Active Mean,Active Std,Active Max,Active Min,Idle "
    "Mean,Idle Std,Idle Max,Idle Min"
)


@pytest.fixture(
    params=[
        pytest.param(RELEASE_2017, id="2017 release"),
        pytest.param(tuple(VERSION_4.split(",")), id="version 4"),
        pytest.param(tuple(MASTER.split(",")), id="master"),
    ]
)
def dialect(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Feature names of one version of CICFlowMeter, in the order in which it writes them."""
    names: tuple[str, ...] = request.param
    return names


@pytest.fixture(scope="session")
def quick_training() -> Iterator[None]:
    """Recipes with few steps and small forests: the promises are the same, the figures are not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_anomaly, "TREES", 20)
        patch.setattr(flow_anomaly, "FOLDS", 2)
        patch.setattr(flow_ensemble, "FOLDS", 2)
        patch.setattr(behavior, "HEADS", 2)
        patch.setattr(flow_ensemble, "fit_behavior", partial(behavior.fit_behavior, steps=40))
        patch.setattr(classifier, "TREES", 20)
        patch.setattr(classifier, "ROUNDS", 4)
        yield


@pytest.fixture(scope="session")
def table(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """660 made-up flows of three attack families."""
    return make_flows()


@pytest.fixture(scope="session")
# asked for by its effect
def layers(table: FlowTable, quick_training: None) -> FlowLayers:  # noqa: ARG001
    """The flow layers with their fusion, fitted on `table`."""
    return fit_flows(table, seed=3)


@pytest.fixture(scope="session")
def fresh(make_flows: Callable[..., FlowTable]) -> FlowTable:
    """Flows of the same world that no model has seen."""
    return make_flows(benign=120, families={"Flood": 30, "Scan": 30, "Beacon": 30}, seed=99)


@pytest.fixture(scope="session")
def fresh_batch(fresh: FlowTable) -> FlowBatch:
    return fresh.batch()
