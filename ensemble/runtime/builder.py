"""Builder of models: decodes verified bundles, builds the model, and checks its golden answers.

Only this module knows which bundles make which of Axon's models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible
from ensemble.events import Kind
from ensemble.features.tabular import Missing, admit_rows
from ensemble.layers import LAYERS
from ensemble.layers.classifier import FlowClassifier
from ensemble.layers.flow_anomaly import FlowAnomaly
from ensemble.layers.process_anomaly import ProcessAnomaly
from ensemble.layers.resilience import PostureInventory, PostureKnowledge, ResiliencePosture
from ensemble.layers.tabular import TabularDetector
from ensemble.model import Model, Parts
from ensemble.runtime.golden import GOLDEN_TOLERANCE, golden_batch
from ensemble.runtime.model_state import LoadedModel
from ensemble.store import (
    GOLDEN,
    BundleRef,
    Golden,
    OpenedBundle,
    decode_golden,
    decode_parts,
    refuse_other_type,
)

__all__ = ["ModelBuilder", "identity_of", "proven_detector"]


class _StoredModel(Model, Protocol):
    def to_parts(self) -> Parts: ...


class _Stored(Protocol):
    def to_parts(self) -> Parts: ...


_T = TypeVar("_T", bound=_Stored)
_ON_CPU: Mapping[str, Callable[[Parts], _StoredModel]] = {
    "anomaly-flow": FlowAnomaly.from_parts,
    "anomaly-process": ProcessAnomaly.from_parts,
    "classifier-flow": FlowClassifier.from_parts,
}
"""Name of a bundle -> constructor of its model, for models that compute in numpy alone."""


@dataclass(frozen=True, slots=True)
class ModelBuilder:
    """Builds models for one process.

    Attributes:
        device: `cpu` or `cuda`, for the models that compute in torch.
        stale_after_days: age of vulnerability data.
        expired_after_days: age of vulnerability data.
        now: clock from which those ages are computed, seconds since 1970.
    """

    device: str
    stale_after_days: int
    expired_after_days: int
    now: Callable[[], float] = time.time

    def build(self, kind: Kind, bundles: Sequence[OpenedBundle]) -> LoadedModel:
        """Build the model of verified bundles, and check its golden answers.

        Args:
            kind: kind of event that the model rates.
            bundles: all bundles of the model, in the order of its `LayerSpec`.

        Raises:
            ArtifactError: the bytes are not a model of this version of Axon, or its answers differ
                from those of the trained model.
        """
        golden = decode_golden(bundles[-1].files[GOLDEN])
        model = self._model(kind, bundles, golden)
        return LoadedModel(
            model,
            version=".".join(str(bundle.ref.version) for bundle in bundles),
            bundles=tuple(identity_of(bundle.ref) for bundle in bundles),
            size_bytes=sum(bundle.manifest.size_bytes for bundle in bundles),
            probe=golden_batch(kind, golden.events),
            facts=_facts(model, self.device) | _other_libraries(bundles),
        )

    def _model(self, kind: Kind, bundles: Sequence[OpenedBundle], golden: Golden) -> Model:
        parts = [decode_parts(bundle.files) for bundle in bundles]
        what = str(bundles[-1].ref)
        match bundles[-1].ref.model:
            case name if name in _ON_CPU:
                model = _complete(_ON_CPU[name], parts[0], what)
                return _proven(model, kind, golden, GOLDEN_TOLERANCE["cpu"], what)
            case "behavior-flow":
                from ensemble.layers.behavior import DeepBehavior  # noqa: PLC0415  # loads torch, 160 MB

                deep = _complete(DeepBehavior.from_parts, parts[0], what).to(self.device)
                return _proven(deep, Kind.FLOW, golden, GOLDEN_TOLERANCE[self.device], what)
            case "posture-inventory":
                return self._posture(
                    PostureKnowledge.from_parts(parts[0]),  # these refuse further arrays, cheaper
                    PostureInventory.from_parts(parts[1]),
                    golden,
                    what,
                )
            case other:
                build = _own_build(bundles)
                if build is not None:
                    own = build(kind, parts)
                    return _proven(own, kind, golden, GOLDEN_TOLERANCE["cpu"], what)
                raise ArtifactIncompatible(what, "a model this Axon knows", str(other))

    def _posture(
        self, knowledge: PostureKnowledge, inventory: PostureInventory, golden: Golden, what: str
    ) -> Model:
        then = float(golden.events[0]["at"]) if golden.events else 0.0
        _proven(
            ResiliencePosture(knowledge, inventory, now=lambda: then),
            Kind.FLOW,
            golden,
            GOLDEN_TOLERANCE["cpu"],
            what,
        )
        return ResiliencePosture(
            knowledge,
            inventory,
            now=self.now,
            stale_after_days=self.stale_after_days,
            expired_after_days=self.expired_after_days,
        )


def identity_of(ref: BundleRef) -> str:
    """Identify a bundle by name and digest; bundles with equal identities are the same model."""
    return f"{ref} {ref.manifest_sha256}"


def _own_build(
    bundles: Sequence[OpenedBundle],
) -> Callable[[Kind, Sequence[Parts]], Model] | None:
    """Find how a custom detector builds its model from these bundles; None for Axon's layers."""
    names = tuple(str(bundle.ref.model) for bundle in bundles)
    return next((spec.build for spec in LAYERS.values() if names in spec.kinds.values()), None)


