"""The OpenAPI document of the management application, read off its routes.

Schemas come from the types of requests and responses; limits from the settings are added here.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.config import Settings
from deployments.management.contract import NAME
from deployments.management.detection_responses import Finding, RowRefused
from deployments.management.request_parsing import RESERVED
from deployments.web import Json, ScopedRoute, openapi_document, ref, schemas_of
from ensemble.features.tabular import LEAST_FEATURES, MOST_FEATURES, NETWORK_FEATURES
from ensemble.training.data.tabular_rows import LEAST_ROWS

__all__ = ["PREFIX", "document"]

PREFIX = "/models"
ABOUT = """Models, releases, training jobs and detectors of one tenant, the one that the API key
belongs to. Another tenant's things get the same 404 as things that do not exist.

A request body is uncompressed JSON in UTF-8, at most {max_body_bytes:,} bytes; an archive is
`application/octet-stream`. Numbers must be finite. Unknown fields and unknown query parameters are
refused. A model's name has 1 to 63 characters of `a-z`, `0-9`, `.`, `_` and `-`, begins with a
letter or a digit, and is none of the reserved names: {reserved}.

Every error is `{{"error": {{"code", "message", "field", "request_id"}}}}`: match on `code`. An
answer with 429, 503 or 507 changed nothing, with one exception: after a 503 `STORE_UNAVAILABLE` the
work may still complete, so check the state before you repeat the request."""


def document(settings: Settings, routes: Sequence[ScopedRoute]) -> Json:
    """Write the OpenAPI 3.1 document of the management application.

    Args:
        settings: limits.
        routes: all of its routes.
    """
    about = ABOUT.format(
        max_body_bytes=settings.management.max_body_bytes,
        reserved=", ".join(f"`{word}`" for word in sorted(RESERVED)),
    )
    schemas = _schemas(settings, routes)
    return openapi_document("Axon, models", about, routes, schemas, prefix=PREFIX)


def _schemas(settings: Settings, routes: Sequence[ScopedRoute]) -> Json:
    known = schemas_of(routes, Finding, RowRefused)
    own = settings.management
    train = known["TrainRequest"]["properties"]
    train["network_data"] |= {"minItems": LEAST_ROWS, "maxItems": own.max_rows}
    train["name"] |= NAME
    train["features"] = {
        "description": train["features"]["description"],
        "anyOf": [
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": 64},
                "minItems": LEAST_FEATURES,
                "maxItems": MOST_FEATURES,
                "uniqueItems": True,
            },
            {"type": "null"},
        ],
        "default": list(NETWORK_FEATURES),
    }
    known["DetectRequest"]["properties"]["network_data"] |= {"maxItems": own.max_rows}
    known["Detections"]["properties"]["results"]["items"] = {
        "oneOf": [ref("Finding"), ref("RowRefused")]
    }
    known["Finding"]["properties"]["original_data"] |= {"type": "object"}
    known["VersionPromotion"]["oneOf"] = [{"required": ["version"]}, {"required": ["alias"]}]
    return known
