"""Features: events become named, ordered, finite numbers."""

from ensemble.features import flow, flow_scaler, process, sklearn_scalers, tabular
from ensemble.features.digest import event_digests
from ensemble.features.event_time import PlausibleTimes, cut_time

__all__ = [
    "PlausibleTimes",
    "cut_time",
    "event_digests",
    "flow",
    "flow_scaler",
    "process",
    "sklearn_scalers",
    "tabular",
]
