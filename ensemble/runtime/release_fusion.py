"""Fusion of releases: the wanted one, unless more layers can score with a substitute.

One release makes an answer: its models, its fusion, its thresholds. So where a layer cannot have
the wanted release, the whole
ensemble stays with, or goes back to, the last good one, rather than answer with half of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactIncompatible
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.model_state import LoadFailure, SlotState, failure_of
from ensemble.runtime.resolver import ReleaseSource, ResolvedRelease
from ensemble.verdicts import LayerScores, Verdicts

__all__ = ["FusionChoices", "FusionResolver", "ReleaseFusion", "choose_release", "is_complete"]


@dataclass(frozen=True, slots=True)
class ReleaseFusion:
    """The fusion of a release; without one every verdict is indeterminate.

    Attributes:
        name: of the release, `<tenant>/<serial>`, "" for none.
        fusions: kind of event -> how its layers are pooled.
        sha256: of the release's file, "" for none.
    """

    name: str = ""
    fusions: Mapping[Kind, Fusion] = field(default_factory=dict)
    sha256: str = ""

    @property
    def tenant(self) -> str:
        """Whose release it is, "" for none."""
        return self.name.partition("/")[0]

    def of(self, kind: Kind) -> Fusion:
        """How the layers of `kind` are pooled.

        As fitted, or by equal shares where nothing fitted can be had.
        """
        return self.fusions.get(kind) or Fusion.builtin(
            [layer for layer, plan in LAYERS.items() if plan.is_evidence and kind in plan.kinds]
        )

    def fuse(
        self,
        kind: Kind,
        opinions: Sequence[LayerScores],
        *,
        min_coverage: float,
        posture_bound: float,
    ) -> tuple[Verdicts, ...]:
        """The verdicts of a batch of `kind`, as of `Fusion.fuse_each`.

        Each says which release made it.
        """
        groups = self.of(kind).fuse_each(
            opinions, min_coverage=min_coverage, posture_bound=posture_bound
        )
        return tuple(
            replace(group, release=self.name, release_sha256=self.sha256) for group in groups
        )


@dataclass(frozen=True, slots=True)
class FusionChoices:
    """The fusions of the releases that may serve.

    Attributes:
        wanted: name of the release that the pointer names, "" where no pointer could be read.
        pointer: which pointer that is, `<tenant>#<serial>`.
        at_once: the promoter wants the release to take all traffic at once.
        releases: at least one, the most wanted first.
        trouble: why the wanted one is not among them; None where it is.
        challenger: to be tried in shadow, and never to answer; None where there is none.
    """

    wanted: str
    pointer: str
    at_once: bool
    releases: tuple[ReleaseFusion, ...]
    trouble: LoadFailure | None
    challenger: ReleaseFusion | None = None


@dataclass(frozen=True, slots=True)
class FusionResolver:
    """Reads the fusions of the releases that may serve."""

    lineage: ReleaseSource

    def look(self) -> FusionChoices:
        """The fusions that are available now; one that cannot be read is passed over and named.

        Raises:
            ArtifactError: no release at all can be had.
        """
        found = self.lineage.look()
        offered: list[ReleaseFusion] = []
        troubles: list[ArtifactError] = []
        for candidate in found.releases:
            try:
                offered.append(_fusion_of(candidate))
            except ArtifactError as error:
                troubles.append(error)
        if not offered:
            raise found.trouble or troubles[0]
        trouble = found.trouble or (troubles[0] if offered[0].name != found.wanted else None)
        failure = failure_of(trouble) if trouble else None
        return FusionChoices(
            found.wanted,
            found.pointer,
            found.at_once,
            tuple(offered),
            failure,
            _challenger_of(found.challenger),
        )

    def load(self) -> ReleaseFusion:
        """The fusion of the release that the pointer names, and of no other in its place.

        Raises:
            ArtifactError: it cannot be had.
        """
        offer = self.look()
        if offer.releases[0].name != offer.wanted:
            raise ArtifactCorrupt(
                f"release {offer.wanted}",
                offer.trouble.message if offer.trouble else "is not the one that serves",
            )
        return offer.releases[0]


def _fusion_of(candidate: ResolvedRelease) -> ReleaseFusion:
    """The fusion of a release that was read.

    Raises:
        ArtifactIncompatible: it is none of this Axon's.
    """
    try:
        fusions = {
            Kind(kind): Fusion.from_config(config)
            for kind, config in candidate.release.fusion.items()
        }
    except ValueError:
        raise ArtifactIncompatible("fusion", "a kind of event", "another") from None
    return ReleaseFusion(candidate.name, fusions, candidate.sha256)


def _challenger_of(candidate: ResolvedRelease | None) -> ReleaseFusion | None:
    """The fusion of the challenger; one that has none is tried by nobody."""
    try:
        return _fusion_of(candidate) if candidate else None
    except ArtifactError:
        return None


def is_complete(release: str, said: Mapping[str, SlotState]) -> bool:
    """Whether every layer has all of `release` that the release names."""
    return all(
        LAYERS[layer].kinds.keys() <= state.holds.get(release, frozenset())
        for layer, state in said.items()
    )


def choose_release(offer: FusionChoices, said: Mapping[str, SlotState]) -> ReleaseFusion:
    """The release with the most evidence on the kinds of the wanted one; ties go to that one.

    Args:
        offer: the releases that may serve.
        said: layer -> its state; a layer that did not answer in time speaks neither for nor
            against a release.
    """
    kinds = offer.releases[0].fusions.keys()

    def worth(release: ReleaseFusion) -> tuple[float, int]:
        having = {
            layer: state.holds.get(release.name, frozenset()) for layer, state in said.items()
        }
        covered = sum(
            release.of(kind).coverage(layer for layer, held in having.items() if kind in held)
            for kind in kinds
        )
        return round(covered, 6), sum(len(held & kinds) for held in having.values())

    return max(offer.releases, key=worth)  # the first of equals
