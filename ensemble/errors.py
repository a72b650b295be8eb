"""Every error that Axon raises, sorted by who must act: caller, publisher, trainer, operator.

    EnsembleError
    |- EventError        the caller must act: HTTP 4xx
    |    MalformedJson, MalformedEvent, FeatureMismatch, TooManyEvents, BodyTooLarge, RateLimited,
    |    UnsupportedMediaType, TooManyRows, UnknownJob, JobQuota, UnknownLayer, UnknownModel,
    |    ModelNotLoaded, ReservedName, UnknownTenant, UnreadableSource
    |- ArtifactError     the publisher must act: the layer falls back
    |    ArtifactMissing, ArtifactCorrupt, ArtifactUnreadable, ArtifactUntrusted,
    |    ArtifactIncompatible, InsufficientMemory, LoadTimeout, VersionExists, PointerMoved,
    |    ArtifactInUse, QuotaExceeded, ServedByRelease, NotServing
    |- TrainingError     the trainer must act: the rows do not suffice
    |- NotReplayable     the investigator must act: a verdict cannot be computed again here
    |- JobError          a training job ended for a reason other than its rows
    |    JobTimeout, JobCrashed, JobUnpublished, JobLost
    |- ServiceError      the operator must act: the request is valid, but cannot be done now
    |    StoreUnavailable, StoreFull, SigningUnavailable, DeploymentUnavailable
    `- LayerError        the operator must act: the layer abstains
         LayerTimeout, LayerOpen, LayerDisabled, LayerWarmingUp, LayerOverloaded, LayerCrashed

An error is its fields (the annotated attributes, in their order), its `code` and a `sentence` with
the fields as placeholders. `code` is stable: clients, logs and the runbook use it as a key;
`deployments.web` has the public meaning of each. No sentence contains a path, a token or the text
of another error.
"""

from __future__ import annotations

from inspect import Parameter, Signature, get_annotations
from typing import ClassVar, dataclass_transform

__all__ = [
    "ArtifactCorrupt", "ArtifactError", "ArtifactInUse", "ArtifactIncompatible", "ArtifactMissing",
    "ArtifactUnreadable", "ArtifactUntrusted", "BodyTooLarge", "DeploymentUnavailable",
    "EnsembleError", "EventError", "FeatureMismatch", "InsufficientMemory", "JobCrashed",
    "JobError", "JobLost", "JobQuota", "JobTimeout", "JobUnpublished", "LayerCrashed",
    "LayerDisabled", "LayerError", "LayerOpen", "LayerOverloaded", "LayerTimeout",
    "LayerWarmingUp", "LoadTimeout", "MalformedEvent", "MalformedJson", "ModelNotLoaded",
    "NotReplayable", "NotServing", "PointerMoved", "QuotaExceeded", "RateLimited", "ReservedName",
    "ServedByRelease", "ServiceError", "SigningUnavailable", "StoreFull", "StoreUnavailable",
    "TooManyEvents", "TooManyRows", "TrainingError", "UnknownJob", "UnknownLayer", "UnknownModel",
    "UnknownTenant", "UnreadableSource", "UnsupportedMediaType", "VersionExists",
]  # fmt: skip


@dataclass_transform(eq_default=False)
class EnsembleError(Exception):
    """Root of all errors of Axon."""

    code = "ENSEMBLE_ERROR"
    cause = ""
    sentence = ""
    __signature__: ClassVar[Signature] = Signature()

    def __init_subclass__(cls, *, code: str = "", cause: str = "") -> None:
        """Make the annotated attributes of a subclass its constructor's parameters."""
        super().__init_subclass__()
        cls.code, cls.cause = code or cls.code, cause or cls.cause  # Ray's own subclass gives none
        kind, none = Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty
        own = [
            Parameter(name, kind, default=vars(cls).get(name, none), annotation=annotation)
            for name, annotation in get_annotations(cls).items()
        ]
        cls.__signature__ = Signature([*cls.__signature__.parameters.values(), *own])

    def __init__(self, *values: object, **named: object) -> None:
        """Set the fields; `args` holds all of them, so that the error survives pickling by Ray."""
        given = self.__signature__.bind(*values, **named)
        given.apply_defaults()
        super().__init__(*given.arguments.values())
        vars(self).update(given.arguments)

    def __str__(self) -> str:
        return self.sentence.format_map(vars(self)).removeprefix(": ")  # where `field` is ""


class EventError(EnsembleError, code="INVALID_EVENT"):
    """The caller sent something that cannot be scored; `field` names the place."""

    field = ""


class MalformedJson(EventError, code="MALFORMED_JSON"):
    """The body is not JSON, or not UTF-8."""

    sentence = "{problem}"
    problem: str


