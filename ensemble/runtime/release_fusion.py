"""The fusion of a release, and the choice of the release to fuse with.

Models, fusion and thresholds of a verdict are of one release. So if a layer cannot load the wanted
release, the whole ensemble stays with, or returns to, the last good one, and never mixes two. The
wanted release is chosen unless a fallback has opinions with more weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ensemble.errors import ArtifactCorrupt, ArtifactError, ArtifactIncompatible
from ensemble.events import Kind
from ensemble.fusion import Fusion
from ensemble.layers import LAYERS
from ensemble.runtime.model_state import LoadFailure, SlotState, failure_of
from ensemble.runtime.resolver import ReleaseSource, ResolvedRelease
from ensemble.verdicts import LayerScores, Verdicts

__all__ = ["FusionChoices", "FusionResolver", "ReleaseFusion", "choose_release", "is_complete"]


@dataclass(frozen=True, slots=True)
class ReleaseFusion:
    """The fusion of a release; without one every verdict is indeterminate.

    Attributes:
        name: of the release, `<tenant>/<serial>`, "" for none.
        fusions: kind of event -> fusion of its layers.
        sha256: of the release's file, "" for none.
    """

    name: str = ""
    fusions: Mapping[Kind, Fusion] = field(default_factory=dict)
    sha256: str = ""

    @property
    def tenant(self) -> str:
        """Owner of the release, "" for none."""
        return self.name.partition("/")[0]

    def of(self, kind: Kind) -> Fusion:
        """Return the fusion for `kind`: the fitted one, or equal shares of Axon's layers."""
        return self.fusions.get(kind) or Fusion.builtin(
            [
                layer
                for layer, spec in LAYERS.items()
                if spec.is_evidence and spec.build is None and kind in spec.kinds
            ]
        )

    def needs(self, layer: str, kind: Kind) -> bool:
        """Whether the ensemble is incomplete for `kind` while `layer` is not available.

        Axon's layers always count; an operator's own layer counts once it has a share.
        """
        return LAYERS[layer].build is None or self.of(kind).weighs(layer)

    def fuse(
        self,
        kind: Kind,
        opinions: Sequence[LayerScores],
        *,
        min_coverage: float,
        posture_bound: float,
    ) -> tuple[Verdicts, ...]:
        """Fuse a batch of `kind` by `Fusion.fuse_each`, and name the release in each verdict."""
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
        wanted: name of the release that the pointer names, "" if no pointer could be read.
        pointer: that pointer, `<tenant>#<serial>`.
        at_once: the promoter wants the release to get all traffic at once.
        releases: at least one, in order of preference.
        problem: what is wrong with the pointer, or why the wanted release is not among them.
        challenger: scored in shadow only; None for none.
    """

    wanted: str
    pointer: str
    at_once: bool
    releases: tuple[ReleaseFusion, ...]
    problem: LoadFailure | None
    challenger: ReleaseFusion | None = None


@dataclass(frozen=True, slots=True)
class FusionResolver:
    """Reads the fusions of the releases that may serve.

    Attributes:
        releases: resolves the releases.
    """

    releases: ReleaseSource

    def resolve(self) -> FusionChoices:
        """Read the fusions of the releases; an unusable one is left out and is the `problem`.

        Raises:
            ArtifactError: no release at all can be read.
        """
        resolved = self.releases.resolve()
        usable: list[ReleaseFusion] = []
        problems: list[ArtifactError] = [resolved.problem] if resolved.problem else []
        for release in resolved.releases:
            try:
                usable.append(_fusion_of(release))
            except ArtifactError as error:
                problems.append(error)
        if not usable:
            raise problems[0]
        is_other = usable[0].name != resolved.wanted
        problem = problems[0] if resolved.problem or (problems and is_other) else None
        return FusionChoices(
            resolved.wanted,
            resolved.pointer,
            resolved.at_once,
            tuple(usable),
            failure_of(problem) if problem else None,
            _challenger_fusion(resolved.challenger),
        )

    def load(self) -> ReleaseFusion:
        """Read the fusion of the release that the pointer names, without fallbacks.

        Raises:
            ArtifactError: it cannot be read.
        """
        choices = self.resolve()
        if choices.releases[0].name != choices.wanted:
            raise ArtifactCorrupt(
                f"release {choices.wanted}",
                choices.problem.message if choices.problem else "is not the one that serves",
            )
        return choices.releases[0]


def _fusion_of(resolved: ResolvedRelease) -> ReleaseFusion:
    """Parse the fusion of a release.

    Raises:
        ArtifactIncompatible: this Axon does not know its format.
    """
    try:
        fusions = {
            Kind(kind): Fusion.from_config(config)
            for kind, config in resolved.release.fusion.items()
        }
    except ValueError:
        raise ArtifactIncompatible("fusion", "a kind of event", "another") from None
    return ReleaseFusion(resolved.name, fusions, resolved.sha256)


def _challenger_fusion(challenger: ResolvedRelease | None) -> ReleaseFusion | None:
    """Parse the fusion of the challenger; None, and no shadow evaluation, if it is unusable."""
    try:
        return _fusion_of(challenger) if challenger else None
    except ArtifactError:
        return None


def is_complete(release: ReleaseFusion, states: Mapping[str, SlotState]) -> bool:
    """Whether every layer that `release` needs has loaded all its models of it."""
    return _missing(release, states, [*Kind]) == 0


def _missing(
    release: ReleaseFusion, states: Mapping[str, SlotState], kinds: Collection[Kind]
) -> int:
    """Count the needed pairs of layer and kind of event that are not loaded for `release`."""
    return sum(
        kind not in state.holds.get(release.name, frozenset())
        for layer, state in states.items()
        for kind in LAYERS[layer].kinds
        if kind in kinds and release.needs(layer, kind)
    )


def choose_release(choices: FusionChoices, states: Mapping[str, SlotState]) -> ReleaseFusion:
    """Choose the release whose loaded layers have the most weight; of equals the preferred one.

    Only the kinds of event of the preferred release are counted.

    Args:
        choices: the releases that may serve.
        states: layer -> its state; a layer that did not report in time does not count.
    """
    kinds = choices.releases[0].fusions.keys()

    def worth(release: ReleaseFusion) -> tuple[float, int]:
        complete = {
            layer: state.holds.get(release.name, frozenset()) for layer, state in states.items()
        }
        covered = sum(
            release.of(kind).coverage(layer for layer, ready in complete.items() if kind in ready)
            for kind in kinds
        )
        return round(covered, 6), -_missing(release, states, kinds)

    return max(choices.releases, key=worth)  # the first of equals
