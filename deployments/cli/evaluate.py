"""`axon evaluate`: how well each layer and the fused score separate labelled flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from deployments.cli import console
from deployments.cli.console import Column, plain, print_json, table
from deployments.cli.errors import CommandFailed
from deployments.cli.local_models import current_models, local_ensemble
from deployments.cli.local_store import own_store
from deployments.cli.options import JsonOption, TenantOption
from deployments.cli.progress import progress_bars
from deployments.cli.score import service_scorer
from deployments.config import Tenants, read_settings
from ensemble.errors import ArtifactError
from ensemble.events import Kind
from ensemble.layers.classifier import FlowClassifier
from ensemble.store import Tenant
from ensemble.training.data.flow_table import FlowTable, read_flow_table
from ensemble.training.evaluation.evaluate import FUSED, Evaluation, labelling_by_model
from ensemble.training.metrics import Labelling, Separation, false_positive_interval
from ensemble.training.recipes.flow_ensemble import LAYER_NAMES
from ensemble.verdicts import by_row

__all__ = ["evaluate"]

FLOWS_AT_ONCE = 2000
BAD_LINES_SHOWN = 20
FEW_BENIGN = 1000  # 0.1 % of fewer is less than one flow


def evaluate(
    *,
    data: Annotated[
        Path, typer.Option(help="Labelled CSV of flows, or a folder with flows.csv.gz.")
    ],
    url: Annotated[
        str | None, typer.Option(help="Score by this running service instead of in this process.")
    ] = None,
    tenant: TenantOption = None,
    last: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.99,
            help="Use only this last share of the flows of each day and label, by time.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well the models separate attacks from benign flows.

    Prints AUROC, AUPRC and true-positive rates per layer, fused and by attack family.
    """
    flows = labelled(data)
    if last is not None:
        flows = flows.select(flows.split_by_time(1.0 - last)[1])
    if not flows.families.all() or not flows.is_hostile.any() or flows.is_hostile.all():
        raise CommandFailed("evaluation needs a `label` column with both benign flows and attacks")
    evaluation, verdicts = (
        _evaluate_by_service(flows, url) if url else _evaluate_locally(flows, tenant)
    )
    labellings = {} if url else _labellings(flows, tenant)
    counts = _counts(evaluation, verdicts)
    if as_json:
        print_json(_to_dict(evaluation, counts, labellings))
        return
    _print(evaluation, counts)
    _print_labellings(labellings)


def labelled(data: Path) -> FlowTable:
    """Read the flows of a CSV file, or of `flows.csv.gz` or `flows.csv` in a folder.

    Bad lines are reported on standard error.
    """
    if data.is_dir():
        data = next(
            (data / name for name in ("flows.csv.gz", "flows.csv") if (data / name).is_file()),
            data / "flows.csv.gz",
        )
    if not data.is_file():
        raise CommandFailed(f"there is no file {data}")
    flows = read_flow_table(data)
    for bad in flows.refused[:BAD_LINES_SHOWN]:
        console.err.print(f"[red]{plain(data.name)}[/red] {plain(str(bad))}")
    if len(flows.refused) > BAD_LINES_SHOWN:
        console.err.print(f"and {len(flows.refused) - BAD_LINES_SHOWN} more bad lines")
    return flows


def _evaluate_locally(flows: FlowTable, tenant: str | None) -> tuple[Evaluation, list[str]]:
    ensemble = local_ensemble(tenant)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in (*LAYER_NAMES, FUSED)}
    verdicts: list[str] = []
    with progress_bars() as bars:
        task = bars.add_task("flows", total=len(flows))
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            part = flows.select(np.arange(start, min(start + FLOWS_AT_ONCE, len(flows))))
            groups = ensemble.score_groups(part.batch())
            for place, opinion in enumerate(groups[0].layers):
                if opinion.layer in scores and all(group.layers[place].speaks for group in groups):
                    column = np.empty(len(part))
                    for group in groups:
                        rows = slice(None) if group.rows is None else group.rows
                        column[rows] = group.layers[place].scores
                    scores[opinion.layer].append(column)
            scores[FUSED].append(by_row(groups, lambda group: group.score).astype(np.float64))
            verdicts += by_row(groups, lambda group: group.label).tolist()
            bars.update(task, completed=start + len(part))
    return _evaluation(
        flows, {name: np.concatenate(parts) for name, parts in scores.items() if parts}, verdicts
    )


def _labellings(flows: FlowTable, tenant: str | None) -> dict[str, Labelling]:
    """Measure how well each model of the classifier names the families; empty without one."""
    settings = read_settings()
    try:
        lineage = Tenants(settings).lineage(Tenant(tenant or settings.store.tenant))
        loaded = current_models(own_store(settings), lineage, "classifier").models.get(Kind.FLOW)
    except ArtifactError:
        return {}
    return (
        labelling_by_model(loaded.model, flows)
        if loaded is not None and isinstance(loaded.model, FlowClassifier)
        else {}
    )


