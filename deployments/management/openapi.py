"""The contract of the management application: every route that exists, what it takes, whose key it needs, and every way it answers.

Made from the types that the code parses and writes. Paths are the world's, with the prefix of the
application; a test compares them with
the routes, both ways.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from deployments.config.settings import Settings
from deployments.management import job_responses as found
from deployments.management import requests as asks
from deployments.management import responses as says
from deployments.management.model_routes import ARCHIVE
from deployments.management.request import RESERVED, SOME_ENTRIES
from deployments.web import DOCS_FILES, ScopedRoute
from deployments.web.openapi import (
    ERROR_TYPES,
    Json,
    answer,
    operation,
    ref,
    schemas_of,
    secured,
    written,
)
from ensemble.features.tabular import LEAST_FEATURES, MOST_FEATURES, NETWORK_FEATURES
from ensemble.store.releases.aliases import Alias
from ensemble.training.data.tabular_rows import DEFAULT_NAME, LEAST_ROWS

__all__ = ["PREFIX", "document", "paths", "schemas"]

PREFIX = "/models"
TYPES = (
    says.ModelList, says.ModelInfo, says.ModelVersions, asks.VersionPromotion, asks.TriedVersion, says.AliasMoved, says.Deleted,
    asks.Retention, says.Retained, says.ImportedModels, says.ReleaseList, asks.ReleasePromotion, asks.Rollback, says.PointerMovedTo,
    asks.TriedRelease, says.ChallengerRelease, says.AuditLog, asks.TrainRequest, found.Job, found.JobList, asks.DetectRequest,
    found.Detections, found.Finding, found.RowRefused, found.Loading,
    *ERROR_TYPES,
)  # fmt: skip
ABOUT = """Models, releases, training jobs and detectors of one tenant: whose key it is. What another has is answered as what nobody has.

A body is JSON in UTF-8, of at most {max_body_bytes:,} bytes, not packed; an archive is `application/octet-stream`. Numbers must be finite,
unknown fields and unknown names in a query are mistakes. A model's name is 1 to 63 of `a-z`, `0-9`, `.`, `_` and `-`, beginning with a
letter or a digit, and none of the words: {reserved}.