def _facts(model: Model, device: str) -> dict[str, Any]:
    """Collect the fields of the log event of a loaded model (S0-15, S0-19)."""
    if isinstance(model, ProcessAnomaly):
        return {"processes_tracked": len(model.rarity.names)}
    if isinstance(model, FlowClassifier):
        return {"models": list(model.names), "device": "cpu"}
    return {"device": device}


def _other_libraries(bundles: Sequence[OpenedBundle]) -> dict[str, Any]:
    """List the libraries whose version differs from training, for an engineer who debugs.

    The arrays of a model do not depend on them.
    """
    notes = [note for bundle in bundles for note in bundle.notes]
    return {"libraries": notes} if notes else {}


def _complete(build: Callable[[Parts], _T], parts: Parts, what: str) -> _T:
    """Build from all arrays of `parts`; refuse those that the result would not be stored with.

    Golden answers prove nothing about an array that no code reads, and it takes memory.

    Raises:
        ArtifactIncompatible: there are further arrays; the first five are named.
    """
    built = build(parts)
    further = sorted(parts.arrays.keys() - built.to_parts().arrays.keys())
    if further:
        named = ", ".join(ascii(name[:63]) for name in further[:5])
        raise ArtifactIncompatible(what, "the arrays of its model alone", f"also {named}")
    return built


def _proven(model: Model, kind: Kind, golden: Golden, tolerance: float, what: str) -> Model:
    """Return `model` if it scores the golden events as the trained model did, else raise."""
    if not golden.events:
        raise ArtifactCorrupt(
            what, "has no golden events, so it cannot be proven to be the trained model"
        )
    found = model.score(golden_batch(kind, golden.events)).scores
    worst = float(np.abs(found - np.asarray(golden.scores)).max())
    if not worst <= tolerance:  # NaN fails too
        raise ArtifactIncompatible(
            f"{what}: golden scores",
            f"agreement within {tolerance:g}",
            f"a difference of {worst:.3g}",
        )
    return model


def proven_detector(bundle: OpenedBundle) -> TabularDetector:
    """Build the detector of a bundle, and check its golden answers.

    Raises:
        ArtifactIncompatible: the model is of another type (S4-07), or its answers differ from those
            of the trained model.
        ArtifactError: the bytes are not a detector of this version of Axon.
    """
    what = str(bundle.ref)
    refuse_other_type(
        bundle.manifest.training, TabularDetector.__name__, what=f"Model type mismatch: {what}"
    )
    detector = _complete(TabularDetector.from_parts, decode_parts(bundle.files), what)
    golden = decode_golden(bundle.files[GOLDEN])
    rows = [
        row if isinstance(row := event.get("features"), dict) else {} for event in golden.events
    ]
    admitted = admit_rows(rows, detector.features, Missing.REFUSE)
    if not rows or admitted.refused:
        raise ArtifactCorrupt(
            what, "has no golden rows, so it cannot be proven to be the trained detector"
        )
    worst = float(
        np.abs(detector.score(admitted.values).anomaly_score - np.asarray(golden.scores)).max()
    )
    if not worst <= GOLDEN_TOLERANCE["cpu"]:  # NaN fails too
        raise ArtifactIncompatible(
            f"{what}: golden scores",
            f"agreement within {GOLDEN_TOLERANCE['cpu']:g}",
            f"a difference of {worst:.3g}",
        )
    return detector