class MalformedEvent(EventError, code="MALFORMED_EVENT"):
    """JSON, but no event: a wrong type, an unknown kind."""

    sentence = "{field}: {problem}"
    field: str
    problem: str


class FeatureMismatch(EventError, code="FEATURE_MISMATCH"):
    """A feature is missing, unknown or not finite; the first one is named."""

    sentence = "{field}: {problem}"
    field: str
    problem: str


class TooManyEvents(EventError, code="TOO_MANY_EVENTS"):
    """More events than one batch may have."""

    sentence = "{field}: {count:,} in one batch, the limit is {limit:,}"
    count: int
    limit: int
    field: str = "events"


class BodyTooLarge(EventError, code="BODY_TOO_LARGE"):
    """More bytes than one request may have."""

    sentence = "the body is larger than {limit_bytes:,} bytes"
    limit_bytes: int


class RateLimited(EventError, code="RATE_LIMITED"):
    """The rate limit of the tenant is used up; retry after the time in the answer."""

    sentence = "the rate limit of this tenant is used up; retry after {retry_after_s} s"
    retry_after_s: int


class UnsupportedMediaType(EventError, code="UNSUPPORTED_MEDIA_TYPE"):
    """The headers declare a body that is not JSON, or is compressed; neither is read."""

    sentence = "{header}: this route reads application/json, not compressed"
    header: str


class TooManyRows(EventError, code="TOO_MANY_ROWS"):
    """More rows than a table for training or scoring may have."""

    sentence = "rows: {count:,} are given, the limit is {limit:,}"
    count: int
    limit: int
    field = "rows"


class UnknownJob(EventError, code="UNKNOWN_JOB"):
    """The caller's tenant has no job of this id."""

    sentence = "there is no such job"


class JobQuota(EventError, code="JOB_QUOTA"):
    """The limit of waiting and running training jobs is reached; retry when one has ended."""

    sentence = "{limit:,} training jobs of {owner} wait or run, which is the limit"
    owner: str
    limit: int


class UnknownLayer(EventError, code="UNKNOWN_LAYER"):
    """The ensemble has no layer of this name."""

    sentence = "there is no such layer; there are: {known}"
    known: str


class UnknownModel(EventError, code="UNKNOWN_MODEL"):
    """The classifier has no model of this name."""

    sentence = "model_name: there is no such model; there are: {known}"
    known: str
    field = "model_name"


class ModelNotLoaded(EventError, code="MODEL_NOT_LOADED"):
    """A model of the classifier that is not loaded here; the message gives the reason."""

    sentence = "model_name: {model} is not loaded: {reason}"
    model: str
    reason: str
    field = "model_name"


class ReservedName(EventError, code="RESERVED_NAME"):
    """A reserved name: a route of the management application, or a model of a layer."""

    sentence = "{field}: this name is reserved; choose another name"
    field: str


class UnknownTenant(EventError, code="UNKNOWN_TENANT"):
    """There is no such tenant, or it is not the caller's: the API key determines the tenant."""

    sentence = "tenant_id: there is no such tenant for this key; leave it out"
    field = "tenant_id"


class UnreadableSource(EventError, code="UNREADABLE_SOURCE"):
    """An input file breaks off, or is not of its format from some line on."""

    sentence = "{problem}"
    problem: str


class ArtifactError(EnsembleError, code="MODEL_LOAD_ERROR", cause="files"):
    """A model file cannot be served; look at `cause` first, e.g. files or dependencies (S1-26)."""


class ArtifactMissing(ArtifactError, code="ARTIFACT_MISSING"):
    """Something the store should hold is not there."""

    sentence = "{what} is not in the store"
    what: str


class ArtifactCorrupt(ArtifactError, code="ARTIFACT_CORRUPT"):
    """The bytes are not the bytes that were published."""

    sentence = "{file}: {problem}"
    file: str
    problem: str


class ArtifactUnreadable(ArtifactError, code="ARTIFACT_UNREADABLE"):
    """The file is present, but cannot be read: permission denied, or a failing disk."""

    sentence = "{file}: {problem}"
    file: str
    problem: str


class ArtifactUntrusted(ArtifactError, code="ARTIFACT_UNTRUSTED", cause="configuration"):
    """The artifact is intact, but not signed by a trusted publisher."""

    sentence = "{what}: {problem}"
    what: str
    problem: str


class ArtifactIncompatible(ArtifactError, code="ARTIFACT_INCOMPATIBLE", cause="dependencies"):
    """The artifact is intact, but made for another schema, library version or format."""

    sentence = "{what}: this Axon needs {expected}, the artifact has {found}"
    what: str
    expected: str
    found: str


