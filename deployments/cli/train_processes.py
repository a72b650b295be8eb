"""`axon train processes`: rarity of processes, and a forest over command lines."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli import console
from deployments.cli.errors import CommandFailed
from deployments.cli.local_models import current_models
from deployments.cli.options import Promote, Publish, Seed, StoreOption, TenantOption
from deployments.cli.publish_target import PublishTarget
from deployments.config import read_settings
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

__all__ = ["train_processes"]

NAME = "anomaly-process"
SHIPPED_LIMITS = (
    "Unix program names of 30 users around the year 2000. They are not the programs of your fleet.",
    "Train it on your own processes: `axon train processes --benign FILE`.",
    "A masquerader here is another user's ordinary work, not malware.",
    "Command lines are not scored: training on your own processes adds them.",
)
BENIGN_LIMITS = (
    "What these processes did not contain is rare, whether hostile or not.",
    "No hostile command line has tested the forest: it contributes half its weight.",
)


def train_processes(
    *,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the data set process_masquerade: trains the model that Axon ships."
        ),
    ] = None,
    benign: Annotated[
        Path | None,
        typer.Option(
            help="JSONL or CSV of your own process starts: name, parent, command_line, user, host."
        ),
    ] = None,
    seed: Seed = 0,
    tenant: TenantOption = None,
    store: StoreOption = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Train the process layer.

    On your own process starts (--benign) it learns how rare each process is, and the usual command
    lines; on process_masquerade (--data) only how rare each process is. JSON lines whose `time` is
    more than `ingress.time_behind_days` old, ahead, or no time are left out.
    """
    target = PublishTarget(tenant, store, publish=publish, promote=promote)
    if data is not None and benign is None:
        trained = train_masquerade(data, seed, console.err.print)
        _finish(trained, target, "processes-masquerade", SHIPPED_LIMITS, seed)
    elif benign is not None and data is None:
        now = time.time()
        events = read_process_events(
            benign, read_settings().ingress.plausible_times(now), console.err.print
        )
        trained = train_benign(events, _base(target), seed, console.err.print)
        _finish(trained, target, "processes-benign", BENIGN_LIMITS, seed)
    else:
        raise CommandFailed(
            "give either --data (the folder of process_masquerade) or --benign (your own processes)"
        )


def _base(target: PublishTarget) -> ProcessAnomaly | None:
    """Load the current model, to reuse its calibration and background; None if there is none."""
    try:
        loaded = current_models(target.store, target.lineage, "anomaly")
    except ArtifactMissing:
        return None
    model = loaded.models[Kind.PROCESS].model if Kind.PROCESS in loaded.models else None
    return model if isinstance(model, ProcessAnomaly) else None


def _finish(
    trained: TrainedProcesses,
    target: PublishTarget,
    recipe: str,
    limits: Sequence[str],
    seed: int,
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
    console.out.print(card, markup=False, soft_wrap=True)
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
    )


def _ties(trained: TrainedProcesses, thresholds: Thresholds) -> list[str]:
    """Describe a limit for the card if the highest benign scores tie: no score can exceed them."""
    highest = float(trained.benign_scores.max())
    if thresholds.malicious < highest:
        return []
    tied = float((trained.benign_scores == highest).mean())
    return [
        f"{tied:.2%} of benign events tie at the highest score, {highest:.4f}.",
        "So rarity alone makes an event suspicious, never malicious.",
        "An exposed host can still shift it there.",
    ]


def _card(
    trained: TrainedProcesses, training: Mapping[str, Any], fusion: Fusion, limits: Sequence[str]
) -> str:
    thresholds = fusion.thresholds["anomaly"]
    parts = [
        f"# {NAME}",
        "The rarity of a program for its user, its host, its group and the whole fleet.",
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
