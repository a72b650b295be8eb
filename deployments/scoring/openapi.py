"""The contract of the scoring application: every route that exists, what it takes and every way it answers.

Made from the types that the code parses and writes, so that it cannot say anything else than the
code does; a test compares the
routes. Where JSON Schema cannot say what the door checks, the description does.
"""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

from deployments.scoring import wire
from deployments.scoring.examples import ATTACK, BENIGN, PREDICTION, SHELL, VERDICT
from deployments.scoring.predict_wire import (
    DEFAULT_MODEL,
    PredictBatchRequest,
    Prediction,
    PredictionBatch,
    PredictRequest,
)
from deployments.scoring.status_schema import (
    Health,
    LayerList,
    LayerTest,
    Live,
    Ready,
    Service,
    Status,
    SwitchedLayer,
)
from deployments.web import DOCS_FILES
from deployments.web.openapi import ERROR_TYPES, Json, answer, operation, ref, schemas_of, written
from ensemble.features.flow import FEATURE_NAMES, RECOMPUTED
from ensemble.layers.catalog import LAYERS
from ensemble.runtime.classify import KNOWN_MODELS

__all__ = ["document"]

LARGEST = math.nextafter(
    (2.0 - 2.0**-24) * 2.0**127, 0.0
)  # the largest that is a finite float32 once it is rounded to one
OPTIONAL_FEATURES = ("Fwd Header Length.1",)  # a repeated column
TYPES = (
    wire.FlowRequest, wire.ProcessRequest, wire.BatchRequest, wire.Verdict, wire.RowError, wire.BatchAnswer,
    PredictRequest, PredictBatchRequest, Prediction, PredictionBatch,
    Service, Health, Live, Ready, Status, LayerList, LayerTest, SwitchedLayer,
    *ERROR_TYPES,
)  # fmt: skip
UNREADABLE = ("MALFORMED_JSON", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "MALFORMED_EVENT")
UNANSWERED = (
    "LAYER_TIMEOUT",
    "LAYER_OPEN",
    "LAYER_OVERLOADED",
    "LAYER_CRASHED",
    "LAYER_ERROR",
    "LAYER_DISABLED",
    "LAYER_WARMING_UP",
)
ABOUT = """One threat score from several detectors, and an honest word on how many of them looked.

A body is JSON in UTF-8, of at most {max_body_bytes:,} bytes, not packed. `Content-Type` may be left out; one that names anything but
JSON is refused with 415. Numbers must be finite, names must not be given twice, unknown fields are mistakes.

Every error is `{{"error": {{"code", "message", "field", "request_id"}}}}`: key on `code`; `field` names the place that is to blame, and
is left out where none is. A method that a path does not take is answered with 405 and `Allow`, an unknown path with 404. Ray Serve in front
of all this answers in plain text: 503 with `Retry-After` where its own queue is full, 408 after half a minute."""
FLOW_ABOUT = """78 CICFlowMeter features, in order or by name. In an object the names of other dialects of the extractor are understood
too, in any case. `null` is taken for `Flow Bytes/s` and `Flow Packets/s`, which are recomputed from the counts anyway; counts over so
short a duration that such a rate is no float32 any more are refused with 422."""


def document(max_events: int, max_body_bytes: int) -> dict[str, Any]:
    """OpenAPI 3.1 for the scoring application.

    Args:
        max_events: the most events in a batch, as configured.
        max_body_bytes: of a request, as configured.
    """
    about = ABOUT.format(max_body_bytes=max_body_bytes)
    paths = {**_scoring(), **_predictions(), **_state(), **_switches(), **_reading()}
    return written("Axon", about, version("axon"), paths, _schemas(max_events))


