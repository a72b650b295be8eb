"""Recipes of the process model: `train_masquerade` makes the one we ship, `train_benign` one of a user's own processes.

`train_masquerade` learns what 30 users run from their first 5,000 commands, and calibrates on the
next 10,000, where blocks of
100 commands by strangers are marked. Every figure we print, and every benign score, comes from a
calibration that had not seen the
labels of that user. All commands of a marked block count as hostile, though most of them are
innocent by themselves: the calibrated
rarity of one event is modest.

`train_benign` has no hostile events. It counts, fits the forest over command lines on the earlier
two thirds, and calibrates on
the later third by the benign tail alone: an event as strange as the strangest share p of them gets
the likelihood ratio
0.5 / sqrt(p). Under benign events this is 1 on average whatever the truth, so it can mislead only
so far; one event in a thousand
earns 16 : 1. The rarity keeps the calibration of `base`, whose unit (scatters of the entity) means
the same on every fleet.

Source: p to e calibrator: Vovk, Wang, "E-values: calibration, combination and applications", Annals
of Statistics 49(3), 2021,
section 2; the data: Schonlau et al., "Computer intrusion: detecting masquerades", Statistical
Science 16(1), 2001.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.ensemble import IsolationForest

from ensemble.errors import TrainingError
from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.features.process import FEATURE_LIMITS, command_line_features, has_command_line
from ensemble.kernels.calibration import PRIOR_LOG_ODDS, Calibration, probability
from ensemble.kernels.isolation_forest import Forest
from ensemble.layers.command_lines import CommandLineForest, ParentTable
from ensemble.layers.process_anomaly import ProcessAnomaly, pooled
from ensemble.layers.rarity import CEILING, RarityTable
from ensemble.training.data.process_files import read_process_events
from ensemble.training.fit.calibration import fit_surprise
from ensemble.training.metrics import separation

__all__ = [
    "MasqueradeBlocks",
    "TrainedProcesses",
    "read_masquerade",
    "read_process_events",
    "tail_calibration",
    "train_benign",
    "train_masquerade",
]

GOLDEN_EVENTS = 16
CLEAN_BLOCKS = 50  # of each user of process_masquerade; its SOURCE.txt
LEAST_EVENTS = 100  # fewer leave too little to read a benign tail from
LEAST_LINES = 20  # on either side; what `fit_surprise` needs
LEARNING_SHARE = 2 / 3  # of a user's own events; the later rest calibrates
TREES = 100
SAMPLES_A_TREE = 256  # Liu, Ting, Zhou, section 4: more samples swamp the anomalies
IMAGINED_SHARE = (
    0.05  # of the rows of the forest; chosen on made-up and on recorded Windows command lines
)
CHANGED_SHARE = 0.3  # of the features of an imagined row
FOREST_WEIGHT = 0.5  # no hostile command line has tested the user's forest: half of what it says
E_VALUE_POWER = 0.5  # of p; Vovk and Wang's calibrator is power * p ** (power - 1)
LEAST_SLOPE = 1e-3  # a calibration never falls


@dataclass(frozen=True, slots=True)
class TrainedProcesses:
    """A model, and all that its model card, its proof and the fusion need.

    Attributes:
        model: ready to be published.
        metrics: name -> figure, finite, of events that the model's table had not counted.
        golden_events: 16 events, some of them of unknown users.
        golden_scores: float64 (16,), what `model` says of them.
        training_data: name -> sha256 of what was learnt from.
        sizes: name -> how many.
        benign_scores: float64 (m,), layer scores of benign events that the model's table had
            not counted.
    """

    model: ProcessAnomaly
    metrics: Mapping[str, float]
    golden_events: tuple[ProcessEvent, ...]
    golden_scores: NDArray[np.float64]
    training_data: Mapping[str, str]
    sizes: Mapping[str, int]
    benign_scores: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MasqueradeBlocks:
    """Process starts in blocks of 100, each block by one user or by a stranger in that user's name.

    Attributes:
        events: as columns, in the order of the file.
        block: int64 (n,), number of the block that each event belongs to, counted over all
            users from 0.
        is_masquerade: bool (n,), the same for all events of a block.
    """

    events: ProcessBatch
    block: NDArray[np.int64]
    is_masquerade: NDArray[np.bool_]

    def mean_by_block(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of each block, float64 (blocks,)."""
        sizes = np.bincount(self.block)
        return np.asarray(np.bincount(self.block, weights=values) / sizes, np.float64)

    @property
    def is_masquerade_block(self) -> NDArray[np.bool_]:
        """Which blocks are a stranger's, bool (blocks,)."""
        _, first = np.unique(self.block, return_index=True)
        return self.is_masquerade[first]


