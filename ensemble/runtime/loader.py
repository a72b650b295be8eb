"""The loader: releases that may serve become one layer's models, each bundle proven first.

A bundle that fails any step is a named failure of its kind of event; the other kinds of the same
layer, and the other layers, go on.
Where the wanted release is not whole, the next one that may serve is loaded too, so that there is a
whole one to fall back to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ensemble.errors import ArtifactError, ArtifactIncompatible, ArtifactMissing
from ensemble.events import Kind
from ensemble.layers.catalog import FEATURE_SCHEMAS, LAYERS
from ensemble.runtime.builder import ModelBuilder, identity_of
from ensemble.runtime.model_state import (
    LoadCheck,
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    failure_of,
)
from ensemble.runtime.resolver import ReleaseSource, ResolvedRelease
from ensemble.store import ModelName, OpenedBundle, Release, Store, bundle_fingerprint, open_bundle
from ensemble.verdicts import LayerStatus

__all__ = ["ReleaseLoader"]


@dataclass(frozen=True, slots=True)
class ReleaseLoader:
    """Loads one layer's models: the `ModelSource` of its slot.

    Attributes:
        lineage: which releases may serve.
        layer: whose models.
        builder: builds them.
        available_bytes: memory that a load may use; None does not ask.
        clock: seconds that only rise; times a trial.
        neighbours: models of other tenants in this process: one of equal bundles is taken from
            there, once its files are proven.
    """

    lineage: ReleaseSource
    layer: str
    builder: ModelBuilder
    available_bytes: Callable[[], int] | None = None
    clock: Callable[[], float] = time.monotonic
    neighbours: Callable[[], Iterable[LoadedModel]] = tuple

    def fingerprint(self) -> Hashable:
        """Pointer, releases, trust, and how this layer's files lie on the disk.

        No payload is read.
        """
        store = self.lineage.open_store()
        try:
            found = self.lineage.look()
        except ArtifactError as error:
            return error.code, str(error), _trusted(store)
        candidates = (*found.releases, *([found.challenger] if found.challenger else []))
        refs = {
            ref
            for candidate in candidates
            for ref in candidate.release.bundles.values()
            if ref.model in self._names
        }
        files = tuple(bundle_fingerprint(store, ref) for ref in sorted(refs, key=str))
        return (
            found.wanted,
            found.pointer,
            tuple(one.name for one in candidates),
            str(found.trouble),
            _trusted(store),
            files,
        )

    def load(self, held: Sequence[LoadedRelease], requested: frozenset[str]) -> LoadResult:
        """What serves now; models that are held are kept, and only their files proven again.

        Raises:
            ArtifactError: no release at all can be had.
        """
        found = self.lineage.look()
        lent = {
            model.bundles: replace(model, status=LayerStatus.LAST_GOOD)
            for model in self.neighbours()
        }
        known = lent | {
            model.bundles: model for release in held for model in release.models.values()
        }
        keep = requested | {release.name for release in held}
        releases: list[LoadedRelease] = []
        trouble = (
            {}
            if found.trouble is None
            else dict.fromkeys(LAYERS[self.layer].kinds, failure_of(found.trouble))
        )
        for candidate in found.releases:
            if candidate.name not in keep and any(release.is_complete for release in releases):
                continue
            release, wrong = self._load_release(candidate, known)
            releases.append(release)
            if candidate.is_wanted:
                trouble |= wrong
        if (
            found.challenger is not None
            and found.challenger.name in keep
            and found.challenger.name not in {one.name for one in releases}
        ):
            releases.append(self._load_release(found.challenger, known)[0])
        return LoadResult(found.wanted, tuple(releases), trouble)

    def trial(self) -> Mapping[Kind, LoadCheck]:
        """Load the wanted release from scratch, and keep nothing of it.

        Raises:
            ArtifactError: no release at all can be had.
        """
        found = self.lineage.look()
        candidate = found.releases[0]
        if found.trouble is not None and not candidate.is_wanted:
            # what stands in the wanted release's place is not what was asked about
            raise found.trouble
        tried: dict[Kind, LoadCheck] = {}
        for kind in LAYERS[self.layer].kinds:
            began = self.clock()
            outcome = self._attempt(candidate.release, kind, None)
            elapsed_ms = round((self.clock() - began) * 1000.0, 1)
            if isinstance(outcome, LoadFailure):
                tried[kind] = LoadCheck(
                    ok=False,
                    version="",
                    code=outcome.code,
                    message=outcome.message,
                    elapsed_ms=elapsed_ms,
                )
            else:
                tried[kind] = LoadCheck(
                    ok=True, version=outcome.version, code="", message="", elapsed_ms=elapsed_ms
                )
        return tried

    @property
    def _names(self) -> set[str]:
        return {name for names in LAYERS[self.layer].kinds.values() for name in names}

    def _load_release(
        self, candidate: ResolvedRelease, known: Mapping[tuple[str, ...], LoadedModel]
    ) -> tuple[LoadedRelease, dict[Kind, LoadFailure]]:
        """Load one release; report problems of its files even where memory still serves them."""
        plan = LAYERS[self.layer]
        unnamed = frozenset(
            kind for kind, names in plan.kinds.items() if not _identity(candidate.release, names)
        )
        models: dict[Kind, LoadedModel] = {}
        wrong: dict[Kind, LoadFailure] = {}
        built: dict[tuple[str, ...], LoadedModel | LoadFailure] = {}
        for kind, names in plan.kinds.items():
            if plan.is_optional and kind in unnamed:
                continue  # neither a model nor a failure: the release was meant to do without
            before = known.get(_identity(candidate.release, names))
            if names not in built:
                built[names] = self._attempt(candidate.release, kind, before)
            outcome = built[names]
            if isinstance(outcome, LoadFailure):
                wrong[kind] = outcome
                outcome = before or outcome
            if isinstance(outcome, LoadedModel):
                is_live = candidate.is_wanted or (
                    before is not None and before.status is LayerStatus.LIVE
                )
                models[kind] = replace(
                    outcome, status=LayerStatus.LIVE if is_live else LayerStatus.LAST_GOOD
                )
        failures = {kind: failure for kind, failure in wrong.items() if kind not in models}
        lacks = {kind: failure for kind, failure in wrong.items() if kind not in unnamed}
        return LoadedRelease(candidate.name, models, failures, unnamed), lacks

    def _attempt(
        self, release: Release, kind: Kind, before: LoadedModel | None
    ) -> LoadedModel | LoadFailure:
        """The model of `kind`.

        The one from before, once its files are proven again, or one that is built from them.
        """
        try:
            bundles = [self._open(release, name) for name in LAYERS[self.layer].kinds[kind]]
            return before or self.builder.build(kind, bundles)
        # a model that cannot be built is a failure of its kind, whatever went wrong
        except Exception as error:  # noqa: BLE001
            return failure_of(error)

    def _open(self, release: Release, name: str) -> OpenedBundle:
        ref = release.bundles.get(ModelName(name))
        if ref is None:
            raise ArtifactMissing(f"{name} of release {release.serial}")
        bundle = open_bundle(self.lineage.open_store(), ref, available_bytes=self.available_bytes)
        expected = FEATURE_SCHEMAS.get(name)
        if expected and bundle.manifest.feature_schema != expected():
            raise ArtifactIncompatible(
                f"{ref}: features", expected()[:12], bundle.manifest.feature_schema[:12]
            )
        return bundle


def _trusted(store: Store) -> Hashable:
    return frozenset(store.trust.keys), store.trust.pinned


def _identity(release: Release, names: Sequence[str]) -> tuple[str, ...]:
    """The bundles that a model of `release` is built from, by name and digest.

    () where one is not in it.
    """
    refs = [release.bundles.get(ModelName(name)) for name in names]
    return tuple(identity_of(ref) for ref in refs if ref is not None) if all(refs) else ()
