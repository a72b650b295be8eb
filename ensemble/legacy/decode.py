"""Decoding of an older file to checked arrays and JSON values, in the sandbox's child process.

Refusals use the messages of the older engine where it had one ("Loaded model is None (corrupted
file)"). Files that the older engine accepted by mistake are refused too: a forest that was never
fitted, invalid trees, weights that are not finite, a model of another version of scikit-learn,
features in an unknown order.

Features are identified by the names that the model was fitted with; a model without names must read
all 78, in the order of `FEATURE_NAMES`.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.features.flow import FEATURE_NAMES, feature_position
from ensemble.kernels.isolation_forest import Forest
from ensemble.legacy.checked_tree import CheckedTree
from ensemble.legacy.files import CLASSIFIER, FOREST, FREQUENCIES, SCALER
from ensemble.legacy.networks import network_parts
from ensemble.legacy.safe_unpickle import (
    FOREST_NAMES,
    FREQUENCY_NAMES,
    SCALER_NAMES,
    Record,
    unpickle,
)
from ensemble.model import Parts

__all__ = ["DECODERS", "Terms", "decode"]

MOST_TREES = 10_000
MOST_NAMES = 1_000_000
MOST_LAUNCHES = 1 << 40  # as `ensemble.kernels.backoff_counts`
LONGEST_NAME = 4096  # characters of a path
_VERSION = re.compile(r"[0-9]{1,4}(?:\.[0-9A-Za-z]{1,9}){1,4}")
_IDENTITY_POWER = 1.0


@dataclass(frozen=True, slots=True)
class Terms:
    """Conditions of decoding a file.

    Attributes:
        limit_bytes: largest unpacked size.
        sklearn: version of scikit-learn that a pickled model must have.
    """

    limit_bytes: int
    sklearn: str


def decode(name: str, data: bytes, terms: Terms) -> Parts:
    """Decode the file `name`.

    Args:
        name: one of the four; it determines the format.
        data: all bytes of the file.
        terms: conditions.

    Raises:
        ArtifactUntrusted: it refers to code that such a file does not need.
        ArtifactCorrupt: it cannot be decoded, or is not what its name says.
        ArtifactIncompatible: it is of another version, or cannot be served.
    """
    return DECODERS[name](data, terms)


def _forest(data: bytes, terms: Terms) -> Parts:
    """Convert a pickled IsolationForest to the arrays of `Forest`, and its features."""
    model = unpickle(data, FOREST, FOREST_NAMES, limit_bytes=terms.limit_bytes)
    if model is None:
        raise ArtifactCorrupt(FOREST, "Loaded model is None (corrupted file)")
    if not isinstance(model, Record) or model.name != "IsolationForest":
        raise ArtifactCorrupt(FOREST, "Anomaly model missing 'predict' method")
    _require_version(model, FOREST, terms.sklearn)
    estimators, columns = model.get("estimators_"), model.get("estimators_features_")
    if (
        not isinstance(estimators, list)
        or not isinstance(columns, list)
        or not 0 < len(estimators) == len(columns) <= MOST_TREES
    ):
        raise ArtifactIncompatible(FOREST, "a fitted forest", "one that was never fitted")
    d = _count(model, "n_features_in_", FOREST)
    trees = [_tree(estimator, own, d) for estimator, own in zip(estimators, columns, strict=True)]
    forest = Forest.from_trees(
        [tree for tree, _ in trees],
        [own for _, own in trees],
        max_samples=_count(model, "max_samples_", FOREST, least=2),
        n_features=d,
    )
    arrays = {f"forest.{name}": array for name, array in forest.to_arrays().items()}
    return Parts(arrays | {"positions": _positions(model, d, FOREST)}, {})


def _tree(estimator: object, columns: object, d: int) -> tuple[CheckedTree, NDArray[np.int64]]:
    if (
        not isinstance(columns, np.ndarray)
        or columns.ndim != 1
        or columns.dtype.kind not in "iu"
        or not columns.size
    ):
        raise ArtifactIncompatible(FOREST, "the columns of each tree", "something else")
    if columns.min() < 0 or columns.max() >= d:
        raise ArtifactIncompatible(
            FOREST, f"trees over columns 0 to {d - 1}", "a tree over another column"
        )
    tree = estimator.get("tree_") if isinstance(estimator, Record) else None
    nodes = tree.get("nodes") if isinstance(tree, Record) else None
    return CheckedTree.of(nodes, columns.size, FOREST), columns.astype(np.int64)


def _frequencies(data: bytes, terms: Terms) -> Parts:
    """Convert a pickled dictionary of counts or shares to launches by program.

    Shares (floating point, with a sum of 1 within 1 %) become counts in which the rarest program
    was launched once, because shares do not determine the total.
    """
    found = unpickle(data, FREQUENCIES, FREQUENCY_NAMES, limit_bytes=terms.limit_bytes)
    if not isinstance(found, dict):
        raise ArtifactCorrupt(FREQUENCIES, "Process frequencies is not a dictionary")
    if not 0 < len(found) <= MOST_NAMES:
        raise ArtifactIncompatible(FREQUENCIES, f"1 to {MOST_NAMES:,} programs", f"{len(found):,}")
    if not all(_is_name(name) for name in found):
        raise ArtifactIncompatible(FREQUENCIES, "names that are text", "another key")
    if not all(
        isinstance(times, int | float | np.integer | np.floating) and math.isfinite(times)
        for times in found.values()
    ):
        raise ArtifactIncompatible(
            FREQUENCIES, "a count or a share of each program", "something else"
        )
    values = {name: float(times) for name, times in found.items() if times}
    if not values or min(values.values()) < 0:
        raise ArtifactIncompatible(FREQUENCIES, "counts or shares above 0", "others")
    if not all(value == round(value) for value in values.values()):
        total, least = sum(values.values()), min(values.values())
        if not abs(total - 1.0) <= 0.01:  # noqa: PLR2004  # rounding of a table written by hand
            raise ArtifactIncompatible(
                FREQUENCIES,
                "integer counts, or shares that sum to 1",
                f"numbers that sum to {total:.4g}",
            )
        values = {name: value / least for name, value in values.items()}
    if sum(values.values()) > MOST_LAUNCHES:
        raise ArtifactIncompatible(
            FREQUENCIES, f"at most {MOST_LAUNCHES:,} launches", f"{sum(values.values()):,.0f}"
        )
    return Parts({}, {"launches": {name: round(value) for name, value in values.items()}})


def _is_name(name: object) -> bool:
    """Whether `name` is text of a bounded length without lone surrogates."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _network(data: bytes, _terms: Terms) -> Parts:
    """Convert a state dict to weights and biases in order; torch builds only tensors."""
    import torch  # noqa: PLC0415  # 160 MB and a second that joblib files do not need

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # an untrusted file may raise any error
        raise ArtifactCorrupt(
            CLASSIFIER, f"cannot be decoded as weights alone ({type(error).__name__})"
        ) from None
    return network_parts(state)


