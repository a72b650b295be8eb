"""Errors that the caller must act on: what was sent cannot be answered, or not now. HTTP 4xx."""

from __future__ import annotations

from ensemble.errors.root import EnsembleError

__all__ = [
    "BodyTooLarge",
    "EventError",
    "FeatureMismatch",
    "JobQuota",
    "MalformedEvent",
    "MalformedJson",
    "ModelNotLoaded",
    "RateLimited",
    "ReservedName",
    "TooManyEvents",
    "TooManyRows",
    "UnknownJob",
    "UnknownLayer",
    "UnknownModel",
    "UnknownTenant",
    "UnsupportedMediaType",
]


class EventError(EnsembleError):
    """The caller sent something we cannot score; `field` says where."""

    code = "INVALID_EVENT"
    field: str = ""


class MalformedJson(EventError):
    """Not JSON at all, or not UTF-8."""

    code = "MALFORMED_JSON"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class MalformedEvent(EventError):
    """JSON, but no event: a wrong type, an unknown kind."""

    code = "MALFORMED_EVENT"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class FeatureMismatch(EventError):
    """A feature is missing, unknown or not finite; the first one is named."""

    code = "FEATURE_MISMATCH"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class TooManyEvents(EventError):
    """More events than one batch may carry."""

    code = "TOO_MANY_EVENTS"

    def __init__(self, count: int, limit: int, field: str = "events") -> None:
        super().__init__(count, limit, field)
        self.count, self.limit, self.field = count, limit, field

    def __str__(self) -> str:
        return f"{self.field}: {self.count:,} in one batch, the limit is {self.limit:,}"


class BodyTooLarge(EventError):
    """More bytes than one request may carry."""

    code = "BODY_TOO_LARGE"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"the body is larger than {self.limit_bytes:,} bytes"


class RateLimited(EventError):
    """The tenant has asked for more than it may in a second.

    Ask again after the time that the answer names.
    """

    code = "RATE_LIMITED"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"this tenant asks for more than it may; ask again after {self.retry_after_s} s"


class UnsupportedMediaType(EventError):
    """The body says that it is no JSON, or that it is packed; neither is read."""

    code = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self, header: str) -> None:
        super().__init__(header)
        self.header = header

    def __str__(self) -> str:
        return f"{self.header}: this route reads application/json, not packed"


class TooManyRows(EventError):
    """More rows than a table may have that is trained on or rated."""

    code = "TOO_MANY_ROWS"

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(count, limit)
        self.count, self.limit = count, limit
        self.field = "rows"

    def __str__(self) -> str:
        return f"rows: {self.count:,} are given, the limit is {self.limit:,}"


class UnknownJob(EventError):
    """There is no job of that id."""

    code = "UNKNOWN_JOB"

    def __str__(self) -> str:
        return "there is no such job"


class JobQuota(EventError):
    """As many training jobs wait and run as may; ask again when one has ended."""

    code = "JOB_QUOTA"

    def __init__(self, whose: str, limit: int) -> None:
        super().__init__(whose, limit)
        self.whose, self.limit = whose, limit

    def __str__(self) -> str:
        return f"{self.limit:,} training jobs of {self.whose} wait or run, which is as many as may"


class UnknownLayer(EventError):
    """The ensemble has no layer of that name."""

    code = "UNKNOWN_LAYER"

    def __init__(self, known: str) -> None:
        super().__init__(known)
        self.known = known

    def __str__(self) -> str:
        return f"there is no such layer; there are: {self.known}"


class UnknownModel(EventError):
    """The classifier knows no model of that name."""

    code = "UNKNOWN_MODEL"

    def __init__(self, known: str) -> None:
        super().__init__(known)
        self.known, self.field = known, "model_name"

    def __str__(self) -> str:
        return f"model_name: there is no such model; there are: {self.known}"


class ModelNotLoaded(EventError):
    """A model that the classifier knows, and has not got here; the message says why."""

    code = "MODEL_NOT_LOADED"

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason, self.field = model, reason, "model_name"

    def __str__(self) -> str:
        return f"model_name: {self.model} is not loaded: {self.reason}"


class ReservedName(EventError):
    """A word that stands for something else.

    A route of the management application, or a model of a layer.
    """

    code = "RESERVED_NAME"

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field

    def __str__(self) -> str:
        return f"{self.field}: this word stands for something else here; choose another name"


class UnknownTenant(EventError):
    """There is no such tenant, or it is not the one that asks: the tenant comes from the key."""

    code = "UNKNOWN_TENANT"

    def __init__(self) -> None:
        super().__init__()
        self.field = "tenant_id"

    def __str__(self) -> str:
        return "tenant_id: there is no such tenant for this key; leave it out"
