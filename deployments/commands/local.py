"""What several verbs share: the settings, the store and the ensemble of this machine."""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from deployments.settings import Settings, read_settings
from deployments.tenancy import Tenancy
from deployments.trust import read_trust
from ensemble.building import ModelBuilder
from ensemble.candidates import Lineage
from ensemble.errors import ArtifactCorrupt
from ensemble.inprocess import Ensemble
from ensemble.loading import ReleaseLoader
from ensemble.states import HeldRelease
from ensemble.store.layout import Actor, Store
from ensemble.store.names import Tenant
from ensemble.training.flows import Progress as Report
from ensemble.verdicts import SPEAKING

__all__ = ["current_models", "local_ensemble", "now", "own_store", "plain", "progress_bars", "report_to"]


def own_store(settings: Settings | None = None) -> Store:
    """The store of this machine: what a running Axon writes, then what was shipped.

    Raises:
        pydantic.ValidationError: the trust list is wrong.
    """
    known = settings or read_settings()
    return Store(known.state, known.shipped, read_trust(known), Actor(_user(), "terminal"))


def local_ensemble(tenant: str | None = None) -> Ensemble:
    """The current release of a tenant, in this process.

    Raises:
        ArtifactError: there is none that can be read.
    """
    settings = read_settings()
    store = own_store(settings)
    logging.getLogger("ray.serve").addHandler(logging.NullHandler())  # what fails is told below, in words
    ensemble = Ensemble(
        Lineage(lambda: store, Tenancy(settings).lineage(Tenant(tenant or settings.store.tenant))),
        min_coverage=settings.fusion.min_coverage,
        posture_bound=settings.fusion.posture_bound,
        stale_after_days=settings.posture.stale_after_days,
        expired_after_days=settings.posture.expired_after_days,
    )
    for layer, slot in ensemble.slots.items():
        for kind, state in slot.state().kinds.items():
            if state.status not in SPEAKING:
                Console(stderr=True).print(f"{layer} does not speak of {kind} events: {state.reason}", highlight=False)
    return ensemble


def current_models(store: Store, lineage: Sequence[Tenant], layer: str) -> HeldRelease:
    """One layer's models of the release that a tenant's pointer names, and of no other in its place: training goes on from it.

    A tenant without a pointer goes on from what its nearest parent's names.

    Raises:
        ArtifactError: it cannot be had.
    """
    posture = read_settings().posture
    builder = ModelBuilder("cpu", posture.stale_after_days, posture.expired_after_days)
    loaded = ReleaseLoader(Lineage(lambda: store, lineage), layer, builder).load([], frozenset())
    if loaded.releases[0].name != loaded.wanted:
        raise ArtifactCorrupt(f"release {loaded.wanted}", "cannot be had: " + "; ".join({why.message for why in loaded.trouble.values()}))
    return loaded.releases[0]


def now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)


def _user() -> str:
    """Who the system says we are; what the environment says of it, anybody can set."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number that has no name
        return f"uid {os.getuid()}"


def plain(text: str) -> str:
    """Text of a stranger, safe for a terminal: no markup, no escape codes."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in text))


def progress_bars() -> Progress:
    """Bars on standard error, so that standard output stays what was asked for."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True))


def report_to(bars: Progress) -> Report:
    """A report for recipes: one bar for each thing that is being done; in a log, where bars do not move, one line a step."""
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if not bars.console.is_terminal:
            bars.console.print(f"{what}: {done} of {total}", highlight=False)
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    return report
