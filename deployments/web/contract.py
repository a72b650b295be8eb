"""The contract that a route declares: parameters, body, answers and error codes.

`deployments.web.openapi` makes the OpenAPI document of these declarations. A schema is a type that
msgspec can describe, or JSON Schema where no type can express it.
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
    "header_parameter",
    "path_parameter",
    "query_parameter",
    "ref",
]

Json = dict[str, Any]
READING_ERRORS = (
    "MALFORMED_JSON",
    "BODY_TOO_LARGE",
    "REQUEST_TIMEOUT",
    "UNSUPPORTED_MEDIA_TYPE",
    "MALFORMED_EVENT",
)
"""Codes of errors that every JSON body can have."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is not an error.

    Attributes:
        schema: type or JSON Schema of the body.
        description: one sentence.
        media: media type of the body.
        example: an example body; None for none.
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
        schema: type or JSON Schema of the body.
        examples: name -> example body.
        media: media type of the body.
        is_required: whether a request must have a body.
    """

    schema: Any
    examples: Mapping[str, Any] = field(default_factory=dict)
    media: str = JSON
    is_required: bool = True


@dataclass(frozen=True, slots=True)
class Contract:
    """The parameters and body that one route reads, and every answer that it gives.

    Attributes:
        tag: group under which the document lists the operation.
        summary: one line.
        answers: HTTP status -> answer, without errors.
        about: text beyond the summary, in Markdown.
        parameters: parameters of path and query.
        body: None for a route that reads no body.
        errors: error codes of the route, beside those that every route has.
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


def header_parameter(name: str, schema: Json, description: str) -> Json:
    """Describe an optional header."""
    return _parameter(name, "header", schema, description, required=False)


def _parameter(name: str, place: str, schema: Json, description: str, *, required: bool) -> Json:
    return {
        "name": name,
        "in": place,
        "required": required,
        "schema": schema,
        "description": description,
    }
