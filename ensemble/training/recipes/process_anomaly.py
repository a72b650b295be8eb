"""Training recipes of the process model: the shipped one, and one of a user's own processes.

`train_masquerade` makes the shipped model. It learns what 30 users run from their first 5,000
commands and calibrates on the next 10,000, in which blocks of 100 commands by another user are
marked. Every reported figure, and every benign score, comes from a calibration without the labels
of that user. All commands of a marked block count as hostile, though most of them are
innocent by themselves: the calibrated rarity of one event is modest.

`train_benign` has no hostile events. It counts, fits the forest over command lines on the earlier
two thirds, and calibrates on the later third by the benign tail alone (`tail_calibration`). The
rarity uses the calibration of `base`, whose unit (scatters of the entity) means the same on every
fleet.

Source of the data: Schonlau et al., "Computer intrusion: detecting masquerades", Statistical
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
from ensemble.training.data.masquerade import read_masquerade
from ensemble.training.fit.calibration import tail_calibration
from ensemble.training.metrics import separation

__all__ = [
    "TrainedProcesses",
    "train_benign",
    "train_masquerade",
]

GOLDEN_EVENTS = 16
LEAST_EVENTS = 100  # fewer leave too little to read a benign tail from
LEAST_LINES = 20  # on either side; `tail_calibration` needs as many
LEARNING_SHARE = 2 / 3  # of a user's own events; the later rest calibrates
TREES = 100
SAMPLES_A_TREE = 256  # Liu, Ting, Zhou, section 4: more samples swamp the anomalies
# of the rows of the forest; chosen on synthetic and on recorded Windows command lines
SYNTHETIC_SHARE = 0.05
CHANGED_SHARE = 0.3  # of the features of a synthetic row
FOREST_WEIGHT = 0.5  # halved: no hostile command line has tested the user's forest
LEAST_SLOPE = 1e-3  # a calibration never falls


@dataclass(frozen=True, slots=True)
class TrainedProcesses:
    """A trained model, with what its model card, its golden answers and the fusion need.

    Attributes:
        model: ready to be published.
        metrics: name -> figure, finite, of events that the model's table had not counted.
        golden_events: 16 events, some of them of unknown users.
        golden_scores: float64 (16,), the scores that `model` gives them.
        training_data: name -> sha256 of the training data.
        sizes: name -> count, for the model card.
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


def _silent(_: str) -> None:
    """Discard progress."""


