"""Every error that Axon raises, by the party that must act: caller, publisher, trainer, operator.

    EnsembleError
    |- EventError        the caller must act: HTTP 4xx, or 503 where only time helps
    |    MalformedJson, MalformedEvent, FeatureMismatch, TooManyEvents, BodyTooLarge, RateLimited,
    |    Overloaded, UnsupportedMediaType, TooManyRows, UnknownJob, JobQuota, UnknownLayer,
    |    UnknownModel, ModelNotLoaded, ReservedName, UnknownTenant, UnreadableSource,
    |    RequestTimeout
    |- ArtifactError     the publisher must act: the layer falls back
    |    ArtifactMissing, ArtifactCorrupt, ArtifactUnreadable, ArtifactUntrusted,
    |    ArtifactIncompatible, InsufficientMemory, LoadTimeout, VersionExists, PointerMoved,
    |    ArtifactInUse, QuotaExceeded, ServedByRelease, NotServing
    |- TrainingError     the trainer must act: the rows do not suffice
    |- NotReplayable     the investigator must act: a verdict cannot be recomputed here
    |- JobError          a training job ended: JobTimeout, JobCrashed, JobUnpublished, JobLost
    |- ServiceError      the operator must act: the request is valid, but cannot be done now
    |    StoreUnavailable, StoreFull, SigningUnavailable, DeploymentUnavailable
    `- LayerError        the operator must act: the layer abstains
         LayerTimeout, LayerOpen, LayerDisabled, LayerWarmingUp, LayerOverloaded, LayerCrashed

A `code` never changes. A `sentence` has no path, no token and no text of another error.
"""

from __future__ import annotations

from ensemble.fielded_error import FieldedError

__all__ = [
    "ArtifactCorrupt", "ArtifactError", "ArtifactInUse", "ArtifactIncompatible", "ArtifactMissing",
    "ArtifactUnreadable", "ArtifactUntrusted", "BodyTooLarge", "DeploymentUnavailable",
    "EnsembleError", "EventError", "FeatureMismatch", "InsufficientMemory", "JobCrashed",
    "JobError", "JobLost", "JobQuota", "JobTimeout", "JobUnpublished", "LayerCrashed",
    "LayerDisabled", "LayerError", "LayerOpen", "LayerOverloaded", "LayerTimeout", "LayerWarmingUp",
    "LoadTimeout", "MalformedEvent", "MalformedJson", "ModelNotLoaded", "NotReplayable",
    "NotServing", "Overloaded", "PointerMoved", "QuotaExceeded", "RateLimited", "RequestTimeout",
    "ReservedName",
    "ServedByRelease", "ServiceError", "SigningUnavailable", "StoreFull", "StoreUnavailable",
    "TooManyEvents", "TooManyRows", "TrainingError", "UnknownJob", "UnknownLayer", "UnknownModel",
    "UnknownTenant", "UnreadableSource", "UnsupportedMediaType", "VersionExists",
]  # fmt: skip


class EnsembleError(FieldedError, code="ENSEMBLE_ERROR"):
    """Root of all errors that Axon raises."""


class EventError(EnsembleError, code="INVALID_EVENT"):
    """The request of the caller is invalid; `field` names the invalid part."""

    field = ""


class MalformedJson(EventError, code="MALFORMED_JSON"):
    """The body is not JSON, or not UTF-8."""

    sentence = "{problem}"
    problem: str


class MalformedEvent(EventError, code="MALFORMED_EVENT"):
    """The body is JSON, but not an event: a wrong type or an unknown kind."""

    sentence = "{field}: {problem}"
    field: str
    problem: str


class FeatureMismatch(EventError, code="FEATURE_MISMATCH"):
    """A feature is missing, unknown or not finite; `field` names the first one."""

    sentence = "{field}: {problem}"
    field: str
    problem: str


class TooManyEvents(EventError, code="TOO_MANY_EVENTS"):
    """The batch has more events than the limit."""

    sentence = "{field}: {count:,} in one batch, the limit is {limit:,}"
    count: int
    limit: int
    field: str = "events"


class BodyTooLarge(EventError, code="BODY_TOO_LARGE"):
    """The body has more bytes than the limit."""

    sentence = "the body is larger than {limit_bytes:,} bytes"
    limit_bytes: int


