"""Where a trained model goes, and what is said of it afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from deployments.commands.local import own_store
from deployments.settings import read_settings
from deployments.tenancy import Tenancy
from deployments.trust import read_signer
from ensemble.store.names import Tenant
from ensemble.training.releasing import Published

__all__ = ["Target", "tell"]


class Target:
    """Where a trained model goes.

    Args:
        tenant: whose; None for the configured one.
        store: folder to publish into instead of the state folder.
        publish: False trains and reports only.
        promote: also point the tenant to the new release.

    Attributes:
        lineage: the tenant and its parents: whose current release a new one is built on, the nearest first.
        signer: signs what is published; None where nothing is. It is read before training begins, which takes minutes.

    Raises:
        SigningRefused: there is no key to publish with.
    """

    def __init__(self, tenant: str | None, store: Path | None, *, publish: bool, promote: bool) -> None:
        settings = read_settings()
        self.tenant = tenant or settings.store.tenant
        self.lineage = Tenancy(settings).lineage(Tenant(self.tenant))
        own = own_store(settings)
        self.store = replace(own, state=store, shipped=None) if store else own
        self.signer = read_signer(own.trust) if publish else None
        self.promote = promote


def tell(published: Published, target: Target, console: Console) -> None:
    """Say what was published, and what is left to do."""
    for ref in published.bundles:
        console.print(f"published {ref.model} version {ref.version}", highlight=False)
    console.print(f"published release {published.release.serial} of tenant {target.tenant}", highlight=False)
    if published.pointer_serial:
        console.print(f"promoted: pointer {published.pointer_serial} names it; a running service follows within seconds", highlight=False)
    else:
        console.print(f"not promoted; `axon models promote {published.release.serial}` does that", highlight=False)
