"""The public meaning of every error code: what a client reads in answers, status and OpenAPI.

An error builds its own sentence (`ensemble.errors`). Where that sentence may name a file of the
store, or the error has none, the client reads the meaning of its code from this table instead.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MEANINGS"]

MEANINGS: Mapping[str, str] = {
    # the caller must act
    "INVALID_EVENT": "The event cannot be scored; `field` names the place.",
    "MALFORMED_JSON": "The body is not JSON in UTF-8.",
    "MALFORMED_EVENT": "The request is JSON, but not what this route expects: `field` says where.",
    "FEATURE_MISMATCH": "A feature is missing, unknown or not finite; `field` names the first one.",
    "TOO_MANY_EVENTS": "More events than one batch may have.",
    "BODY_TOO_LARGE": "More bytes than one request may have.",
    "REQUEST_TIMEOUT": "The request came too slowly.",
    "RATE_LIMITED": "The rate limit of the tenant is used up; `Retry-After` says when to retry.",
    "OVERLOADED": "The service cannot score it in time; `Retry-After` says when to retry.",
    "UNSUPPORTED_MEDIA_TYPE": "The headers declare a media type or an encoding that is not read.",
    "TOO_MANY_ROWS": "More rows than one request may have.",
    "UNKNOWN_JOB": "The caller's tenant has no job of this id.",
    "JOB_QUOTA": "The limit of waiting and running training jobs is reached; retry when one ends.",
    "UNKNOWN_LAYER": "The ensemble has no layer of this name.",
    "UNKNOWN_MODEL": "The classifier has no model of this name.",
    "MODEL_NOT_LOADED": "The classifier has not loaded this model; the message gives the reason.",
    "RESERVED_NAME": "The name is reserved: a route of this application, or a model of a layer.",
    "UNKNOWN_TENANT": "There is no such tenant for this key: the key determines the tenant.",
    "UNREADABLE_SOURCE": "An input file breaks off, or is not of its format from some line on.",
    "UNAUTHORIZED": "The request has no API key, or one that is not valid.",
    "FORBIDDEN": "The key lacks the scope that this route needs.",
    "UNKNOWN_HOST": "With authentication off, `Host` must name loopback or a listed host.",
    "FOREIGN_ORIGIN": "A web page that is not listed may not send this request.",
    "NOT_FOUND": "There is no such route.",
    "METHOD_NOT_ALLOWED": "The path takes other methods; `Allow` names them.",
    "TEST_RUNNING": "The layer is being tested now; retry when the test has ended.",
    # the owner of the models must act
    "MODEL_LOAD_ERROR": "A model file cannot be served.",
    "ARTIFACT_MISSING": "The store has no such model, version or release.",
    "ARTIFACT_CORRUPT": "The bytes are not the bytes that were published.",
    "ARTIFACT_UNREADABLE": "The file cannot be read: permission denied, or a failing disk.",
    "ARTIFACT_UNTRUSTED": "The artifact is intact, but not signed by a trusted publisher.",
    "ARTIFACT_INCOMPATIBLE": "The artifact was made for another schema, library version or format.",
    "INSUFFICIENT_MEMORY": "The model does not fit into memory beside the one that serves.",
    "LOAD_TIMEOUT": "The load exceeded its time limit and was abandoned.",
    "VERSION_EXISTS": "Published versions are immutable; publish the next one.",
    "POINTER_MOVED": "Another change came first; read the current state and repeat the request.",
    "ARTIFACT_IN_USE": "A pointer, challenger or alias refers to it, so it is not deleted.",
    "QUOTA_EXCEEDED": "The quota of this tenant is used up; delete some versions first.",
    "SERVED_BY_RELEASE": "A release selects the version of this model; promote a release instead.",
    "NOT_SERVING": "The model rates no rows: no version is promoted, or it is a model of a layer.",
    "TRAINING_ERROR": "The rows do not suffice for the training that was requested.",
    "NOT_REPLAYABLE": "The verdict cannot be computed again: its models are not available here.",
    "JOB_ERROR": "The training job ended for a reason other than its rows.",
    "JOB_TIMEOUT": "The training exceeded its time limit; use fewer rows, or a longer limit.",
    "JOB_CRASHED": "The training process died, or its code raised; nothing was published.",
    "JOB_UNPUBLISHED": "The model was trained, but could not be published; submit the job again.",
    "JOB_LOST": "The application stopped before the job had ended; submit it again.",
    # the operator must act
    "ENSEMBLE_ERROR": "An error of Axon; the log has the details.",
    "INTERNAL_ERROR": "An unexpected error inside Axon; the log has it under the request id.",
    "CONTROLS_NOT_KEPT": "Not written; a hanging disk may write it later: see /v1/layers.",
    "SERVICE_ERROR": "The request is valid, but cannot be done now.",
    "STORE_UNAVAILABLE": "The store does not answer; running work may complete: check, then retry.",
    "STORE_FULL": "The disk of the store is full; nothing was changed. Delete old versions.",
    "SIGNING_REFUSED": "Management has no trusted signing key; run `axon trust init` there.",
    "DEPLOYMENT_UNAVAILABLE": "The deployment that should do it is not running, or not answering.",
    "LAYER_ERROR": "The layer gave no score.",
    "LAYER_TIMEOUT": "It gave no answer within the deadline.",
    "LAYER_OPEN": "Its circuit breaker is open: it failed too often lately and was not called.",
    "LAYER_DISABLED": "An operator disabled it.",
    "LAYER_WARMING_UP": "Its models are being loaded, which takes seconds.",
    "LAYER_OVERLOADED": "Its limit of calls is reached, or it answers others while this is late.",
    "LAYER_CRASHED": "Its process died, or its code raised.",
}
