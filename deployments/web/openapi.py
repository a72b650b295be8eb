"""How an OpenAPI document of ours is written: operations, answers, errors and schemas, whatever routes they are of.

Schemas come from the types that the code itself parses and writes; what their docstrings say of an
attribute stands beside it. An error is
documented by its code: the status follows from the code here as it does at the edge.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from deployments.web.errors import RETRYABLE_CODES, ErrorAnswer, describe_code, status_of

__all__ = ["ERROR_TYPES", "Json", "answer", "operation", "ref", "schemas_of", "secured", "written"]

Json = dict[str, Any]
ERROR_TYPES = (ErrorAnswer,)
_JSON = "application/json"
_ALWAYS = ("INTERNAL_ERROR",)
_MEANINGS = {  # of codes that are no class of ours
    "INTERNAL_ERROR": "A mistake of ours; the log has it under the request's id.",
    "NOT_FOUND": "There is no such thing.",
    "METHOD_NOT_ALLOWED": "The path takes other methods; `Allow` names them.",
    "TEST_RUNNING": "The layer is being tested now.",
    "CONTROLS_NOT_KEPT": "The switch could not be written; nothing was changed.",
    "UNAUTHORIZED": "No key, or one that is not known.",
    "FORBIDDEN": "The key may not do this.",
    "RATE_LIMITED": "Too many requests; Retry-After says when to come back.",
}
_REQUEST_ID = {
    "X-Request-ID": {
        "description": "As given, or made; the log has it",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+)$", re.MULTILINE)


def written(
    title: str,
    about: str,
    version: str,
    paths: Mapping[str, Mapping[str, Json]],
    schemas: Json,
    *,
    below: str = "/",
) -> Json:
    """The document.

    Args:
        title: of the service.
        about: it, in Markdown.
        version: of the service.
        paths: path -> method in lower case -> operation.
        schemas: name -> JSON Schema, of `schemas_of`.
        below: prefix of the application, where it has one: `/models`.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version,
            "description": about,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": below}],
        "paths": {
            path: {
                method: {"operationId": _name_of(method, path), **one}
                for method, one in methods.items()
            }
            for path, methods in paths.items()
        },
        "components": {"schemas": schemas},
    }


def operation(
    summary: str,
    answers: Mapping[str, Json],
    *,
    tag: str,
    about: str = "",
    parameters: Sequence[Json] = (),
    body: Json | None = None,
    examples: Mapping[str, Any] | None = None,
    errors: Iterable[str] = (),
) -> Json:
    """One operation.

    Args:
        summary: in a line.
        answers: status -> answer, of `answer`.
        tag: the group it is shown in.
        about: more than the summary, in Markdown.
        parameters: of path and query.
        body: schema of its JSON body; None where it reads none.
        examples: name -> such a body.
        errors: codes that it may answer with, beside a mistake of ours.
    """
    found: Json = {"tags": [tag], "summary": summary}
    if about:
        found["description"] = about
    if parameters:
        found["parameters"] = list(parameters)
    if body is not None:
        shown = (
            {"examples": {name: {"value": value} for name, value in examples.items()}}
            if examples
            else {}
        )
        found["requestBody"] = {"required": True, "content": {_JSON: {"schema": body, **shown}}}
    found["responses"] = {**answers, **_refusals([*errors, *_ALWAYS])}
    return found


def answer(
    about: str,
    schema: Json,
    *,
    media: str = _JSON,
    example: Any = None,  # noqa: ANN401
    headers: Mapping[str, Json] | None = None,
) -> Json:  # JSON
    """One answer that is no error."""
    shown = {} if example is None else {"example": example}
    return {"description": about, "content": {media: {"schema": schema, **shown}}} | (
        {"headers": dict(headers)} if headers else {}
    )


def ref(name: str) -> Json:
    """The schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def schemas_of(types: Iterable[Any]) -> Json:
    """JSON Schemas of types and of all that they hold, by name.

    An object has the fields that it names and no others: requests are refused with more, and
    answers have no more.
    """
    of = list(types)
    _, schemas = msgspec.json.schema_components(of, ref_template="#/components/schemas/{name}")
    for name, schema in schemas.items():
        about, attributes = _told(schema.pop("description", ""))
        if about:
            schema["description"] = about
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
            for field, told in attributes.items():
                if field in schema["properties"]:
                    schema["properties"][field] = _described(schema["properties"][field], told)
        schemas[name] = schema
    return dict(schemas)


def secured(document: Json, needs: Mapping[tuple[str, str], str | None]) -> Json:
    """The same document with the gate: which key each operation needs, and what it answers without.

    Args:
        document: of `written`.
        needs: (path, method in lower case) -> the scope that a key must have; None for who
            needs no key.
    """
    paths = {
        path: {method: _guarded(one, needs.get((path, method))) for method, one in methods.items()}
        for path, methods in document["paths"].items()
    }
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "A key of `axon keys create`; it says which tenant asks, and what it may.",
    }
    return document | {
        "paths": paths,
        "components": document["components"] | {"securitySchemes": {"key": scheme}},
    }


def _name_of(method: str, path: str) -> str:
    return "_".join([method, *re.findall(r"\w+", path)])


def _guarded(one: Json, scope: str | None) -> Json:
    if scope is None:
        return one | {"security": []}
    user_errors = _refusals(["UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED"])
    about = f"{one.get('description', '')}\n\nNeeds a key with the scope `{scope}`, unless keys are off.".strip()
    return one | {
        "security": [{"key": []}],
        "description": about,
        "responses": one["responses"] | user_errors,
    }


def _refusals(codes: Iterable[str]) -> Json:
    """Status -> the answer for all errors that have it.

    The codes are listed, and no other comes.
    """
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(str(status_of(code)), []).append(code)
    return {status: _refusal(named) for status, named in sorted(by_status.items())}


def _refusal(codes: Sequence[str]) -> Json:
    lines = [f"`{code}`: {describe_code(code) or _MEANINGS[code]}" for code in codes]
    known = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
    headers = _REQUEST_ID | (_RETRY_AFTER if RETRYABLE_CODES.issuperset(codes) else {})
    return answer("  \n".join(lines), {"allOf": [ref("ErrorAnswer"), known]}, headers=headers)


def _told(docstring: str) -> tuple[str, Mapping[str, str]]:
    """What a docstring says of its type, and of each attribute."""
    about, _, attributes = inspect.cleandoc(docstring).partition("\nAttributes:\n")
    return about.strip(), dict(_ATTRIBUTE.findall(re.sub(r"\n {6,}", " ", attributes)))


def _described(schema: Json, about: str) -> Json:
    return {**schema, "description": about}