def _scaler(data: bytes, terms: Terms) -> Parts:
    """Convert a pickled scaler of scikit-learn to centre, spread and power of each feature."""
    scaler = unpickle(data, SCALER, SCALER_NAMES, limit_bytes=terms.limit_bytes)
    if not isinstance(scaler, Record) or scaler.name not in _SCALES:
        raise ArtifactCorrupt(SCALER, "Scaler missing 'transform' method")
    _require_version(scaler, SCALER, terms.sklearn)
    d = _count(scaler, "n_features_in_", SCALER)
    arrays = _SCALES[scaler.name](scaler, d)
    return Parts(arrays | {"positions": _positions(scaler, d, SCALER)}, {})


def _standard(scaler: Record, d: int) -> dict[str, NDArray[Any]]:
    mean, spread = (
        _column(scaler, "mean_", d, default=0.0),
        _column(scaler, "scale_", d, default=1.0),
    )
    # The scaler stores a mean even if it does not use it.
    return _scale(mean if scaler.get("with_mean") else np.zeros(d), spread)


def _robust(scaler: Record, d: int) -> dict[str, NDArray[Any]]:
    return _scale(
        _column(scaler, "center_", d, default=0.0), _column(scaler, "scale_", d, default=1.0)
    )


def _min_max(scaler: Record, d: int) -> dict[str, NDArray[Any]]:
    if scaler.get("clip"):
        raise ArtifactIncompatible(SCALER, "a scaler that does not clip", "MinMaxScaler(clip=True)")
    factor = _column(scaler, "scale_", d)  # x * factor + shift
    if not (factor > 0).all():
        raise ArtifactIncompatible(SCALER, "positive scales", "others")
    return _scale(-_column(scaler, "min_", d) / factor, 1.0 / factor)


