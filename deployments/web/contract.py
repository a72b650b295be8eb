"""The contract that a route declares: parameters, body, answers and error codes.

The OpenAPI document is read off these declarations, see `deployments.web.openapi`. A schema is a
type that msgspec can describe, or JSON Schema where a type cannot say it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.web.errors import JSON

__all__ = [
    "READING_ERRORS",
    "Answer",
    "Body",
    "Contract",
    "Json",
    "path_parameter",
    "query_parameter",
    "ref",
]

Json = dict[str, Any]
READING_ERRORS = ("MALFORMED_JSON", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "MALFORMED_EVENT")
"""Codes of errors in a JSON body, whatever it should hold."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is no error.

    Attributes:
        schema: of its body, a type or JSON Schema.
        description: one sentence.
        media: its media type.
        example: such a body; None for none.
        headers: name -> OpenAPI header object.
    """

    schema: Any
    description: str = "Done"
    media: str = JSON
    example: Any = None
    headers: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Body:
    """A request body.

    Attributes:
        schema: a type or JSON Schema.
        examples: name -> such a body.
        media: its media type.
        is_required: whether it may not be left out.
    """

    schema: Any
    examples: Mapping[str, Any] = field(default_factory=dict)
    media: str = JSON
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Contract:
    """What one route takes, and every way it answers.

    Attributes:
        tag: the group under which the document lists the operation.
        summary: one line.
        answers: HTTP status -> answer, without the errors.
        about: more than the summary, in Markdown.
        parameters: of path and query.
        body: None for a route that reads none.
        errors: codes that it may answer with, beside INTERNAL_ERROR.
    """

    tag: str
    summary: str
    answers: Mapping[int, Answer]
    about: str = ""
    parameters: Sequence[Json] = ()
    body: Body | None = None
    errors: Sequence[str] = ()


def ref(name: str) -> Json:
    """Refer to the component schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def path_parameter(name: str, schema: Json, description: str, example: str) -> Json:
    """Describe a parameter in the path."""
    return _parameter(name, "path", schema, description, required=True) | {"example": example}


def query_parameter(name: str, schema: Json, description: str, *, required: bool = False) -> Json:
    """Describe a parameter in the query."""
    return _parameter(name, "query", schema, description, required=required)


def _parameter(name: str, place: str, schema: Json, description: str, *, required: bool) -> Json:
    return {
        "name": name,
        "in": place,
        "required": required,
        "schema": schema,
        "description": description,
    }
