"""Where trained models go: published, promoted if asked, and said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from deployments.cli.local_store import now, own_store
from deployments.config.settings import read_settings
from deployments.config.tenants import Tenants
from deployments.config.trust import read_signer
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.store import Tenant
from ensemble.training.publish import Trained, publish

__all__ = ["PublishTarget"]


class PublishTarget:
    """Where a trained model goes.

    Args:
        tenant: whose; None for the configured one.
        store: folder to publish into instead of the state folder.
        publish: False trains and reports only.
        promote: also point the tenant to the new release.

    Attributes:
        lineage: the tenant and its parents: whose current release a new one is built on, the
            nearest first.
        signer: signs what is published; None where nothing is. It is read before training
            begins, which takes minutes.

    Raises:
        SigningRefused: there is no key to publish with.
    """

    def __init__(
        self, tenant: str | None, store: Path | None, *, publish: bool, promote: bool
    ) -> None:
        settings = read_settings()
        self.tenant = tenant or settings.store.tenant
        self.lineage = Tenants(settings).lineage(Tenant(self.tenant))
        own = own_store(settings)
        self.store = replace(own, state=store, shipped=None) if store else own
        self.signer = read_signer(own.trust) if publish else None
        self.promote = promote

    def publish(
        self,
        trained: Sequence[Trained],
        fusions: Mapping[Kind, Fusion],
        notes: str,
        console: Console,
    ) -> None:
        """Publish a release with what is new on top of the current one, and say what was done; nothing where nothing is to be published.

        Raises:
            ArtifactError: as of `ensemble.training.publish.publish`.
        """
        if self.signer is None:
            return
        published = publish(
            self.store,
            self.tenant,
            trained,
            fusions,
            notes=notes,
            now=now(),
            signer=self.signer,
            and_promote=self.promote,
            parents=self.lineage[1:],
        )
        for ref in published.bundles:
            console.print(f"published {ref.model} version {ref.version}", highlight=False)
        serial, pointer = published.release.serial, published.pointer_serial
        console.print(f"published release {serial} of tenant {self.tenant}", highlight=False)
        if pointer:
            console.print(
                f"promoted: pointer {pointer} names it; a running service follows within seconds",
                highlight=False,
            )
        else:
            console.print(
                f"not promoted; `axon models promote {serial}` does that", highlight=False
            )
