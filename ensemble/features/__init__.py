"""Features: events become named, ordered, finite numbers."""

from ensemble.features import flow, flow_scaler, process, sklearn_scalers, tabular
from ensemble.features.digest import event_digests

__all__ = ["event_digests", "flow", "flow_scaler", "process", "sklearn_scalers", "tabular"]
