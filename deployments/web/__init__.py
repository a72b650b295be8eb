"""HTTP for both applications: authentication, rate limits, errors, bodies and OpenAPI.

Nothing here loads Ray. `deployments.management` has no such face: its deployments need Ray, so
`deployments.app` imports them by file.
"""

from deployments.web.api_keys import (
    Key,
    KeyRefused,
    Scope,
    create_key,
    find_key,
    list_keys,
    revoke_key,
)
from deployments.web.auth import (
    Authenticator,
    Caller,
    actor_of,
    allows,
    caller_of,
)
from deployments.web.body import decode_body, read_body, read_json
from deployments.web.browser_guard import BrowserGuard
from deployments.web.contract import (
    READING_ERRORS,
    Answer,
    Body,
    Json,
    header_parameter,
    path_parameter,
    query_parameter,
    ref,
)
from deployments.web.decode_errors import decode_error
from deployments.web.docs_page import DOCS_FILES, docs_routes
from deployments.web.errors import (
    EXCEPTION_HANDLERS,
    JSON,
    RETRYABLE_CODES,
    ErrorAnswer,
    ErrorBody,
    as_json,
    cause_of,
    describe_code,
    encode,
    error_response,
    exception_response,
    public_message,
    request_id_of,
    status_of,
)
from deployments.web.json_text import (
    SMALL_TEXT_BYTES,
    TWICE,
    check_names,
    check_size,
    count_names,
    decode_apart,
    outline,
    without_half_pairs,
)
from deployments.web.openapi import openapi_document, schemas_of
from deployments.web.routes import AuthenticatedApp, ScopedRoute, reject_scope

__all__ = [
    "DOCS_FILES",
    "EXCEPTION_HANDLERS",
    "JSON",
    "READING_ERRORS",
    "RETRYABLE_CODES",
    "SMALL_TEXT_BYTES",
    "TWICE",
    "Answer",
    "AuthenticatedApp",
    "Authenticator",
    "Body",
    "BrowserGuard",
    "Caller",
    "ErrorAnswer",
    "ErrorBody",
    "Json",
    "Key",
    "KeyRefused",
    "Scope",
    "ScopedRoute",
    "actor_of",
    "allows",
    "as_json",
    "caller_of",
    "cause_of",
    "check_names",
    "check_size",
    "count_names",
    "create_key",
    "decode_apart",
    "decode_body",
    "decode_error",
    "describe_code",
    "docs_routes",
    "encode",
    "error_response",
    "exception_response",
    "find_key",
    "header_parameter",
    "list_keys",
    "openapi_document",
    "outline",
    "path_parameter",
    "public_message",
    "query_parameter",
    "read_body",
    "read_json",
    "ref",
    "reject_scope",
    "request_id_of",
    "revoke_key",
    "schemas_of",
    "status_of",
    "without_half_pairs",
]
