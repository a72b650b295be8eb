"""Training recipe of the resilience layer's knowledge of CVEs: EPSS, KEV and CVSS as one table.

The inventory of hosts has its own recipe, `ensemble.training.recipes.host_inventory`. Nothing is
fitted: the formula is fixed. This module reads public files strictly, selects what the formula
needs (of 360,142 CVEs a number, a probability, a score and a flag) and counts what it left out.

Date of each source, which decides when it is stale:
    epss: `score_date` of the official first line (`#model_version:..,score_date:..`); a file
        without one needs `date`
    kev: `dateReleased` of the JSON; of the CSV, `date`, or the newest `dateAdded` (a lower
        bound: it makes the source older, never newer)
    cvss: `date`, or the newest `modified`
A `date` that contradicts a date stated in the file is rejected.

CVSS: version 3 if a CVE has it, else version 2. Scores are computed from the vectors by the library
`cvss` and must agree with the score beside them to a tenth; a few hundred vectors make up all
84,000 rows, so each is computed once.
Sources: FIRST (EPSS, CVSS), CISA (KEV, JSON schema of the catalogue), NVD.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cvss import CVSS2, CVSS3
from cvss.exceptions import CVSSError
from numpy.typing import NDArray

from ensemble.errors import TrainingError
from ensemble.layers.posture import EPSS_STEPS, NO_CVSS, NO_EPSS, PostureKnowledge
from ensemble.training.data.vulnerability_files import (
    Row,
    SourceText,
    csv_rows,
    day_of,
    json_value,
    key_of,
    read_source,
    wrong,
)

__all__ = [
    "SourceTable",
    "TrainedKnowledge",
    "build_knowledge",
    "read_cvss",
    "read_epss",
    "read_kev",
    "train_knowledge",
]

_SCORE_DATE = re.compile(r"score_date:\s*([0-9T:.+\-Z]+)")
_SCORE_TOLERANCE = 0.051  # a tenth is the grain of CVSS; half of it and the rounding of floats


@dataclass(frozen=True, slots=True)
class SourceTable:
    """The values of one source by CVE.

    Attributes:
        keys: uint32 (m,), strictly rising.
        values: (m,), as `PostureKnowledge` stores them: uint16 EPSS steps, bool KEV, or uint8
            tenths of CVSS.
        day: whole UTC days since 1970-01-01.
        counts: rows read and left out, by reason.
        sha256: of the file on disk.
    """

    keys: NDArray[np.uint32]
    values: NDArray[Any]
    day: int
    counts: Mapping[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class TrainedKnowledge:
    """The knowledge of CVEs, with the facts for its model card.

    Attributes:
        knowledge: the table of CVEs.
        metrics: counts of rows read, used and left out, and the days of the sources.
        training_data: source -> sha256 of its file.
    """

    knowledge: PostureKnowledge
    metrics: Mapping[str, int]
    training_data: Mapping[str, str]


def train_knowledge(
    *,
    base: PostureKnowledge | None = None,
    epss: Path | None = None,
    kev: Path | None = None,
    cvss: Path | None = None,
    epss_date: dt.date | None = None,
    kev_date: dt.date | None = None,
    cvss_date: dt.date | None = None,
) -> TrainedKnowledge:
    """Read every source that is given, and copy the others from `base`.

    Args:
        base: knowledge to renew; None starts from nothing.
        epss: CSV of EPSS, plain or gzip; at least one of `epss` and `kev` is needed, here or in
            `base`.
        kev: CSV or JSON of KEV, plain or gzip.
        cvss: CSV of NVD vectors and scores, plain or gzip.
        epss_date: day of the snapshot, if the file does not state it.
        kev_date: day of the catalogue, likewise.
        cvss_date: day of the NVD feed, likewise.

    Raises:
        TrainingError: a file that is not understood, or neither EPSS nor KEV.
    """
    from_base = {} if base is None else _tables_of(base)
    tables = {
        "epss": read_epss(epss, date=epss_date) if epss else from_base.get("epss"),
        "kev": read_kev(kev, date=kev_date) if kev else from_base.get("kev"),
        "cvss": read_cvss(cvss, date=cvss_date) if cvss else from_base.get("cvss"),
    }
    if tables["epss"] is None and tables["kev"] is None:
        raise TrainingError(
            "neither EPSS nor KEV was given: severity alone gives no probability of exploitation"
        )
    knowledge = build_knowledge(**tables)
    metrics: dict[str, int] = {"knowledge_cves": len(knowledge.keys)}
    for source, table in tables.items():
        if table is not None:
            metrics |= {**table.counts, f"{source}_day": table.day}
    return TrainedKnowledge(
        knowledge,
        metrics,
        {source: table.sha256 for source, table in tables.items() if table is not None},
    )


def _tables_of(knowledge: PostureKnowledge) -> dict[str, SourceTable]:
    """Recover the sources that `knowledge` was built from, as far as it has them.

    Their files' digests stay with their bundle.
    """
    columns = {
        "epss": (knowledge.epss_day, knowledge.epss, knowledge.epss != NO_EPSS),
        "kev": (knowledge.kev_day, knowledge.kev, knowledge.kev),
        "cvss": (knowledge.cvss_day, knowledge.cvss, knowledge.cvss != NO_CVSS),
    }
    return {
        source: SourceTable(
            knowledge.keys[has], values[has], day, {f"{source}_rows": int(has.sum())}, "kept"
        )
        for source, (day, values, has) in columns.items()
        if day is not None
    }


def build_knowledge(
    epss: SourceTable | None, kev: SourceTable | None, cvss: SourceTable | None
) -> PostureKnowledge:
    """Build one table of every CVE that any of the sources has."""
    tables = [table for table in (epss, kev, cvss) if table is not None]
    keys = np.unique(np.concatenate([np.zeros(0, np.uint32), *(table.keys for table in tables)]))
    columns = []
    for table, absent in (
        (epss, np.uint16(NO_EPSS)),
        (cvss, np.uint8(NO_CVSS)),
        (kev, np.bool_(0)),
    ):
        column = np.full(len(keys), absent)
        if table is not None:
            column[np.searchsorted(keys, table.keys)] = table.values
        columns.append(column)
    days = [None if table is None else table.day for table in (epss, kev, cvss)]
    return PostureKnowledge(keys, *columns, *days)  # type: ignore[arg-type]


def read_epss(path: Path, *, date: dt.date | None = None) -> SourceTable:
    """Read EPSS from the CSV of FIRST: columns `cve`, `epss`; others, as `percentile`, are ignored.

    Raises:
        TrainingError: a row that is not understood, by line and column; a CVE twice; no date,
            or two that differ.
    """
    file = read_source("epss", path)
    stated = _SCORE_DATE.search(file.text.partition("\n")[0]) if file.text.startswith("#") else None
    stated_day = day_of("epss", "line 1, score_date", stated[1]) if stated else None

    def steps(row: Row) -> int:
        value = _number(row, "epss", 1.0)
        return round(value * EPSS_STEPS)

    found, rows = _by_cve(file, ("cve", "epss"), steps)
    day = _day(file, stated_day, date, None)
    return _table(file, found, np.uint16, day, {"epss_rows": rows})


def read_kev(path: Path, *, date: dt.date | None = None) -> SourceTable:
    """Read KEV from the CSV or JSON of CISA: `cveID` and `dateAdded`; all texts are ignored.

    Raises:
        TrainingError: an entry that is not understood, by line and column or field; a CVE twice;
            two dates that differ; a JSON whose `count` is not the number of its entries.
    """
    file = read_source("kev", path)
    newest = -1
    found: dict[int, int] = {}
    stated_day = None
    if file.is_json:
        catalogue = json_value(file)
        entries = catalogue.get("vulnerabilities") if isinstance(catalogue, dict) else None
        if not isinstance(entries, list):
            raise wrong("kev", "field vulnerabilities", "must be a list in an object")
        if catalogue.get("count", len(entries)) != len(entries):
            raise wrong(
                "kev",
                "field count",
                f"is not {len(entries)}, the number of entries: is the file cut short?",
            )
        stated_day = (
            day_of("kev", "field dateReleased", catalogue["dateReleased"])
            if "dateReleased" in catalogue
            else None
        )
        for place, entry in enumerate(entries):
            where = f"field vulnerabilities[{place}]"
            if not isinstance(entry, dict):
                raise wrong("kev", where, "must be an object")
            key = key_of("kev", f"{where}.cveID", entry.get("cveID"))
            newest = max(newest, day_of("kev", f"{where}.dateAdded", entry.get("dateAdded")))
            if key in found:
                raise wrong("kev", f"{where}.cveID", "is repeated")
            found[key] = 1
    else:

        def added(row: Row) -> int:
            nonlocal newest
            newest = max(
                newest, day_of("kev", f"line {row.line}, column dateAdded", row.cells["dateAdded"])
            )
            return 1

        found, _ = _by_cve(file, ("cveID", "dateAdded"), added)
    day = _day(file, stated_day, date, newest if newest >= 0 else None)
    return _table(file, found, np.bool_, day, {"kev_rows": len(found)})


def read_cvss(path: Path, *, date: dt.date | None = None) -> SourceTable:
    """Read CVSS base scores from NVD as CSV.

    Columns: `cve`, `modified`, and vector and score of versions 3 and 2, each pair possibly empty.

    Raises:
        TrainingError: a row that is not understood, by line and column; a score that differs from
            its vector's; a CVE twice.
    """
    file = read_source("cvss", path)
    computed: dict[tuple[str, str], int] = {}  # (version, vector) -> tenths
    counts = {"cvss_v3": 0, "cvss_v2": 0, "cvss_without_vector": 0}
    newest = -1
    days: dict[str, int] = {}

    def tenths(row: Row) -> int | None:
        nonlocal newest
        modified = row.cells["modified"]
        if modified not in days:
            days[modified] = day_of("cvss", f"line {row.line}, column modified", modified)
        newest = max(newest, days[modified])
        for version in ("3", "2"):
            vector = row.cells[f"cvss{version}_vector"].strip()
            if not vector:
                continue
            if (version, vector) not in computed:
                computed[version, vector] = _tenths(row, version, vector)
            score = row.cells[f"cvss{version}_score"].strip()
            if (
                score
                and abs(_number(row, f"cvss{version}_score", 10.0) - computed[version, vector] / 10)
                > _SCORE_TOLERANCE
            ):
                given = computed[version, vector] / 10
                raise row.wrong(
                    f"cvss{version}_score", f"{score!r:.40} is not what its vector gives: {given}"
                )
            counts[f"cvss_v{version}"] += 1
            return computed[version, vector]
        counts["cvss_without_vector"] += 1
        return None

    columns = ("cve", "modified", "cvss3_vector", "cvss3_score", "cvss2_vector", "cvss2_score")
    found, rows = _by_cve(file, columns, tenths)
    day = _day(file, None, date, newest if newest >= 0 else None)
    return _table(
        file, found, np.uint8, day, {"cvss_rows": rows, "cvss_vectors": len(computed), **counts}
    )


def _tenths(row: Row, version: str, vector: str) -> int:
    """Compute the base score of one vector, in tenths."""
    try:
        scores = (CVSS3 if version == "3" else CVSS2)(vector).scores()
    except CVSSError as error:
        raise row.wrong(
            f"cvss{version}_vector", f"{vector!r:.60} is not a CVSS {version} vector"
        ) from error
    # The library gives -0.0 for version 2 vectors without impact.
    return abs(round(float(scores[0]) * 10))


def _by_cve(
    file: SourceText, columns: tuple[str, ...], value: Callable[[Row], int | None]
) -> tuple[dict[int, int], int]:
    """Map each CVE key that has a value to it, and count all rows.

    The first column is the CVE.
    """
    found: dict[int, int] = {}
    known: set[int] = set()
    for row in csv_rows(file, columns):
        cve = row.cells[columns[0]]
        key = key_of(file.source, f"line {row.line}, column {columns[0]}", cve)
        if key in known:
            raise row.wrong(columns[0], f"{cve!r:.40} is repeated")
        known.add(key)
        if (number := value(row)) is not None:
            found[key] = number
    return found, len(known)


def _number(row: Row, column: str, highest: float) -> float:
    try:
        number = float(row.cells[column])
    except ValueError as error:
        raise row.wrong(column, f"{row.cells[column]!r:.40} is not a number") from error
    if not 0.0 <= number <= highest:  # NaN fails here too
        raise row.wrong(column, f"{row.cells[column]!r:.40} is not from 0 to {highest:g}")
    return number


def _day(file: SourceText, stated: int | None, given: dt.date | None, derived: int | None) -> int:
    """Choose the day of a source: stated in the file, else given, else derived from its rows."""
    given_day = None if given is None else day_of(file.source, "date", given.isoformat())
    if stated is not None and given_day is not None and stated != given_day:
        raise TrainingError(f"{file.source}: the file states another date than the one given")
    for day in (stated, given_day, derived):
        if day is not None:
            return day
    raise TrainingError(
        f"{file.source}: no date in the file: give one, because its weight depends on its age"
    )


def _table(
    file: SourceText,
    found: Mapping[int, int],
    dtype: type[np.generic],
    day: int,
    counts: Mapping[str, int],
) -> SourceTable:
    if not found:
        raise TrainingError(f"{file.source}: no CVEs in it")
    keys = np.fromiter(found.keys(), np.uint32, len(found))
    values = np.fromiter(found.values(), np.int64, len(found)).astype(dtype)
    order = np.argsort(keys)
    return SourceTable(keys[order], values[order], day, dict(counts), file.sha256)