class RequestTimeout(EventError, code="REQUEST_TIMEOUT"):
    """The body comes slower than the least pace."""

    sentence = "the request came too slowly"


class RateLimited(EventError, code="RATE_LIMITED"):
    """The tenant is above its rate limit; the response says when to retry."""

    sentence = "the rate limit of this tenant is used up; retry after {retry_after_s} s"
    retry_after_s: int


class Overloaded(EventError, code="OVERLOADED"):
    """The service cannot score the request in time; the response says when to retry."""

    sentence = "the service has more work than it can do in time; retry after {retry_after_s} s"
    retry_after_s: int


class UnsupportedMediaType(EventError, code="UNSUPPORTED_MEDIA_TYPE"):
    """The headers declare a body that is not JSON, or that is compressed; it is not read."""

    sentence = "{header}: this route reads application/json, not compressed"
    header: str


class TooManyRows(EventError, code="TOO_MANY_ROWS"):
    """The table for training or scoring has more rows than the limit."""

    sentence = "rows: {count:,} are given, the limit is {limit:,}"
    count: int
    limit: int
    field = "rows"


class UnknownJob(EventError, code="UNKNOWN_JOB"):
    """The tenant of the caller has no job with this id."""

    sentence = "there is no such job"


class JobQuota(EventError, code="JOB_QUOTA"):
    """The limit of waiting and running training jobs is reached; retry after one has ended."""

    sentence = "{limit:,} training jobs of {owner} wait or run, which is the limit"
    owner: str
    limit: int


class UnknownLayer(EventError, code="UNKNOWN_LAYER"):
    """The ensemble has no layer with this name."""

    sentence = "there is no such layer; there are: {known}"
    known: str


class UnknownModel(EventError, code="UNKNOWN_MODEL"):
    """The classifier has no model with this name."""

    sentence = "model_name: there is no such model; there are: {known}"
    known: str
    field = "model_name"


class ModelNotLoaded(EventError, code="MODEL_NOT_LOADED"):
    """A model of the classifier is not loaded here; the message gives the reason."""

    sentence = "model_name: {model} is not loaded: {reason}"
    model: str
    reason: str
    field = "model_name"


class ReservedName(EventError, code="RESERVED_NAME"):
    """The name is reserved: for a route of the management application or a model of a layer."""

    sentence = "{field}: this name is reserved; choose another name"
    field: str


class UnknownTenant(EventError, code="UNKNOWN_TENANT"):
    """The tenant does not exist, or the API key of the caller is for another tenant."""

    sentence = "tenant_id: there is no such tenant for this key; leave it out"
    field = "tenant_id"


class UnreadableSource(EventError, code="UNREADABLE_SOURCE"):
    """An input file breaks off, or is not of its format from some line on."""

    sentence = "{problem}"
    problem: str


class ArtifactError(EnsembleError, code="MODEL_LOAD_ERROR", cause="files"):
    """A model file cannot be served; look at `cause` first, e.g. files or dependencies (S1-26)."""


class ArtifactMissing(ArtifactError, code="ARTIFACT_MISSING"):
    """A pointer, release, model or file is not in the store."""

    sentence = "{what} is not in the store"
    what: str


class ArtifactCorrupt(ArtifactError, code="ARTIFACT_CORRUPT"):
    """The bytes differ from those that were published."""

    sentence = "{file}: {problem}"
    file: str
    problem: str


class ArtifactUnreadable(ArtifactError, code="ARTIFACT_UNREADABLE"):
    """The file exists, but cannot be read: permission denied, or a failing disk."""

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
    """The model does not fit into memory beside the one that serves."""

    sentence = "Insufficient memory: {needed_bytes:,} bytes are needed, {available_bytes:,} free"
    needed_bytes: int
    available_bytes: int


class LoadTimeout(ArtifactError, code="LOAD_TIMEOUT", cause="resources"):
    """The load exceeded its time limit and was abandoned; the process goes on."""

    sentence = "{what}: not loaded within {limit_s:,} s; the disk may be hanging"
    what: str
    limit_s: float


class VersionExists(ArtifactError, code="VERSION_EXISTS"):
    """The version is already published, and published versions are immutable."""

    sentence = "{what} is already published, and published versions never change"
    what: str


