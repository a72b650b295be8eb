"""The request bodies of the management application, as types.

The parser and the OpenAPI document are made of them. Strict: an unknown field is an error, and
nothing is coerced.
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
    "SetChallengerRelease",
    "SetChallengerVersion",
    "TrainRequest",
    "VersionPromotion",
]

HIGHEST = 10**15  # a serial is below it
Number = Annotated[
    float, Meta(ge=1, lt=HIGHEST, multiple_of=1)
]  # to JSON, 2 and 2.0 are one number; exact up to 2**53
Label = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Row = dict[str, Any]


class TrainRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Rows to learn from: three or more declared features in each.

    Attributes:
        network_data: the rows; what they hold beside the features is passed over.
        name: of the model, a version of which comes out.
        features: what it shall read, in order; those of the source system unless said otherwise.
        missing: what a row means that does not have a feature: `error_response` it, or take it
            for `zero`.
        tenant_id: only the caller's own.
        version: a label for people, e.g. a date; used once. Versions are counted whatever they
            are called.
        user_metadata: whatever is to be remembered with it; JSON.
        promote: whether it shall serve when it is done.
    """

    network_data: Annotated[list[Row], Meta(min_length=1)]
    name: str = DEFAULT_NAME
    features: list[str] | None = None
    missing: Literal["refuse", "zero"] = "refuse"
    tenant_id: str | None = None
    version: Label | None = None
    user_metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    promote: bool = True


class DetectRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """Rows to rate.

    Attributes:
        network_data: each with the features that the model was trained on.
        missing: what a row means that does not have one: `error_response` it, or take it for
            `zero`.
    """

    network_data: Annotated[list[Row], Meta(min_length=1)]
    missing: Literal["refuse", "zero"] = "refuse"


class RowsToRate(Struct, forbid_unknown_fields=True, frozen=True):
    """`DetectRequest` with its rows as they came.

    Each is read by itself, and given back as it was sent.
    """

    network_data: Annotated[list[msgspec.Raw], Meta(min_length=1)]
    missing: Literal["refuse", "zero"] = "refuse"


class VersionPromotion(Struct, forbid_unknown_fields=True, frozen=True):
    """Which version shall serve: by its number, or by the word that stands for it; one of the two.

    Attributes:
        version: its number.
        alias: `challenger`: the version that is tried.
    """

    version: Number | UnsetType = UNSET
    alias: Literal["challenger"] | UnsetType = UNSET


class SetChallengerVersion(Struct, forbid_unknown_fields=True, frozen=True):
    """Which version gets the word `challenger`."""

    version: Number


class SetChallengerRelease(Struct, forbid_unknown_fields=True, frozen=True):
    """Which release is tried in shadow."""

    release: Number


class ReleasePromotion(Struct, forbid_unknown_fields=True, frozen=True):
    """How a release shall take over.

    Attributes:
        at_once: take all traffic at once, and not in measured steps.
    """

    at_once: bool = False


class Rollback(Struct, forbid_unknown_fields=True, frozen=True):
    """Where to roll back to.

    Attributes:
        to: number of an earlier release; the last one that loads unless said otherwise.
    """

    to: Number | None = None


class Retention(Struct, forbid_unknown_fields=True, frozen=True):
    """How many releases, and versions of each model, are kept.

    What is needed is kept beside them.
    """

    keep: Annotated[float, Meta(ge=1, le=1_000_000, multiple_of=1)]
