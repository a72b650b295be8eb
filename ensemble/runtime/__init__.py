"""Serving a published release in this process: resolve, load, prove, hot-swap, fall back."""

from ensemble.runtime.builder import ModelBuilder, proven_detector
from ensemble.runtime.classification import KNOWN_MODELS, Classification, classify
from ensemble.runtime.controls import CONTROLS, Controls, change_controls, read_controls
from ensemble.runtime.golden import golden_batch
from ensemble.runtime.hot_reload import ANY_RELEASE, LayerSlot
from ensemble.runtime.loader import ReleaseLoader
from ensemble.runtime.local_ensemble import LocalEnsemble
from ensemble.runtime.model_state import (
    KindState,
    LoadCheck,
    LoadedModel,
    LoadedRelease,
    LoadFailure,
    LoadResult,
    SlotEvent,
    SlotState,
    failure_of,
)
from ensemble.runtime.polling_thread import PollingThread
from ensemble.runtime.release_fusion import (
    FusionChoices,
    FusionResolver,
    ReleaseFusion,
    choose_release,
    is_complete,
)
from ensemble.runtime.resolver import PinnedRelease, ReleaseResolver
from ensemble.runtime.tenant_slots import TenantSlots

__all__ = [
    "ANY_RELEASE",
    "CONTROLS",
    "KNOWN_MODELS",
    "Classification",
    "Controls",
    "FusionChoices",
    "FusionResolver",
    "KindState",
    "LayerSlot",
    "LoadCheck",
    "LoadFailure",
    "LoadResult",
    "LoadedModel",
    "LoadedRelease",
    "LocalEnsemble",
    "ModelBuilder",
    "PinnedRelease",
    "PollingThread",
    "ReleaseFusion",
    "ReleaseLoader",
    "ReleaseResolver",
    "SlotEvent",
    "SlotState",
    "TenantSlots",
    "change_controls",
    "choose_release",
    "classify",
    "failure_of",
    "golden_batch",
    "is_complete",
    "proven_detector",
    "read_controls",
]
