"""The response bodies of the management application, as types.

The encoder and the OpenAPI document are made of them. A response names every field that it has.
Times are UTC, `2026-11-20T08:15:00Z`; sizes are of the files of a version, without its manifest.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, convert

from ensemble.store import AuditEntry, BundleInfo

__all__ = [
    "AliasMoved",
    "AuditLog",
    "AuditedAction",
    "ChallengerRelease",
    "Deleted",
    "Entry",
    "ImportedModels",
    "Limits",
    "ModelInfo",
    "ModelList",
    "ModelSummary",
    "ModelVersions",
    "PointerState",
    "ReleaseList",
    "ReleaseSummary",
    "Retained",
    "StoredFile",
    "audited",
    "info_of",
    "summary_of",
]


class Limits(Struct):
    """What one request may carry.

    Attributes:
        max_batch_size: events or rows that are rated in one request.
        max_rows: rows that are trained on.
        max_body_bytes: of a body.
    """

    max_batch_size: int
    max_rows: int
    max_body_bytes: int


class ModelSummary(Struct):
    """One version of a model.

    Attributes:
        tenant_id: whose it is.
        version: its number; versions are counted.
        label: what its publisher calls it.
        type: class or kind of the model, as its publisher responses.
        path: from the store's root.
        aliases: words that stand for it: champion, challenger.
        in_use: something needs it, so it is not deleted.
        shared: it is another tenant's, who lends it.
        problem: what is wrong with it, as a code; left empty where nothing is known.
    """

    name: str
    tenant_id: str
    version: int
    label: str
    created_at: str
    type: str
    size_mb: float
    path: str
    aliases: list[str]
    in_use: bool
    shared: bool
    problem: str


class ModelList(Struct):
    """The models that the caller's tenant has or is lent, the newest first."""

    tenant_id: str
    models: list[ModelSummary]
    limits: Limits


class ModelVersions(Struct):
    """The versions of one model, the newest first."""

    model_name: str
    versions: list[ModelSummary]


class StoredFile(Struct):
    """A file of a version."""

    name: str
    size_bytes: int
    sha256: str


class ModelInfo(Struct):
    """All that is known of one version.

    Attributes:
        tenant_id: whose it is.
        file_hash: SHA-256 of its manifest, which holds those of its files.
        libraries: library -> version that made it.
        model_params: what it was made with.
        user_metadata: what its trainer wanted to be remembered.
        training_data_hash: SHA-256 of what it was trained on, as its recipe counts it.
        training: all that its recipe remembered.
        last_modified: by the disk.
        path: from the store's root.
        why_in_use: in words; left empty where it is not.
        problem: what is wrong with it, as a code; left empty where nothing is known.
    """

    model_name: str
    tenant_id: str
    version: int
    label: str
    created_at: str
    model_type: str
    model_module: str
    file_hash: str
    files: list[StoredFile]
    libraries: dict[str, str]
    model_params: dict[str, Any]
    user_metadata: dict[str, Any]
    feature_names: list[str]
    feature_schema: str
    training_data_hash: str
    training: dict[str, Any]
    origin: dict[str, Any]
    size_bytes: int
    size_mb: float
    last_modified: str
    path: str
    aliases: list[str]
    in_use: bool
    why_in_use: str
    is_shipped: bool
    shared: bool
    problem: str


class AliasMoved(Struct):
    """What a word names now.

    Attributes:
        version: left null where it names nothing.
        sha256: of the manifest.
        serial: of the alias itself; every change has a higher one.
    """

    model_name: str
    alias: str
    version: int | None
    sha256: str
    serial: int


class Deleted(Struct):
    """What is gone, for good: the number never means anything else."""

    model_name: str
    version: int


class Entry(Struct):
    """A version of a model that retention took."""

    model_name: str
    version: int


class Retained(Struct):
    """What retention deleted."""

    keep: int
    releases: list[int]
    models: list[Entry]


