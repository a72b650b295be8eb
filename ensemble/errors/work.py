"""Errors of work that nobody sent wrong.

Training, jobs, replaying, and layers that do not answer.
"""

from __future__ import annotations

from ensemble.errors.root import EnsembleError

__all__ = [
    "JobCrashed",
    "JobError",
    "JobLost",
    "JobTimeout",
    "JobUnpublished",
    "LayerCrashed",
    "LayerDisabled",
    "LayerError",
    "LayerOpen",
    "LayerOverloaded",
    "LayerTimeout",
    "LayerWarmingUp",
    "NotReplayable",
    "TrainingError",
]


class TrainingError(EnsembleError):
    """The rows given cannot teach what was asked."""

    code = "TRAINING_ERROR"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class NotReplayable(EnsembleError):
    """An old verdict cannot be made once more.

    It does not say by what it was made, or that is not here.
    """

    code = "NOT_REPLAYABLE"

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class JobError(EnsembleError):
    """A training job ended, and its rows are not to blame."""

    code = "JOB_ERROR"


class JobTimeout(JobError):
    """The training took longer than a job may; fewer rows, or a longer limit."""

    code = "JOB_TIMEOUT"

    def __init__(self, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s

    def __str__(self) -> str:
        return f"not trained within {self.limit_s:,} s"


class JobCrashed(JobError):
    """The process that trained died, or its code raised; nothing was published."""

    code = "JOB_CRASHED"

    def __str__(self) -> str:
        return "the training ended without a model; the log knows more"


class JobUnpublished(JobError):
    """It was trained, and could not be published.

    The disk, or the signing key of management. Submit it again when that is mended.
    """

    code = "JOB_UNPUBLISHED"

    def __str__(self) -> str:
        return "it was trained, and could not be published"


class JobLost(JobError):
    """Management stopped while the job waited or ran; submit it again."""

    code = "JOB_LOST"

    def __str__(self) -> str:
        return "management stopped before the job had ended; submit it again"


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
