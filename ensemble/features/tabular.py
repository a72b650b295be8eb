"""Tabular features: numbers by name become a matrix; an invalid row is rejected alone.

A tenant that trains a tabular detector declares its features, in order; none are inferred from the
rows. A row without one of the features is rejected, unless the caller chose that missing means 0.
Other fields of a row are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import FeatureMismatch

__all__ = [
    "LEAST_FEATURES",
    "MOST_FEATURES",
    "NETWORK_FEATURES",
    "ROWS_AT_ONCE",
    "AdmittedRows",
    "Missing",
    "admit_rows",
    "declared",
    "schema_sha256",
]

LEAST_FEATURES = 3  # with fewer, a threshold is better than a detector
MOST_FEATURES = 64  # with more, an isolation forest finds little
LONGEST_NAME = 64  # characters; the names are in the signed manifest, which should be short
ROWS_AT_ONCE = 1000  # rows that are validated or rated at a time, to bound the memory
NETWORK_FEATURES = ("bytes_transferred", "packet_count", "connection_duration")  # S4-09


class Missing(StrEnum):
    """Treatment of a row in which a feature is missing."""

    REFUSE = "refuse"
    ZERO = "zero"


@dataclass(frozen=True, slots=True)
class AdmittedRows:
    """Result of the admission of rows.

    Attributes:
        rows: positions of the admitted rows in the input, int (m,).
        values: float64 (m, d), finite, read-only, in the declared order.
        refused: position in the input -> error.
        filled: number of missing values in admitted rows that count as 0.
    """

    rows: NDArray[np.intp]
    values: NDArray[np.float64]
    refused: Mapping[int, FeatureMismatch]
    filled: int


def declared(features: Sequence[str]) -> tuple[str, ...]:
    """Validate the names of declared features.

    Raises:
        FeatureMismatch: too few, too many, a repeated name, or a name that is not 1 to 64 printable
            characters.
    """
    names = tuple(features)
    if not LEAST_FEATURES <= len(names) <= MOST_FEATURES:
        raise FeatureMismatch(
            "features",
            f"{len(names)} are declared; a detector reads {LEAST_FEATURES} to {MOST_FEATURES}",
        )
    for position, name in enumerate(names):
        is_name = (
            isinstance(name, str)
            and 0 < len(name) <= LONGEST_NAME
            and name.isprintable()
            and name == name.strip()
        )
        if not is_name:
            raise FeatureMismatch(
                f"features[{position}]",
                f"must be a printable name of 1 to {LONGEST_NAME} characters",
            )
        if name in names[:position]:
            raise FeatureMismatch(f"features[{position}]", "is declared twice")
    return names


def schema_sha256(features: Sequence[str]) -> str:
    """Identity of a declared schema: its names and their order; 64 hex digits."""
    return hashlib.sha256(
        json.dumps(
            {"kind": "tabular", "names": list(features), "format": 1}, sort_keys=True
        ).encode()
    ).hexdigest()


def admit_rows(
    rows: Sequence[Mapping[str, Any]], features: Sequence[str], missing: Missing, *, first: int = 0
) -> AdmittedRows:
    """Validate rows, column by column; an invalid row is rejected alone.

    Args:
        rows: n mappings of feature -> value; each is read once.
        features: d names, as returned by `declared`.
        missing: treatment of a feature that is absent or null.
        first: number of the first row, for the wording of errors.
    """
    table = np.zeros((len(rows), len(features)))
    wrong: dict[int, FeatureMismatch] = {}
    filled = np.zeros(len(rows), np.intp)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        # row by row: a row that is decoded when it is read takes memory only then
        block = [[row.get(name) for name in features] for row in rows[start : start + ROWS_AT_ONCE]]
        for column, (name, values) in enumerate(
            zip(features, zip(*block, strict=True), strict=True)
        ):
            numbers, odd, is_filled = _column(values, missing)
            table[start : start + len(block), column] = numbers
            filled[start : start + len(block)] += is_filled
            for row in np.flatnonzero(odd).tolist():
                wrong.setdefault(start + row, _refusal(first + start + row, name, values[row]))
    places = (
        np.array([row for row in range(len(rows)) if row not in wrong], np.intp)
        if wrong
        else np.arange(len(rows))
    )
    admitted = table[places] if wrong else table
    admitted.flags.writeable = False
    return AdmittedRows(places, admitted, dict(sorted(wrong.items())), int(filled[places].sum()))


def _column(
    values: Sequence[Any], missing: Missing
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """The numbers of a column, which of them are refused, and which are missing and count as 0."""
    if set(map(type, values)) <= {float, int}:  # bool does not count as a number
        return *_numbers(values), np.zeros(len(values), bool)
    numbers = np.zeros(len(values))
    odd, filled = np.zeros(len(values), bool), np.zeros(len(values), bool)
    for row, value in enumerate(values):
        if value is None and missing is Missing.ZERO:
            filled[row] = True
        elif type(value) in (float, int):
            numbers[row] = _number(value)
            odd[row] = not np.isfinite(numbers[row])
        else:
            odd[row] = True
    return numbers, odd, filled


def _numbers(values: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    try:
        column = np.array(values, np.float64)
    except OverflowError:  # an integer beyond the range of float
        column = np.array([_number(value) for value in values])
    return column, ~np.isfinite(column)


def _number(value: Any) -> float:  # noqa: ANN401  # a float or an int of any length
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def _refusal(row: int, name: str, value: object) -> FeatureMismatch:
    field = f"rows[{row}].{name}"
    if value is None:
        return FeatureMismatch(field, "is missing")
    if type(value) in (float, int):
        return FeatureMismatch(field, "must be finite")
    return FeatureMismatch(field, f"must be a number, not {_type_name(value)}")


def _type_name(value: object) -> str:
    kinds = {bool: "true or false", str: "text", list: "a list", dict: "an object"}
    return kinds.get(type(value), "something else")