def _evaluate_by_service(flows: FlowTable, url: str) -> tuple[Evaluation, list[str]]:
    scorer = service_scorer(url, explain=False)
    scores: dict[str, list[float]] = {name: [] for name in (*LAYER_NAMES, FUSED)}
    verdicts: list[str] = []
    with progress_bars() as bars:
        task = bars.add_task("flows", total=len(flows))
        for start in range(0, len(flows), FLOWS_AT_ONCE):
            part = flows.select(np.arange(start, min(start + FLOWS_AT_ONCE, len(flows))))
            for verdict in scorer(part.batch()):
                if "error" in verdict:
                    raise CommandFailed(
                        f"the service refused a flow: {verdict['error']['message']}"
                    )
                scores[FUSED].append(verdict["score"])
                verdicts.append(verdict["verdict"])
                for layer in verdict["layers"]:
                    if layer["layer"] in scores:
                        scores[layer["layer"]].append(
                            layer["score"] if layer["status"] == "live" else np.nan
                        )
            bars.update(task, completed=start + len(part))
    complete = {
        name: np.array(column) for name, column in scores.items() if not np.isnan(column).any()
    }
    return _evaluation(flows, complete, verdicts)


def _evaluation(
    flows: FlowTable, scores: dict[str, np.ndarray], verdicts: list[str]
) -> tuple[Evaluation, list[str]]:
    return Evaluation(
        {name: column for name, column in scores.items() if column.size == len(flows)},
        flows.families,
        flows.is_hostile,
    ), verdicts


@dataclass(frozen=True, slots=True)
class _Counts:
    """Verdicts on benign flows and on attacks.

    Attributes:
        benign: number of benign flows.
        called_benign: those of them with the verdict benign.
        false_positives: 95 % interval of the share of benign flows with another verdict.
        attacks: number of attacks.
        malicious: share of the attacks with the verdict malicious.
        at_least_suspicious: share of the attacks with the verdict suspicious or malicious.
    """

    benign: int
    called_benign: int
    false_positives: tuple[float, float]
    attacks: int
    malicious: float
    at_least_suspicious: float


def _counts(evaluation: Evaluation, verdicts: Sequence[str]) -> _Counts:
    given = np.array(verdicts)
    benign, attacks = given[~evaluation.is_hostile], given[evaluation.is_hostile]
    called_benign = int((benign == "benign").sum())
    low, high = false_positive_interval(benign.size - called_benign, benign.size)
    return _Counts(
        benign.size,
        called_benign,
        (low, high),
        attacks.size,
        float(np.mean(attacks == "malicious")),
        float(np.mean(np.isin(attacks, ["malicious", "suspicious"]))),
    )


def _print(evaluation: Evaluation, counts: _Counts) -> None:
    for layer in LAYER_NAMES:
        if layer not in evaluation.scores:
            console.out.print(
                f"[yellow]{layer} did not score every flow, so it has no column; `fused` is "
                "degraded unless the release gives that layer no weight[/yellow]"
            )
    console.out.print(
        table(
            ["score", "AUROC", "AUPRC", "TPR at 1 % FPR", "TPR at 0.1 % FPR"],
            [
                [
                    name,
                    f"{figures.auroc:.5f}",
                    f"{figures.auprc:.5f}",
                    f"{figures.tpr_at_1_fpr:.4f}",
                    f"{figures.tpr_at_01_fpr:.4f}",
                ]
                for name, figures in evaluation.overall().items()
            ],
        ),
        "",
    )
    families = evaluation.by_family()
    console.out.print(
        table(
            [Column("family", wraps=True), "flows", *evaluation.scores],
            [
                [
                    plain(family),
                    str(next(iter(by_score.values())).hostile),
                    *(_cell(figures) for figures in by_score.values()),
                ]
                for family, by_score in families.items()
            ],
            title="AUROC / TPR at 1 % FPR",
        ),
        "",
    )
    low, high = counts.false_positives
    console.out.print(
        f"benign flows called benign: {counts.called_benign} of {counts.benign} "
        f"({counts.called_benign / counts.benign:.2%}; "
        f"false positives {low:.2%} to {high:.2%} at 95 %)"
    )
    console.out.print(
        f"attacks called malicious: {counts.malicious:.2%}, "
        f"at least suspicious: {counts.at_least_suspicious:.2%} of {counts.attacks}"
    )
    if counts.benign < FEW_BENIGN:
        console.out.print(
            f"{counts.benign} benign flows: 0.1 % of them is less than one flow, "
            "so the last column of the first table is not reliable"
        )


def _print_labellings(labellings: dict[str, Labelling]) -> None:
    """Print how well each model of the classifier predicts the labels, one row for each label."""
    if not labellings:
        return
    rows = [
        ["macro-F1", *(f"{one.macro_f1:.4f}" for one in labellings.values())],
        ["accuracy", *(f"{one.accuracy:.4f}" for one in labellings.values())],
    ]
    rows += [
        [plain(label), *(f"{one.by_label[label]:.3f}" for one in labellings.values())]
        for label in next(iter(labellings.values())).by_label
    ]
    console.out.print(
        "", table([Column("label", wraps=True), *labellings], rows, title="Classifier: F1 by label")
    )


def _to_dict(
    evaluation: Evaluation, counts: _Counts, labellings: dict[str, Labelling]
) -> dict[str, Any]:
    return {
        "overall": evaluation.overall(),
        "by_family": evaluation.by_family(),
        "verdicts": counts,
        "classifier": labellings,
    }


def _cell(figures: Separation) -> str:
    return f"{figures.auroc:.4f} / {figures.tpr_at_1_fpr:.3f}"