class InsufficientMemory(ArtifactError, code="INSUFFICIENT_MEMORY", cause="resources"):
    """The model does not fit into this process beside the one that serves."""

    sentence = (
        "Insufficient memory: the load needs {needed_bytes:,} bytes,"
        " {available_bytes:,} are available"
    )
    needed_bytes: int
    available_bytes: int


class LoadTimeout(ArtifactError, code="LOAD_TIMEOUT", cause="resources"):
    """The load exceeded its time limit and was abandoned; the process continues."""

    sentence = "{what}: not loaded within {limit_s:,} s; the disk may be hanging"
    what: str
    limit_s: float


class VersionExists(ArtifactError, code="VERSION_EXISTS"):
    """Published versions are immutable; publish the next one."""

    sentence = "{what} is already published, and published versions never change"
    what: str


class PointerMoved(ArtifactError, code="POINTER_MOVED"):
    """Another promotion came first; read the pointer again before promoting."""

    sentence = (
        "the pointer stands at serial {actual_serial}, not {expected_serial}:"
        " another promotion came first"
    )
    expected_serial: int
    actual_serial: int


class ArtifactInUse(ArtifactError, code="ARTIFACT_IN_USE", cause="configuration"):
    """A pointer, challenger or alias refers to it, so it is not deleted."""

    sentence = "{what} is not removed: {reason}"
    what: str
    reason: str


class QuotaExceeded(ArtifactError, code="QUOTA_EXCEEDED", cause="configuration"):
    """The quota of this tenant is used up; delete some first."""

    sentence = "{what}: the limit of {limit:,} is reached; delete some, or let `retention` do it"
    what: str
    limit: int


class ServedByRelease(ArtifactError, code="SERVED_BY_RELEASE", cause="configuration"):
    """A model of a layer: its version is selected by a release; promote a release instead."""


class NotServing(ArtifactError, code="NOT_SERVING", cause="configuration"):
    """The model scores no rows: no version is promoted, or it is a model of a layer."""


class TrainingError(EnsembleError, code="TRAINING_ERROR"):
    """The given rows do not suffice for the training that was requested."""

    sentence = "{problem}"
    problem: str


class NotReplayable(EnsembleError, code="NOT_REPLAYABLE"):
    """A recorded verdict cannot be computed again: its models are not recorded, or not here."""

    sentence = "{problem}"
    problem: str


class JobError(EnsembleError, code="JOB_ERROR"):
    """A training job ended for a reason other than its rows."""


class JobTimeout(JobError, code="JOB_TIMEOUT"):
    """The training exceeded its time limit; use fewer rows, or a longer limit."""

    sentence = "not trained within {limit_s:,} s"
    limit_s: float


class JobCrashed(JobError, code="JOB_CRASHED"):
    """The training process died, or its code raised; nothing was published."""

    sentence = "the training ended without a model; the log knows more"


class JobUnpublished(JobError, code="JOB_UNPUBLISHED"):
    """The model was trained, but not published; repair disk or signing key and submit it again."""

    sentence = "it was trained, and could not be published"


class JobLost(JobError, code="JOB_LOST"):
    """The management application stopped while the job waited or ran; submit it again."""

    sentence = "management stopped before the job had ended; submit it again"


class ServiceError(EnsembleError, code="SERVICE_ERROR"):
    """The request is valid, but cannot be done now."""


class StoreUnavailable(ServiceError, code="STORE_UNAVAILABLE"):
    """The store does not answer in time; work that began may complete: check before a retry."""


class StoreFull(ServiceError, code="STORE_FULL"):
    """The disk of the store is full; nothing was changed. Delete versions, or let retention."""


class SigningUnavailable(ServiceError, code="SIGNING_REFUSED"):
    """Management has no signing key, or one that is not trusted; run `axon trust init` there."""


class DeploymentUnavailable(ServiceError, code="DEPLOYMENT_UNAVAILABLE"):
    """The deployment that should do it is not running, or does not answer now."""


class LayerError(EnsembleError, code="LAYER_ERROR"):
    """A layer gave no score; it abstains."""

    sentence = "layer {layer} gave no opinion"
    layer: str


class LayerTimeout(LayerError, code="LAYER_TIMEOUT"):
    """No answer within the deadline."""


class LayerOpen(LayerError, code="LAYER_OPEN"):
    """Its circuit breaker is open: it failed too often lately and was not called."""


class LayerDisabled(LayerError, code="LAYER_DISABLED"):
    """An operator disabled it."""


class LayerWarmingUp(LayerError, code="LAYER_WARMING_UP"):
    """Its models are being loaded, which takes seconds."""


class LayerOverloaded(LayerError, code="LAYER_OVERLOADED"):
    """Its limit of calls in flight is reached, or its own queue is full."""


class LayerCrashed(LayerError, code="LAYER_CRASHED"):
    """The process of the layer died, or its code raised."""
