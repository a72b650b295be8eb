"""The OpenAPI document of an application, read off the contracts of its routes.

Schemas come from the types that the code parses and writes; the docstring of a type describes its
attributes. An error is documented by its code: its status follows from the code as it does in an
answer.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec

from deployments.web.contract import Answer, Body, Json, ref
from deployments.web.error_meanings import MEANINGS
from deployments.web.errors import JSON, RETRYABLE_CODES, ErrorAnswer, status_of
from deployments.web.routes import ScopedRoute

__all__ = ["openapi_document", "schemas_of"]

_ALWAYS = ("INTERNAL_ERROR",)
_OF_KEYS = ("UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED")
_OF_PAGES = (
    "Every route refuses a request of a web page that is not listed and may change something (403, "
    "`FOREIGN_ORIGIN`) and, with authentication off, one whose `Host` names neither loopback nor a "
    "listed host (421, `UNKNOWN_HOST`)."
)
_REQUEST_ID = {
    "X-Request-ID": {
        "description": "Id of the request, as given or made; the log has it",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds to wait before a retry",
        "schema": {"type": "integer"},
    }
}
_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.+)$", re.MULTILINE)


def openapi_document(
    title: str, about: str, routes: Sequence[ScopedRoute], schemas: Json, *, prefix: str = ""
) -> Json:
    """Write the OpenAPI 3.1 document of an application.

    Args:
        title: name of the service.
        about: description of the service, in Markdown.
        routes: all routes of the application.
        schemas: name -> JSON Schema of every component, see `schemas_of`.
        prefix: path prefix of the application, e.g. `/models`; "" for none.
    """
    paths: dict[str, Json] = {}
    for route in routes:
        path = prefix if prefix and route.path == "/" else prefix + route.path
        for method in sorted((route.methods or set()) - {"HEAD"}):
            name = "_".join([method.lower(), *re.findall(r"\w+", path)])
            paths.setdefault(path, {})[method.lower()] = {"operationId": name, **_operation(route)}
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key (`axon keys create`); it determines the tenant and the scopes.",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": version("axon"),
            "description": f"{about}\n\n{_OF_PAGES}",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"key": scheme}},
    }


def schemas_of(routes: Iterable[ScopedRoute], *others: Any) -> Json:  # noqa: ANN401  # types
    """Make the JSON Schema of every type in the contracts of `routes`, by the type's name.

    Objects allow no additional properties: a request with more fields is refused, and an answer has
    no more.

    Args:
        routes: all routes of an application.
        *others: further types, which no contract names.
    """
    declared = [body for route in routes for body in _bodies(route)]
    types = dict.fromkeys(one.schema for one in declared if not isinstance(one.schema, dict))
    _, schemas = msgspec.json.schema_components(
        [*types, *others, ErrorAnswer], ref_template="#/components/schemas/{name}"
    )
    for schema in schemas.values():
        about, attributes = _parse_docstring(schema.pop("description", ""))
        if about:
            schema["description"] = about
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
            for field in attributes.keys() & schema["properties"].keys():
                schema["properties"][field] |= {"description": attributes[field]}
    schemas["ErrorAnswer"]["additionalProperties"] = False
    return dict(schemas)


def _bodies(route: ScopedRoute) -> list[Answer | Body]:
    contract = route.contract
    return [*contract.answers.values(), *([contract.body] if contract.body else [])]


def _operation(route: ScopedRoute) -> Json:
    contract, scope = route.contract, route.needs
    about, codes = contract.about, [*contract.errors, *_ALWAYS]
    if scope is not None:
        needs = f"Needs an API key with the scope `{scope}`, unless authentication is off."
        about = f"{about}\n\n{needs}".strip()
        codes += _OF_KEYS
    operation: Json = {"tags": [contract.tag], "summary": contract.summary}
    if about:
        operation["description"] = about
    if contract.parameters:
        operation["parameters"] = list(contract.parameters)
    if contract.body is not None:
        operation["requestBody"] = _request_body(contract.body)
    answers = {str(status): _answer(one) for status, one in contract.answers.items()}
    operation["responses"] = {**answers, **_errors(codes)}
    operation["security"] = [] if scope is None else [{"key": []}]
    return operation


def _request_body(body: Body) -> Json:
    content: Json = {"schema": _schema(body.schema)}
    if body.examples:
        content["examples"] = {name: {"value": value} for name, value in body.examples.items()}
    return {"required": body.is_required, "content": {body.media: content}}


def _answer(answer: Answer) -> Json:
    content: Json = {"schema": _schema(answer.schema)}
    if answer.example is not None:
        content["example"] = answer.example
    headers = {"headers": dict(answer.headers)} if answer.headers else {}
    return {"description": answer.description, "content": {answer.media: content}} | headers


def _schema(schema: Any) -> Json:  # noqa: ANN401  # a type or JSON Schema
    return schema if isinstance(schema, dict) else ref(schema.__name__)


def _errors(codes: Iterable[str]) -> Json:
    """Map each HTTP status to its error answer, with the codes that it may have."""
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(str(status_of(code)), []).append(code)
    return {status: _error(named) for status, named in sorted(by_status.items())}


def _error(codes: Sequence[str]) -> Json:
    lines = [f"`{code}`: {MEANINGS[code]}" for code in codes]
    known = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
    headers = _REQUEST_ID | (_RETRY_AFTER if RETRYABLE_CODES.issuperset(codes) else {})
    schema = {"allOf": [ref("ErrorAnswer"), known]}
    return _answer(Answer(schema, "  \n".join(lines), JSON, headers=headers))


def _parse_docstring(docstring: str) -> tuple[str, Mapping[str, str]]:
    """Split the docstring of a type into its description and that of each attribute."""
    about, _, attributes = inspect.cleandoc(docstring).partition("\nAttributes:\n")
    found = _ATTRIBUTE.findall(re.sub(r"\n {6,}", " ", attributes))
    return about.strip(), {name: text[:1].upper() + text[1:] for name, text in found}
