"""Network flows: the 78 CICFlowMeter features, by position or by name, finite or rejected.

Three dialects of the extractor are in use. All are read, regardless of blanks and case: the 2017
release (` Total Fwd Packets`), version 4 (`Tot Fwd Pkts`) and the current master (`Total Fwd
Packet`).

Two given rates are ignored. Extractors write Infinity or NaN when the duration is 0, so
`Flow Bytes/s` and `Flow Packets/s` are always recomputed from the counts. Without a duration they
are 0, with the flag `rates_undefined`. Any other value that is not finite in float32 is rejected by
name, because an isolation forest rates a row of NaN as the most normal of all.

Source: Lashkari et al., CICFlowMeter; Sharafaldin, Lashkari, Ghorbani, "Toward generating a new
intrusion detection dataset", ICISSP 2018.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import FeatureMismatch

__all__ = [
    "FEATURE_NAMES",
    "RECOMPUTED",
    "UNUSED",
    "Admitted",
    "admit",
    "feature_position",
    "in_order",
    "schema_sha256",
    "used_positions",
]

FEATURE_NAMES: tuple[str, ...] = (
    "Destination Port", "Flow Duration", "Total Fwd Packets", "Total Backward Packets",
    "Total Length of Fwd Packets",
    "Total Length of Bwd Packets", "Fwd Packet Length Max", "Fwd Packet Length Min",
    "Fwd Packet Length Mean",
    "Fwd Packet Length Std", "Bwd Packet Length Max", "Bwd Packet Length Min",
    "Bwd Packet Length Mean", "Bwd Packet Length Std",
    "Flow Bytes/s", "Flow Packets/s", "Flow IAT Mean", "Flow IAT Std", "Flow IAT Max",
    "Flow IAT Min", "Fwd IAT Total",
    "Fwd IAT Mean", "Fwd IAT Std", "Fwd IAT Max", "Fwd IAT Min", "Bwd IAT Total", "Bwd IAT Mean",
    "Bwd IAT Std", "Bwd IAT Max",
    "Bwd IAT Min", "Fwd PSH Flags", "Bwd PSH Flags", "Fwd URG Flags", "Bwd URG Flags",
    "Fwd Header Length", "Bwd Header Length",
    "Fwd Packets/s", "Bwd Packets/s", "Min Packet Length", "Max Packet Length",
    "Packet Length Mean", "Packet Length Std",
    "Packet Length Variance", "FIN Flag Count", "SYN Flag Count", "RST Flag Count",
    "PSH Flag Count", "ACK Flag Count",
    "URG Flag Count", "CWE Flag Count", "ECE Flag Count", "Down/Up Ratio", "Average Packet Size",
    "Avg Fwd Segment Size",
    "Avg Bwd Segment Size", "Fwd Header Length.1", "Fwd Avg Bytes/Bulk", "Fwd Avg Packets/Bulk",
    "Fwd Avg Bulk Rate",
    "Bwd Avg Bytes/Bulk", "Bwd Avg Packets/Bulk", "Bwd Avg Bulk Rate", "Subflow Fwd Packets",
    "Subflow Fwd Bytes",
    "Subflow Bwd Packets", "Subflow Bwd Bytes", "Init_Win_bytes_forward",
    "Init_Win_bytes_backward", "act_data_pkt_fwd",
    "min_seg_size_forward", "Active Mean", "Active Std", "Active Max", "Active Min", "Idle Mean",
    "Idle Std", "Idle Max", "Idle Min",
)  # fmt: skip

RECOMPUTED = ("Flow Bytes/s", "Flow Packets/s")  # extractors write Infinity and NaN
# A shortcut that reveals the label, and a repeated column.
UNUSED = ("Destination Port", "Fwd Header Length.1")

OTHER_DIALECTS: dict[str, tuple[str, ...]] = {
    "Destination Port": ("Dst Port",),
    "Total Fwd Packets": ("Tot Fwd Pkts", "Total Fwd Packet"),
    "Total Backward Packets": ("Tot Bwd Pkts", "Total Bwd packets"),
    "Total Length of Fwd Packets": ("TotLen Fwd Pkts", "Total Length of Fwd Packet"),
    "Total Length of Bwd Packets": ("TotLen Bwd Pkts", "Total Length of Bwd Packet"),
    "Fwd Packet Length Max": ("Fwd Pkt Len Max",),
    "Fwd Packet Length Min": ("Fwd Pkt Len Min",),
    "Fwd Packet Length Mean": ("Fwd Pkt Len Mean",),
    "Fwd Packet Length Std": ("Fwd Pkt Len Std",),
    "Bwd Packet Length Max": ("Bwd Pkt Len Max",),
    "Bwd Packet Length Min": ("Bwd Pkt Len Min",),
    "Bwd Packet Length Mean": ("Bwd Pkt Len Mean",),
    "Bwd Packet Length Std": ("Bwd Pkt Len Std",),
    "Flow Bytes/s": ("Flow Byts/s",),
    "Flow Packets/s": ("Flow Pkts/s",),
    "Fwd IAT Total": ("Fwd IAT Tot",),
    "Bwd IAT Total": ("Bwd IAT Tot",),
    "Fwd Header Length": ("Fwd Header Len",),
    "Bwd Header Length": ("Bwd Header Len",),
    "Fwd Packets/s": ("Fwd Pkts/s",),
    "Bwd Packets/s": ("Bwd Pkts/s",),
    "Min Packet Length": ("Pkt Len Min", "Packet Length Min"),
    "Max Packet Length": ("Pkt Len Max", "Packet Length Max"),
    "Packet Length Mean": ("Pkt Len Mean",),
    "Packet Length Std": ("Pkt Len Std",),
    "Packet Length Variance": ("Pkt Len Var",),
    "FIN Flag Count": ("FIN Flag Cnt",),
    "SYN Flag Count": ("SYN Flag Cnt",),
    "RST Flag Count": ("RST Flag Cnt",),
    "PSH Flag Count": ("PSH Flag Cnt",),
    "ACK Flag Count": ("ACK Flag Cnt",),
    "URG Flag Count": ("URG Flag Cnt",),
    "CWE Flag Count": ("CWR Flag Count", "CWE Flag Cnt"),
    "ECE Flag Count": ("ECE Flag Cnt",),
    "Average Packet Size": ("Pkt Size Avg",),
    "Avg Fwd Segment Size": ("Fwd Seg Size Avg", "Fwd Segment Size Avg"),
    "Avg Bwd Segment Size": ("Bwd Seg Size Avg", "Bwd Segment Size Avg"),
    "Fwd Avg Bytes/Bulk": ("Fwd Byts/b Avg", "Fwd Bytes/Bulk Avg"),
    "Fwd Avg Packets/Bulk": ("Fwd Pkts/b Avg", "Fwd Packet/Bulk Avg"),
    "Fwd Avg Bulk Rate": ("Fwd Blk Rate Avg", "Fwd Bulk Rate Avg"),
    "Bwd Avg Bytes/Bulk": ("Bwd Byts/b Avg", "Bwd Bytes/Bulk Avg"),
    "Bwd Avg Packets/Bulk": ("Bwd Pkts/b Avg", "Bwd Packet/Bulk Avg"),
    "Bwd Avg Bulk Rate": ("Bwd Blk Rate Avg", "Bwd Bulk Rate Avg"),
    "Subflow Fwd Packets": ("Subflow Fwd Pkts",),
    "Subflow Fwd Bytes": ("Subflow Fwd Byts",),
    "Subflow Bwd Packets": ("Subflow Bwd Pkts",),
    "Subflow Bwd Bytes": ("Subflow Bwd Byts",),
    "Init_Win_bytes_forward": ("Init Fwd Win Byts", "FWD Init Win Bytes"),
    "Init_Win_bytes_backward": ("Init Bwd Win Byts", "Bwd Init Win Bytes"),
    "act_data_pkt_fwd": ("Fwd Act Data Pkts",),
    "min_seg_size_forward": ("Fwd Seg Size Min",),
}

_POSITION = {name: i for i, name in enumerate(FEATURE_NAMES)}
_DURATION = _POSITION["Flow Duration"]  # microseconds
_BYTES = [_POSITION["Total Length of Fwd Packets"], _POSITION["Total Length of Bwd Packets"]]
_PACKETS = [_POSITION["Total Fwd Packets"], _POSITION["Total Backward Packets"]]
_RATES = tuple(_POSITION[name] for name in RECOMPUTED)
_REPEATED, _REPEATS = _POSITION["Fwd Header Length.1"], _POSITION["Fwd Header Length"]
_MICROSECONDS = 1e6


def _folded(name: str) -> str:
    return name.strip().casefold()


_BY_FOLDED_NAME = {
    _folded(spelling): _POSITION[name]
    for name in FEATURE_NAMES
    for spelling in (name, *OTHER_DIALECTS.get(name, ()))
}


def feature_position(name: str) -> int | None:
    """Find the position in `FEATURE_NAMES` of a name in any dialect; None if it is no feature."""
    return _BY_FOLDED_NAME.get(_folded(name))


def used_positions() -> NDArray[np.intp]:
    """Positions of the 76 features that shipped models read: all but `UNUSED`."""
    return np.array([i for i, name in enumerate(FEATURE_NAMES) if name not in UNUSED])


def schema_sha256() -> str:
    """Identity of this feature schema: names, order and recomputed features; 64 hex digits."""
    schema = {
        "kind": "flow",
        "names": FEATURE_NAMES,
        "recomputed": [FEATURE_NAMES[i] for i in _RATES],
        "format": 1,
    }
    return hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()


def in_order(features: Mapping[str, float | None]) -> list[float | None]:
    """Sort `features`, given by name in any dialect, into the order of `FEATURE_NAMES`.

    `Fwd Header Length.1` may be missing: it repeats `Fwd Header Length`, and two of the dialects do
    not have it.

    Raises:
        FeatureMismatch: a feature is unknown, given twice or missing; the first one is named.
    """
    values: list[float | None] = [None] * len(FEATURE_NAMES)
    given = [False] * len(FEATURE_NAMES)
    for name, value in features.items():
        position = _POSITION.get(name)
        if position is None:
            position = feature_position(name)
        if position is None:
            raise FeatureMismatch(
                f"features.{name[:64]}", "is not one of the 78 CICFlowMeter features"
            )
        if given[position]:
            raise FeatureMismatch(f"features.{name[:64]}", "is given twice, in two spellings")
        values[position], given[position] = value, True
    if not given[_REPEATED] and given[_REPEATS]:
        values[_REPEATED], given[_REPEATED] = values[_REPEATS], True
    if not all(given):
        raise FeatureMismatch(f"features.{FEATURE_NAMES[given.index(False)]}", "is missing")
    return values


@dataclass(frozen=True, slots=True)
class Admitted:
    """Result of the admission of flows.

    Attributes:
        rows: positions of the admitted flows in the input, int (m,).
        features: float32 (m, 78), finite, read-only.
        flags: row of `features` -> remarks.
        refused: position in the input -> error.
    """

    rows: NDArray[np.intp]
    features: NDArray[np.float32]
    flags: Mapping[int, tuple[str, ...]]
    refused: Mapping[int, FeatureMismatch]


def admit(values: Sequence[Sequence[float | None]] | NDArray[np.float64]) -> Admitted:
    """Validate flows, all at once; an invalid flow is rejected alone.

    Args:
        values: (n, 78) in the order of `FEATURE_NAMES`; None and NaN mean "not a number".
    """
    table = np.array(values, dtype=np.float64).reshape(-1, len(FEATURE_NAMES))  # None becomes NaN
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # values that are not finite are rejected below
        features = table.astype(np.float32)
        # Rates are computed from the float32 counts, so that admitting admitted features again
        # changes nothing.
        duration = features[:, _DURATION].astype(np.float64)
        has_duration = duration > 0
        seconds = np.where(has_duration, duration, 1.0) / _MICROSECONDS
        for rate, counts in zip(_RATES, (_BYTES, _PACKETS), strict=True):
            table[:, rate] = np.where(
                has_duration, features[:, counts].astype(np.float64).sum(axis=1) / seconds, 0.0
            )
            features[:, rate] = table[:, rate]
    is_finite = np.isfinite(features)
    if is_finite.all():
        rows, refused = np.arange(len(table)), {}
    else:
        rows = np.flatnonzero(is_finite.all(axis=1))
        refused = {
            int(row): _refusal(table[row], is_finite[row])
            for row in np.flatnonzero(~is_finite.all(axis=1))
        }
        features = features[rows]
    features.flags.writeable = False
    flags = {int(row): ("rates_undefined",) for row in np.flatnonzero(~has_duration[rows])}
    return Admitted(rows, features, flags, refused)


def _refusal(values: NDArray[np.float64], is_finite: NDArray[np.bool_]) -> FeatureMismatch:
    lost = np.flatnonzero(~is_finite).tolist()
    wrong = [i for i in lost if i not in _RATES] or lost  # a rate is wrong only through its counts
    return FeatureMismatch(
        f"features.{FEATURE_NAMES[wrong[0]]}",
        f"must be a finite float32 number, not {values[wrong[0]]:g}",
    )
