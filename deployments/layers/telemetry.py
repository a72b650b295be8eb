"""Log events and counters of a layer's slot: on change, never once a call (C-13).

Names and fields are those of the source documents (S0-14 to S0-26). There the anomaly layer is
layer 1 and the behavior layer is layer 2; layers that S0 does not know get general names. All log
events of one load that fails carry one incident id (C-31). The messages contain the phrases that
operators search for (S1-01).
"""

from __future__ import annotations

import errno
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.observability import SUMMARY_EVERY_S, LogThrottle, Meter, log_event
from ensemble.errors import ArtifactMissing
from ensemble.runtime import SlotEvent, SlotState

__all__ = ["LayerTelemetry"]

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Words:
    """Names that S0 gives to a layer's log events."""

    prefix: str
    model: str
    fallback: str
    impact: str
    dummies: tuple[str, ...]


def _words_of(layer: str) -> _Words:
    match layer:
        case "anomaly":
            return _Words(
                "layer1",
                "anomaly_detection",
                "layer1_dummy_active",
                "anomaly_detection_disabled",
                ("dummy_anomaly_model_active",),
            )
        case "behavior":
            dummies = ("dummy_behavior_model_active", "dummy_scaler_active")
            return _Words(
                "layer2",
                "deep_neural_network",
                "layer2_dummy_active",
                "behavior_analysis_disabled",
                dummies,
            )
    return _Words(
        "layer", layer, "layer_fallback_active", f"{layer}_disabled", ("fallback_score_active",)
    )


@dataclass(slots=True)
class _Incident:
    """A load that fails: its id, and the error as it was logged last."""

    id: str
    error: str
    logged_at: float
    suppressed: int = 0


