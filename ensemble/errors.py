"""Every error that Axon raises, by who must act.

    EnsembleError
    |- EventError             the caller's: HTTP 4xx
    |  |- MalformedJson         not JSON at all
    |  |- MalformedEvent        JSON, but no event: a wrong type, an unknown kind
    |  |- FeatureMismatch       features missing, extra, or not finite; named
    |  |- TooManyEvents         more events than one batch may carry
    |  |- BodyTooLarge          more bytes than one request may carry
    |  |- RateLimited           more than the tenant may ask for in a second
    |  |- UnsupportedMediaType  a body that says it is no JSON, or is packed
    |  |- UnknownLayer          a layer that this ensemble does not have
    |  |- UnknownModel          a model name that the classifier does not know
    |  `- ModelNotLoaded        a model that it knows, and has not got
    |- ArtifactError          the publisher's: the layer falls back
    |  |- ArtifactMissing       a pointer, manifest or file is not there
    |  |- ArtifactCorrupt       the bytes are not the bytes that were published
    |  |- ArtifactUnreadable    it is there, but the system will not give it: permission, a failing disk
    |  |- ArtifactUntrusted     whole, but nobody we trust vouches for it
    |  |- ArtifactIncompatible  whole, and made for another schema, library or format
    |  |- InsufficientMemory    it would not fit into this process
    |  |- LoadTimeout           it did not come within its time: a hanging disk
    |  |- VersionExists         published versions are immutable
    |  |- PointerMoved          another promotion came first
    |  |- ArtifactInUse         something that serves needs it, so it is not removed
    |  `- QuotaExceeded         as many as this tenant may have
    |- TrainingError          the trainer's: the rows cannot teach what was asked
    |- NotReplayable          the investigator's: an old verdict cannot be made once more here
    `- LayerError             the operator's: the layer abstains
       |- LayerTimeout          no answer within the deadline
       |- LayerOpen             its breaker is open: it was not asked
       |- LayerDisabled         an operator switched it off: it was not asked
       |- LayerWarmingUp        its models are being loaded
       |- LayerOverloaded       as many calls as it may have are out: it was not asked
       `- LayerCrashed          the layer's process died or raised

An error carries its fields, builds its own sentence, and survives pickling: every field goes through `super().__init__`.
`code` is stable: clients, logs and the runbook key on it. No message carries a path, a token or another error's text.
"""

from __future__ import annotations

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactInUse",
    "ArtifactIncompatible",
    "ArtifactMissing",
    "ArtifactUnreadable",
    "ArtifactUntrusted",
    "BodyTooLarge",
    "EnsembleError",
    "EventError",
    "FeatureMismatch",
    "InsufficientMemory",
    "LayerCrashed",
    "LayerDisabled",
    "LayerError",
    "LayerOpen",
    "LayerOverloaded",
    "LayerTimeout",
    "LayerWarmingUp",
    "LoadTimeout",
    "MalformedEvent",
    "MalformedJson",
    "ModelNotLoaded",
    "NotReplayable",
    "PointerMoved",
    "QuotaExceeded",
    "RateLimited",
    "TooManyEvents",
    "TrainingError",
    "UnknownLayer",
    "UnknownModel",
    "UnsupportedMediaType",
    "VersionExists",
]


class EnsembleError(Exception):
    """Root of everything we raise."""

    code = "ENSEMBLE_ERROR"


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
    """The tenant has asked for more than it may in a second; ask again after the time that the answer names."""

    code = "RATE_LIMITED"

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"this tenant asks for more than it may; ask again after {self.retry_after_s:.0f} s"


class UnsupportedMediaType(EventError):
    """The body says that it is no JSON, or that it is packed; neither is read."""

    code = "UNSUPPORTED_MEDIA_TYPE"

    def __init__(self, header: str) -> None:
        super().__init__(header)
        self.header = header

    def __str__(self) -> str:
        return f"{self.header}: this route reads application/json, not packed"


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


class ArtifactError(EnsembleError):
    """A model file cannot be served; `cause` says where to look first: files, resources, dependencies or configuration (S1-26)."""

    code = "MODEL_LOAD_ERROR"
    cause = "files"


class ArtifactMissing(ArtifactError):
    """Something the store should hold is not there."""

    code = "ARTIFACT_MISSING"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is not in the store"


