"""Made-up flows of a small network, for models that need data to fit.

Benign flows are web sessions and name look-ups. A `Flood` is many empty packets in no time. A
`Scan` is one packet and one reset. A `Beacon` is a slow exchange of small packets of one size, the
family most like benign traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ensemble.features.flow import FEATURE_NAMES, admit
from ensemble.training.data.flow_table import BENIGN, FlowTable

__all__ = ["MakeFlows", "make_flows"]

MakeFlows = Callable[..., FlowTable]
Columns = Mapping[str, NDArray[np.float64]]

FAMILIES = {"Beacon": 80, "Flood": 80, "Scan": 80}
TIMES = tuple(
    f"{way} IAT {what}" for way in ("Flow", "Fwd", "Bwd") for what in ("Std", "Max", "Min")
)
PAUSES = (
    "Active Mean",
    "Active Std",
    "Active Max",
    "Active Min",
    "Idle Mean",
    "Idle Std",
    "Idle Max",
    "Idle Min",
)
LENGTHS = (
    "Fwd Packet Length Min",
    "Bwd Packet Length Min",
    "Min Packet Length",
    "Packet Length Std",
    "Packet Length Variance",
)
SCATTERED = dict.fromkeys((*TIMES, *PAUSES), "Flow Duration") | dict.fromkeys(
    LENGTHS, "Average Packet Size"
)


def make_flows(
    benign: int = 420, families: Mapping[str, int] = FAMILIES, seed: int = 0
) -> FlowTable:
    """Make the given number of flows of each family, ordered by time over two days."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([BENIGN, *families], [benign, *families.values()])
    features = np.concatenate(
        [
            _flows_of(BENIGN, benign, generator),
            *(_flows_of(name, n, generator) for name, n in families.items()),
        ]
    )
    order = generator.permutation(len(labels))
    at = np.arange(len(labels))
    days = np.where(at < len(labels) // 2, "Monday", "Tuesday")
    times = np.array(
        [f"2017-07-0{3 + (i >= len(labels) // 2)} 09:{i // 60:02d}:{i % 60:02d}" for i in at]
    )
    blank = np.full(len(labels), "")
    return FlowTable(features[order], labels[order], days, times, blank, blank, at + 2)


def _flows_of(family: str, count: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """Make float32 (count, 78): a few chosen quantities, and those that follow from them."""
    match family:
        case "Flood":
            ahead = generator.integers(100, 400, count)
            sent = generator.uniform(0, 8, count)
            basics = _basics(
                ahead, ahead // 50, sent, np.zeros(count), generator.lognormal(10, 0.4, count)
            )
        case "Scan":
            one = np.ones(count)
            basics = _basics(
                one, one, np.zeros(count), np.zeros(count), generator.lognormal(4, 0.3, count)
            )
        case "Beacon":
            ahead = generator.integers(18, 24, count)
            sent, got = generator.normal(44, 1, (2, count))
            basics = _basics(ahead, ahead, sent, got, generator.lognormal(18, 0.2, count))
        case _:
            is_web = generator.random(count) < 0.7
            ahead = np.where(
                is_web, 3 + generator.poisson(10, count), generator.integers(1, 3, count)
            )
            back = np.where(is_web, ahead + generator.poisson(4, count), ahead)
            sent = np.where(
                is_web, generator.lognormal(4.4, 0.4, count), generator.normal(38, 5, count)
            )
            got = np.where(
                is_web, generator.lognormal(6.3, 0.4, count), generator.normal(90, 15, count)
            )
            lasts = np.where(
                is_web, generator.lognormal(13, 1.2, count), generator.lognormal(9.5, 0.6, count)
            )
            basics = _basics(ahead, back, sent, got, lasts)
    columns = {name: np.zeros(count) for name in FEATURE_NAMES} | basics
    # in a real network no feature follows exactly from the others
    for name, of in SCATTERED.items():
        columns[name] = (
            columns[of] * generator.uniform(0.05, 0.5) * generator.lognormal(0, 0.3, count)
        )
    return admit(np.stack([columns[name] for name in FEATURE_NAMES], axis=1)).features


def _basics(
    ahead: NDArray[np.generic],
    back: NDArray[np.generic],
    sent: NDArray[np.float64],
    got: NDArray[np.float64],
    us: NDArray[np.float64],
) -> Columns:
    """Compute features that agree with each other.

    Args:
        ahead: packets of the client.
        back: packets of the server.
        sent: mean length of the client's packets.
        got: mean length of the server's packets.
        us: duration in microseconds.
    """
    ahead, back = np.asarray(ahead, np.float64), np.asarray(back, np.float64)
    sent, got, us = np.maximum(sent, 0), np.maximum(got, 0), np.maximum(np.round(us), 1)
    both, volume = ahead + back, np.round(sent * ahead) + np.round(got * back)
    return {
        "Destination Port": np.where(ahead > 2, 443.0, 53.0),
        "Flow Duration": us,
        "Total Fwd Packets": ahead,
        "Total Backward Packets": back,
        "Total Length of Fwd Packets": np.round(sent * ahead),
        "Total Length of Bwd Packets": np.round(got * back),
        "Fwd Packet Length Max": np.round(sent * 1.6),
        "Fwd Packet Length Mean": sent,
        "Fwd Packet Length Std": sent * 0.4,
        "Bwd Packet Length Max": np.round(got * 1.6),
        "Bwd Packet Length Mean": got,
        "Bwd Packet Length Std": got * 0.4,
        "Flow IAT Mean": us / np.maximum(both - 1, 1),
        "Fwd IAT Total": us,
        "Fwd IAT Mean": us / np.maximum(ahead - 1, 1),
        "Bwd IAT Total": us * 0.9,
        "Bwd IAT Mean": us / np.maximum(back - 1, 1),
        "Fwd Header Length": 20 * ahead,
        "Fwd Header Length.1": 20 * ahead,
        "Bwd Header Length": 20 * back,
        "Fwd Packets/s": ahead / us * 1e6,
        "Bwd Packets/s": back / us * 1e6,
        "Max Packet Length": np.round(np.maximum(sent, got) * 1.6),
        "Packet Length Mean": volume / both,
        "PSH Flag Count": np.minimum(ahead - 1, 4),
        "ACK Flag Count": both - 1,
        "SYN Flag Count": np.minimum(ahead, 1),
        "RST Flag Count": np.where(volume == 0, 1.0, 0.0),
        "Down/Up Ratio": np.floor(back / ahead),
        "Average Packet Size": volume / both,
        "Avg Fwd Segment Size": sent,
        "Avg Bwd Segment Size": got,
        "Subflow Fwd Packets": ahead,
        "Subflow Bwd Packets": back,
        "Init_Win_bytes_forward": np.where(volume == 0, 1024.0, 29200.0),
        "act_data_pkt_fwd": np.where(sent > 0, ahead - 1, 0),
        "min_seg_size_forward": np.full(len(us), 20.0),
    }
