"""`axon train posture`.

Vulnerability data and an inventory in; what the resilience layer knows of CVEs and of hosts out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

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

__all__ = ["Sources", "train_posture"]

KNOWLEDGE, INVENTORY = "posture-knowledge", "posture-inventory"
EXAMPLES = 20  # hosts that the terminal shows


@dataclass(frozen=True, slots=True)
class Sources:
    """Files of vulnerability data, and their dates where the files do not say them."""

    epss: Path | None
    kev: Path | None
    cvss: Path | None
    epss_date: date | None
    kev_date: date | None
    cvss_date: date | None

    @property
    def given(self) -> bool:
        """Whether there is anything new to know of CVEs."""
        return any((self.epss, self.kev, self.cvss))


def train_posture(
    inventory: Path,
    sources: Sources,
    trivy: TrivyHost | None,
    target: PublishTarget,
    console: Console,
) -> None:
    """Read the inventory and, where sources are given, new knowledge; publish them together with the knowledge they were proven with.

    Args:
        inventory: CSV, JSON or a Trivy report.
        sources: one that is not given stays as the current release has it.
        trivy: what a Trivy report cannot know of its host.
        target: where they go.
        console: where the hosts' scores go.

    Raises:
        TrainingError: a file that is not understood, or no knowledge at all.
    """
    current = _current_knowledge(target)
    trained = _knowledge(sources, current) if sources.given else None
    knowledge = trained.knowledge if trained else current
    if knowledge is None:
        raise TrainingError("there is no knowledge of CVEs yet: give --epss, --kev and --cvss")
    hosts = read_inventory(inventory, trivy=trivy)
    today = (
        datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    )  # golden answers hold on one day
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
    console.print(
        "\n".join(bundle.card for bundle in bundles), highlight=False, markup=False, soft_wrap=True
    )
    target.publish(bundles, {}, f"axon train posture, {len(names):,} hosts", console)


def _knowledge(sources: Sources, current: PostureKnowledge | None) -> TrainedKnowledge:
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
    """What the current release knows of CVEs; None where it knows nothing yet."""
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
    text = "Sources: EPSS by FIRST.org, KEV by CISA (CC0), CVSS by NVD. Each carries its own date, and its weight falls with its age."
    card = _card(
        KNOWLEDGE, "CVEs: chance of exploitation, known exploitation, severity.", training, text
    )
    return Trained(
        KNOWLEDGE, trained.knowledge.to_parts(), Golden((), ()), training, card
    )  # its golden answers are the inventory's


def _card(name: str, about: str, training: dict[str, Any], text: str) -> str:
    rows = table(["what", "value"], [[key, value] for key, value in training.items()])
    limits = (
        "Reach, controls, the KEV floor and the ordinary host are judgement, written in `ensemble/layers/resilience.py` with "
        "their reasons; nothing here was validated against incidents."
    )
    return (
        "\n\n".join(
            [f"# {name}", about, "## Training", rows, "## What it says", text, "## Limits", limits]
        )
        + "\n"
    )
