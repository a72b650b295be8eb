"""The response bodies of the management application, as types.

The encoder and the OpenAPI document are made of them. A response has every field of its type.
Times are UTC, e.g. `2026-11-20T08:15:00Z`. Sizes are those of the files of a version, without its
manifest.
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
    """Limits of one request.

    Attributes:
        max_batch_size: events or rows that one request may score.
        max_rows: rows that one training job may have.
        max_body_bytes: size of a request body.
    """

    max_batch_size: int
    max_rows: int
    max_body_bytes: int


class ModelSummary(Struct):
    """One version of a model.

    Attributes:
        tenant_id: tenant that owns the version.
        version: number of the version; versions are counted from 1.
        label: name that the publisher gave the version.
        type: class or kind of the model, as the publisher named it.
        path: folder of the version, below the store's root.
        aliases: aliases that point to the version: champion, challenger.
        in_use: a release, pointer or alias refers to the version, so it cannot be deleted.
        shared: the version belongs to another tenant and is inherited, read-only.
        problem: error code of a fault in the files; empty where none is known.
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
    """The models that the caller's tenant has or inherits, newest first."""

    tenant_id: str
    models: list[ModelSummary]
    limits: Limits


class ModelVersions(Struct):
    """The versions of one model, newest first."""

    model_name: str
    versions: list[ModelSummary]


class StoredFile(Struct):
    """One file of a version."""

    name: str
    size_bytes: int
    sha256: str


class ModelInfo(Struct):
    """All details of one version.

    Attributes:
        tenant_id: tenant that owns the version.
        file_hash: SHA-256 of the manifest, which holds the SHA-256 of every file.
        libraries: library -> version of it that trained the model.
        model_params: parameters of the model.
        user_metadata: metadata that the caller gave with the training job.
        training_data_hash: SHA-256 of the training data, as the recipe computes it.
        training: all metadata that the recipe recorded.
        last_modified: modification time of the files.
        path: folder of the version, below the store's root.
        why_in_use: what refers to the version, in words; empty where nothing does.
        problem: error code of a fault in the files; empty where none is known.
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
    """The version that an alias points to after the change.

    Attributes:
        version: null where the alias points to nothing.
        sha256: SHA-256 of the version's manifest.
        serial: serial of the alias; it rises with every change.
    """

    model_name: str
    alias: str
    version: int | None
    sha256: str
    serial: int


class Deleted(Struct):
    """A version that was deleted permanently; its number is never used again."""

    model_name: str
    version: int


class Entry(Struct):
    """One version of a model."""

    model_name: str
    version: int


class Retained(Struct):
    """The releases and versions that retention deleted."""

    keep: int
    releases: list[int]
    models: list[Entry]


class ImportedModels(Struct):
    """The content of an imported archive; nothing is promoted.

    Attributes:
        release: number of the release that the archive held, as imported; null where it held none.
        origin: the tenant and the release or version that the archive was exported from.
    """

    models: list[Entry]
    release: int | None
    origin: str


class ReleaseSummary(Struct):
    """One release.

    Attributes:
        in_use: this release serves.
        is_challenger: this release is evaluated in shadow.
        problem: error code of a fault in the files; empty where none is known.
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
    """The releases of the caller's tenant, newest first.

    Attributes:
        tenant_id: tenant that owns the releases.
        serving_tenant: tenant whose release serves the caller: its own, its group's or the generic
            one.
        release: number of the tenant's own release that serves; null where it has none.
        pointer_serial: serial of the pointer; it rises with every promotion. 0 where there is no
            pointer, or none that can be read.
        previous: releases to fall back to, the most recent one first.
        challenger: number of the release that is evaluated in shadow; null for none.
        problem: error code of a fault in the pointer; empty without one.
        challenger_problem: error code of a fault in the challenger's alias; empty without one.
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
    """The release that serves from now on; replicas follow within seconds.

    Attributes:
        release: number of the release.
        sha256: SHA-256 of the release file.
        pointer_serial: serial of the pointer; it rises with every promotion.
        previous: releases to fall back to, the most recent one first.
        at_once: the release takes all traffic at once, without a canary rollout.
    """

    release: int
    sha256: str
    pointer_serial: int
    previous: list[int]
    at_once: bool


class ChallengerRelease(Struct):
    """The release that is evaluated in shadow; `GET /v1/status` has its results.

    Attributes:
        release: number of the release; null where none is evaluated.
        sha256: SHA-256 of the release file.
        serial: serial of the alias; it rises with every change.
    """

    release: int | None
    sha256: str
    serial: int


class AuditedAction(Struct):
    """One action on the store.

    Attributes:
        number: number of the entry; it rises.
        who: id of the API key, or the user of the terminal.
        where: address of the caller, or `terminal`.
        what: object of the action, e.g. `anomaly-flow/3`.
        digest: SHA-256 of that object.
        outcome: `begun`, `done` or `failed`; `begun` alone means that a crash cut the action off.
        code: error code where the action failed.
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
    """The actions on the models of the caller's tenant, newest first."""

    entries: list[AuditedAction]


def summary_of(info: BundleInfo, *, shared: bool) -> ModelSummary:
    """Summarise one version for a list."""
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
    """Give all details of one version."""
    return convert(info.to_dict() | {"shared": shared, "problem": _problem(info)}, ModelInfo)


def audited(entry: AuditEntry) -> AuditedAction:
    """Convert one entry of the audit log; the tenant is the caller's, so it is left out."""
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
    """Give a code instead of the store's own sentence, which names files."""
    return "MODEL_LOAD_ERROR" if info.problem else ""
