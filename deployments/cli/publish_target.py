"""The store and tenant that trained models are published to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deployments.cli import console
from deployments.cli.local_store import now, own_store
from deployments.config import Tenants, read_settings, read_signer
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.store import Tenant
from ensemble.training.publish import Trained, publish

__all__ = ["PublishTarget"]


class PublishTarget:
    """The destination of trained models.

    Args:
        tenant: owner of the new release; None for the configured tenant.
        store: folder to publish into instead of the state folder.
        publish: if False, the model is trained and reported only.
        promote: also point the tenant to the new release.

    Attributes:
        lineage: the tenant and its parents, nearest first. A new release is built on the first
            current release found among them.
        signer: signs the artifacts; None if nothing is published. Its key is read before the
            training, so that a missing key fails at once and not after minutes.

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
    ) -> None:
        """Publish the new models on top of the current release, if requested, and report it.

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
            console.out.print(f"published {ref.model} version {ref.version}")
        serial, pointer = published.release.serial, published.pointer_serial
        console.out.print(f"published release {serial} of tenant {self.tenant}")
        if pointer:
            console.out.print(
                f"promoted: pointer {pointer} names it; a running service follows within seconds",
            )
        else:
            console.out.print(f"not promoted; `axon models promote {serial}` does that")
