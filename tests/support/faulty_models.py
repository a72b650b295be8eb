"""A store of releases in which one model has a fault; its other models are the shipped ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ensemble.store.bundles.open import OpenedBundle, open_bundle
from ensemble.store.bundles.publish import publish_files
from ensemble.store.files.safe_read import sha256_of
from ensemble.store.layout import MANIFEST, Store, bundle_parts, next_serial, release_parts
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.releases.pointer import move_pointer, read_pointer
from ensemble.store.releases.release_file import Release, encode_release, read_release
from ensemble.store.signing import Document, Signer
from tests.support.file_faults import put
from tests.support.model_faults import ModelFault
from tests.support.publishing import NOW

__all__ = ["FaultyModels"]

HOME = Tenant("home")


@dataclass
class FaultyModels:
    """Publishes releases with faults, for a tenant each, beside those of tenant `home`.

    Nothing is proven before it is published, as by a hostile publisher that has a key.

    Attributes:
        store: its `state` gets everything.
        shipped: the store with the shipped models.
        signer: a key that the readers of `store` trust.
        untrusted: a key that they do not trust.
    """

    store: Store
    shipped: Store
    signer: Signer
    untrusted: Signer
    _bundles: dict[ModelName, OpenedBundle] = field(default_factory=dict)
    _refs: dict[ModelName, BundleRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        generic = Tenant("default")
        self._release = read_release(self.shipped, generic, read_pointer(self.shipped, generic))
        for model, ref in self._release.bundles.items():
            self._bundles[model] = open_bundle(self.shipped, ref)
            self._refs[model] = self._publish(HOME, model, self._bundles[model].files)

    def promote_good(self, tenant: str) -> ReleaseRef:
        """Give `tenant` a release with the shipped models, and promote it."""
        return self._promote(Tenant(tenant), self._refs)

    def promote_with(self, tenant: str, model: str, fault: ModelFault) -> ReleaseRef:
        """Give `tenant` a release in which `model` has the fault, and promote it."""
        owner, name = Tenant(tenant), ModelName(model)
        ref = self._publish(owner, name, fault.content(self._bundles[name].files))
        folder = self.folder(ref)
        signer = self.signer if fault.is_trusted else self.untrusted
        text = (folder / MANIFEST).read_bytes().splitlines(keepends=True)[0]
        signed = signer.sign(fault.manifest(text), Document.MANIFEST)
        put(folder / MANIFEST, signed)
        promoted = self._promote(
            owner, {**self._refs, name: BundleRef(owner, name, ref.version, sha256_of(signed))}
        )
        folder.chmod(0o755)
        fault.folder(folder)
        return promoted

    def return_to(self, tenant: str, release: ReleaseRef) -> None:
        """Point `tenant` to an earlier release again."""
        owner = Tenant(tenant)
        serial = read_pointer(self.store, owner).serial
        move_pointer(self.store, owner, release, serial, signer=self.signer, at_once=True)

    def folder(self, ref: BundleRef) -> Path:
        """Path of a published model."""
        return self.store.state.joinpath(*bundle_parts(ref.tenant, ref.model), str(ref.version))

    def _publish(self, tenant: Tenant, model: ModelName, files: Mapping[str, bytes]) -> BundleRef:
        manifest = self._bundles[model].manifest
        return publish_files(
            self.store,
            tenant,
            model,
            files,
            libraries=manifest.libraries,
            feature_schema=manifest.feature_schema,
            training=manifest.training,
            now=NOW,
            signer=self.signer,
            quota=None,
        )

    def _promote(self, tenant: Tenant, bundles: Mapping[ModelName, BundleRef]) -> ReleaseRef:
        parts = release_parts(tenant)
        serial = next_serial(self.store, parts, suffix=".json")
        text = encode_release(
            Release(tenant, serial, "2026-11-20T08:15:00Z", bundles, self._release.fusion, "")
        )
        data = self.signer.sign(text, Document.RELEASE)
        folder = self.store.state.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / ".staged"
        staged.write_bytes(data)
        staged.replace(folder / f"{serial}.json")
        release = ReleaseRef(serial, sha256_of(data))
        before = read_pointer(self.store, tenant).serial if serial > 1 else 0
        move_pointer(self.store, tenant, release, before, signer=self.signer)
        return release
