"""The OpenAPI document of the management application, read off its routes.

Types describe themselves; what they cannot say of their validation is added here.
"""

from __future__ import annotations

from collections.abc import Sequence

from deployments.config import Settings
from deployments.management.contract import NAME
from deployments.management.job_responses import Finding, RowRefused
from deployments.management.request import RESERVED
from deployments.web import Json, ScopedRoute, openapi_document, ref, schemas_of
from ensemble.features.tabular import LEAST_FEATURES, MOST_FEATURES, NETWORK_FEATURES
from ensemble.training.data.tabular_rows import LEAST_ROWS

__all__ = ["PREFIX", "document"]

PREFIX = "/models"
ABOUT = """Models, releases, training jobs and detectors of one tenant: whose key it is. What
another has is answered as what nobody has.

A body is JSON in UTF-8, of at most {max_body_bytes:,} bytes, not packed; an archive is
`application/octet-stream`. Numbers must be finite, unknown fields and unknown names in a query are
mistakes. A model's name is 1 to 63 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a letter or a
digit, and none of the words: {reserved}.

Every error is `{{"error": {{"code", "message", "field", "request_id"}}}}`: key on `code`. 503, 429
and 507 change nothing, but that a 503 `STORE_UNAVAILABLE` may come of something that is still being
done: look before you ask again."""


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
