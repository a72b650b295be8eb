"""HTTP for both applications: authentication, rate limits, errors, bodies and OpenAPI.

Nothing here loads Ray. `deployments.management` has no such face: its deployments need Ray, so
`deployments.app` imports them by file.
"""

from deployments.web import openapi
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
    AuthenticatedApp,
    Authenticator,
    Caller,
    GateKeeper,
    ScopedRoute,
    allows,
    caller_of,
    client_of,
)
from deployments.web.body import decode_body, read_body, read_json
from deployments.web.decode_errors import check_size, count_pairs, decode_error
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

__all__ = [
    "DOCS_FILES",
    "EXCEPTION_HANDLERS",
    "JSON",
    "RETRYABLE_CODES",
    "AuthenticatedApp",
    "Authenticator",
    "Caller",
    "ErrorAnswer",
    "ErrorBody",
    "GateKeeper",
    "Key",
    "KeyRefused",
    "Scope",
    "ScopedRoute",
    "allows",
    "as_json",
    "caller_of",
    "cause_of",
    "check_size",
    "client_of",
    "count_pairs",
    "create_key",
    "decode_body",
    "decode_error",
    "describe_code",
    "docs_routes",
    "encode",
    "error_response",
    "exception_response",
    "find_key",
    "list_keys",
    "openapi",
    "public_message",
    "read_body",
    "read_json",
    "request_id_of",
    "revoke_key",
    "status_of",
]
