"""The OpenAPI document, made from the wire's own types, so that it cannot say anything else than the code does."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec

from deployments import wire

__all__ = ["document"]

_JSON = "application/json"


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
            "/health": {"get": _reads("Is the ensemble whole? 200 as long as the process can answer")},
            "/openapi.json": {"get": _reads("This document")},
            "/v1/status": {"get": _reads("Every layer by kind of event: status, version, reason, device")},
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
