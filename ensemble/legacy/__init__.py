"""Model files of the older Axon Engine: import in a sandbox, export, and its model objects.

The names are imported at first use. Importing this package costs nothing, and the sandbox's child
process loads only what it decodes with.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ensemble.legacy.compat_objects import (
        DUMMY_PROBABILITY,
        MALICIOUS_FROM,
        DummyAnomalyModel,
        DummyBehaviorModel,
        DummyScaler,
        LegacyObjects,
        legacy_objects,
    )
    from ensemble.legacy.export_models import (
        Exported,
        checksums,
        export_anomaly,
        export_behavior,
    )
    from ensemble.legacy.files import CHECKSUMS, PAIRS
    from ensemble.legacy.import_models import (
        OldLayer,
        OldModels,
        behavior_model,
        flow_model,
        process_model,
        read_old_models,
    )
    from ensemble.legacy.sandbox import Limits

__all__ = [
    "CHECKSUMS",
    "DUMMY_PROBABILITY",
    "MALICIOUS_FROM",
    "PAIRS",
    "DummyAnomalyModel",
    "DummyBehaviorModel",
    "DummyScaler",
    "Exported",
    "LegacyObjects",
    "Limits",
    "OldLayer",
    "OldModels",
    "behavior_model",
    "checksums",
    "export_anomaly",
    "export_behavior",
    "flow_model",
    "legacy_objects",
    "process_model",
    "read_old_models",
]

_FILES = {
    "compat_objects": (
        "DUMMY_PROBABILITY",
        "MALICIOUS_FROM",
        "DummyAnomalyModel",
        "DummyBehaviorModel",
        "DummyScaler",
        "LegacyObjects",
        "legacy_objects",
    ),
    "export_models": ("Exported", "checksums", "export_anomaly", "export_behavior"),
    "files": ("CHECKSUMS", "PAIRS"),
    "import_models": (
        "OldLayer",
        "OldModels",
        "behavior_model",
        "flow_model",
        "process_model",
        "read_old_models",
    ),
    "sandbox": ("Limits",),
}
_FILE_OF = {name: file for file, names in _FILES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import the file that defines `name`."""
    if name not in _FILE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_FILE_OF[name]}"), name)
