"""Loader of one layer's models: verifies every bundle of a release, then builds the model.

A bundle that fails any step is a failure of its kind of event; the other kinds of the layer, and
the other layers, are not affected. Models that are loaded already are reused. If the wanted release
is not complete, the next one that may serve is loaded too, so that there is a complete fallback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble.errors import ArtifactIncompatible, ArtifactMissing
from ensemble.events import Kind
from ensemble.layers import FEATURE_SCHEMAS, LAYERS
from ensemble.runtime.builder import ModelBuilder, identity_of
from ensemble.runtime.model_state import (
    LoadCheck,
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    failure_of,
)
from ensemble.runtime.resolver import ReleaseSource, ResolvedRelease, ResolvedReleases
from ensemble.store import ModelName, OpenedBundle, Release, Store, bundle_fingerprint, open_bundle
from ensemble.verdicts import LayerStatus

__all__ = ["ReleaseLoader"]


@dataclass(frozen=True, slots=True)
class ReleaseLoader:
    """Loads one layer's models: the `ModelSource` of its slot.

    Attributes:
        releases: resolves the releases that may serve.
        layer: name of the layer.
        builder: builds the models.
        available_bytes: memory that a load may use; None for no check.
        clock: monotonic seconds; times a load check.
        neighbours: models of other tenants in this process. One of equal bundles is shared, once
            its files are proven.
    """

    releases: ReleaseSource
    layer: str
    builder: ModelBuilder
    available_bytes: Callable[[], int] | None = None
    clock: Callable[[], float] = time.monotonic
    neighbours: Callable[[], Iterable[LoadedModel]] = tuple

    def resolve(self) -> ResolvedReleases:
        """Resolve the releases that may serve now.

        Raises:
            ArtifactError: no release at all can be read.
        """
        return self.releases.resolve()

    def fingerprint(self, resolved: ResolvedReleases) -> Hashable:
        """Combine pointer, releases, trusted keys, and the state of this layer's files on disk.

        The content of the files is not read.
        """
        challenger = [resolved.challenger] if resolved.challenger else []
        releases = (*resolved.releases, *challenger)
        models = {name for names in LAYERS[self.layer].kinds.values() for name in names}
        refs = {
            ref for one in releases for ref in one.release.bundles.values() if ref.model in models
        }
        trust = resolved.store.trust
        return (
            resolved.wanted,
            resolved.pointer,
            tuple(one.name for one in releases),
            str(resolved.problem),
            (frozenset(trust.keys), trust.pinned),
            tuple(bundle_fingerprint(resolved.store, ref) for ref in sorted(refs, key=str)),
        )

    def load(
        self,
        resolved: ResolvedReleases,
        loaded: Sequence[LoadedRelease],
        requested: frozenset[str],
    ) -> LoadResult:
        """Load the serving release and its fallbacks; of loaded models only the files are verified.

        Args:
            resolved: the releases that may serve.
            loaded: the releases in use.
            requested: further releases that callers named.
        """
        known = {
            model.bundles: replace(model, status=LayerStatus.LAST_GOOD)
            for model in self.neighbours()
        }
        known |= {model.bundles: model for one in loaded for model in one.models.values()}
        named = requested | {one.name for one in loaded}
        releases: list[LoadedRelease] = []
        problems: dict[Kind, LoadFailure] = {}
        if resolved.problem is not None:
            problems = dict.fromkeys(LAYERS[self.layer].kinds, failure_of(resolved.problem))
        for one in resolved.releases:
            if one.name not in named and any(release.is_complete for release in releases):
                continue
            release, failures = self._load_release(resolved.store, one, known)
            releases.append(release)
            if one.is_wanted:
                problems |= failures
        challenger = resolved.challenger
        if challenger is not None and challenger.name in named - {one.name for one in releases}:
            releases.append(self._load_release(resolved.store, challenger, known)[0])
        return LoadResult(resolved.wanted, tuple(releases), problems)

    def check_load(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, and discard it.

        Raises:
            ArtifactError: no release at all can be read, or not the wanted one.
        """
        resolved = self.resolve()
        wanted = resolved.releases[0]
        if resolved.problem is not None and not wanted.is_wanted:
            raise resolved.problem  # a fallback is not what the caller wants checked
        return {
            kind: self._check_kind(resolved.store, wanted.release, kind)
            for kind in LAYERS[self.layer].kinds
        }

    def _check_kind(self, store: Store, release: Release, kind: Kind) -> LoadCheck:
        began = self.clock()
        outcome = self._load_model(store, release, kind, None)
        elapsed_ms = round((self.clock() - began) * 1000.0, 1)
        if isinstance(outcome, LoadFailure):
            return LoadCheck.failed(outcome, elapsed_ms)
        return LoadCheck(
            ok=True, version=outcome.version, code="", message="", elapsed_ms=elapsed_ms
        )

    def _load_release(
        self,
        store: Store,
        resolved: ResolvedRelease,
        known: Mapping[tuple[str, ...], LoadedModel],
    ) -> tuple[LoadedRelease, dict[Kind, LoadFailure]]:
        """Load one release.

        Returns:
            The loaded part, and the failures of its files, also for a kind whose model stays in
            memory.
        """
        spec, release = LAYERS[self.layer], resolved.release
        unnamed = frozenset(
            kind for kind, names in spec.kinds.items() if not _identity(release, names)
        )
        models: dict[Kind, LoadedModel] = {}
        failed: dict[Kind, LoadFailure] = {}
        built: dict[tuple[str, ...], LoadedModel | LoadFailure] = {}
        for kind, names in spec.kinds.items():
            if spec.is_optional and kind in unnamed:
                continue  # neither a model nor a failure: the release is complete without it
            before = known.get(_identity(release, names))
            if names not in built:
                built[names] = self._load_model(store, release, kind, before)
            outcome = built[names]
            if isinstance(outcome, LoadFailure):
                failed[kind] = outcome
                outcome = before or outcome
            if isinstance(outcome, LoadedModel):
                was_live = before is not None and before.status is LayerStatus.LIVE
                is_live = resolved.is_wanted or was_live
                status = LayerStatus.LIVE if is_live else LayerStatus.LAST_GOOD
                models[kind] = replace(outcome, status=status)
        failures = {kind: failure for kind, failure in failed.items() if kind not in models}
        problems = {kind: failure for kind, failure in failed.items() if kind not in unnamed}
        return LoadedRelease(resolved.name, models, failures, unnamed), problems

    def _load_model(
        self, store: Store, release: Release, kind: Kind, before: LoadedModel | None
    ) -> LoadedModel | LoadFailure:
        """Verify the files of `kind`, and return the model `before` or build a new one."""
        try:
            bundles = [self._open(store, release, name) for name in LAYERS[self.layer].kinds[kind]]
            return before or self.builder.build(kind, bundles)
        # a model that cannot be built is a failure of its kind, whatever went wrong
        except Exception as error:  # noqa: BLE001
            return failure_of(error)

    def _open(self, store: Store, release: Release, name: str) -> OpenedBundle:
        ref = release.bundles.get(ModelName(name))
        if ref is None:
            raise ArtifactMissing(f"{name} of release {release.serial}")
        bundle = open_bundle(store, ref, available_bytes=self.available_bytes)
        expected = FEATURE_SCHEMAS.get(name)
        if expected and bundle.manifest.feature_schema != expected():
            raise ArtifactIncompatible(
                f"{ref}: features", expected()[:12], bundle.manifest.feature_schema[:12]
            )
        return bundle


def _identity(release: Release, names: Sequence[str]) -> tuple[str, ...]:
    """Identify the bundles of `names` in `release`; () if one of them is not in it."""
    refs = [release.bundles.get(ModelName(name)) for name in names]
    return tuple(identity_of(ref) for ref in refs if ref is not None) if all(refs) else ()
