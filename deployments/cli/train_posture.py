"""`axon train posture`: data on CVEs and hosts for the resilience layer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli import console
from deployments.cli.options import Promote, Publish, StoreOption, TenantOption
from deployments.cli.publish_target import PublishTarget
from ensemble.errors import TrainingError
from ensemble.events import Kind
from ensemble.layers.posture import PostureKnowledge
from ensemble.layers.resilience import ResiliencePosture
from ensemble.store import Golden, ModelName, decode_parts, open_bundle
from ensemble.training.markdown import table
from ensemble.training.publish import GOLDEN_EVENTS, Trained, current_release, golden_of
from ensemble.training.recipes.host_inventory import TrivyHost, read_inventory
from ensemble.training.recipes.vulnerabilities import TrainedKnowledge, train_knowledge

__all__ = ["train_posture"]

KNOWLEDGE, INVENTORY = "posture-knowledge", "posture-inventory"
EXAMPLES = 20  # hosts on the card


@dataclass(frozen=True, slots=True)
class _Sources:
    """Files of vulnerability data, and the dates of files that do not contain one."""

    epss: Path | None
    kev: Path | None
    cvss: Path | None
    epss_date: date | None
    kev_date: date | None
    cvss_date: date | None

    @property
    def given(self) -> bool:
        """Whether any file of CVE data is given."""
        return any((self.epss, self.kev, self.cvss))


def train_posture(
    *,
    inventory: Annotated[
        Path, typer.Option(help="Your hosts: CSV, JSON, or a Trivy JSON report of one host.")
    ],
    epss: Annotated[
        Path | None,
        typer.Option(help="EPSS scores as CSV from FIRST.org."),
    ] = None,
    kev: Annotated[Path | None, typer.Option(help="KEV as CSV or JSON from CISA.")] = None,
    cvss: Annotated[
        Path | None, typer.Option(help="CVSS vectors and scores from NVD, as CSV.")
    ] = None,
    epss_date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day of the EPSS file, where it has none."),
    ] = None,
    kev_date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day of the KEV file, where it has none."),
    ] = None,
    cvss_date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day of the CVSS file, where it has none."),
    ] = None,
    trivy_host: Annotated[
        str, typer.Option(help="With a Trivy report: the host's name in events.")
    ] = "",
    trivy_exposure: Annotated[
        str | None, typer.Option(help="With a Trivy report: isolated, internal or internet.")
    ] = None,
    trivy_criticality: Annotated[
        str, typer.Option(help="With a Trivy report: low, medium, high or critical.")
    ] = "medium",
    tenant: TenantOption = None,
    store: StoreOption = None,
    publish: Publish = False,
    promote: Promote = True,
) -> None:
    """Train the resilience layer on vulnerabilities and hosts.

    The inventory is always replaced. A source of CVEs that is not given stays as the current
    release has it.
    """
    target = PublishTarget(tenant, store, publish=publish, promote=promote)
    days = [None if day is None else day.date() for day in (epss_date, kev_date, cvss_date)]
    sources = _Sources(epss, kev, cvss, *days)
    trivy = (
        None
        if trivy_exposure is None
        else TrivyHost(trivy_exposure, trivy_criticality, host=trivy_host)
    )
    current = _current_knowledge(target)
    trained = _knowledge(sources, current) if sources.given else None
    knowledge = trained.knowledge if trained else current
    if knowledge is None:
        raise TrainingError("there is no knowledge of CVEs yet: give --epss, --kev and --cvss")
    hosts = read_inventory(inventory, trivy=trivy)
    # golden answers are computed for one day
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    posture = ResiliencePosture(knowledge, hosts.inventory, now=lambda: today)
    names = list(hosts.inventory.hosts)
    golden = golden_of(
        posture, Kind.FLOW, [{"host": host, "at": today} for host in names[:GOLDEN_EVENTS]]
    )
    shown = golden_of(posture, Kind.FLOW, [{"host": host} for host in names[:EXAMPLES]])
    scores = table(
        ["host", "score"],
        [
            [event["host"], f"{score:.3f}"]
            for event, score in zip(shown.events, shown.scores, strict=True)
        ],
    )
    training: dict[str, Any] = {
        "recipe": "posture-inventory",
        "data_sha256": hosts.sha256,
        "seed": 0,
        "rows": len(names),
        "counts": dict(hosts.counts),
    }
    card = _card(
        INVENTORY,
        "Hosts: their findings, exposure, criticality and controls.",
        training,
        f"Scores on the day of training (higher is less resilient):\n\n{scores}",
    )
    bundles = [Trained(INVENTORY, hosts.inventory.to_parts(), golden, training, card)]
    if trained:
        bundles.insert(0, _knowledge_bundle(trained))
    console.out.print("\n".join(bundle.card for bundle in bundles), markup=False, soft_wrap=True)
    target.publish(bundles, {}, f"axon train posture, {len(names):,} hosts")


def _knowledge(sources: _Sources, current: PostureKnowledge | None) -> TrainedKnowledge:
    return train_knowledge(
        base=current,
        epss=sources.epss,
        kev=sources.kev,
        cvss=sources.cvss,
        epss_date=sources.epss_date,
        kev_date=sources.kev_date,
        cvss_date=sources.cvss_date,
    )


def _current_knowledge(target: PublishTarget) -> PostureKnowledge | None:
    """Return the CVE data of the current release; None if it has none."""
    _, current = current_release(target.store, target.lineage)
    ref = current.bundles.get(ModelName(KNOWLEDGE)) if current else None
    if ref is None:
        return None
    return PostureKnowledge.from_parts(decode_parts(open_bundle(target.store, ref).files))


def _knowledge_bundle(trained: TrainedKnowledge) -> Trained:
    training: dict[str, Any] = {
        "recipe": "posture-knowledge",
        "data_sha256": next(iter(trained.training_data.values())),
        "seed": 0,
        "rows": trained.metrics["knowledge_cves"],
        "sources": dict(trained.training_data),
        "counts": dict(trained.metrics),
    }
    text = (
        "Sources: EPSS by FIRST.org, KEV by CISA (CC0), CVSS by NVD. "
        "Each has its own date, and its weight falls with its age."
    )
    card = _card(
        KNOWLEDGE, "CVEs: chance of exploitation, known exploitation, severity.", training, text
    )
    no_answers = Golden((), ())  # the golden answers of the inventory cover this bundle too
    return Trained(KNOWLEDGE, trained.knowledge.to_parts(), no_answers, training, card)


def _card(name: str, about: str, training: dict[str, Any], text: str) -> str:
    rows = table(["what", "value"], [[key, value] for key, value in training.items()])
    limits = (
        "Reach, controls, the KEV floor and the ordinary host are judgement, written in "
        "`ensemble/layers/resilience.py` with their reasons; nothing here was validated against "
        "incidents."
    )
    return (
        "\n\n".join(
            [f"# {name}", about, "## Training", rows, "## Contents", text, "## Limits", limits]
        )
        + "\n"
    )
