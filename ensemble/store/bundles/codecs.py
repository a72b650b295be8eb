"""Codecs of a model's parts: arrays as safetensors, configuration and golden scores as JSON.

Neither format can run code. Both are decoded from bytes that were proven before, never from a path.

Source: the safetensors format, https://huggingface.co/docs/safetensors; it checks shapes and
offsets, not values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactMissing
from ensemble.model import Parts
from ensemble.store.files import canonical_json

__all__ = [
    "ARRAYS",
    "CONFIG",
    "GOLDEN",
    "Golden",
    "decode_golden",
    "decode_parts",
    "encode_golden",
    "encode_parts",
]

ARRAYS = "model.safetensors"
CONFIG = "config.json"
GOLDEN = "golden.json"

_DTYPES = frozenset(
    np.dtype(name)
    for name in ("bool", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
)


@dataclass(frozen=True, slots=True)
class Golden:
    """Events with the scores that the model gave them at training.

    A loaded bundle must reproduce them.

    Attributes:
        events: as a caller would send them (wire form), JSON values only; empty for a model that
            scores no events.
        scores: calibrated, one for each event, each in [0, 1].
    """

    events: Sequence[Mapping[str, Any]]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.events) != len(self.scores):
            raise ValueError(f"{len(self.events)} golden events have {len(self.scores)} scores")
        if not all(0.0 <= score <= 1.0 for score in self.scores):  # NaN fails both comparisons
            raise ValueError("a golden score is outside [0, 1]")


def encode_parts(parts: Parts) -> dict[str, bytes]:
    """Encode `parts` as two files, by name; equal parts give equal bytes.

    Raises:
        ArtifactIncompatible: an array has objects, text or complex numbers, or is not finite.
        ValueError, TypeError: the configuration is not plain JSON.
    """
    arrays = {name: _plain(name, array) for name, array in parts.arrays.items()}
    return {
        ARRAYS: safetensors.numpy.save(arrays),
        CONFIG: canonical_json.encode(dict(parts.config)),
    }


def decode_parts(files: Mapping[str, bytes]) -> Parts:
    """Decode the parts from proven `files`; the arrays are read-only.

    Raises:
        ArtifactMissing: a file is missing.
        ArtifactCorrupt: a file does not have the format of its name.
        ArtifactIncompatible: an array has a type that Axon does not store, or is not finite.
    """
    try:
        arrays = safetensors.numpy.load(_file(files, ARRAYS))
    # the last three: a dtype that numpy does not have
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise ArtifactCorrupt(ARRAYS, "is not safetensors of numpy arrays") from None
    for name, array in arrays.items():
        _refuse_unless_plain(name, array)
        array.flags.writeable = False
    config = canonical_json.decode(_file(files, CONFIG), what=CONFIG)
    if not isinstance(config, dict):
        raise ArtifactCorrupt(CONFIG, "is not a JSON object")
    return Parts(arrays, config)


def encode_golden(golden: Golden) -> bytes:
    """Encode golden events and scores as canonical JSON."""
    return canonical_json.encode(
        {
            "events": [dict(event) for event in golden.events],
            "scores": [float(score) for score in golden.scores],
        }
    )


def decode_golden(data: bytes) -> Golden:
    """Decode golden events and scores from proven bytes.

    Raises:
        ArtifactCorrupt: `encode_golden` would not have written it.
    """
    found = canonical_json.to_dataclass(
        canonical_json.decode(data, what=GOLDEN), _GoldenFile, what=GOLDEN
    )
    try:
        return Golden(found.events, found.scores)
    except ValueError as error:
        raise ArtifactCorrupt(GOLDEN, str(error)) from None


@dataclass(frozen=True, slots=True)
class _GoldenFile:
    events: tuple[dict[str, Any], ...]
    scores: tuple[float, ...]


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    if name not in files:
        raise ArtifactMissing(name)
    return files[name]


def _plain(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` in C order: safetensors silently scrambles others (0.8.0, measured)."""
    _refuse_unless_plain(name, array)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=None)


def _refuse_unless_plain(name: str, array: NDArray[Any]) -> None:
    if array.dtype.newbyteorder("=") not in _DTYPES:
        raise ArtifactIncompatible(f"array {name}", "plain numbers", str(array.dtype))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArtifactIncompatible(f"array {name}", "finite numbers", "NaN or infinity")
