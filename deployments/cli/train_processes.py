"""`axon train processes`.

Process starts in; rarity, and on one's own processes the command-line forest too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from deployments.cli.local_models import current_models
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import ArtifactMissing
from ensemble.events import Kind
from ensemble.fusion import Fusion, Thresholds
from ensemble.kernels.calibration import log_odds
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.training.data.process_files import read_process_events
from ensemble.training.fit.fusion import RATES, with_thresholds
from ensemble.training.markdown import table
from ensemble.training.publish import Trained, golden_of
from ensemble.training.recipes.process_anomaly import (
    TrainedProcesses,
    train_benign,
    train_masquerade,
)

__all__ = ["train_benign_processes", "train_shipped_processes"]

NAME = "anomaly-process"


def train_shipped_processes(
    data: Path, target: PublishTarget, *, seed: int, console: Console, err: Console
) -> None:
    """The model that is shipped: rarity of the users of `process_masquerade`.

    Raises:
        TrainingError: the data is missing or is not what it should be.
    """
    trained = train_masquerade(data, seed, err.print)
    limits = [
        "Unix program names of 30 users around the year 2000. On any other fleet nearly every program is new to it.",
        "Train it on your own processes: `axon train processes --benign FILE`.",
        "A masquerader here is another user's ordinary work, not malware.",
        "Command lines are not read: there is no labelled benign set to calibrate them on. Training on your own processes wakes them.",
    ]
    _finish(trained, target, "processes-masquerade", limits, seed, console)


def train_benign_processes(
    file: Path, target: PublishTarget, *, seed: int, console: Console, err: Console
) -> None:
    """A model of one's own processes, command lines included.

    Raises:
        TrainingError: too few events, or a file that is none; line and column are named.
    """
    trained = train_benign(read_process_events(file), _base(target), seed, err.print)
    limits = [
        "What these processes did not contain is rare, whether hostile or not.",
        "No hostile command line has tested the forest: it speaks with half its weight.",
    ]
    _finish(trained, target, "processes-benign", limits, seed, console)


def _base(target: PublishTarget) -> ProcessAnomaly | None:
    """The model in use, whose calibration and background carry over; None where there is none."""
    try:
        held = current_models(target.store, target.lineage, "anomaly")
    except ArtifactMissing:
        return None
    model = held.models[Kind.PROCESS].model if Kind.PROCESS in held.models else None
    return model if isinstance(model, ProcessAnomaly) else None


def _finish(
    trained: TrainedProcesses,
    target: PublishTarget,
    recipe: str,
    limits: list[str],
    seed: int,
    console: Console,
) -> None:
    fusion = with_thresholds(
        Fusion({"anomaly": 1.0}, 1.0, {}), {"anomaly": log_odds(trained.benign_scores)}, RATES
    )
    training: dict[str, Any] = {
        "recipe": recipe,
        "data_sha256": next(iter(trained.training_data.values())),
        "seed": seed,
        "rows": trained.sizes["events_learnt"],
        "sizes": dict(trained.sizes),
    }
    card = _card(trained, training, fusion, limits)
    console.print(card, highlight=False, markup=False, soft_wrap=True)
    golden = golden_of(
        trained.model,
        Kind.PROCESS,
        [{"kind": "process", **asdict(event)} for event in trained.golden_events],
    )
    bundle = Trained(NAME, trained.model.to_parts(), golden, training, card)
    target.publish(
        [bundle],
        {Kind.PROCESS: fusion},
        f"axon train processes, {trained.sizes['events_learnt']:,} events",
        console,
    )


def _ties(trained: TrainedProcesses, thresholds: Thresholds) -> list[str]:
    """Says so where the strangest benign events are all equally strange, so that no score can lie above them."""
    highest = float(trained.benign_scores.max())
    if thresholds.malicious < highest:
        return []
    tied = float((trained.benign_scores == highest).mean())
    return [
        f"{tied:.2%} of benign events tie at the highest score, {highest:.4f}: rarity alone makes an event suspicious, never malicious.",
        "An exposed host can still shift it there.",
    ]


def _card(
    trained: TrainedProcesses, training: Mapping[str, Any], fusion: Fusion, limits: list[str]
) -> str:
    thresholds = fusion.thresholds["anomaly"]
    parts = [
        f"# {NAME}",
        "How rare it is to see this program started by this user, on this host, in this group, anywhere.",
        "## Training",
        table(["what", "value"], [[key, value] for key, value in training.items()]),
        "## Figures, on events that the table had not counted",
        table(
            ["figure", "value"], [[name, f"{value:.4f}"] for name, value in trained.metrics.items()]
        ),
        "## Thresholds",
        table(
            ["verdict", "above", "benign events above it"],
            [
                ["suspicious", f"{thresholds.suspicious:.4f}", "1 %"],
                ["malicious", f"{thresholds.malicious:.4f}", "0.1 %"],
                ["critical", f"{thresholds.critical:.4f}", "0.01 %"],
            ],
        ),
        "## Limits",
        "\n".join(f"- {limit}" for limit in [*limits, *_ties(trained, thresholds)]),
    ]
    return "\n\n".join(parts) + "\n"
