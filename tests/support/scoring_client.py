"""Requests to a scoring application, with checks that hold for every response."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.asgi_clients import Event, IngressClient

__all__ = ["ROUTES", "batch_of", "error_of", "scored"]

ROUTES = [
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/openapi.json"),
    ("GET", "/ready"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v1/status"),
    ("GET", "/v1/layers"),
    ("POST", "/v1/layers/{layer}/test"),
    ("POST", "/v1/layers/{layer}/disable"),
    ("POST", "/v1/layers/{layer}/enable"),
    ("POST", "/v1/layers/{layer}/reset"),
    ("POST", "/v1/score"),
    ("POST", "/v1/score/batch"),
    ("POST", "/predict"),
    ("POST", "/predict/batch"),
    ("GET", "/metrics"),
    ("GET", "/docs"),
    ("GET", "/docs/start.js"),
    ("GET", "/docs/swagger-ui-bundle.js"),
    ("GET", "/docs/swagger-ui.css"),
    ("GET", "/docs/favicon.png"),
]


def error_of(
    answer: httpx.Response, status: int, code: str, field: str | None = None
) -> dict[str, Any]:
    """The error of a response, after checks that hold for every error: DESIGN section 4, P27."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert (
        {"code", "message", "request_id"}
        <= error.keys()
        <= {"code", "message", "field", "request_id"}
    )
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["X-Request-ID"]
    if field is not None:
        assert error.get("field", "") == field
    for inside in (
        "Traceback",
        "/work",
        "/home",
        ".py",
        "site-packages",
        "msgspec",
        "deployments.",
    ):
        assert inside not in answer.text
    return error


def scored(client: IngressClient, event: Event, **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/score", event, **request)
    assert answer.status_code == 200, answer.text[:300]
    body: dict[str, Any] = answer.json()
    return body


def batch_of(client: IngressClient, events: list[Any], **request: Any) -> dict[str, Any]:
    answer = client.post("/v1/score/batch", {"events": events}, **request)
    assert answer.status_code == 200, answer.text[:300]
    body: dict[str, Any] = answer.json()
    return body
