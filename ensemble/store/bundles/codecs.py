"""A model's parts as bytes and back: arrays as safetensors, the rest and golden scores as JSON.

Neither format can run code, and both are decoded from bytes that were proven before, never from a
path.
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
    """Events with the scores that the trainer's model gave them.

    A bundle that loads but scores otherwise is not that model.

    Attributes:
        events: as a caller would send them (wire form), JSON values only; empty where a model
            rates no events.
        scores: calibrated, one an event, each in [0, 1].
    """

    events: Sequence[Mapping[str, Any]]
    scores: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.events) != len(self.scores):
            raise ValueError(f"{len(self.events)} golden events have {len(self.scores)} scores")
        if not all(0.0 <= score <= 1.0 for score in self.scores):  # NaN fails both comparisons
            raise ValueError("a golden score is outside [0, 1]")


def encode_parts(parts: Parts) -> dict[str, bytes]:
    """The two files of `parts`, by name; equal parts give equal bytes.

    Raises:
        ArtifactIncompatible: an array of objects, text or complex numbers, or one that is not
            finite.
        ValueError, TypeError: the configuration is not plain JSON.
    """
    arrays = {name: _plain(name, array) for name, array in parts.arrays.items()}
    return {
        ARRAYS: safetensors.numpy.save(arrays),
        CONFIG: canonical_json.encode(dict(parts.config)),
    }


def decode_parts(files: Mapping[str, bytes]) -> Parts:
    """The parts in the proven `files`; the arrays are read-only.

    Raises:
        ArtifactMissing: a file is not among them.
        ArtifactCorrupt: not the format its name says.
        ArtifactIncompatible: an array of a type we do not store, or one that is not finite.
    """
    try:
        arrays = safetensors.numpy.load(_file(files, ARRAYS))
    except (
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
    ):  # the last three: a dtype that numpy has no word for
        raise ArtifactCorrupt(ARRAYS, "is not safetensors of numpy arrays") from None
    for name, array in arrays.items():
        _refuse_unless_plain(name, array)
        array.flags.writeable = False
    config = canonical_json.decode(_file(files, CONFIG), what=CONFIG)
    if not isinstance(config, dict):
        raise ArtifactCorrupt(CONFIG, "is not a JSON object")
    return Parts(arrays, config)


def encode_golden(golden: Golden) -> bytes:
    """The file of `golden`."""
    return canonical_json.encode(
        {
            "events": [dict(event) for event in golden.events],
            "scores": [float(score) for score in golden.scores],
        }
    )


def decode_golden(data: bytes) -> Golden:
    """The golden scores in proven bytes.

    Raises:
        ArtifactCorrupt: anything that `encode_golden` would not have written.
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
    """`array` in C order.

    Safetensors writes a transposed or strided array scrambled, without a word (0.8.0, measured).
    """
    _refuse_unless_plain(name, array)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=None)


def _refuse_unless_plain(name: str, array: NDArray[Any]) -> None:
    if array.dtype.newbyteorder("=") not in _DTYPES:
        raise ArtifactIncompatible(f"array {name}", "plain numbers", str(array.dtype))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArtifactIncompatible(f"array {name}", "finite numbers", "NaN or infinity")