def _silent(_: str) -> None:
    """Progress that nobody reads."""


def read_masquerade(data_dir: Path) -> tuple[MasqueradeBlocks, MasqueradeBlocks, str]:
    """The clean blocks to learn from, the blocks to calibrate on, and the sha256 of the file.

    Raises:
        TrainingError: the file is missing or is not the one that SOURCE.txt describes.
    """
    file = data_dir / "process_masquerade" / "commands.csv.gz"
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        rows = pd.read_csv(
            file,
            keep_default_na=False,
            dtype={"user": str, "command": str, "block": np.int64, "label": np.int64},
        )
    except (OSError, ValueError) as wrong:
        raise TrainingError(
            f"process_masquerade/commands.csv.gz cannot be read: {type(wrong).__name__}"
        ) from None
    missing = [name for name in ("user", "block", "command", "label") if name not in rows.columns]
    if missing:
        raise TrainingError(f"process_masquerade/commands.csv.gz: column {missing[0]} is missing")
    is_clean = rows["block"] < CLEAN_BLOCKS
    return _blocks(rows[is_clean]), _blocks(rows[~is_clean]), digest


def train_masquerade(
    data_dir: Path, seed: int, progress: Callable[[str], None] = _silent
) -> TrainedProcesses:
    """The model that we ship: rarity only, of the 30 users of process_masquerade.

    Args:
        data_dir: holds the folder `process_masquerade`.
        seed: of the golden events; nothing else is drawn.
        progress: told what happens, a line at a time.

    Raises:
        TrainingError: the data is missing or is not what it should be.
    """
    progress("reading process_masquerade")
    clean, later, digest = read_masquerade(data_dir)
    table = RarityTable.fit(clean.events)
    progress(
        f"learnt {len(table.names)} programs of {len(table.users)} users from {len(clean.events):,} starts"
    )
    rated = table.rate(later.events)
    users, of_user = np.unique(np.array(later.events.users), return_inverse=True)
    scores = np.empty(len(later.events))
    for user in range(users.size):
        is_held_out = of_user == user
        calibration = _labelled_calibration(
            rated.raw[~is_held_out], later.is_masquerade[~is_held_out]
        )
        scores[is_held_out] = calibration.apply(rated.raw[is_held_out])
    is_stranger, block_scores = later.is_masquerade_block, later.mean_by_block(scores)
    by_block = separation(block_scores[~is_stranger], block_scores[is_stranger])
    by_event = separation(scores[~later.is_masquerade], scores[later.is_masquerade])
    metrics = {
        "block_auroc": by_block.auroc,
        "block_tpr_at_1_fpr": by_block.tpr_at_1_fpr,
        "event_auroc": by_event.auroc,
        "event_tpr_at_1_fpr": by_event.tpr_at_1_fpr,
    }
    progress(
        "each user held out in turn: "
        + ", ".join(f"{name} {figure:.4f}" for name, figure in metrics.items())
    )
    calibration = _labelled_calibration(rated.raw, later.is_masquerade)
    benign_scores = calibration.apply(
        rated.raw[~later.is_masquerade]
    )  # thresholds are those of the model that serves
    model = ProcessAnomaly(table, calibration)
    golden = _golden(clean.events, seed)
    sizes = {
        "events_learnt": len(clean.events),
        "events_calibrated": len(later.events),
        "blocks": is_stranger.size,
    } | _table_sizes(table)
    data = {"process_masquerade/commands.csv.gz": digest}
    return TrainedProcesses(
        model, metrics, golden, _scores_of(model, golden), data, sizes, benign_scores
    )


