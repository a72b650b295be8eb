"""The OpenAPI document of the scoring application, made from its routes.

The schemas come from the types. Limits that only the validation enforces are added here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from deployments.scoring import verdict_wire, wire
from deployments.scoring.predict_wire import DEFAULT_MODEL
from deployments.web import Json, ScopedRoute, openapi_document, ref, schemas_of
from ensemble.features.flow import FEATURE_NAMES, RECOMPUTED
from ensemble.runtime import KNOWN_MODELS

__all__ = ["document"]

# the largest number that is finite after it is rounded to float32
LARGEST = math.nextafter((2.0 - 2.0**-24) * 2.0**127, 0.0)
OPTIONAL_FEATURES = ("Fwd Header Length.1",)  # a repeated column
ABOUT = """One threat score from several detectors, and the share of them that contributed.

A request body is uncompressed JSON in UTF-8, at most {max_body_bytes:,} bytes. `Content-Type` may
be left out; any type other than JSON is rejected with 415. Numbers must be finite. A repeated name
or an unknown field is an error.

Every error is `{{"error": {{"code", "message", "field", "request_id"}}}}`. Codes are stable;
messages may change. `field` names the invalid part of the request and is left out if there is
none. An unknown path gets 404; a method that a path does not support gets 405 with `Allow`. Ray
Serve's proxy responds in plain text: 503 with `Retry-After` if its queue is full, 408 after 30
seconds."""
FLOW_ABOUT = """78 CICFlowMeter features: an array in order, or an object by name. An object may use
the names of any dialect of the extractor, in upper or lower case. `null` is accepted for
`Flow Bytes/s` and `Flow Packets/s`, because both are recomputed from the counts. A flow whose
recomputed rate exceeds float32 is rejected with 422."""


def document(routes: Sequence[ScopedRoute], max_events: int, max_body_bytes: int) -> Json:
    """Write the OpenAPI 3.1 document of the scoring application.

    Args:
        routes: all of its routes.
        max_events: largest number of events in a batch.
        max_body_bytes: largest body of a request.
    """
    about = ABOUT.format(max_body_bytes=max_body_bytes)
    return openapi_document("Axon", about, routes, _schemas(routes, max_events))


def _schemas(routes: Sequence[ScopedRoute], max_events: int) -> Json:
    """Make the schemas of all types, with the limits that only the validation enforces."""
    schemas = schemas_of(routes, wire.FlowRequest, wire.ProcessRequest, verdict_wire.RowError)
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
    schemas["FlowToPredict"] = {  # an invalid flow does not fail the batch
        "description": 'A flow, `{"features": ...}`. Anything else gets an error at its position.',
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
            "description": "An event. Anything else gets an error at its position.",
            "anyOf": [ref("Event"), {}],
        },
    )
    schemas["PredictBatchRequest"]["properties"]["flows"] = _several(
        max_events, ref("FlowToPredict")
    )
    for name, kind, field in (
        ("VerdictBatch", "Verdict", "results"),
        ("PredictionBatch", "Prediction", "predictions"),
    ):
        error = "RowError" if kind == "Verdict" else "ErrorAnswer"
        schemas[name]["properties"][field] = _several(
            max_events, {"oneOf": [ref(kind), ref(error)]}
        )
    return schemas


def _several(most: int, items: Json) -> Json:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}