class ImportedModels(Struct):
    """What came out of the file; nothing is promoted.

    Attributes:
        release: that names them, where the file held one.
        origin: whose it was, and what.
    """

    models: list[Entry]
    release: int | None
    origin: str


class ReleaseSummary(Struct):
    """One release.

    Attributes:
        in_use: it is the one that serves.
        is_challenger: it is tried in shadow.
        problem: what is wrong with it, as a code; left empty where nothing is known.
    """

    release: int
    sha256: str
    created_at: str
    notes: str
    is_shipped: bool
    in_use: bool
    is_challenger: bool
    problem: str


class ReleaseList(Struct):
    """The releases of the caller's tenant, the newest first.

    Attributes:
        tenant_id: whose they are.
        serving_tenant: on whose release it lives: its own, its group's or the generic one.
        release: in use; null where it has none of its own.
        pointer_serial: of the pointer to it; every promotion has a higher one. 0 where there is
            none, or none that can be read.
        previous: releases to fall back to, the last one first.
        problem: what is wrong with the pointer, as a code; left empty where nothing is.
        challenger_problem: what is wrong with the challenger's alias, likewise.
    """

    tenant_id: str
    serving_tenant: str
    release: int | None
    pointer_serial: int
    previous: list[int]
    challenger: int | None
    problem: str
    challenger_problem: str
    releases: list[ReleaseSummary]


class PointerState(Struct):
    """Which release is in use now; replicas follow within seconds.

    Attributes:
        release: its number.
        sha256: of its bytes.
        pointer_serial: of the pointer to it.
        previous: releases to fall back to, the last one first.
        at_once: it takes all traffic at once.
    """

    release: int
    sha256: str
    pointer_serial: int
    previous: list[int]
    at_once: bool


class ChallengerRelease(Struct):
    """Which release is tried in shadow; how it does is told by `GET /v1/status`.

    Attributes:
        release: null where none is.
        sha256: of its bytes.
        serial: of the alias itself; every change has a higher one.
    """

    release: int | None
    sha256: str
    serial: int


class AuditedAction(Struct):
    """One action on the store.

    Attributes:
        number: rising.
        who: id of the key, or the user of a terminal.
        where: from where: an address, or `terminal`.
        what: e.g. `anomaly-flow/3`.
        digest: SHA-256 of what it is about.
        outcome: `begun`, `done` or `failed`; one that stays begun was cut off by a crash.
        code: of the error that ended it.
    """

    number: int
    at: str
    who: str
    where: str
    act: str
    what: str
    digest: str
    outcome: str
    code: str


class AuditLog(Struct):
    """What was done to the models of the caller's tenant, the newest first."""

    entries: list[AuditedAction]


def summary_of(info: BundleInfo, *, shared: bool) -> ModelSummary:
    """One line of a list."""
    return ModelSummary(
        name=str(info.model_name),
        tenant_id=str(info.tenant_id),
        version=info.version,
        label=info.metadata.label,
        created_at=info.created_at,
        type=info.metadata.model_type,
        size_mb=info.size_mb,
        path=info.path,
        aliases=[str(alias) for alias in info.aliases],
        in_use=info.in_use,
        shared=shared,
        problem=_problem(info),
    )


def info_of(info: BundleInfo, *, shared: bool) -> ModelInfo:
    """All of it."""
    return convert(info.to_dict() | {"shared": shared, "problem": _problem(info)}, ModelInfo)


def audited(entry: AuditEntry) -> AuditedAction:
    """One act, without the tenant, who is the caller's."""
    return AuditedAction(
        entry.number,
        entry.at,
        entry.who,
        entry.where,
        entry.act,
        entry.what,
        entry.digest,
        entry.outcome,
        entry.code,
    )


def _problem(info: BundleInfo) -> str:
    """The store's own sentences name files; nobody outside needs those."""
    return "MODEL_LOAD_ERROR" if info.problem else ""