class PointerMoved(ArtifactError, code="POINTER_MOVED"):
    """Another promotion changed the pointer; read it again before promoting."""

    sentence = (
        "the pointer stands at serial {actual_serial}, not {expected_serial}:"
        " another promotion came first"
    )
    expected_serial: int
    actual_serial: int


class ArtifactInUse(ArtifactError, code="ARTIFACT_IN_USE", cause="configuration"):
    """A pointer, challenger or alias refers to the artifact, so it is not deleted."""

    sentence = "{what} is not removed: {reason}"
    what: str
    reason: str


class QuotaExceeded(ArtifactError, code="QUOTA_EXCEEDED", cause="configuration"):
    """A quota of the tenant is used up; delete releases or versions first."""

    sentence = "{what}: the limit of {limit:,} is reached; delete some, or let `retention` do it"
    what: str
    limit: int


class ServedByRelease(ArtifactError, code="SERVED_BY_RELEASE", cause="configuration"):
    """The model belongs to a layer, so a release selects its version; promote a release instead."""


class NotServing(ArtifactError, code="NOT_SERVING", cause="configuration"):
    """The model scores no rows: no version is promoted, or it is a model of a layer."""


class TrainingError(EnsembleError, code="TRAINING_ERROR"):
    """The rows do not suffice for the requested training."""

    sentence = "{problem}"
    problem: str


class NotReplayable(EnsembleError, code="NOT_REPLAYABLE"):
    """A verdict cannot be recomputed: its models are not recorded, or not in this store."""

    sentence = "{problem}"
    problem: str


class JobError(EnsembleError, code="JOB_ERROR"):
    """A training job ended for a reason other than its rows."""


class JobTimeout(JobError, code="JOB_TIMEOUT"):
    """The training exceeded its time limit; use fewer rows, or a longer limit."""

    sentence = "not trained within {limit_s:,} s"
    limit_s: float


class JobCrashed(JobError, code="JOB_CRASHED"):
    """The training process died or raised an error; nothing was published."""

    sentence = "the training ended without a model; the log knows more"


class JobUnpublished(JobError, code="JOB_UNPUBLISHED"):
    """The model was trained but not published; repair the disk or the signing key, and resubmit."""

    sentence = "it was trained, and could not be published"


class JobLost(JobError, code="JOB_LOST"):
    """The management application stopped while the job waited or ran; resubmit it."""

    sentence = "management stopped before the job had ended; submit it again"


class ServiceError(EnsembleError, code="SERVICE_ERROR"):
    """The request is valid, but cannot be done now."""


class StoreUnavailable(ServiceError, code="STORE_UNAVAILABLE"):
    """The store did not respond in time; work that began may complete, so check before a retry."""


class StoreFull(ServiceError, code="STORE_FULL"):
    """The disk of the store is full; nothing was changed. Delete versions, or apply retention."""


class SigningUnavailable(ServiceError, code="SIGNING_REFUSED"):
    """Management has no trusted signing key; run `axon trust init` on its machine."""


class DeploymentUnavailable(ServiceError, code="DEPLOYMENT_UNAVAILABLE"):
    """A deployment that the request needs is not running, or does not respond now."""


class LayerError(EnsembleError, code="LAYER_ERROR"):
    """A layer gave no score, so it abstains."""

    sentence = "layer {layer} gave no opinion"
    layer: str


class LayerTimeout(LayerError, code="LAYER_TIMEOUT"):
    """The layer did not respond within the deadline."""


class LayerOpen(LayerError, code="LAYER_OPEN"):
    """The circuit breaker of the layer is open after repeated failures; it was not called."""


class LayerDisabled(LayerError, code="LAYER_DISABLED"):
    """An operator disabled the layer."""


class LayerWarmingUp(LayerError, code="LAYER_WARMING_UP"):
    """The models of the layer are being loaded, which takes seconds."""


class LayerOverloaded(LayerError, code="LAYER_OVERLOADED"):
    """The layer has reached its limit of calls, or replies to others while this call is late."""


class LayerCrashed(LayerError, code="LAYER_CRASHED"):
    """The process of the layer died, or its code raised an error."""
