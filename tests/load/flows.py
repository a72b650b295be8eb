"""Made-up network flows for the benchmark: every system gets the same ones, in the same JSON.

They look like benign traffic (short web exchanges, a few long transfers) and are consistent: rates
are counts over time, means are between minimum and maximum. They do not measure detection; they
give the kernels realistic work.
"""

from __future__ import annotations

import json

import numpy as np
from numpy.typing import NDArray

from ensemble.features.flow import FEATURE_NAMES

__all__ = ["batch_body", "made_up_flows", "single_bodies"]

HOSTS = ("10.0.0.7", "web-1", "ws-17", "")  # hosts of the demo inventory, others, and no host


def made_up_flows(count: int, seed: int) -> NDArray[np.float64]:
    """Make finite flows, float64 (count, 78), in the order of `FEATURE_NAMES`."""
    random = np.random.default_rng(seed)
    columns = {name: np.zeros(count) for name in FEATURE_NAMES}
    duration = (
        np.rint(random.lognormal(11.0, 2.5, count)) + 1.0
    )  # microseconds; the median is 60 ms
    columns["Flow Duration"] = duration
    columns["Destination Port"] = random.choice([53.0, 80.0, 443.0, 22.0], count)
    sides = {
        "Fwd": ("Total Fwd Packets", "Total Length of Fwd Packets"),
        "Bwd": ("Total Backward Packets", "Total Length of Bwd Packets"),
    }
    for side, (packets_of, bytes_of) in sides.items():
        packets, mean = (
            random.geometric(0.15, count).astype(float),
            random.lognormal(5.0, 1.0, count),
        )
        columns[packets_of], columns[bytes_of] = packets, np.rint(packets * mean)
        columns[f"{side} Packet Length Mean"] = columns[f"Avg {side} Segment Size"] = mean
        columns[f"{side} Packet Length Max"], columns[f"{side} Packet Length Min"] = (
            np.rint(mean * 3.0),
            np.rint(mean / 4.0),
        )
        columns[f"{side} Packet Length Std"] = mean * random.random(count)
        columns[f"{side} IAT Total"], columns[f"{side} IAT Mean"] = duration, duration / packets
        columns[f"{side} IAT Max"], columns[f"{side} IAT Std"] = (
            duration / 2.0,
            duration / packets / 3.0,
        )
        columns[f"{side} Header Length"], columns[f"{side} Packets/s"] = (
            packets * 20.0,
            packets / duration * 1e6,
        )
        columns[f"Subflow {side} Packets"], columns[f"Subflow {side} Bytes"] = (
            packets,
            columns[bytes_of],
        )
    packets = columns["Total Fwd Packets"] + columns["Total Backward Packets"]
    size = columns["Total Length of Fwd Packets"] + columns["Total Length of Bwd Packets"]
    columns["Flow Bytes/s"], columns["Flow Packets/s"] = (
        size / duration * 1e6,
        packets / duration * 1e6,
    )
    columns["Flow IAT Mean"], columns["Flow IAT Max"] = duration / packets, duration / 2.0
    columns["Packet Length Mean"] = columns["Average Packet Size"] = size / packets
    columns["Max Packet Length"] = np.maximum(
        columns["Fwd Packet Length Max"], columns["Bwd Packet Length Max"]
    )
    columns["Fwd Header Length.1"] = columns["Fwd Header Length"]
    columns["PSH Flag Count"], columns["ACK Flag Count"] = (
        random.integers(0, 2, count) * 1.0,
        random.integers(0, 2, count) * 1.0,
    )
    columns["Init_Win_bytes_forward"] = random.choice([8192.0, 29200.0, 65535.0], count)
    columns["act_data_pkt_fwd"], columns["min_seg_size_forward"] = (
        columns["Total Fwd Packets"] - 1.0,
        np.full(count, 20.0),
    )
    return np.round(np.column_stack([columns[name] for name in FEATURE_NAMES]), 4)


def single_bodies(flows: NDArray[np.float64]) -> list[bytes]:
    """Make one body of POST /v1/score for each flow."""
    return [json.dumps(event).encode() for event in _events(flows)]


def batch_body(flows: NDArray[np.float64]) -> bytes:
    """Make one body of POST /v1/score/batch with all flows."""
    return json.dumps({"events": _events(flows)}).encode()


def _events(flows: NDArray[np.float64]) -> list[dict[str, object]]:
    return [
        {"kind": "flow", "id": f"e{row}", "host": HOSTS[row % len(HOSTS)], "features": features}
        for row, features in enumerate(flows.tolist())
    ]
