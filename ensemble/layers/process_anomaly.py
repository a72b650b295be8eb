"""Model of process starts in the anomaly layer: a rare program, or an unusual command line.

Two opinions become one score. The rarity of the program for this user or host always counts. The
forest over the command line counts after an operator trained it on processes of their own fleet.
They are pooled as evidence:

    log-odds = prior + (rarity - prior) + weight * (forest - prior),  cut at +-6

A forest with weight 0, and an event without a command line, leave the score of the rarity as it is.

A program that is known says nothing about its command line: `sh` is common, `sh -c "curl ... | sh"`
is not. Where the model knows neither the user nor the host, a score would be a constant, not an
opinion, so it gives none.

Source: logarithmic opinion pool, as in `ensemble.fusion`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.events import EventBatch, ProcessBatch
from ensemble.features.process import has_command_line
from ensemble.kernels.calibration import LOG_ODDS_LIMIT, PRIOR_LOG_ODDS, Calibration, probability
from ensemble.layers.command_lines import CommandLineForest
from ensemble.layers.rarity import RarityTable
from ensemble.model import ModelScores, Parts, below

__all__ = ["ProcessAnomaly", "pooled"]

FORMAT = 1
# reasons of an abstention
NOTHING_KNOWN = "unknown user and host, and no model reads the command line"
NOTHING_KNOWN_NOR_PROGRAM = "unknown user, host and program"
NOT_READ = ("command_line_not_read",)  # flags of an event


def pooled(
    rarity_log_odds: NDArray[np.float64], weighted_evidence: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Pool the log-odds of the rarity with the weighted evidence of the forest into a score.

    All float64 (n,).
    """
    return probability(
        np.clip(rarity_log_odds + weighted_evidence, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    )


@dataclass(frozen=True, slots=True)
class ProcessAnomaly:
    """Model of process starts: rarity of the program, and its command line.

    Attributes:
        rarity: launch counts of users, hosts, groups and everyone.
        rarity_calibration: raw rarity -> log-odds of hostile.
        command_lines: None until an operator trains it.
    """

    rarity: RarityTable
    rarity_calibration: Calibration
    command_lines: CommandLineForest | None = None

    def score(self, batch: EventBatch, *, explain: bool = False) -> ModelScores:
        """Score each process start, calibrated.

        Args:
            batch: process starts.
            explain: also return the two opinions, columns `rarity` and `command_line`, each a score
                in [0, 1] of its own; `command_line` is the prior if the forest has no opinion.

        Returns:
            The scores, and a note on each event whose user or host is not in the table. The model
            is uninformed of an event of which it knows neither the user nor the host, unless it
            knows the program and there is no command line, or reads the command line.

        Raises:
            TypeError: the batch holds another kind of event, which is a bug.
        """
        if not isinstance(batch, ProcessBatch):
            raise TypeError(f"a model of process starts was given events of kind {batch.kind}")
        rated = self.rarity.rate(batch)
        rarity = self.rarity_calibration.to_log_odds(rated.raw)
        forest, weight = (
            self.command_lines,
            0.0 if self.command_lines is None else self.command_lines.weight,
        )
        evidence = (
            forest.evidence(batch)
            if forest is not None and (weight or explain)
            else np.zeros(len(batch))
        )
        is_unread = has_command_line(batch) & (weight == 0.0)
        is_read = has_command_line(batch) & (weight > 0.0)
        is_informed = rated.knows_entity | is_read | (rated.knows_name & ~is_unread)
        details: dict[str, NDArray[Any]] = {}
        if explain:
            details = {
                "rarity": probability(rarity),
                "command_line": probability(PRIOR_LOG_ODDS + evidence),
            }
        return ModelScores(
            pooled(rarity, weight * evidence),
            rated.notes,
            details,
            uninformed={
                row: NOTHING_KNOWN if rated.knows_name[row] else NOTHING_KNOWN_NOR_PROGRAM
                for row in np.flatnonzero(~is_informed).tolist()
            },
            flags=dict.fromkeys(np.flatnonzero(is_unread & is_informed).tolist(), NOT_READ),
        )

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal model."""
        arrays, rarity = self.rarity.to_parts()
        config: dict[str, Any] = {
            "format": FORMAT,
            "rarity": rarity,
            "rarity_calibration": self.rarity_calibration.to_config(),
        }
        named = {f"rarity.{name}": array for name, array in arrays.items()}
        config["command_lines"] = None
        if self.command_lines is not None:
            arrays, config["command_lines"] = self.command_lines.to_parts()
            named |= {f"command_lines.{name}": array for name, array in arrays.items()}
        return Parts({name: np.ascontiguousarray(array) for name, array in named.items()}, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the model from a bundle.

        Raises:
            ArtifactIncompatible: another format or schema, ids out of bounds, numbers that are
                not finite, arrays of another shape.
        """
        if parts.config.get("format") != FORMAT:
            raise ArtifactIncompatible(
                "process model", f"format {FORMAT}", str(parts.config.get("format"))[:32]
            )
        rarity, lines = parts.config.get("rarity"), parts.config.get("command_lines")
        if not isinstance(rarity, Mapping) or not (lines is None or isinstance(lines, Mapping)):
            raise ArtifactIncompatible(
                "process model", "objects rarity and command_lines", "others"
            )
        try:
            calibration = Calibration.from_config(parts.config["rarity_calibration"])
        except (KeyError, TypeError):
            raise ArtifactIncompatible(
                "process model", "a calibration of the rarity", "none that can be read"
            ) from None
        return cls(
            RarityTable.from_parts(below("rarity.", parts.arrays), rarity),
            calibration,
            None
            if lines is None
            else CommandLineForest.from_parts(below("command_lines.", parts.arrays), lines),
        )
