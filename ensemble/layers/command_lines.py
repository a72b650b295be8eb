"""Command-line forest: is this command line unlike those that this fleet starts every day?

An isolation forest over the eleven features of `ensemble.features.process`. One of them comes from
a table that is trained here: how surprising the child is under its parent. The forest knows only
ordinary command lines of one fleet. It is therefore never shipped: an operator trains it on
processes of their own.

Its weight is the share of its log-odds that counts. With weight 0, and for an event without a
command line, it has no effect.
Fit for: encoded and obfuscated commands, droppers under an unusual parent. Unfit for: a hostile
command that resembles the daily ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import ProcessBatch
from ensemble.features.process import (
    FEATURE_NAMES,
    command_line_features,
    has_command_line,
    image_names,
    schema_sha256,
)
from ensemble.kernels.backoff_counts import EVERYONE, BackedOffCounts
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, Calibration
from ensemble.kernels.isolation_forest import Forest
from ensemble.model import below

__all__ = ["CommandLineForest", "ParentTable"]


@dataclass(frozen=True, slots=True)
class ParentTable:
    """Counts of which programs start which.

    Attributes:
        children: the V names of started programs, sorted.
        parents: names of programs that started others, sorted; place i + 1 of `counts` is parent i.
        counts: launches of each child under each parent.
    """

    children: tuple[str, ...]
    parents: tuple[str, ...]
    counts: BackedOffCounts
    _child_id: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _parent_id: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if (
            self.counts.n_names != len(self.children)
            or self.counts.wider.size != 1 + len(self.parents)
            or self.counts.wider.any()
        ):
            raise _wrong(
                f"counts of {len(self.children)} children under {len(self.parents)} parents",
                "others",
            )
        object.__setattr__(self, "_child_id", {name: i for i, name in enumerate(self.children)})
        object.__setattr__(self, "_parent_id", {name: 1 + i for i, name in enumerate(self.parents)})
        if len(self._child_id) != len(self.children) or len(self._parent_id) != len(self.parents):
            raise _wrong("every name once", "one twice")

    @classmethod
    def fit(cls, batch: ProcessBatch) -> Self:
        """Count the starts of `batch`, at least one event.

        Events without a parent count for everyone only.
        """
        launched, started_by = image_names(batch.names), image_names(batch.parents)
        children, parents = tuple(sorted(set(launched))), tuple(sorted(set(started_by) - {""}))
        child_id = {name: i for i, name in enumerate(children)}
        parent_id = {name: 1 + i for i, name in enumerate(parents)}
        child = np.array([child_id[name] for name in launched], np.int64)
        parent = np.array([parent_id.get(name, EVERYONE) for name in started_by], np.int64)
        has_parent = parent != EVERYONE
        places = np.concatenate([np.zeros_like(parent), parent[has_parent]])
        names = np.concatenate([child, child[has_parent]])
        return cls(
            children,
            parents,
            BackedOffCounts.of(np.zeros(1 + len(parents), np.int64), places, names, len(children)),
        )

    def surprisal(self, batch: ProcessBatch) -> NDArray[np.float64]:
        """-log P(child | parent) of each event, nats, float64 (n,); 0 without a parent."""
        started_by = image_names(batch.parents)
        parent = np.array([self._parent_id.get(name, EVERYONE) for name in started_by], np.int64)
        child = np.array(
            [self._child_id.get(name, len(self.children)) for name in image_names(batch.names)],
            np.int64,
        )
        is_given = np.array([bool(name) for name in started_by], np.bool_)
        return np.where(is_given, -np.log(self.counts.probability(parent, child)), 0.0)


@dataclass(frozen=True, slots=True)
class CommandLineForest:
    """Isolation forest of ordinary command lines.

    Attributes:
        parents: source of the feature `parent_surprisal`.
        forest: isolation forest over `FEATURE_NAMES`.
        calibration: forest score -> log-odds of hostile.
        weight: share of the log-odds that counts, in [0, 1].
    """

    parents: ParentTable
    forest: Forest
    calibration: Calibration
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and 0.0 <= self.weight <= 1.0):
            raise _wrong("a weight from 0 to 1", repr(self.weight))
        if self.forest.n_features != len(FEATURE_NAMES):
            raise _wrong(
                f"a forest over {len(FEATURE_NAMES)} features", f"{self.forest.n_features}"
            )

    def evidence(self, batch: ProcessBatch) -> NDArray[np.float64]:
        """Unweighted log-odds of each event above the prior, float64 (n,).

        0 without a command line.
        """
        rows = command_line_features(batch.command_lines, self.parents.surprisal(batch))
        log_odds_of_hostile = self.calibration.to_log_odds(self.forest.score_samples(rows))
        return np.where(has_command_line(batch), log_odds_of_hostile - PRIOR_LOG_ODDS, 0.0)

    def to_parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values for a bundle; `from_parts` builds an equal forest."""
        arrays = {
            f"parents.{name}": array for name, array in self.parents.counts.to_arrays().items()
        }
        arrays |= {f"forest.{name}": array for name, array in self.forest.to_arrays().items()}
        return arrays, {
            "feature_schema": schema_sha256(),
            "children": list(self.parents.children),
            "parents": list(self.parents.parents),
            "calibration": self.calibration.to_config(),
            "weight": self.weight,
        }

    @classmethod
    def from_parts(cls, arrays: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> Self:
        """Build the forest from a bundle.

        Raises:
            ArtifactIncompatible: another feature schema, or a missing or impossible array or value.
        """
        if config.get("feature_schema") != schema_sha256():
            raise _wrong(
                f"feature schema {schema_sha256()[:12]}", str(config.get("feature_schema"))[:12]
            )
        children, parents = config.get("children"), config.get("parents")
        if not (
            isinstance(children, list)
            and isinstance(parents, list)
            and all(isinstance(name, str) for name in children + parents)
        ):
            raise _wrong("lists of strings children and parents", "others")
        weight = config.get("weight")
        if not isinstance(weight, (int, float)):
            raise _wrong("a weight", type(weight).__name__)
        counts = BackedOffCounts.from_arrays(below("parents.", arrays), len(children))
        forest = Forest.from_arrays(below("forest.", arrays), len(FEATURE_NAMES))
        try:
            calibration = Calibration.from_config(config["calibration"])
        except (KeyError, TypeError):
            raise _wrong("a calibration", "none that can be read") from None
        return cls(
            ParentTable(tuple(children), tuple(parents), counts), forest, calibration, float(weight)
        )


def _wrong(expected: str, found: str) -> ArtifactIncompatible:
    return ArtifactIncompatible("command lines", expected, found)
