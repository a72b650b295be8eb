"""Inventory of hosts: a CSV, JSON or Trivy report becomes the arrays of the resilience layer.

CSV, one host a row or one finding a row; lists within a cell are separated by blanks, semicolons or
(quoted) commas:

    host,cves,exposure,criticality,controls,scan_time,comment
    web-1,CVE-2021-44228 CVE-2014-0160,internet,high,waf;edr,2026-11-15,

JSON: `{"hosts": [{"host", "cves": [..], "exposure", "criticality", "controls": [..], "scan_time",
"comment"?}, ..]}`.
Trivy: the report of one host or image (`trivy rootfs --format json /`). It has no exposure,
criticality and controls, so the operator gives these beside it.

A host that comes twice is merged, towards the worse: all CVEs of both, the wider exposure, the
higher criticality, only the controls that both have, the older scan. Anything invalid is rejected,
with its line and column or its field.
Source of the Trivy format: github.com/aquasecurity/trivy, pkg/types/report.go, schema version 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.errors import TrainingError
from ensemble.layers.posture import (
    CONTROLS,
    CRITICALITIES,
    EXPOSURES,
    PostureInventory,
    host_key,
    is_host_key,
)
from ensemble.training.data.vulnerability_files import (
    SourceText,
    csv_rows,
    day_of,
    json_value,
    key_of,
    read_source,
    wrong,
)

__all__ = ["HostPosture", "ReadInventory", "TrivyHost", "build_inventory", "read_inventory"]

_FIELDS = ("host", "cves", "exposure", "criticality", "controls", "scan_time")
_OPTIONAL = ("comment",)
_SOURCE = "inventory"
TRIVY_SCHEMA = 2


@dataclass(frozen=True, slots=True)
class HostPosture:
    """Posture of one host in the file.

    Attributes:
        host: in the form of `host_key`.
        cves: `cve_key` of each CVE found.
        exposure: position in `EXPOSURES`.
        criticality: position in `CRITICALITIES`.
        controls: bits of `CONTROLS`.
        scan_day: whole UTC days since 1970-01-01.
    """

    host: str
    cves: frozenset[int]
    exposure: int
    criticality: int
    controls: int
    scan_day: int

    def merge(self, other: HostPosture) -> HostPosture:
        """Merge two findings of one host, towards the worse."""
        return HostPosture(
            self.host,
            self.cves | other.cves,
            max(self.exposure, other.exposure),
            max(self.criticality, other.criticality),
            self.controls & other.controls,
            min(self.scan_day, other.scan_day),
        )


@dataclass(frozen=True, slots=True)
class TrivyHost:
    """The facts of a host that its Trivy report does not have.

    Attributes:
        exposure: one of `EXPOSURES`.
        criticality: one of `CRITICALITIES`.
        controls: some of `CONTROLS`.
        host: its name in events; "" for the report's `ArtifactName`.
        scan_time: ISO 8601; "" for the report's `CreatedAt`.
    """

    exposure: str
    criticality: str
    controls: Sequence[str] = ()
    host: str = ""
    scan_time: str = ""


@dataclass(frozen=True, slots=True)
class ReadInventory:
    """An inventory and how it was read.

    Attributes:
        inventory: the arrays.
        counts: `inventory_rows`, `inventory_hosts`, `inventory_cves`, `inventory_merged`, and for a
            Trivy report the omitted findings `trivy_not_cve` and `trivy_not_affected`.
        sha256: of the file on disk.
    """

    inventory: PostureInventory
    counts: Mapping[str, int]
    sha256: str


def read_inventory(path: Path, *, trivy: TrivyHost | None = None) -> ReadInventory:
    """Read the inventory in the CSV, JSON or Trivy report at `path`, plain or gzip.

    Args:
        path: the file; its content decides the format.
        trivy: needed for a Trivy report, and only for one.

    Raises:
        TrainingError: unreadable, empty, or a field that is not understood; names line and
            column, or the field.
    """
    file = read_source(_SOURCE, path)
    left_out: dict[str, int] = {}
    if not file.is_json:
        _reject_context(trivy)
        found = _csv_hosts(file)
    else:
        value = json_value(file)
        if isinstance(value, dict) and "SchemaVersion" in value:
            if trivy is None:
                raise TrainingError(
                    "inventory: a Trivy report has no exposure, criticality and controls:"
                    " give them beside it"
                )
            host, left_out = _trivy_host(value, trivy)
            found = [host]
        else:
            _reject_context(trivy)
            found = _json_hosts(value)
    if not found:
        raise TrainingError("inventory: no hosts in it")
    inventory = build_inventory(found)
    counts = {
        "inventory_rows": len(found),
        "inventory_hosts": len(inventory),
        "inventory_cves": len(inventory.cves),
        "inventory_merged": len(found) - len(inventory),
        **left_out,
    }
    return ReadInventory(inventory, counts, file.sha256)


def build_inventory(found: Iterable[HostPosture]) -> PostureInventory:
    """Build the arrays of these hosts, sorted by name; a host that comes twice is merged."""
    by_host: dict[str, HostPosture] = {}
    for host in found:
        by_host[host.host] = by_host[host.host].merge(host) if host.host in by_host else host
    hosts = [by_host[name] for name in sorted(by_host)]
    return PostureInventory(
        hosts=tuple(host.host for host in hosts),
        starts=np.cumsum([0, *(len(host.cves) for host in hosts)]).astype(np.uint32),
        cves=np.array([key for host in hosts for key in sorted(host.cves)], np.uint32),
        exposures=np.array([host.exposure for host in hosts], np.uint8),
        criticalities=np.array([host.criticality for host in hosts], np.uint8),
        controls=np.array([host.controls for host in hosts], np.uint8),
        scan_days=np.array([host.scan_day for host in hosts], np.int32),
    )


def _csv_hosts(file: SourceText) -> list[HostPosture]:
    hosts = []
    for row in csv_rows(file, _FIELDS, _OPTIONAL):
        fields = dict(row.cells) | {
            name: re.split(r"[\s,;]+", row.cells[name]) for name in ("cves", "controls")
        }
        fields = {
            name: [item for item in cell if item] if isinstance(cell, list) else cell.strip()
            for name, cell in fields.items()
        }
        hosts.append(_host(fields, f"line {row.line}, column "))
    return hosts


def _json_hosts(value: object) -> list[HostPosture]:
    if not isinstance(value, dict) or not isinstance(value.get("hosts"), list):
        raise wrong(_SOURCE, "field hosts", "must be a list in an object")
    hosts = []
    for place, fields in enumerate(value["hosts"]):
        where = f"field hosts[{place}]"
        if not isinstance(fields, dict):
            raise wrong(_SOURCE, where, "must be an object")
        for name in _FIELDS:
            if name not in fields:
                raise wrong(_SOURCE, f"{where}.{name}", "is missing")
        for name in fields:
            if name not in _FIELDS and name not in _OPTIONAL:
                raise wrong(_SOURCE, f"{where}.{name!r:.40}", "unknown field")
        hosts.append(_host(fields, f"{where}."))
    return hosts


def _trivy_host(
    report: Mapping[str, Any], context: TrivyHost
) -> tuple[HostPosture, dict[str, int]]:
    if report["SchemaVersion"] != TRIVY_SCHEMA:
        raise wrong(
            _SOURCE,
            "field SchemaVersion",
            f"must be {TRIVY_SCHEMA}, the schema that is understood here",
        )
    cves: list[str] = []
    left_out = {"trivy_not_cve": 0, "trivy_not_affected": 0}
    for place, target in enumerate(_list_of_objects(report.get("Results"), "Results")):
        where = f"Results[{place}].Vulnerabilities"
        for row, finding in enumerate(_list_of_objects(target.get("Vulnerabilities"), where)):
            name = finding.get("VulnerabilityID")
            if not isinstance(name, str):
                raise wrong(
                    _SOURCE, f"field {where}[{row}].VulnerabilityID", "is missing, or no text"
                )
            if finding.get("Status") == "not_affected":
                left_out["trivy_not_affected"] += 1
            elif not name.startswith("CVE-"):
                left_out["trivy_not_cve"] += 1  # GHSA-.., DLA-..: neither EPSS nor KEV knows them
            else:
                key_of(_SOURCE, f"field {where}[{row}].VulnerabilityID", name)
                cves.append(name)
    fields = {
        "host": context.host or report.get("ArtifactName"),
        "cves": cves,
        "exposure": context.exposure,
        "criticality": context.criticality,
        "controls": list(context.controls),
        "scan_time": context.scan_time or report.get("CreatedAt"),
    }
    return _host(fields, "field of the Trivy host: "), left_out


def _list_of_objects(value: object, where: str) -> list[dict[str, Any]]:
    if value is None:  # Trivy leaves out, or writes null for, what is empty
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise wrong(_SOURCE, f"field {where}", "must be a list of objects")
    return value


def _host(fields: Mapping[str, Any], where: str) -> HostPosture:
    """Parse one host from its fields; `where` is their place, to which a field's name is added."""
    for name in ("host", "scan_time"):
        if not isinstance(fields[name], str):
            raise wrong(_SOURCE, f"{where}{name}", "must be text")
    host = host_key(fields["host"])
    if not is_host_key(host):
        raise wrong(_SOURCE, f"{where}host", "must be a printable name of 1 to 256 bytes")
    return HostPosture(
        host,
        frozenset(key_of(_SOURCE, f"{where}cves", cve) for cve in _list(fields, "cves", where)),
        _place(fields["exposure"], EXPOSURES, f"{where}exposure"),
        _place(fields["criticality"], CRITICALITIES, f"{where}criticality"),
        reduce(
            or_,
            (
                1 << _place(name, CONTROLS, f"{where}controls")
                for name in _list(fields, "controls", where)
            ),
            0,
        ),
        day_of(_SOURCE, f"{where}scan_time", fields["scan_time"]),
    )


def _list(fields: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = fields[name]
    if not isinstance(value, list):
        raise wrong(_SOURCE, f"{where}{name}", "must be a list")
    return value


def _place(name: object, names: tuple[str, ...], where: str) -> int:
    if name not in names:
        raise wrong(_SOURCE, where, f"{name!r:.40} is not one of {', '.join(names)}")
    return names.index(str(name))


def _reject_context(trivy: TrivyHost | None) -> None:
    if trivy is not None:
        raise TrainingError(
            "inventory: not a Trivy report,"
            " but exposure, criticality and controls were given beside it"
        )