def train_masquerade(
    data_dir: Path, seed: int, progress: Callable[[str], None] = _silent
) -> TrainedProcesses:
    """Train the shipped model: rarity only, of the 30 users of process_masquerade.

    Args:
        data_dir: holds the folder `process_masquerade`.
        seed: of the golden events; nothing else is random.
        progress: called with one line of text at each step.

    Raises:
        TrainingError: the data is missing or malformed.
    """
    progress("reading process_masquerade")
    clean, later, digest = read_masquerade(data_dir)
    table = RarityTable.fit(clean.events)
    progress(
        f"counted {len(table.names)} programs of {len(table.users)} users"
        f" from {len(clean.events):,} starts"
    )
    rated = table.rate(later.events)
    users, of_user = np.unique(np.array(later.events.users), return_inverse=True)
    scores = np.empty(len(later.events))
    for user in range(users.size):
        is_left_out = of_user == user
        calibration = _labelled_calibration(
            rated.raw[~is_left_out], later.is_masquerade[~is_left_out]
        )
        scores[is_left_out] = calibration.apply(rated.raw[is_left_out])
    is_masquerade, block_scores = later.is_masquerade_block, later.mean_by_block(scores)
    by_block = separation(block_scores[~is_masquerade], block_scores[is_masquerade])
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
    # By the calibration of the model that serves: the thresholds are fitted on these.
    benign_scores = calibration.apply(rated.raw[~later.is_masquerade])
    model = ProcessAnomaly(table, calibration)
    golden = _golden(clean.events, seed)
    sizes = {
        "events_learnt": len(clean.events),
        "events_calibrated": len(later.events),
        "blocks": is_masquerade.size,
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
    """Train a model of the user's own processes: rarity, and a forest over any command lines.

    The launches that `base` counted over everyone become a background, never heavier than the
    user's own launches, so that a program that is common elsewhere is rated apart from one that
    was never run. The users and hosts of `base` are dropped.

    Args:
        events: believed benign, in the order they happened.
        base: gives the rarity's calibration and the background; None calibrates by the benign tail.
        seed: of the forest and the golden events.
        progress: called with one line of text at each step.

    Raises:
        TrainingError: fewer than 100 events, or all alike.
    """
    if len(events) < LEAST_EVENTS:
        raise TrainingError(
            f"{len(events)} process events are too few to train on;"
            f" at least {LEAST_EVENTS} are needed"
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
    lines = _fit_command_lines(earlier, later, seed)
    progress("fitted the forest" if lines else "too few command lines for a forest: rarity alone")
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


def _labelled_calibration(raw: NDArray[np.float64], is_hostile: NDArray[np.bool_]) -> Calibration:
    """Fit a logistic regression of the raw rarity, classes balanced, at the reference prior.

    The raw rarity is a log likelihood ratio already, so a straight line is its natural calibration.
    `fit_calibration` would bend it along the benign tail, which lets the rarest event of a block
    outweigh the rest (block AUROC .898 against .924).
    """
    if is_hostile.all() or not is_hostile.any():
        raise TrainingError("calibration needs benign and hostile events")
    # a few thousand (entity, program) pairs represent all events
    values, which = np.unique(raw, return_inverse=True)
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
    """Fit a table of parents on all events, and a forest on those that have a command line.

    An isolation forest never cuts outside the training rows: on a fleet without any base64 it would
    miss the first encoded command. A few synthetic rows are therefore added: ordinary ones with
    some features moved anywhere within their limits. In an office of plain commands this lowers
    the share of ordinary events that score above an encoded one from 15 % to none.
    """
    parents = ParentTable.fit(batch)
    ordinary = command_line_features(batch.command_lines, parents.surprisal(batch))[
        has_command_line(batch)
    ]
    generator = np.random.default_rng(seed)
    synthetic = ordinary[
        generator.integers(len(ordinary), size=math.ceil(SYNTHETIC_SHARE * len(ordinary)))
    ]
    anywhere = generator.random(synthetic.shape) * np.array(FEATURE_LIMITS)
    synthetic = np.where(
        generator.random(synthetic.shape) < CHANGED_SHARE, anywhere, synthetic
    ).astype(np.float32)
    rows = np.concatenate([ordinary, synthetic])
    fitted = IsolationForest(
        n_estimators=TREES, max_samples=min(SAMPLES_A_TREE, len(rows)), random_state=seed
    ).fit(rows)
    return parents, Forest.from_sklearn(fitted)


def _fit_command_lines(
    earlier: ProcessBatch, later: ProcessBatch, seed: int
) -> CommandLineForest | None:
    """Fit a forest on the command lines of `earlier`, calibrated on `later`; None for too few.

    The forest that is calibrated is the one that is shipped. Two forests of the same events differ
    by an offset as wide as the benign tail: with the calibration of other forests (cross-fit),
    0.7 to 4 % of new ordinary events, by the seed, passed a threshold made for 1 %.
    """
    has_line = has_command_line(later)
    if min(has_line.sum(), has_command_line(earlier).sum()) < LEAST_LINES:
        return None
    parents, forest = _fit_forest(earlier, seed)
    raw = forest.score_samples(command_line_features(later.command_lines, parents.surprisal(later)))
    return CommandLineForest(parents, forest, tail_calibration(raw[has_line]), FOREST_WEIGHT)


def _background(table: RarityTable, own_events: int) -> dict[str, int]:
    """Scale the launches of another table down to at most `own_events`, each at least 1."""
    launches = table.launches()
    share = min(1.0, own_events / sum(launches.values()))
    return {name: math.ceil(times * share) for name, times in launches.items()}


def _golden(batch: ProcessBatch, seed: int) -> tuple[ProcessEvent, ...]:
    """Draw 16 golden events: of every four, one by an unknown user and one unknown program."""
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