def _schemas(max_events: int) -> Json:
    schemas = schemas_of(TYPES)
    number = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    size = len(FEATURE_NAMES)
    schemas["Features"] = {
        "description": FLOW_ABOUT,
        "oneOf": [
            {"type": "array", "items": number, "minItems": size, "maxItems": size},
            ref("FeaturesByName"),
        ],
    }
    schemas["FeaturesByName"] = {
        "type": "object",
        "properties": {
            name: {"type": ["number", "null"]} if name in RECOMPUTED else number
            for name in FEATURE_NAMES
        },
        "required": [name for name in FEATURE_NAMES if name not in OPTIONAL_FEATURES],
        "additionalProperties": False,
    }
    schemas["FlowToPredict"] = {  # also of a bad one, in its own place
        "description": 'A flow, `{"features": ...}`; anything else gets an error in its own place.',
        "anyOf": [
            {
                "type": "object",
                "properties": {"features": ref("Features")},
                "required": ["features"],
            },
            {},
        ],
    }
    schemas["Event"] = {
        "oneOf": [ref("FlowRequest"), ref("ProcessRequest")],
        "discriminator": {
            "propertyName": "kind",
            "mapping": {
                "flow": ref("FlowRequest")["$ref"],
                "process": ref("ProcessRequest")["$ref"],
            },
        },
    }
    for name in ("FlowRequest", "PredictRequest"):
        schemas[name]["properties"]["features"] = ref("Features")
    for name in ("PredictRequest", "PredictBatchRequest"):
        schemas[name]["properties"]["model_name"] = {
            "enum": list(KNOWN_MODELS),
            "default": DEFAULT_MODEL,
        }
    schemas["BatchRequest"]["properties"]["events"] = _several(
        max_events,
        {
            "description": "An event; anything else gets an error in its own place.",
            "anyOf": [ref("Event"), {}],
        },
    )
    schemas["PredictBatchRequest"]["properties"]["flows"] = _several(
        max_events, ref("FlowToPredict")
    )
    for name, kind, field in (
        ("BatchAnswer", "Verdict", "results"),
        ("PredictionBatch", "Prediction", "predictions"),
    ):
        error = "RowError" if kind == "Verdict" else "ErrorAnswer"
        schemas[name]["properties"][field] = _several(
            max_events, {"oneOf": [ref(kind), ref(error)]}
        )
    schemas["ErrorAnswer"]["additionalProperties"] = False
    return schemas


def _several(most: int, items: Json) -> Json:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _scoring() -> dict[str, dict[str, Json]]:
    explain = {
        "name": "explain",
        "in": "query",
        "schema": {"type": "string", "enum": ["true", "false", "1", "0"], "default": "false"},
        "description": "Also say what moved each layer; it costs. In any case of letters.",
    }
    flow = {"kind": "flow", "id": "ddos", "host": "web-1", "features": ATTACK}
    events = {"a flow": flow, "a process start": SHELL}
    return {
        "/v1/score": {
            "post": operation(
                "Score one event",
                {"200": answer("The verdict", ref("Verdict"), example=VERDICT)},
                tag="scoring",
                parameters=[explain],
                body=ref("Event"),
                examples=events,
                errors=(*UNREADABLE, "FEATURE_MISMATCH"),
            )
        },
        "/v1/score/batch": {
            "post": operation(
                "Score a batch; a bad event spoils only its own line",
                {"200": answer("The verdicts, in order", ref("BatchAnswer"))},
                tag="scoring",
                parameters=[explain],
                body=ref("BatchRequest"),
                examples={"both kinds": {"events": list(events.values())}},
                errors=(*UNREADABLE, "TOO_MANY_EVENTS"),
            )
        },
    }


def _predictions() -> dict[str, dict[str, Json]]:
    about = (
        "The model decides, and nothing is fused: for a verdict of the whole ensemble ask `/v1/score`. 409 says that the model is "
        "known and not here, and why; 503 that the classifier does not answer now, and when to come back."
    )
    headers = {"X-Request-ID": {"description": "As given, or made", "schema": {"type": "string"}}}
    refused = ("UNKNOWN_MODEL", "MODEL_NOT_LOADED", *UNANSWERED)
    one = {"features": BENIGN, "model_name": DEFAULT_MODEL}
    several = {"flows": [{"features": BENIGN}, {"features": ATTACK}], "model_name": DEFAULT_MODEL}
    return {
        "/predict": {
            "post": operation(
                "Predict the attack family of a flow, by one model",
                {
                    "200": answer(
                        "The prediction", ref("Prediction"), example=PREDICTION, headers=headers
                    )
                },
                tag="predictions",
                about=about,
                body=ref("PredictRequest"),
                examples={"a flow": one},
                errors=(*UNREADABLE, "FEATURE_MISMATCH", *refused),
            )
        },
        "/predict/batch": {
            "post": operation(
                "Predict a batch; a bad flow spoils only its own line",
                {
                    "200": answer(
                        "The predictions, in order", ref("PredictionBatch"), headers=headers
                    )
                },
                tag="predictions",
                about=about,
                body=ref("PredictBatchRequest"),
                examples={"two flows": several},
                errors=(*UNREADABLE, "TOO_MANY_EVENTS", *refused),
            )
        },
    }