class LayerTelemetry:
    """Logs and counts the events of one layer's slot; thread-safe, never raises.

    Args:
        layer: of the slot.
        meter: counts the events.
        tenant: owner of the models, "" for the generic ones.
        clock: seconds that only rise; paces the summaries.
        new_id: makes the id of an incident.
    """

    def __init__(
        self,
        layer: str,
        meter: Meter,
        *,
        tenant: str = "",
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
    ) -> None:
        self._layer, self._meter, self._clock, self._new_id = layer, meter, clock, new_id
        self._tenant_field = {"tenant": tenant} if tenant else {}
        self._words = _words_of(layer)
        self._incidents: dict[str, _Incident] = {}  # kind of event -> the load that fails
        self._throttle = LogThrottle(clock)  # of all other conditions
        self._serves: dict[str, object] = {}  # kind of event -> version and release logged last
        self._lock = threading.Lock()

    def on_slot_event(self, event: SlotEvent) -> None:
        """Count the event, and log it if it is new."""
        kind = "" if event.kind is None else str(event.kind)
        fields = dict(event.fields)
        with self._lock:
            match event.what:
                case "attempting_load":
                    self._attempting(kind, fields)
                case "loaded":
                    self._loaded(kind, fields)
                case "files_missing":
                    self._files_missing(kind, fields)
                case "load_failed":
                    self._load_failed(kind, fields)
                case "fallback_active":
                    self._fallback_active(kind, fields)
                case "fallback_used":
                    self._fallback_used(kind, fields)
                case "scoring_failed":
                    self._scoring_failed(kind, fields)
                case other:
                    self._log(logging.INFO, str(other), kind, fields)

    def set_gauges(self, state: SlotState) -> None:
        """Set the gauges of the slot, and all others again; to be called at least every 10 s."""
        self._meter.level(
            "axon_model_files_present", float(state.files_present), provider=self._layer
        )
        self._meter.level(
            "axon_model_size_bytes", float(state.size_bytes), provider=self._layer, state="loaded"
        )
        self._meter.refresh()

    def _attempting(self, kind: str, fields: dict[str, Any]) -> None:
        if not self._incidents:  # repeated attempts are not logged
            self._log(logging.INFO, "attempting_load", kind, {"model": self._words.model, **fields})

    def _loaded(self, kind: str, fields: dict[str, Any]) -> None:
        self._meter.count("axon_model_loads_total", provider=self._layer, outcome="loaded")
        ended = self._incidents.pop(kind, None) or self._incidents.pop("", None)
        self._throttle.end(kind)
        serves = (fields.get("version"), fields.get("release"))
        if ended is None and self._serves.get(kind) == serves:
            return
        self._serves[kind] = serves
        closing = {"resolves_incident": ended.id, "suppressed": ended.suppressed} if ended else {}
        self._log(
            logging.INFO,
            f"{self._words.prefix}_loaded",
            kind,
            {**fields, "model": self._words.model, **closing},
        )

    def _files_missing(self, kind: str, fields: dict[str, Any]) -> None:
        key = ("files_missing", kind)
        files = sorted(str(name) for name in fields.pop("files", ()))
        if not self._throttle.is_news(key, ",".join(files)):
            return
        details = {
            **fields,
            "files": files,
            "action": "using_dummy_model",
            "incident": self._incident(kind).id,
        }
        self._log(logging.WARNING, f"{self._words.prefix}_files_missing", kind, details)

    def _load_failed(self, kind: str, fields: dict[str, Any]) -> None:
        code, cause = str(fields.get("code", _UNKNOWN)), str(fields.get("cause", _UNKNOWN))
        self._meter.count("axon_errors_total", code="MODEL_LOAD_ERROR", layer=self._layer)
        self._meter.count("axon_load_failures_total", layer=self._layer, code=code, cause=cause)
        self._meter.count("axon_model_loads_total", provider=self._layer, outcome="failed")
        self._meter.count("axon_provider_initialization_failed_total", provider=self._layer)
        incident = self._incident(kind)
        error = str(fields.get("error", ""))
        if code == ArtifactMissing.code:
            error = fields["error"] = (
                f"[Errno {errno.ENOENT}] {error}"  # operators of S0 search for this text
            )
        self._serves.pop(kind, None)
        text = f"{code} {error}"
        event, level, more = f"{self._words.prefix}_load_failed", logging.ERROR, {}
        if incident.error == text:
            incident.suppressed += 1
            if self._clock() - incident.logged_at < SUMMARY_EVERY_S:
                return
            event, level, more = (
                f"{self._words.prefix}_load_still_failing",
                logging.WARNING,
                {"suppressed": incident.suppressed},
            )
            incident.suppressed = 0
        incident.error, incident.logged_at = text, self._clock()
        consequence = {
            "error_code": "MODEL_LOAD_ERROR",
            "severity": "Critical",
            "action": "initializing_dummy_model",
            "incident": incident.id,
        }
        self._log(
            level,
            event,
            kind,
            {"error_type": code, **fields, **consequence, **more},
            f"Failed to load model: {error}",
        )

    def _fallback_active(self, kind: str, fields: dict[str, Any]) -> None:
        if not self._throttle.is_news(("fallback_active", kind), str(fields.get("code", ""))):
            return
        details = {
            **fields,
            "impact": self._words.impact,
            "recommendation": "retrain_or_restore_models",
        }
        if kind in self._incidents:
            details["incident"] = self._incidents[kind].id
        self._log(
            logging.WARNING, self._words.fallback, kind, details, "Model initialization failed"
        )

    def _fallback_used(self, kind: str, fields: dict[str, Any]) -> None:
        suppressed = self._throttle.again(("fallback_used", kind))
        if suppressed is None:
            return
        for name in self._words.dummies:
            self._log(
                logging.WARNING,
                name,
                kind,
                {"reason": "using_fallback", "suppressed": suppressed, **fields},
            )

    def _scoring_failed(self, kind: str, fields: dict[str, Any]) -> None:
        self._meter.count("axon_errors_total", code="LAYER_CRASHED", layer=self._layer)
        suppressed = self._throttle.again(
            ("scoring_failed", kind), str(fields.get("error_type", ""))
        )
        if suppressed is not None:
            self._log(
                logging.ERROR, "layer_scoring_failed", kind, {**fields, "suppressed": suppressed}
            )

    def _incident(self, kind: str) -> _Incident:
        if kind not in self._incidents:
            self._incidents[kind] = _Incident(self._new_id(), "", self._clock())
        return self._incidents[kind]

    def _log(
        self, level: int, event: str, kind: str, fields: Mapping[str, Any], phrase: str = ""
    ) -> None:
        log_event(
            level,
            event,
            {
                "layer": self._layer,
                **self._tenant_field,
                **({"kind": kind} if kind else {}),
                **fields,
            },
            phrase,
        )
