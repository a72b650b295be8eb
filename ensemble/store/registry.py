"""Model registry: every verb on the models of one tenant, for HTTP and the terminal alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from ensemble.errors import ArtifactError, ArtifactMissing, ServedByRelease
from ensemble.store.audit_log import AuditEntry, read_audit
from ensemble.store.bundles.list import list_bundles
from ensemble.store.bundles.quota import Quota
from ensemble.store.layout import Store
from ensemble.store.names import BundleRef, ModelName, ReleaseRef, Tenant
from ensemble.store.operations.archive import (
    ARCHIVE_LIMIT_BYTES,
    Imported,
    export_bundle,
    export_release,
    import_archive,
)
from ensemble.store.operations.deletion import (
    Removed,
    apply_retention,
    delete_bundle,
    delete_release,
)
from ensemble.store.operations.describe import (
    BundleInfo,
    describe_bundle,
    list_models,
    resolve_bundle,
)
from ensemble.store.releases.aliases import (
    Alias,
    AliasTarget,
    clear_challenger,
    clear_model_alias,
    get_alias,
    get_challenger,
    promote_challenger,
    read_challenger,
    set_challenger,
    set_model_alias,
)
from ensemble.store.releases.list import ReleaseListing, list_releases
from ensemble.store.releases.pointer import Pointer, has_pointer, read_pointer
from ensemble.store.releases.release import promote, roll_back
from ensemble.store.signing import Signer, Trust

__all__ = ["ModelRegistry", "ReleaseOverview", "VisibleModel"]


@dataclass(frozen=True, slots=True)
class VisibleModel:
    """A version of a model as one tenant sees it.

    Attributes:
        info: description of the version.
        is_inherited: it belongs to a parent tenant; read-only for this tenant.
    """

    info: BundleInfo
    is_inherited: bool


@dataclass(frozen=True, slots=True)
class ReleaseOverview:
    """The releases of a tenant, with the one that serves and the one evaluated in shadow.

    Attributes:
        pointer: None if it is missing or broken.
        pointer_error: why an existing pointer cannot be read; None if it is missing.
        challenger: None if it is not set or broken.
        challenger_error: why an existing challenger alias cannot be read.
        releases: newest first.
    """

    pointer: Pointer | None
    pointer_error: ArtifactError | None
    challenger: ReleaseRef | None
    challenger_error: ArtifactError | None
    releases: tuple[ReleaseListing, ...]


@dataclass(frozen=True, slots=True)
class ModelRegistry:
    """Every verb on the models of one tenant.

    A change replaces a broken pointer or alias. It is refused (`PointerMoved`) if another change
    came first. It is recorded in the audit log under the store's actor.

    - Read: `models` lists versions, inherited champions included; `describe` finds one; `overview`
      lists releases; `challenger` and `alias` read what an alias names; `audit` lists actions.
    - Serve: `promote` and `roll_back` move the pointer; `set_challenger` chooses the release that
      is evaluated in shadow; `set_alias` and `promote_challenger_of` choose versions of a model
      that is not part of a release. Promoting a challenger clears its alias.
    - Remove: `delete` a version, `delete_release`, and `retain` the newest few.
    - Move: `export`, `export_release` and `import_archive`.

    Attributes:
        store: with the actor for the audit log.
        tenant: owner of the models.
        read_signer: reads the key that signs pointers, aliases and imports. It is called just
            before a change is written, so that a missing model is reported even without a key.
            None for a read-only registry.
        parents: tenants whose champions this one inherits, the nearest first.
        layer_models: models that serve only as part of a release, so they get no alias.
        quota: limits imports; None for no limit.
    """

    store: Store
    tenant: Tenant
    read_signer: Callable[[Trust], Signer] | None = None
    parents: tuple[Tenant, ...] = ()
    layer_models: frozenset[str] = frozenset()
    quota: Quota | None = None

    def models(self, model: ModelName | None = None) -> list[VisibleModel]:
        """List all versions of the tenant, then the champions of its parents.

        Args:
            model: only this model; None for all.
        """
        own = list_models(self.store, self.tenant, model)
        return [VisibleModel(info, is_inherited=False) for info in own] + [
            VisibleModel(info, is_inherited=True)
            for parent in self.parents
            for info in list_models(self.store, parent, model)
            if Alias.CHAMPION in info.aliases
        ]

    def describe(self, model: ModelName, which: int | Alias | None = None) -> VisibleModel:
        """Describe one version: the tenant's, else the champion of its nearest parent that has one.

        Args:
            model: name.
            which: number or alias; None for the champion, else the newest.

        Raises:
            ArtifactMissing: the tenant neither has nor inherits it.
            ArtifactError: an alias of the tenant is broken.
        """
        if list_models(self.store, self.tenant, model):
            info = describe_bundle(self.store, self.tenant, model, which)
            return VisibleModel(info, is_inherited=False)
        for parent in self.parents:
            try:
                info = describe_bundle(self.store, parent, model, Alias.CHAMPION)
            except ArtifactError:  # the next parent serves in its place
                continue
            if which in {None, Alias.CHAMPION, info.version}:
                return VisibleModel(info, is_inherited=True)
            break
        raise ArtifactMissing(f"model {model}")

    def overview(self) -> ReleaseOverview:
        """List the tenant's own releases with what serves and what is evaluated."""
        releases = list_releases(self.store, self.tenant)
        return ReleaseOverview(*self._pointer(), *self._challenger(), releases)

    def release(self, number: int) -> ReleaseRef:
        """Find a release by number, without proving it; the state root comes first.

        Raises:
            ArtifactMissing: the tenant has no release with that number.
        """
        for listing in list_releases(self.store, self.tenant):
            if listing.ref.serial == number:
                return listing.ref
        raise ArtifactMissing(f"release {number}")

    def promote(self, which: int | Literal[Alias.CHALLENGER], *, at_once: bool = False) -> Pointer:
        """Point to a release by number, or to the challenger, after proving it.

        If the release is the challenger, that alias is cleared.

        Raises:
            PointerMoved: another change came first, see `promote_challenger`.
            ArtifactError: the release does not exist or cannot be loaded.
        """
        store, tenant = self.store, self.tenant
        pointer, _ = self._pointer()
        serial = pointer.serial if pointer else 0
        if not isinstance(which, int):
            challenger = self.challenger()
        else:
            ref = self.release(which)
            try:
                challenger = self.challenger()
            except ArtifactError:  # a broken alias names nothing that could be cleared
                challenger = AliasTarget(0, "", 0)
            if (challenger.number, challenger.sha256) != (ref.serial, ref.sha256):
                return promote(store, tenant, ref, serial, signer=self._signer, at_once=at_once)
        return promote_challenger(
            store, tenant, challenger, serial, signer=self._signer, at_once=at_once
        )

    def roll_back(self, to: int | None = None) -> Pointer:
        """Point to an earlier release for all traffic: number `to`, or the last one that loads.

        Raises:
            ArtifactError: the pointer is broken, or there is no earlier release that loads.
        """
        serial = read_pointer(self.store, self.tenant).serial
        return roll_back(self.store, self.tenant, serial, signer=self._signer, to=to)

    def challenger(self) -> AliasTarget:
        """Read which release is evaluated in shadow.

        Raises:
            ArtifactError: the alias is broken.
        """
        return get_challenger(self.store, self.tenant)

    def set_challenger(self, release: int | None) -> AliasTarget:
        """Evaluate a release in shadow, after proving it; None to stop.

        Raises:
            ArtifactError: the release does not exist or cannot be loaded.
        """
        ref = self.release(release) if release is not None else None
        try:
            serial = self.challenger().serial
        except ArtifactError:
            serial = 0
        if ref is None:
            return clear_challenger(self.store, self.tenant, serial, signer=self._signer)
        return set_challenger(self.store, self.tenant, ref, serial, signer=self._signer)

    def alias(self, model: ModelName, alias: Alias) -> AliasTarget:
        """Read which version an alias of a model names.

        Raises:
            ArtifactError: the alias is broken.
        """
        return get_alias(self.store, self.tenant, model, alias)

    def set_alias(self, model: ModelName, alias: Alias, version: int | None) -> AliasTarget:
        """Give an alias to one version, after proving it; None clears the alias.

        A version that becomes the champion loses the challenger alias.

        Raises:
            ArtifactMissing: the tenant has no such model or version.
            ServedByRelease: the model belongs to a layer, so releases choose its version.
            ArtifactError: the version does not open.
        """
        if version is not None:
            return self._name(self._own(model, version), alias)
        if not list_bundles(self.store, self.tenant, model):
            raise ArtifactMissing(f"model {model}")
        self._refuse_layer_model(model)
        serial = self._alias_serial(model, alias)
        return clear_model_alias(self.store, self.tenant, model, alias, serial, signer=self._signer)

    def promote_challenger_of(self, model: ModelName) -> AliasTarget:
        """Make the challenger of a model its champion; errors as in `set_alias`."""
        return self._name(self._own(model, Alias.CHALLENGER), Alias.CHAMPION)

    def delete(self, model: ModelName, version: int) -> None:
        """Delete one version permanently.

        Raises:
            ArtifactMissing: there is no such version.
            ArtifactInUse: it is referenced, or it was shipped with Axon.
        """
        delete_bundle(self.store, self.tenant, model, version)

    def delete_release(self, number: int) -> None:
        """Delete one release permanently; its models stay. Errors as in `delete`."""
        delete_release(self.store, self.tenant, number)

    def retain(self, newest: int) -> Removed:
        """Delete unreferenced releases and versions, keeping the `newest` of each kind.

        Raises:
            ArtifactInUse: the references cannot be determined.
        """
        return apply_retention(self.store, self.tenant, newest=newest)

    def export(self, model: ModelName, version: int | None = None) -> tuple[BundleRef, bytes]:
        """Pack one version into an archive; by default the champion, else the newest.

        Raises:
            ArtifactError: there is no such version, or it does not open.
        """
        ref = resolve_bundle(self.store, self.tenant, model, version)
        return ref, export_bundle(self.store, ref)

    def export_release(self, number: int | None = None) -> tuple[ReleaseRef, bytes]:
        """Pack a release with its bundles into an archive; by default the one that serves.

        Raises:
            ArtifactError: there is no such release, or it or one of its bundles does not open.
        """
        ref = self.release(number) if number else read_pointer(self.store, self.tenant).ref
        return ref, export_release(self.store, self.tenant, ref)

    def import_archive(self, data: bytes, *, limit_bytes: int = ARCHIVE_LIMIT_BYTES) -> Imported:
        """Publish the content of an archive as new versions; nothing is promoted.

        Args:
            data: the archive; the caller limits its length.
            limit_bytes: limit on all its files together, unpacked.

        Raises:
            ArtifactUntrusted: no trusted key signed it.
            ArtifactCorrupt: it is damaged, or not the output of an export.
            QuotaExceeded: more versions than the quota allows.
        """
        return import_archive(
            self.store,
            self.tenant,
            data,
            now=datetime.fromtimestamp(self.store.clock(), UTC),
            signer=self._signer,
            quota=self.quota,
            limit_bytes=limit_bytes,
        )

    def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        """List the newest actions on the tenant's models and releases, the last one first.

        Raises:
            ArtifactError: the log cannot be read.
        """
        return read_audit(self.store, self.tenant, limit=limit)

    @property
    def _signer(self) -> Signer:
        if self.read_signer is None:
            raise ValueError("a registry without a signer changes nothing")
        return self.read_signer(self.store.trust)

    def _pointer(self) -> tuple[Pointer | None, ArtifactError | None]:
        try:
            return read_pointer(self.store, self.tenant), None
        except ArtifactError as error:
            return None, error if has_pointer(self.store, self.tenant) else None

    def _challenger(self) -> tuple[ReleaseRef | None, ArtifactError | None]:
        try:
            return read_challenger(self.store, self.tenant), None
        except ArtifactError as error:
            return None, error

    def _own(self, model: ModelName, which: int | Alias) -> BundleRef:
        ref = resolve_bundle(self.store, self.tenant, model, which)
        self._refuse_layer_model(model)
        return ref

    def _refuse_layer_model(self, model: ModelName) -> None:
        if model in self.layer_models:
            raise ServedByRelease

    def _alias_serial(self, model: ModelName, alias: Alias) -> int:
        try:
            return self.alias(model, alias).serial
        except ArtifactError:  # broken, and replaced
            return 0

    def _name(self, ref: BundleRef, alias: Alias) -> AliasTarget:
        store, tenant, model = self.store, self.tenant, ref.model
        serial = self._alias_serial(model, alias)
        named = set_model_alias(store, tenant, model, alias, ref, serial, signer=self._signer)
        if alias is Alias.CHAMPION:
            other = self._challenger_of(model)
            if other.number == ref.version:
                clear_model_alias(
                    store, tenant, model, Alias.CHALLENGER, other.serial, signer=self._signer
                )
        return named

    def _challenger_of(self, model: ModelName) -> AliasTarget:
        try:
            return self.alias(model, Alias.CHALLENGER)
        except ArtifactError:  # a broken alias names nothing that could be cleared
            return AliasTarget(0, "", 0)