class ArtifactCorrupt(ArtifactError):
    """The bytes are not the bytes that were published."""

    code = "ARTIFACT_CORRUPT"

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class ArtifactUnreadable(ArtifactError):
    """It is there, but the system will not give it: permission denied, or a failing disk."""

    code = "ARTIFACT_UNREADABLE"

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class ArtifactUntrusted(ArtifactError):
    """Whole, but vouched for by nobody we trust."""

    code = "ARTIFACT_UNTRUSTED"
    cause = "configuration"

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what, self.problem = what, problem

    def __str__(self) -> str:
        return f"{self.what}: {self.problem}"


class ArtifactIncompatible(ArtifactError):
    """Whole, and made for something else: another schema, library version or format."""

    code = "ARTIFACT_INCOMPATIBLE"
    cause = "dependencies"

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(what, expected, found)
        self.what, self.expected, self.found = what, expected, found

    def __str__(self) -> str:
        return f"{self.what}: this Axon needs {self.expected}, the artifact has {self.found}"


class InsufficientMemory(ArtifactError):
    """The model would not fit into this process beside the one that serves."""

    code = "INSUFFICIENT_MEMORY"
    cause = "resources"

    def __init__(self, needed_bytes: int, available_bytes: int) -> None:
        super().__init__(needed_bytes, available_bytes)
        self.needed_bytes, self.available_bytes = needed_bytes, available_bytes

    def __str__(self) -> str:
        return f"Insufficient memory: the load needs {self.needed_bytes:,} bytes, {self.available_bytes:,} are available"


class LoadTimeout(ArtifactError):
    """The load did not end within its time; it was given up, not the process."""

    code = "LOAD_TIMEOUT"
    cause = "resources"

    def __init__(self, what: str, limit_s: float) -> None:
        super().__init__(what, limit_s)
        self.what, self.limit_s = what, limit_s

    def __str__(self) -> str:
        return f"{self.what}: not loaded within {self.limit_s:,} s; the disk may be hanging"


class VersionExists(ArtifactError):
    """Published versions are immutable; publish the next one."""

    code = "VERSION_EXISTS"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} is already published, and published versions never change"


class PointerMoved(ArtifactError):
    """Another promotion came first: look again before promoting."""

    code = "POINTER_MOVED"

    def __init__(self, expected_serial: int, actual_serial: int) -> None:
        super().__init__(expected_serial, actual_serial)
        self.expected_serial, self.actual_serial = expected_serial, actual_serial

    def __str__(self) -> str:
        return f"the pointer stands at serial {self.actual_serial}, not {self.expected_serial}: another promotion came first"


class ArtifactInUse(ArtifactError):
    """Something that serves needs it, so it is not removed."""

    code = "ARTIFACT_IN_USE"
    cause = "configuration"

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what, self.why = what, why

    def __str__(self) -> str:
        return f"{self.what} is not removed: {self.why}"


class QuotaExceeded(ArtifactError):
    """As many as this tenant may have; delete some first."""

    code = "QUOTA_EXCEEDED"
    cause = "configuration"

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what, limit)
        self.what, self.limit = what, limit

    def __str__(self) -> str:
        return f"{self.what}: {self.limit:,} are there, which is as many as may be; delete some, or let `retention` do it"


class TrainingError(EnsembleError):
    """The rows given cannot teach what was asked."""

    code = "TRAINING_ERROR"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class NotReplayable(EnsembleError):
    """An old verdict cannot be made once more: it does not say by what it was made, or that is not here."""

    code = "NOT_REPLAYABLE"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class LayerError(EnsembleError):
    """A layer could not give its opinion; it abstains."""

    code = "LAYER_ERROR"

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer

    def __str__(self) -> str:
        return f"layer {self.layer} gave no opinion"


class LayerTimeout(LayerError):
    """No answer within the deadline."""

    code = "LAYER_TIMEOUT"


class LayerOpen(LayerError):
    """Its breaker is open: it failed too often lately and was not asked."""

    code = "LAYER_OPEN"


class LayerDisabled(LayerError):
    """An operator switched it off."""

    code = "LAYER_DISABLED"


class LayerWarmingUp(LayerError):
    """Its models are being loaded; seconds."""

    code = "LAYER_WARMING_UP"


class LayerOverloaded(LayerError):
    """It has as many calls as it may have, or its own queue is full."""

    code = "LAYER_OVERLOADED"


class LayerCrashed(LayerError):
    """The layer's process died, or its code raised."""

    code = "LAYER_CRASHED"
