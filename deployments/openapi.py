"""The OpenAPI document, made from the wire's own types, so that it cannot say anything else than the code does."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from deployments import wire

__all__ = ["document"]

_JSON = "application/json"
_SWITCH_ERRORS = {
    "404": "There is no such layer",
    "409": "This layer is being tested now",
    "503": "The switch could not be kept; nothing was changed",
}


def document(max_events: int) -> dict[str, Any]:
    """OpenAPI 3.1 for the ingress.

    Args:
        max_events: the most events in a batch, as configured.
    """
    types = [wire.FlowRequest, wire.ProcessRequest, wire.BatchRequest, wire.Verdict, wire.RowError, wire.BatchAnswer, wire.ErrorAnswer]
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schemas["BatchRequest"]["properties"]["events"] |= {"minItems": 1, "maxItems": max_events}
    schemas["BatchAnswer"]["properties"]["results"]["items"] = {"oneOf": [_ref("Verdict"), _ref("RowError")]}
    event = {"oneOf": [_ref("FlowRequest"), _ref("ProcessRequest")]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Axon", "version": version("axon"), "description": "One threat score from several detectors."},
        "paths": {
            "/": {"get": _reads("What this service is")},
            "/openapi.json": {"get": _reads("This document")},
            "/health": {"get": _reads("Is the ensemble whole? 200 as long as the process can answer")},
            "/ready": {"get": _probes("Can it score at all? 503 before its first look at the release; not when it is degraded")},
            "/v2/health/live": {"get": _reads("Does the process answer? As the Open Inference Protocol names it")},
            "/v2/health/ready": {"get": _probes("The same as /ready, as the Open Inference Protocol names it")},
            "/v1/status": {
                "get": _reads(
                    "Every layer by kind of event: status, version, reason, since when, trouble; coverage, breakers, switches, release"
                )
            },
            "/v1/layers": {"get": _reads("The layers, and whether each has a model loaded")},
            "/v1/layers/{layer}/test": {"post": _switches("Test a layer's initialisation; nothing that serves changes", "409")},
            "/v1/layers/{layer}/disable": {
                "post": _switches("Switch a layer off: at once, everywhere within seconds, also after a restart", "503")
            },
            "/v1/layers/{layer}/enable": {"post": _switches("Switch a layer on again", "503")},
            "/v1/layers/{layer}/reset": {"post": _switches("Clear what is remembered of a layer's failures: breaker and backoff", "503")},
            "/v1/score": {"post": _scores("Score one event", event, "Verdict")},
            "/v1/score/batch": {
                "post": _scores("Score a batch; a bad event spoils only its own line", _ref("BatchRequest"), "BatchAnswer")
            },
        },
        "components": {"schemas": schemas},
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {_JSON: {"schema": schema}}}


def _reads(about: str) -> dict[str, Any]:
    return {"summary": about, "responses": {"200": _answer(about, {"type": "object"})}}


def _probes(about: str) -> dict[str, Any]:
    said = _answer("Not now", {"type": "object"})
    return {"summary": about, "responses": {"200": _answer("Yes", {"type": "object"}), "503": said}}


def _switches(about: str, *statuses: str) -> dict[str, Any]:
    errors = {status: _answer(_SWITCH_ERRORS[status], _ref("ErrorAnswer")) for status in ("404", *statuses)}
    layer = {"name": "layer", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "summary": about,
        "description": "No keys yet: reached by whoever reaches the port, which is bound to loopback.",
        "parameters": [layer],
        "responses": {"200": _answer("How it stands now", {"type": "object"}), **errors},
    }


def _scores(about: str, body: dict[str, Any], answer: str) -> dict[str, Any]:
    explain = {"name": "explain", "in": "query", "schema": {"type": "boolean"}, "description": "Also say what moved each layer; it costs"}
    errors = {
        "400": "Not JSON",
        "413": "More bytes than one request may carry",
        "422": "JSON, but not an event: wrong count, type, kind, name or a value that is not finite; `field` says where",
    }
    return {
        "summary": about,
        "parameters": [explain],
        "requestBody": {"required": True, "content": {_JSON: {"schema": body}}},
        "responses": {"200": _answer(about, _ref(answer))} | {code: _answer(text, _ref("ErrorAnswer")) for code, text in errors.items()},
    }