Every error is `{{"error": {{"code", "message", "field", "request_id"}}}}`: key on `code`. 503, 429 and 507 change nothing, but that a 503
`STORE_UNAVAILABLE` may come of something that is still being done: look before you ask again."""
ROW: Mapping[str, Any] = {
    "bytes_transferred": 5120.0,
    "packet_count": 12,
    "connection_duration": 1.5,
    "source_ip": "10.0.0.7",
}
_READING = ("MALFORMED_JSON", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "MALFORMED_EVENT")
_LOOKING = (
    "MALFORMED_EVENT",
    "STORE_UNAVAILABLE",
    "ARTIFACT_UNREADABLE",
    "ARTIFACT_CORRUPT",
    "ARTIFACT_UNTRUSTED",
    "ARTIFACT_INCOMPATIBLE",
)
_CHANGING = (*_LOOKING, "STORE_FULL")
_SIGNING = (*_CHANGING, "SIGNING_REFUSED", "POINTER_MOVED")
_POINTING = (*_SIGNING, "ARTIFACT_MISSING")
_NAMED = ("ARTIFACT_MISSING", "RESERVED_NAME")


def document(settings: Settings, routes: Sequence[ScopedRoute]) -> Json:
    """OpenAPI 3.1 for the management application.

    Args:
        settings: limits.
        routes: all of them; they say which scope is needed.
    """
    needs = {
        (_world(route.path), method.lower()): route.needs
        for route in routes
        for method in route.methods or ()
    }
    about = ABOUT.format(
        max_body_bytes=settings.management.max_body_bytes,
        reserved=", ".join(f"`{word}`" for word in sorted(RESERVED)),
    )
    return secured(
        written("Axon, models", about, version("axon"), paths(), schemas(settings)), needs
    )


def paths() -> dict[str, dict[str, Json]]:
    """Path -> method in lower case -> operation, without whose key it needs."""
    return {**_models(), **_one_model(), **_releases(), **_jobs(), **_contract()}


def _world(path: str) -> str:
    return PREFIX if path == "/" else f"{PREFIX}{path}"


def schemas(settings: Settings) -> Json:
    """Name -> JSON Schema of everything that goes in and out."""
    known = schemas_of(TYPES)
    own = settings.management
    train = known["TrainRequest"]["properties"]
    train["network_data"] |= {"minItems": LEAST_ROWS, "maxItems": own.max_rows}
    train["name"] |= _name_schema()
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
    known["ErrorAnswer"]["additionalProperties"] = False
    return known


def _name_schema() -> Json:
    return {
        "type": "string",
        "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$",
        "not": {"enum": sorted(RESERVED)},
    }


def _in_path(name: str, schema: Json, about: str, example: str) -> Json:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": schema,
        "description": about,
        "example": example,
    }


def _in_query(name: str, schema: Json, about: str, *, required: bool = False) -> Json:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "schema": schema,
        "description": about,
    }


_NUMBER: Json = {
    "type": "string",
    "pattern": "^[1-9][0-9]{0,14}$",
}  # as text: `2.0` is a number, and none in an address
_UP_TO_1000: Json = {"type": "string", "pattern": "^([1-9][0-9]{0,2}|1000)$"}
_NAME = _in_path("name", _name_schema(), "Of the model", DEFAULT_NAME)


def _says(
    summary: str,
    schema: str,
    *,
    status: str = "200",
    about: str = "Done",
    **more: Any,  # noqa: ANN401
) -> Json:  # those of `operation`
    """An operation that answers with one schema."""
    return operation(summary, {status: answer(about, ref(schema))}, **more)


def _optional(one: Json) -> Json:
    """The same, whose body may be left out."""
    return one | {"requestBody": one["requestBody"] | {"required": False}}


def _models() -> dict[str, dict[str, Json]]:
    tenant = _in_query(
        "tenant_id", {"type": "string"}, "Only the caller's own; another is answered with 404"
    )
    limit = _in_query(
        "limit",
        {"type": "string", "pattern": "^([1-9][0-9]{0,2}|1000)$", "default": str(SOME_ENTRIES)},
        "How many, the newest first",
    )
    brought = operation(
        "Import an archive as the next versions of the caller's tenant; nothing is promoted",
        {"201": answer("What came out of it", ref("ImportedModels"))},
        tag="models",
        about="Believed only as far as a key or a digest vouches for it that is trusted here.",
        errors=(*_CHANGING, "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "SIGNING_REFUSED", "QUOTA_EXCEEDED",
                "VERSION_EXISTS"),
    ) | {"requestBody": {"required": True, "content": {ARCHIVE: {"schema": {"type": "string", "format": "binary"}}}}}  # fmt: skip
    return {
        PREFIX: {
            "get": _says(
                "The models that the tenant has or is lent, the newest first, and the limits", "ModelList", tag="models",
                parameters=[tenant], errors=(*_LOOKING, "UNKNOWN_TENANT"),
            )
        },
        f"{PREFIX}/import": {"post": brought},
        f"{PREFIX}/retention": {
            "post": _says(
                "Remove what nothing needs and is older than the newest", "Retained", tag="models",
                body=ref("Retention"), examples={"the last ten": {"keep": 10}}, errors=(*_READING, *_CHANGING, "ARTIFACT_IN_USE"),
            )
        },
        f"{PREFIX}/audit": {
            "get": _says("Who did what, with which digest, when and from where", "AuditLog", tag="models",
                         parameters=[limit], errors=_LOOKING)
        },
    }  # fmt: skip


def _one_model() -> dict[str, dict[str, Json]]:
    at = f"{PREFIX}/{{name}}"
    which = {"type": "string", "pattern": f"^([1-9][0-9]{{0,14}}|{'|'.join(Alias)})$"}
    asked = _in_query(
        "version",
        which,
        "A number, or a word that stands for one; without it the champion, or the newest",
    )
    version = _in_query("version", _NUMBER, "Its number; never guessed", required=True)
    rated = (
        "TOO_MANY_ROWS",
        "DEPLOYMENT_UNAVAILABLE",
        "INSUFFICIENT_MEMORY",
        "LOAD_TIMEOUT",
        "NOT_SERVING",
    )
    moves = (*_READING, *_SIGNING, *_NAMED, "SERVED_BY_RELEASE")
    exported = {"200": answer("The archive", {"type": "string", "format": "binary"}, media=ARCHIVE)}
    return {
        f"{at}/info": {"get": _says("All that is known of one version", "ModelInfo", tag="models", parameters=[_NAME, asked],
                                    errors=(*_LOOKING, *_NAMED))},
        f"{at}/versions": {"get": _says("The versions of one model, the newest first", "ModelVersions", tag="models",
                                        parameters=[_NAME], errors=(*_LOOKING, *_NAMED))},
        f"{at}/versions/{{version}}/export": {
            "get": operation("One version as one file", exported, tag="models",
                             parameters=[_NAME, _in_path("version", _NUMBER, "Its number", "1")], errors=(*_LOOKING, *_NAMED))
        },
        at: {"delete": _says("Remove one version, for good; never what serves", "Deleted", tag="models", parameters=[_NAME, version],
                             errors=(*_CHANGING, *_NAMED, "ARTIFACT_IN_USE", "METHOD_NOT_ALLOWED"))},
        f"{at}/promote": {"post": _says("Say which version serves", "AliasMoved", tag="models", parameters=[_NAME],
                                        body=ref("VersionPromotion"), examples={"the challenger": {"alias": "challenger"}}, errors=moves)},
        f"{at}/challenger": {
            "put": _says("Give a version the word challenger", "AliasMoved", tag="models", parameters=[_NAME],
                         body=ref("TriedVersion"), examples={"the second": {"version": 2}}, errors=moves),
            "delete": _says("Take the word from whichever version has it", "AliasMoved", tag="models", parameters=[_NAME],
                            errors=(*_SIGNING, *_NAMED, "SERVED_BY_RELEASE")),
        },
        f"{at}/load": {
            "post": _says("Have every replica look at the model now, and say how it stands", "Loading", tag="detection",
                          parameters=[_NAME], errors=(*_LOOKING, *_NAMED, "NOT_SERVING", "DEPLOYMENT_UNAVAILABLE"))
        },
        f"{at}/detect": {
            "post": _says("Rate rows; a bad row spoils only itself", "Detections", tag="detection", parameters=[_NAME],
                          body=ref("DetectRequest"), examples={"one row": {"network_data": [dict(ROW)]}},
                          errors=(*_READING, *_LOOKING, *_NAMED, *rated))
        },
    }  # fmt: skip


def _releases() -> dict[str, dict[str, Json]]:
    serial = _in_path("serial", _NUMBER, "Number of the release", "1")
    return {
        f"{PREFIX}/releases": {"get": _says("The releases of the tenant, and which one serves", "ReleaseList", tag="releases",
                                            errors=_LOOKING)},
        f"{PREFIX}/releases/{{serial}}/promote": {
            "post": _optional(_says("Make a release the one in use, in measured steps", "PointerMovedTo", tag="releases",
                                    parameters=[serial], body=ref("ReleasePromotion"), examples={"at once": {"at_once": True}},
                                    errors=(*_READING, *_POINTING)))
        },
        f"{PREFIX}/rollback": {
            "post": _optional(_says("Point to an earlier release again, at once", "PointerMovedTo", tag="releases",
                                    body=ref("Rollback"), examples={"to the one before": {}}, errors=(*_READING, *_POINTING)))
        },
        f"{PREFIX}/challenger": {
            "get": _says("Which release is tried in shadow", "ChallengerRelease", tag="releases", errors=_LOOKING),
            "put": _says("Try a release in shadow", "ChallengerRelease", tag="releases", body=ref("TriedRelease"),
                         examples={"the second": {"release": 2}}, errors=(*_READING, *_POINTING)),
            "delete": _says("Try none any more", "ChallengerRelease", tag="releases", errors=_SIGNING),
        },
    }  # fmt: skip


def _jobs() -> dict[str, dict[str, Json]]:
    job = _in_path(
        "id",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        "As `POST /models/train` gave it",
        "0" * 32,
    )
    known = ("UNKNOWN_JOB", "MALFORMED_EVENT", "STORE_UNAVAILABLE", "STORE_FULL")
    refused = ("FEATURE_MISMATCH", "TOO_MANY_ROWS", "TRAINING_ERROR", "RESERVED_NAME", "UNKNOWN_TENANT", "VERSION_EXISTS", "JOB_QUOTA",
               "SIGNING_REFUSED")  # fmt: skip
    taken = _says("Train a detector on rows of declared features", "Job", tag="jobs", status="202", about="Taken; look it up at Location",
                  body=ref("TrainRequest"), examples={"rows": {"network_data": [dict(ROW)] * LEAST_ROWS, "version": "2026-11"}},
                  errors=(*_READING, *_CHANGING, *refused))  # fmt: skip
    taken["responses"]["202"]["headers"] = {
        "Location": {"description": "Of the job", "schema": {"type": "string"}}
    }
    return {
        f"{PREFIX}/train": {"post": taken},
        f"{PREFIX}/jobs": {"get": _says("The training jobs of the tenant, the newest first", "JobList", tag="jobs",
                                        errors=("MALFORMED_EVENT", "STORE_UNAVAILABLE", "STORE_FULL"))},
        f"{PREFIX}/jobs/{{id}}": {
            "get": _says("How a job stands", "Job", tag="jobs", parameters=[job], errors=known),
            "delete": _says("Cancel a job; one that has ended stays as it is", "Job", tag="jobs", parameters=[job], errors=known),
        },
    }  # fmt: skip


def _contract() -> dict[str, dict[str, Json]]:
    own = {"type": "object", "required": ["openapi", "info", "paths", "components"]}
    page = answer("A page for people", {"type": "string"}, media="text/html")
    files = {
        f"{PREFIX}/docs/{name}": {
            "get": operation(
                "A part of that page",
                {"200": answer("The file", {"type": "string"}, media=media)},
                tag="contract",
            )
        }
        for name, media in DOCS_FILES.items()
    }
    return {
        f"{PREFIX}/openapi.json": {
            "get": operation("This document", {"200": answer("OpenAPI 3.1", own)}, tag="contract")
        },
        f"{PREFIX}/docs": {
            "get": operation(
                "A page to read this document with, without the internet",
                {"200": page},
                tag="contract",
            )
        },
        **files,
    }
