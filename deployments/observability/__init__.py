"""Log events and metrics.

`RayMeter` loads Ray when it records the first time, so that this face loads none.
"""

from deployments.observability.log import SUMMARY_EVERY_S, LogThrottle, log_event
from deployments.observability.metrics import (
    LATENCY_BOUNDARIES_S,
    METRICS,
    Instrument,
    Meter,
    set_state,
)
from deployments.observability.ray_meter import RayMeter

__all__ = [
    "LATENCY_BOUNDARIES_S",
    "METRICS",
    "SUMMARY_EVERY_S",
    "Instrument",
    "LogThrottle",
    "Meter",
    "RayMeter",
    "log_event",
    "set_state",
]
