"""From a release to models that may serve: pointer, release, bundle proven, then decoded, then built, then its golden answers.

This is the one place that knows which bundles make which layer. A bundle that fails any step is a named failure of its kind
of event; the other kinds of the same layer, and the other layers, go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ensemble.errors import ArtifactCorrupt, ArtifactIncompatible, ArtifactMissing
from ensemble.events import EventBatch, FlowBatch, Kind, ProcessEvent
from ensemble.features import flow, process
from ensemble.fusion import Fusion
from ensemble.layers.anomaly import FlowAnomaly
from ensemble.layers.model import Model
from ensemble.layers.processes import ProcessAnomaly
from ensemble.layers.resilience import PostureInventory, PostureKnowledge, ResiliencePosture
from ensemble.slot import HeldModel, HeldRelease, LoadFailure, failure_of
from ensemble.store.codecs import GOLDEN, Golden, decode_golden, decode_parts
from ensemble.store.layout import Store
from ensemble.store.load import ProvenBundle, open_bundle
from ensemble.store.names import ModelName, Tenant
from ensemble.store.release import Release, read_pointer, read_release

__all__ = ["LAYERS", "FusionLoader", "LayerPlan", "ReleaseFusion", "ReleaseLoader", "golden_batch"]

GOLDEN_TOLERANCE = {"cpu": 1e-6, "cuda": 1e-5}  # DESIGN, decision 12


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What a layer is made of.

    Attributes:
        kinds: kind of event -> the bundles its model is built from.
        fallback_score: shown while there is no model; weighs nothing. S0 names 0.0 for anomaly and 0.1 for behavior.
        is_evidence: False for the host's posture, which shifts a score and is none itself.
    """

    kinds: Mapping[Kind, tuple[str, ...]]
    fallback_score: float
    is_evidence: bool = True


_POSTURE = ("posture-knowledge", "posture-inventory")
LAYERS: Mapping[str, LayerPlan] = {
    "anomaly": LayerPlan({Kind.FLOW: ("anomaly-flow",), Kind.PROCESS: ("anomaly-process",)}, fallback_score=0.0),
    "behavior": LayerPlan({Kind.FLOW: ("behavior-flow",)}, fallback_score=0.1),
    "resilience": LayerPlan({Kind.FLOW: _POSTURE, Kind.PROCESS: _POSTURE}, fallback_score=0.5, is_evidence=False),
}
FEATURE_SCHEMAS: Mapping[str, Callable[[], str]] = {
    "anomaly-flow": flow.schema_sha256,
    "behavior-flow": flow.schema_sha256,
    "anomaly-process": process.schema_sha256,
}


@dataclass(frozen=True, slots=True)
class ReleaseFusion:
    """The fusion of a release; without one every verdict is indeterminate."""

    name: str = ""
    fusions: Mapping[Kind, Fusion] = field(default_factory=dict)

    def of(self, kind: Kind) -> Fusion:
        """How the layers of `kind` are pooled: as fitted, or by equal shares where nothing fitted can be had."""
        return self.fusions.get(kind) or Fusion.builtin(
            [layer for layer, plan in LAYERS.items() if plan.is_evidence and kind in plan.kinds]
        )


@dataclass(frozen=True, slots=True)
class FusionLoader:
    """Reads the fusion of the release that a tenant's pointer names."""

    store: Store
    tenant: str

    def load(self) -> ReleaseFusion:
        """The current release's fusion.

        Raises:
            ArtifactError: pointer or release are missing, broken or not for this Axon.
        """
        release = _current_release(self.store, self.tenant)
        fusions = {Kind(kind): Fusion.from_config(config) for kind, config in release.fusion.items()}
        return ReleaseFusion(_name_of(release), fusions)