def train_benign(
    events: Sequence[ProcessEvent],
    base: ProcessAnomaly | None,
    seed: int,
    progress: Callable[[str], None] = _silent,
) -> TrainedProcesses:
    """A model of the user's own processes: rarity, and the forest over command lines where there are any.

    What `base` counted over everyone stays as background, never heavier than the user's own
    launches, so that a program which is
    common elsewhere is told from one that nobody ever ran. Its users and hosts are forgotten.

    Args:
        events: benign as far as anybody knows, in the order they happened.
        base: gives the rarity's calibration and the background; None calibrates by the benign tail.
        seed: of the forest and the golden events.
        progress: told what happens, a line at a time.

    Raises:
        TrainingError: fewer than 100 events, or all alike.
    """
    if len(events) < LEAST_EVENTS:
        raise TrainingError(
            f"{len(events)} process events cannot teach what is usual; {LEAST_EVENTS} are the least"
        )
    first = round(len(events) * LEARNING_SHARE)
    batch, earlier, later = (
        ProcessBatch.of(events),
        ProcessBatch.of(events[:first]),
        ProcessBatch.of(events[first:]),
    )
    background = {} if base is None else _background(base.rarity, len(events))
    progress(f"learning from {first:,} earlier events, calibrating on {len(later):,} later ones")
    raw_rarity = RarityTable.fit(earlier, background).rate(later).raw
    calibration = tail_calibration(raw_rarity) if base is None else base.rarity_calibration
    lines = _learnt_lines(earlier, later, seed)
    progress(
        "learnt command lines" if lines else "too few command lines to learn from: rarity alone"
    )
    evidence = np.zeros(len(later)) if lines is None else lines.weight * lines.evidence(later)
    benign_scores = pooled(calibration.to_log_odds(raw_rarity), evidence)
    table = RarityTable.fit(batch, background)
    model = ProcessAnomaly(table, calibration, lines)
    metrics = {
        "benign_score_mean": float(benign_scores.mean()),
        "benign_score_99pct": float(np.quantile(benign_scores, 0.99)),
    }
    golden = _golden(batch, seed)
    sizes = {
        "events_learnt": len(events),
        "events_calibrated": len(later),
        "command_lines": int(has_command_line(batch).sum()),
    } | _table_sizes(table)
    digest = hashlib.sha256(json.dumps([astuple(event) for event in events]).encode()).hexdigest()
    return TrainedProcesses(
        model,
        metrics,
        golden,
        _scores_of(model, golden),
        {"process_events": digest},
        sizes,
        benign_scores,
    )


def tail_calibration(benign: NDArray[np.float64]) -> Calibration:
    """Calibration by benign events alone: likelihood ratio 0.5 / sqrt(p) at tail share p, as the page says.

    Args:
        benign: float (n,), raw scores of events that the layer was not fitted on; n >= 20.

    Raises:
        TrainingError: too few events, or all with the same score.
    """
    surprise = fit_surprise(benign)
    return Calibration(
        surprise.raw,
        PRIOR_LOG_ODDS + math.log(E_VALUE_POWER) + (1.0 - E_VALUE_POWER) * surprise.nats,
    )


def _labelled_calibration(raw: NDArray[np.float64], is_hostile: NDArray[np.bool_]) -> Calibration:
    """Logistic regression on the raw rarity, both classes counting alike, moved to the reference prior.

    The raw rarity is a log likelihood ratio already, so a straight line is its natural calibration.
    `fit_calibration` would
    bend it along the benign tail, which lets the rarest event of a block outweigh the rest (block
    AUROC .898 against .924).
    """
    if is_hostile.all() or not is_hostile.any():
        raise TrainingError("calibration needs benign and hostile events")
    values, which = np.unique(
        raw, return_inverse=True
    )  # a few thousand (entity, program) pairs stand for all events
    hostile, benign = (
        np.bincount(which[side], minlength=values.size) / (2.0 * side.sum())
        for side in (is_hostile, ~is_hostile)
    )

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = parameters[0] + parameters[1] * values
        slope = benign * probability(odds) - hostile * probability(-odds)
        return float(
            hostile @ np.logaddexp(0.0, -odds) + benign @ np.logaddexp(0.0, odds)
        ), np.array([slope.sum(), slope @ values])

    fitted = minimize(
        loss,
        np.array([0.0, 0.5]),
        jac=True,
        method="L-BFGS-B",
        bounds=[(None, None), (LEAST_SLOPE, None)],
    )
    knots = np.array([0.0, CEILING])
    return Calibration(knots, PRIOR_LOG_ODDS + fitted.x[0] + fitted.x[1] * knots)


