"""Errors that the publisher must act on.

A model file cannot be served, and its layer falls back.
"""

from __future__ import annotations

from ensemble.errors.root import EnsembleError

__all__ = [
    "ArtifactCorrupt",
    "ArtifactError",
    "ArtifactInUse",
    "ArtifactIncompatible",
    "ArtifactMissing",
    "ArtifactUnreadable",
    "ArtifactUntrusted",
    "InsufficientMemory",
    "LoadTimeout",
    "NotServing",
    "PointerMoved",
    "QuotaExceeded",
    "ServedByRelease",
    "VersionExists",
]


class ArtifactError(EnsembleError):
    """A model file cannot be served.

    `cause` says where to look first: files, resources, dependencies or configuration (S1-26).
    """

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


class ServedByRelease(ArtifactError):
    """A model of a layer.

    Which version serves is said by a release, with the fusion that was fitted to it; promote a
    release.
    """

    code = "SERVED_BY_RELEASE"
    cause = "configuration"


class NotServing(ArtifactError):
    """It is there and rates no rows.

    No version of it is promoted, or it is a model of a layer, which rates events at /v1/score.
    """

    code = "NOT_SERVING"
    cause = "configuration"
