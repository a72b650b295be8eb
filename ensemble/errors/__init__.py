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
    |  |- TooManyRows           more rows than a table may have
    |  |- UnknownJob            a job that the caller's tenant does not have
    |  |- JobQuota              as many training jobs as may wait and run
    |  |- UnknownLayer          a layer that this ensemble does not have
    |  |- UnknownModel          a model name that the classifier does not know
    |  |- ReservedName          a word that is a route or a layer's model, and no name for one's own
    |  |- UnknownTenant         a tenant that is not the caller's, or is none
    |  `- ModelNotLoaded        a model that it knows, and has not got
    |- ArtifactError          the publisher's: the layer falls back
    |  |- ArtifactMissing       a pointer, manifest or file is not there
    |  |- ArtifactCorrupt       the bytes are not the bytes that were published
    |  |- ArtifactUnreadable    it is there, but the system will not give it: permission, a
      failing disk
    |  |- ArtifactUntrusted     whole, but nobody we trust vouches for it
    |  |- ArtifactIncompatible  whole, and made for another schema, library or format
    |  |- InsufficientMemory    it would not fit into this process
    |  |- LoadTimeout           it did not come within its time: a hanging disk
    |  |- VersionExists         published versions are immutable
    |  |- PointerMoved          another promotion came first
    |  |- ServedByRelease       a layer's model, whose version a release says
    |  |- NotServing            no version of it rates rows
    |  |- ArtifactInUse         something that serves needs it, so it is not removed
    |  `- QuotaExceeded         as many as this tenant may have
    |- TrainingError          the trainer's: the rows cannot teach what was asked
    |- NotReplayable          the investigator's: an old verdict cannot be made once more here
    |- JobError               a training job's end that its rows are not to blame for
    |  |- JobTimeout            it took longer than a job may
    |  |- JobUnpublished        it was trained, and could not be published
    |  |- JobCrashed            its process died, or its code raised
    |  `- JobLost               management stopped while it ran
    |- ServiceError           the operator's: what was asked is well, and cannot be done now
    |  |- StoreUnavailable      the store does not answer in time, or not at all
    |  |- StoreFull             the disk is full
    |  |- SigningUnavailable    there is no key to sign with
    |  `- DeploymentUnavailable those who should do it are not running
    `- LayerError             the operator's: the layer abstains
       |- LayerTimeout          no answer within the deadline
       |- LayerOpen             its breaker is open: it was not asked
       |- LayerDisabled         an operator switched it off: it was not asked
       |- LayerWarmingUp        its models are being loaded
       |- LayerOverloaded       as many calls as it may have are out: it was not asked
       `- LayerCrashed          the layer's process died or raised

An error carries its fields, builds its own sentence, and survives pickling: every field goes
through `super().__init__`.
`code` is stable: clients, logs and the runbook key on it. No message carries a path, a token or
another error's text.
"""

from __future__ import annotations

from ensemble.errors.artifacts import (
    ArtifactCorrupt,
    ArtifactError,
    ArtifactIncompatible,
    ArtifactInUse,
    ArtifactMissing,
    ArtifactUnreadable,
    ArtifactUntrusted,
    InsufficientMemory,
    LoadTimeout,
    NotServing,
    PointerMoved,
    QuotaExceeded,
    ServedByRelease,
    VersionExists,
)
from ensemble.errors.callers import (
    BodyTooLarge,
    EventError,
    FeatureMismatch,
    JobQuota,
    MalformedEvent,
    MalformedJson,
    ModelNotLoaded,
    RateLimited,
    ReservedName,
    TooManyEvents,
    TooManyRows,
    UnknownJob,
    UnknownLayer,
    UnknownModel,
    UnknownTenant,
    UnsupportedMediaType,
)
from ensemble.errors.root import EnsembleError
from ensemble.errors.service import (
    DeploymentUnavailable,
    ServiceError,
    SigningUnavailable,
    StoreFull,
    StoreUnavailable,
)
from ensemble.errors.work import (
    JobCrashed,
    JobError,
    JobLost,
    JobTimeout,
    JobUnpublished,
    LayerCrashed,
    LayerDisabled,
    LayerError,
    LayerOpen,
    LayerOverloaded,
    LayerTimeout,
    LayerWarmingUp,
    NotReplayable,
    TrainingError,
)

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactInUse",
    "ArtifactIncompatible",
    "ArtifactMissing",
    "ArtifactUnreadable",
    "ArtifactUntrusted",
    "BodyTooLarge",
    "DeploymentUnavailable",
    "EnsembleError",
    "EventError",
    "FeatureMismatch",
    "InsufficientMemory",
    "JobCrashed",
    "JobError",
    "JobLost",
    "JobQuota",
    "JobTimeout",
    "JobUnpublished",
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
    "NotServing",
    "PointerMoved",
    "QuotaExceeded",
    "RateLimited",
    "ReservedName",
    "ServedByRelease",
    "ServiceError",
    "SigningUnavailable",
    "StoreFull",
    "StoreUnavailable",
    "TooManyEvents",
    "TooManyRows",
    "TrainingError",
    "UnknownJob",
    "UnknownLayer",
    "UnknownModel",
    "UnknownTenant",
    "UnsupportedMediaType",
    "VersionExists",
]
