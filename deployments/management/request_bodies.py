"""The request bodies of the management application, as types.

The parser and the OpenAPI document are made of them. Parsing is strict: an unknown field is an
error, and no value is coerced.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from ensemble.training.data.tabular_rows import DEFAULT_NAME

__all__ = [
    "HIGHEST",
    "DetectRequest",
    "ReleasePromotion",
    "Retention",
    "Rollback",
    "RowsToRate",
    "RowsToTrain",
    "SetChallengerRelease",
    "SetChallengerVersion",
    "TrainRequest",
    "VersionPromotion",
]

HIGHEST = 10**15  # serials are below it
# 2 and 2.0 are the same number in JSON; a float is exact up to 2**53
Number = Annotated[float, Meta(ge=1, lt=HIGHEST, multiple_of=1)]
Label = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Row = dict[str, Any]


class TrainRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Rows to train a detector on, each with three or more of the declared features.

    Attributes:
        network_data: the rows; fields other than the features are ignored.
        name: name of the model; the job publishes its next version.
        features: features that the model reads, in order.
        missing: how a row that lacks a feature is treated: `refuse` the request, or use `zero`.
        tenant_id: the caller's own tenant; any other is refused.
        version: label of the new version, e.g. a date; each label is used once. The number of the
            version is counted independently of it.
        user_metadata: JSON to store with the version.
        promote: whether the new version is promoted when the job is done, which needs the scope
            `manage`; null promotes it if the key has that scope.
    """

    network_data: Annotated[list[Row], Meta(min_length=1)]
    name: str = DEFAULT_NAME
    features: list[str] | None = None
    missing: Literal["refuse", "zero"] = "refuse"
    tenant_id: str | None = None
    version: Label | None = None
    user_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    promote: bool | None = None


class DetectRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Rows to rate.

    Attributes:
        network_data: rows, each with the features that the model was trained on.
        missing: how a row that lacks a feature is treated: `refuse` that row, or use `zero`.
    """

    network_data: Annotated[list[Row], Meta(min_length=1)]
    missing: Literal["refuse", "zero"] = "refuse"


class RowsToRate(Struct, forbid_unknown_fields=True, frozen=True):
    """`DetectRequest` with undecoded rows.

    Each row is decoded alone, so that a bad one affects only itself, and returned as it was sent.
    """

    network_data: Annotated[list[msgspec.Raw], Meta(min_length=1)]
    missing: Literal["refuse", "zero"] = "refuse"


class RowsToTrain(TrainRequest, frozen=True):
    """`TrainRequest` with undecoded rows."""

    network_data: Annotated[list[msgspec.Raw], Meta(min_length=1)]  # type: ignore[assignment]


class VersionPromotion(Struct, forbid_unknown_fields=True, frozen=True):
    """The version to promote: either its number or an alias.

    Attributes:
        version: number of the version.
        alias: `challenger`: the version with that alias.
    """

    version: Number | UnsetType = UNSET
    alias: Literal["challenger"] | UnsetType = UNSET


class SetChallengerVersion(Struct, forbid_unknown_fields=True, frozen=True):
    """The version that gets the alias `challenger`."""

    version: Number


class SetChallengerRelease(Struct, forbid_unknown_fields=True, frozen=True):
    """The release to evaluate in shadow."""

    release: Number


class ReleasePromotion(Struct, forbid_unknown_fields=True, frozen=True):
    """How a release takes over.

    Attributes:
        at_once: send all traffic to it at once, without a canary rollout.
    """

    at_once: bool = False


class Rollback(Struct, forbid_unknown_fields=True, frozen=True):
    """The release to roll back to.

    Attributes:
        to: number of an earlier release; by default the most recent one that loads.
    """

    to: Number | None = None


class Retention(Struct, forbid_unknown_fields=True, frozen=True):
    """How many releases, and versions of each model, are kept; those in use are kept as well."""

    keep: Annotated[float, Meta(ge=1, le=1_000_000, multiple_of=1)]