@dataclass(frozen=True, slots=True)
class ReleaseLoader:
    """Loads one layer's models.

    Attributes:
        store: where the models are.
        tenant: whose.
        layer: which layer's.
        device: `cpu` or `cuda`, for the models that compute in torch.
        stale_after_days: of vulnerability data.
        expired_after_days: likewise.
        now: the clock that ages it, seconds since 1970.
    """

    store: Store
    tenant: str
    layer: str
    device: str
    stale_after_days: int
    expired_after_days: int
    now: Callable[[], float] = time.time

    def load(self) -> HeldRelease:
        """What can be had of the release that the pointer names; only the pointer holds the digest that proves a release.

        Raises:
            ArtifactError: the release itself cannot be had.
        """
        release = _current_release(self.store, self.tenant)
        models: dict[Kind, HeldModel] = {}
        failures: dict[Kind, LoadFailure] = {}
        built: dict[tuple[str, ...], HeldModel | LoadFailure] = {}
        for kind, names in LAYERS[self.layer].kinds.items():
            if names not in built:
                built[names] = self._attempt(release, names)
            outcome = built[names]
            if isinstance(outcome, LoadFailure):
                failures[kind] = outcome
            else:
                models[kind] = outcome
        return HeldRelease(_name_of(release), models, failures)

    def _attempt(self, release: Release, names: Sequence[str]) -> HeldModel | LoadFailure:
        try:
            bundles = [self._open(release, name) for name in names]
            model = self._build(bundles)
        except Exception as error:  # noqa: BLE001  # a model that cannot be built is a failure of its kind, whatever went wrong
            return failure_of(error)
        return HeldModel(model, ".".join(str(bundle.ref.version) for bundle in bundles))

    def _open(self, release: Release, name: str) -> ProvenBundle:
        ref = release.bundles.get(ModelName(name))
        if ref is None:
            raise ArtifactMissing(f"{name} of release {release.serial}")
        bundle = open_bundle(self.store, ref)
        expected = FEATURE_SCHEMAS.get(name)
        if expected and bundle.manifest.feature_schema != expected():
            raise ArtifactIncompatible(f"{ref}: features", expected()[:12], bundle.manifest.feature_schema[:12])
        return bundle

    def _build(self, bundles: Sequence[ProvenBundle]) -> Model:
        """The model of proven bundles, after it gave its golden answers."""
        parts = [decode_parts(bundle.files) for bundle in bundles]
        golden = decode_golden(bundles[-1].files[GOLDEN])
        what = str(bundles[-1].ref)
        match bundles[-1].ref.model:
            case "anomaly-flow":
                return _proven(FlowAnomaly.from_parts(parts[0]), Kind.FLOW, golden, GOLDEN_TOLERANCE["cpu"], what)
            case "anomaly-process":
                return _proven(ProcessAnomaly.from_parts(parts[0]), Kind.PROCESS, golden, GOLDEN_TOLERANCE["cpu"], what)
            case "behavior-flow":
                from ensemble.layers.behavior import DeepBehavior  # noqa: PLC0415  # torch: 160 MB that the other layers do without

                deep = DeepBehavior.from_parts(parts[0]).to(self.device)
                return _proven(deep, Kind.FLOW, golden, GOLDEN_TOLERANCE[self.device], what)
            case "posture-inventory":
                return self._posture(PostureKnowledge.from_parts(parts[0]), PostureInventory.from_parts(parts[1]), golden, what)
            case other:
                raise ArtifactIncompatible(what, "a model this Axon knows", str(other))

    def _posture(self, knowledge: PostureKnowledge, inventory: PostureInventory, golden: Golden, what: str) -> Model:
        then = float(golden.events[0]["at"]) if golden.events else 0.0
        _proven(ResiliencePosture(knowledge, inventory, now=lambda: then), Kind.FLOW, golden, GOLDEN_TOLERANCE["cpu"], what)
        return ResiliencePosture(
            knowledge,
            inventory,
            now=self.now,
            stale_after_days=self.stale_after_days,
            expired_after_days=self.expired_after_days,
        )


def _current_release(store: Store, tenant: str) -> Release:
    owner = Tenant(tenant)
    return read_release(store, owner, read_pointer(store, owner))


def _name_of(release: Release) -> str:
    return f"{release.tenant}/{release.serial}"


def _proven(model: Model, kind: Kind, golden: Golden, tolerance: float, what: str) -> Model:
    """`model`, once it has scored the golden events as its trainer's model did."""
    if not golden.events:
        raise ArtifactCorrupt(what, "has no golden events: nothing shows that it is the model that was trained")
    found = model.score(golden_batch(kind, golden.events)).scores
    worst = float(np.abs(found - np.asarray(golden.scores)).max())
    if not worst <= tolerance:  # NaN fails too
        raise ArtifactIncompatible(f"{what}: golden scores", f"agreement within {tolerance:g}", f"a difference of {worst:.3g}")
    return model


def golden_batch(kind: Kind, events: Sequence[Mapping[str, Any]]) -> EventBatch:
    """Golden events, wire-like, as columns; hosts alone become flows of nothing."""
    if kind is Kind.PROCESS:
        names = ("name", "parent", "command_line", "user", "host")
        return process.admit([ProcessEvent(**{name: str(event.get(name, "")) for name in names}) for event in events])
    blank = [0.0] * len(flow.FEATURE_NAMES)
    admitted = flow.admit([event.get("features", blank) for event in events])
    if admitted.refused:
        raise ArtifactCorrupt("golden events", "hold a flow that the door refuses")
    batch = FlowBatch(("",) * len(events), tuple(str(event.get("host", "")) for event in events), admitted.features)
    return replace(batch, flags=admitted.flags)
