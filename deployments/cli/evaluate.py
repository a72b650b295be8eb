"""`axon evaluate`.

Labelled flows through the current release, or through a running service; figures per layer, fused
and by family.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from deployments.cli.local_models import current_models, local_ensemble
from deployments.cli.local_store import own_store, plain
from deployments.cli.progress import progress_bars
from deployments.cli.score import ScoreFailed, service_scorer
from deployments.config.settings import read_settings
from deployments.config.tenants import Tenants
from ensemble.errors import ArtifactError
from ensemble.events import Kind
from ensemble.layers.classifier import FlowClassifier
from ensemble.store import Tenant
from ensemble.training.data.flow_table import FlowTable, read_flow_table
from ensemble.training.evaluation.evaluate import FUSED, Judged, named_by
from ensemble.training.metrics import Labelling, Separation, false_positive_interval
from ensemble.training.recipes.flow_ensemble import LAYER_NAMES
from ensemble.verdicts import by_row

__all__ = ["evaluate"]

FLOWS_AT_ONCE = 2000


def evaluate(
    data: Path,
    *,
    url: str | None,
    tenant: str | None,
    last: float | None,
    console: Console,
    err: Console,
) -> None:
    """Score every labelled flow and print how well each score separates.

    Args:
        data: labelled CSV, or a folder that holds `flows.csv.gz`.
        url: of a running service; None scores in this process.
        tenant: whose release, in this process.
        last: judge only this last share of each (day, label) by time.
        console: where the figures go.
        err: where bad lines and progress go.

    Raises:
        ScoreFailed: no labels, or no service.
        TrainingError, FeatureMismatch: the file cannot be read.
    """
    flows = labelled(data, err)
    if last is not None:
        flows = flows.select(flows.split_by_time(1.0 - last)[1])
    if not flows.families.all() or not flows.is_hostile.any() or flows.is_hostile.all():
        raise ScoreFailed("evaluation needs a `label` column with both benign flows and attacks")
    judged, words = _judged_by_service(flows, url) if url else _judged_here(flows, tenant)
    _print(judged, words, console)
    if url is None:
        _print_names(_named(flows, tenant), console)


def labelled(data: Path, err: Console) -> FlowTable:
    """The flows of a CSV file, or of the `flows.csv.gz` or `flows.csv` in a folder.

    Bad lines are named.
    """
    if data.is_dir():
        data = next(
            (data / name for name in ("flows.csv.gz", "flows.csv") if (data / name).is_file()),
            data / "flows.csv.gz",
        )
    if not data.is_file():
        raise ScoreFailed(f"there is no file {data}")
    flows = read_flow_table(data)
    for bad in flows.bad[:20]:
        err.print(f"[red]{plain(data.name)}[/red] {plain(str(bad))}", highlight=False)
    if len(flows.bad) > 20:  # noqa: PLR2004  # a screen
        err.print(f"and {len(flows.bad) - 20} more bad lines", highlight=False)
    return flows


def _judged_here(flows: FlowTable, tenant: str | None) -> tuple[Judged, list[str]]:
    ensemble = local_ensemble(tenant)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in (*LAYER_NAMES, FUSED)}
    words: list[str] = []
    with progress_bars() as bars:
        task = bars.add_task("flows", total=len(flows))
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            part = flows.select(np.arange(start, min(start + FLOWS_AT_ONCE, len(flows))))
            groups = ensemble.judge(part.batch())
            for place, opinion in enumerate(groups[0].layers):
                if opinion.layer in scores and all(group.layers[place].speaks for group in groups):
                    said = np.empty(len(part))
                    for group in groups:
                        said[slice(None) if group.rows is None else group.rows] = group.layers[
                            place
                        ].scores
                    scores[opinion.layer].append(said)
            scores[FUSED].append(by_row(groups, lambda group: group.score).astype(np.float64))
            words += by_row(groups, lambda group: group.word).tolist()
            bars.update(task, completed=start + len(part))
    return _judged(
        flows, {name: np.concatenate(parts) for name, parts in scores.items() if parts}, words
    )


def _named(flows: FlowTable, tenant: str | None) -> dict[str, Labelling]:
    """How well each model of the current classifier names the families.

    Nothing where the release has none.
    """
    settings = read_settings()
    try:
        lineage = Tenants(settings).lineage(Tenant(tenant or settings.store.tenant))
        held = current_models(own_store(settings), lineage, "classifier").models.get(Kind.FLOW)
    except ArtifactError:
        return {}
    return (
        named_by(held.model, flows)
        if held is not None and isinstance(held.model, FlowClassifier)
        else {}
    )


def _judged_by_service(flows: FlowTable, url: str) -> tuple[Judged, list[str]]:
    scorer = service_scorer(url, explain=False)
    scores: dict[str, list[float]] = {name: [] for name in (*LAYER_NAMES, FUSED)}
    words: list[str] = []
    with progress_bars() as bars:
        task = bars.add_task("flows", total=len(flows))
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            part = flows.select(np.arange(start, min(start + FLOWS_AT_ONCE, len(flows))))
            for verdict in scorer(part.batch()):
                if "error" in verdict:
                    raise ScoreFailed(f"the service refused a flow: {verdict['error']['message']}")
                scores[FUSED].append(verdict["score"])
                words.append(verdict["verdict"])
                for layer in verdict["layers"]:
                    if layer["layer"] in scores:
                        scores[layer["layer"]].append(
                            layer["score"] if layer["status"] == "live" else np.nan
                        )
            bars.update(task, completed=start + len(part))
    whole = {
        name: np.array(column) for name, column in scores.items() if not np.isnan(column).any()
    }
    return _judged(flows, whole, words)


def _judged(
    flows: FlowTable, scores: dict[str, np.ndarray], words: list[str]
) -> tuple[Judged, list[str]]:
    return Judged(
        {name: column for name, column in scores.items() if column.size == len(flows)},
        flows.families,
        flows.is_hostile,
    ), words


def _print(judged: Judged, words: list[str], console: Console) -> None:
    for layer in LAYER_NAMES:
        if layer not in judged.scores:
            without = "it has no column, and `fused` is degraded unless the release does without it"
            console.print(f"[yellow]{layer} did not speak on every flow: {without}[/yellow]")
    overall = Table(
        "score",
        "AUROC",
        "AUPRC",
        "TPR at 1 % FPR",
        "TPR at 0.1 % FPR",
        box=None,
        header_style="bold",
    )
    for name, figures in judged.overall().items():
        overall.add_row(
            name,
            f"{figures.auroc:.5f}",
            f"{figures.auprc:.5f}",
            f"{figures.tpr_at_1_fpr:.4f}",
            f"{figures.tpr_at_01_fpr:.4f}",
        )
    console.print(overall)
    families = Table(
        "family",
        "flows",
        *judged.scores,
        box=None,
        header_style="bold",
        title="AUROC / TPR at 1 % FPR",
        title_justify="left",
    )
    for family, by_score in judged.by_family().items():
        flows = next(iter(by_score.values())).hostile
        families.add_row(
            plain(family), str(flows), *(_cell(figures) for figures in by_score.values())
        )
    console.print(families)
    benign = ~judged.is_hostile
    called = np.array(words)
    count = int(benign.sum())
    calm = int((called[benign] == "benign").sum())
    low, high = false_positive_interval(count - calm, count)
    console.print(
        f"benign flows called benign: {calm} of {count} ({calm / count:.2%}; false positives {low:.2%} to {high:.2%} at 95 %)",
        highlight=False,
    )
    hostile = called[~benign]
    found = np.isin(hostile, ["malicious", "suspicious"])
    console.print(
        f"attacks called malicious: {np.mean(hostile == 'malicious'):.2%}, at least suspicious: {np.mean(found):.2%} of {hostile.size}",
        highlight=False,
    )
    if count < 1000:  # noqa: PLR2004  # of which 0.1 % is a single flow
        console.print(
            f"{count} benign flows: 0.1 % of them is less than one flow, so the last column promises nothing",
            highlight=False,
        )


def _print_names(named: dict[str, Labelling], console: Console) -> None:
    """Each model of the classifier: does it give a flow its own label?"""
    if not named:
        return
    labels = list(next(iter(named.values())).by_label)
    names = Table(
        "model",
        "macro-F1",
        "accuracy",
        *map(plain, labels),
        box=None,
        header_style="bold",
        title="F1 by label",
        title_justify="left",
    )
    for name, one in named.items():
        names.add_row(
            name,
            f"{one.macro_f1:.4f}",
            f"{one.accuracy:.4f}",
            *(f"{one.by_label[label]:.3f}" for label in labels),
        )
    console.print(names)


def _cell(figures: Separation) -> str:
    return f"{figures.auroc:.4f} / {figures.tpr_at_1_fpr:.3f}"