def _state() -> dict[str, dict[str, Json]]:
    ready, not_ready = answer("Yes", ref("Ready")), answer("Not now", ref("Ready"))

    def reads(summary: str, schema: str) -> dict[str, Json]:
        return {
            "get": operation(summary, {"200": answer("How it stands", ref(schema))}, tag="state")
        }

    def probes(summary: str) -> dict[str, Json]:
        return {"get": operation(summary, {"200": ready, "503": not_ready}, tag="state")}

    return {
        "/": reads("What this service is, what serves, and its limits", "Service"),
        "/health": reads("Is the ensemble whole? 200 as long as the process can answer", "Health"),
        "/ready": probes(
            "Can it score at all? 503 before its first look at the release; not when it is degraded"
        ),
        "/v2/health/live": reads(
            "Does the process answer? As the Open Inference Protocol names it", "Live"
        ),
        "/v2/health/ready": probes("The same as /ready, as the Open Inference Protocol names it"),
        "/v1/status": reads(
            "Every layer by kind of event: status, version, reason, since when, trouble; and all else",
            "Status",
        ),
        "/v1/layers": reads("The layers, and whether each has a model loaded", "LayerList"),
        "/metrics": {
            "get": operation(
                "What this replica counted, as Prometheus text",
                {"200": answer("Text of version 0.0.4", {"type": "string"}, media="text/plain")},
                tag="state",
                about="Of one ingress replica, which each line names. Canonical is Ray's metrics exporter.",
            )
        },
    }


def _switches() -> dict[str, dict[str, Json]]:
    layer = {
        "name": "layer",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": list(LAYERS)},
    }

    def switches(summary: str, schema: str, error: str) -> dict[str, Json]:
        said = {"200": answer("How it stands now", ref(schema))}
        return {
            "post": operation(
                summary, said, tag="switches", parameters=[layer], errors=("UNKNOWN_LAYER", error)
            )
        }

    off = "Switch a layer off: at once, everywhere within seconds, also after a restart"
    forget = "Clear what is remembered of a layer's failures: breaker and backoff"
    return {
        "/v1/layers/{layer}/test": switches(
            "Test a layer's initialisation; nothing that serves changes",
            "LayerTest",
            "TEST_RUNNING",
        ),
        "/v1/layers/{layer}/disable": switches(off, "SwitchedLayer", "CONTROLS_NOT_KEPT"),
        "/v1/layers/{layer}/enable": switches(
            "Switch a layer on again", "SwitchedLayer", "CONTROLS_NOT_KEPT"
        ),
        "/v1/layers/{layer}/reset": switches(forget, "SwitchedLayer", "CONTROLS_NOT_KEPT"),
    }


def _reading() -> dict[str, dict[str, Json]]:
    own = {"type": "object", "required": ["openapi", "info", "paths", "components"]}
    page = answer("A page for people", {"type": "string"}, media="text/html")
    files = {
        f"/docs/{name}": {
            "get": operation(
                "A part of that page",
                {"200": answer("The file", {"type": "string"}, media=media)},
                tag="contract",
            )
        }
        for name, media in DOCS_FILES.items()
    }
    return {
        "/openapi.json": {
            "get": operation("This document", {"200": answer("OpenAPI 3.1", own)}, tag="contract")
        },
        "/docs": {
            "get": operation(
                "A page to read this document with, which needs no internet",
                {"200": page},
                tag="contract",
            )
        },
        **files,
    }
