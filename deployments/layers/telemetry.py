"""Log events and counters of a layer's slot: on change, never once a call (C-13).

The names and fields are those of the source documents (S0-14 to S0-26): the anomaly layer is its
layer 1, the behavior layer its layer 2; a layer that it does not know says the same under general
names. Everything about one trouble carries one incident id (C-31), and the phrases that its
operators search for stand in the message (S1-01).
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

from deployments.observability.log import SUMMARY_EVERY_S, LogThrottle, _Trouble, log_event
from deployments.observability.metrics import Meter
from ensemble.errors import ArtifactMissing
from ensemble.runtime import SlotEvent, SlotState

__all__ = ["LayerTelemetry"]

_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Words:
    """What S0 calls a layer's events."""

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


class LayerTelemetry:
    """Log and count the events of one layer's slot; thread-safe, never raises.

    Args:
        layer: whose slot.
        meter: where it is counted.
        tenant: whose models they are, where they are not the generic ones.
        clock: seconds that only rise; paces the summaries.
        new_id: makes an incident's id.
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
        self._whose = {"tenant": tenant} if tenant else {}
        self._words = _words_of(layer)
        self._loads: dict[str, _Trouble] = {}  # kind of event -> the load that fails
        self._others = LogThrottle(clock)  # what else lasts
        self._serves: dict[str, object] = {}  # kind of event -> what was said to be loaded
        self._lock = threading.Lock()

    def on_slot_event(self, event: SlotEvent) -> None:
        """Count it, and say it if it is news."""
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
                    self._say(logging.INFO, str(other), kind, fields)

    def set_gauges(self, state: SlotState) -> None:
        """Say how the slot stands as a whole, and every gauge again.

        To be called at least every 10 s.
        """
        self._meter.level(
            "axon_model_files_present", float(state.files_present), provider=self._layer
        )
        self._meter.level(
            "axon_model_size_bytes", float(state.size_bytes), provider=self._layer, state="loaded"
        )
        self._meter.refresh()

    def _attempting(self, kind: str, fields: dict[str, Any]) -> None:
        if not self._loads:  # an attempt because the last one failed is no news
            self._say(logging.INFO, "attempting_load", kind, {"model": self._words.model, **fields})

    def _loaded(self, kind: str, fields: dict[str, Any]) -> None:
        self._meter.count("axon_model_loads_total", provider=self._layer, outcome="loaded")
        ended = self._loads.pop(kind, None) or self._loads.pop("", None)
        self._others.end(kind)
        serves = (fields.get("version"), fields.get("release"))
        if ended is None and self._serves.get(kind) == serves:
            return
        self._serves[kind] = serves
        closing = (
            {"resolves_incident": ended.incident, "suppressed": ended.suppressed} if ended else {}
        )
        self._say(
            logging.INFO,
            f"{self._words.prefix}_loaded",
            kind,
            {**fields, "model": self._words.model, **closing},
        )

    def _files_missing(self, kind: str, fields: dict[str, Any]) -> None:
        key = ("files_missing", kind)
        files = sorted(str(name) for name in fields.pop("files", ()))
        if not self._others.is_news(key, ",".join(files)):
            return
        said = {
            **fields,
            "files": files,
            "action": "using_dummy_model",
            "incident": self._incident(kind),
        }
        self._say(logging.WARNING, f"{self._words.prefix}_files_missing", kind, said)

    def _load_failed(self, kind: str, fields: dict[str, Any]) -> None:
        code, cause = str(fields.get("code", _UNKNOWN)), str(fields.get("cause", _UNKNOWN))
        self._meter.count("axon_errors_total", code="MODEL_LOAD_ERROR", layer=self._layer)
        self._meter.count("axon_load_failures_total", layer=self._layer, code=code, cause=cause)
        self._meter.count("axon_model_loads_total", provider=self._layer, outcome="failed")
        self._meter.count("axon_provider_initialization_failed_total", provider=self._layer)
        incident = self._incident(kind)
        trouble, error = self._loads[kind], str(fields.get("error", ""))
        if code == ArtifactMissing.code:
            error = fields["error"] = (
                f"[Errno {errno.ENOENT}] {error}"  # as S0's operators search for it
            )
        self._serves.pop(kind, None)
        said = f"{code} {error}"
        event, level, more = f"{self._words.prefix}_load_failed", logging.ERROR, {}
        if trouble.said == said:
            trouble.suppressed += 1
            if self._clock() - trouble.said_at < SUMMARY_EVERY_S:
                return
            event, level, more = (
                f"{self._words.prefix}_load_still_failing",
                logging.WARNING,
                {"suppressed": trouble.suppressed},
            )
            trouble.suppressed = 0
        trouble.said, trouble.said_at = said, self._clock()
        verdict = {
            "error_code": "MODEL_LOAD_ERROR",
            "severity": "Critical",
            "action": "initializing_dummy_model",
            "incident": incident,
        }
        self._say(
            level,
            event,
            kind,
            {"error_type": code, **fields, **verdict, **more},
            f"Failed to load model: {error}",
        )

    def _fallback_active(self, kind: str, fields: dict[str, Any]) -> None:
        if not self._others.is_news(("fallback_active", kind), str(fields.get("code", ""))):
            return
        said = {
            **fields,
            "impact": self._words.impact,
            "recommendation": "retrain_or_restore_models",
        }
        if kind in self._loads:
            said["incident"] = self._loads[kind].incident
        self._say(logging.WARNING, self._words.fallback, kind, said, "Model initialization failed")

    def _fallback_used(self, kind: str, fields: dict[str, Any]) -> None:
        suppressed = self._others.again(("fallback_used", kind))
        if suppressed is None:
            return
        for name in self._words.dummies:
            self._say(
                logging.WARNING,
                name,
                kind,
                {"reason": "using_fallback", "suppressed": suppressed, **fields},
            )

    def _scoring_failed(self, kind: str, fields: dict[str, Any]) -> None:
        self._meter.count("axon_errors_total", code="LAYER_CRASHED", layer=self._layer)
        suppressed = self._others.again(("scoring_failed", kind), str(fields.get("error_type", "")))
        if suppressed is not None:
            self._say(
                logging.ERROR, "layer_scoring_failed", kind, {**fields, "suppressed": suppressed}
            )

    def _incident(self, kind: str) -> str:
        if kind not in self._loads:
            self._loads[kind] = _Trouble(self._new_id(), "", self._clock())
        return self._loads[kind].incident

    def _say(
        self, level: int, event: str, kind: str, fields: Mapping[str, Any], phrase: str = ""
    ) -> None:
        log_event(
            level,
            event,
            {"layer": self._layer, **self._whose, **({"kind": kind} if kind else {}), **fields},
            phrase,
        )