def _power(scaler: Record, d: int) -> dict[str, NDArray[Any]]:
    if scaler.get("method") != "yeo-johnson":
        raise ArtifactIncompatible(SCALER, "a power transform by Yeo and Johnson", "another")
    powers = _column(scaler, "lambdas_", d)
    inner = scaler.get("_scaler") if scaler.get("standardize") else None
    scale = _standard(inner, d) if isinstance(inner, Record) else _scale(np.zeros(d), np.ones(d))
    return scale | {"powers": powers}


_SCALES: Mapping[str, Callable[[Record, int], dict[str, NDArray[Any]]]] = {
    "StandardScaler": _standard,
    "RobustScaler": _robust,
    "MinMaxScaler": _min_max,
    "PowerTransformer": _power,
}


def _scale(centre: NDArray[np.float64], spread: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    if not (spread > 0).all():
        raise ArtifactIncompatible(SCALER, "positive scales", "others")
    return {"centre": centre, "spread": spread, "powers": np.full(centre.size, _IDENTITY_POWER)}


def _column(
    scaler: Record, name: str, d: int, *, default: float | None = None
) -> NDArray[np.float64]:
    """Read one fitted number for each feature.

    The result is `default` for a step that the scaler omits, for which it stores None.
    """
    found = scaler.get(name)
    if (
        found is None
        and default is not None
        and isinstance(scaler.state, dict)
        and name in scaler.state
    ):
        return np.full(d, default)
    if found is None:
        raise ArtifactIncompatible(SCALER, "a fitted scaler", "one that was never fitted")
    if (
        not isinstance(found, np.ndarray)
        or found.shape != (d,)
        or found.dtype.kind != "f"
        or not np.isfinite(found).all()
    ):
        raise ArtifactIncompatible(SCALER, f"{d} finite numbers in {name}", "something else")
    return found.astype(np.float64)


def _require_version(model: Record, what: str, expected: str) -> None:
    """Reject a model of another version of scikit-learn, which may score differently (C-09).

    scikit-learn itself only warns (InconsistentVersionWarning).
    """
    stamp = model.get("_sklearn_version")
    if stamp != expected:
        named = stamp if isinstance(stamp, str) and _VERSION.fullmatch(stamp) else "unknown"
        raise ArtifactIncompatible(
            what, f"sklearn version {expected}", f"incompatible sklearn version {named}"
        )


def _count(model: Record, name: str, what: str, *, least: int = 1) -> int:
    found = model.get(name)
    if type(found) is not int or not least <= found < 1 << 31:
        raise ArtifactIncompatible(what, f"a fitted model with its {name}", "none")
    return found


def _positions(model: Record, d: int, what: str) -> NDArray[np.int32]:
    """Positions of the columns among the 78 features, int32 (d,).

    They follow from the names that the model was fitted with; without names, all 78 in order.
    """
    names = model.get("feature_names_in_")
    if names is None:
        if d != len(FEATURE_NAMES):
            raise ArtifactIncompatible(
                what,
                f"{len(FEATURE_NAMES)} features, or their names",
                f"{d} features without names",
            )
        return np.arange(d, dtype=np.int32)
    if (
        not isinstance(names, np.ndarray)
        or names.shape != (d,)
        or not all(isinstance(name, str) for name in names.tolist())
    ):
        raise ArtifactIncompatible(what, f"{d} names of features", "something else")
    found = [feature_position(name) for name in names.tolist()]
    unknown = [
        name for name, position in zip(names.tolist(), found, strict=True) if position is None
    ]
    if unknown:
        raise ArtifactIncompatible(what, "features of CICFlowMeter", ascii(unknown[0])[:63])
    if len(set(found)) != d:
        raise ArtifactIncompatible(what, "every feature once", "a repeated feature")
    return np.array(found, np.int32)


DECODERS: Mapping[str, Callable[[bytes, Terms], Parts]] = {
    FOREST: _forest,
    FREQUENCIES: _frequencies,
    CLASSIFIER: _network,
    SCALER: _scaler,
}