def _fit_forest(batch: ProcessBatch, seed: int) -> tuple[ParentTable, Forest]:
    """Parents of all events, and a forest over those that have a command line.

    An isolation forest never cuts where no training row lies: on a fleet without any base64 it
    would not see the first. So a few
    imagined rows are mixed in, ordinary ones with some features moved anywhere within their limits:
    in an office of plain
    commands the share of ordinary events that look stranger than an encoded one falls from 15 % to
    none.
    """
    parents = ParentTable.fit(batch)
    ordinary = command_line_features(batch.command_lines, parents.surprisal(batch))[
        has_command_line(batch)
    ]
    generator = np.random.default_rng(seed)
    imagined = ordinary[
        generator.integers(len(ordinary), size=math.ceil(IMAGINED_SHARE * len(ordinary)))
    ]
    anywhere = generator.random(imagined.shape) * np.array(FEATURE_LIMITS)
    imagined = np.where(
        generator.random(imagined.shape) < CHANGED_SHARE, anywhere, imagined
    ).astype(np.float32)
    rows = np.concatenate([ordinary, imagined])
    fitted = IsolationForest(
        n_estimators=TREES, max_samples=min(SAMPLES_A_TREE, len(rows)), random_state=seed
    ).fit(rows)
    return parents, Forest.from_sklearn(fitted)


def _learnt_lines(
    earlier: ProcessBatch, later: ProcessBatch, seed: int
) -> CommandLineForest | None:
    """The forest over the command lines of `earlier`, calibrated on those of `later`; None where there are too few.

    It is this very forest that is shipped. Two forests of the same events differ by an offset as
    wide as the benign tail: with a
    calibration read off others (cross-fit), 0.7 to 4 % of new ordinary events, by the seed, passed
    a threshold made for 1 %.
    """
    has_line = has_command_line(later)
    if min(has_line.sum(), has_command_line(earlier).sum()) < LEAST_LINES:
        return None
    parents, forest = _fit_forest(earlier, seed)
    raw = forest.score_samples(command_line_features(later.command_lines, parents.surprisal(later)))
    return CommandLineForest(parents, forest, tail_calibration(raw[has_line]), FOREST_WEIGHT)


def _background(table: RarityTable, own_events: int) -> dict[str, int]:
    """Launches by everyone in another table, scaled down to `own_events` where they are more.

    Each at least 1.
    """
    launches = table.launches()
    share = min(1.0, own_events / sum(launches.values()))
    return {name: math.ceil(times * share) for name, times in launches.items()}


def _golden(batch: ProcessBatch, seed: int) -> tuple[ProcessEvent, ...]:
    """16 events of the training rows.

    Of every four, one by an unknown user and one that starts an unknown program.
    """
    rows = (
        np.random.default_rng(seed)
        .choice(len(batch), GOLDEN_EVENTS, replace=len(batch) < GOLDEN_EVENTS)
        .tolist()
    )
    events = [
        ProcessEvent(
            batch.names[row],
            batch.parents[row],
            batch.command_lines[row],
            batch.users[row],
            batch.hosts[row],
        )
        for row in rows
    ]
    for i in range(0, GOLDEN_EVENTS, 4):
        events[i + 1] = replace(
            events[i + 1], user="golden-unknown-user", host="golden-unknown-host"
        )
        events[i + 2] = replace(events[i + 2], name="golden-unknown-program")
    return tuple(events)


def _scores_of(model: ProcessAnomaly, events: Sequence[ProcessEvent]) -> NDArray[np.float64]:
    return model.score(ProcessBatch.of(events)).scores


def _table_sizes(table: RarityTable) -> dict[str, int]:
    return {
        "programs": len(table.names),
        "users": len(table.users),
        "hosts": len(table.hosts),
        "groups": len(table.groups),
    }


def _blocks(rows: pd.DataFrame) -> MasqueradeBlocks:
    users, commands = (tuple(rows[column].tolist()) for column in ("user", "command"))
    nothing = ("",) * len(rows)
    events = ProcessBatch(
        ids=nothing,
        hosts=nothing,
        users=users,
        names=commands,
        parents=nothing,
        command_lines=nothing,
    )
    block = rows.groupby(["user", "block"], sort=False).ngroup().to_numpy().astype(np.int64)
    return MasqueradeBlocks(events, block, rows["label"].to_numpy() != 0)
