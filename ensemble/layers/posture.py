"""Posture tables: knowledge of vulnerabilities, and the inventory of hosts.

The two artifacts have two owners. *Knowledge* is public and shipped: for each CVE its EPSS, whether
it is in the KEV catalogue, and its CVSS base score. *Inventory* belongs to the operator: for each
host the CVEs that a scanner found, how exposed and how important the host is, which controls
protect it, and when it was scanned. Both are plain arrays. The formula that joins them is in
`ensemble.layers.resilience`, the reading from files in `ensemble.training.recipes.vulnerabilities`.

Every source carries its own date, as whole UTC days since 1970-01-01: the score depends on its age.

Fit for: some hundred thousand CVEs and hosts (knowledge of 360,000 CVEs is 1.8 MB). Unfit for:
which package has the CVE, and how to fix it, which stays in the report of the scanner.
Source: EPSS, Jacobs et al., "Exploit Prediction Scoring System (EPSS)", ACM DTRAP 2021; KEV, CISA
BOD 22-01; CVSS, FIRST 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ensemble.errors import ArtifactIncompatible
from ensemble.model import Parts

__all__ = [
    "CONTROLS",
    "CRITICALITIES",
    "EXPOSURES",
    "PostureInventory",
    "PostureKnowledge",
    "cve_key",
    "cve_name",
    "host_key",
    "is_host_key",
]

# The values of an inventory, from harmless to grave. A stored number is a position in its list.
EXPOSURES = ("isolated", "internal", "internet")
CRITICALITIES = ("low", "medium", "high", "critical")
# A stored bit is a position in this list.
CONTROLS = ("allowlisting", "edr", "firewall", "mfa", "segmentation", "waf")

# EPSS is stored in steps of 1/65,534, finer than the five decimals that FIRST publishes.
EPSS_STEPS = 65_534
NO_EPSS = 65_535
NO_CVSS = 255  # CVSS is stored in tenths, 0..100

KNOWLEDGE_FORMAT = "posture-knowledge/1"
INVENTORY_FORMAT = "posture-inventory/1"

_CVE = re.compile(r"CVE-(\d{4})-(\d{4,8})", re.ASCII)
_FIRST_YEAR = 1999  # the list of MITRE starts in 1999
_LAST_YEAR = 1999 + 127  # 7 bits of a key are the year
_NUMBER_BITS = 25  # 33 million CVEs a year; 2024 had 40,000
_LONGEST_HOST = 256  # bytes, as every name (DESIGN section 4)
_LAST_DAY = 200_000  # the year 2517: a later date is a broken file


def cve_key(cve: str) -> int:
    """Encode a CVE name as one number, which sorts by year, then by number.

    Raises:
        ValueError: not a CVE name; the message says what is wrong with it, without repeating it.
    """
    match = _CVE.fullmatch(cve)
    if match is None:
        raise ValueError("is no CVE name (CVE-YYYY-NNNN)")
    year, digits = int(match[1]), match[2]
    if len(digits) > 4 and digits[0] == "0":  # noqa: PLR2004  # a number is padded to four digits
        raise ValueError("is no CVE name: its number is padded beyond four digits")
    if not _FIRST_YEAR <= year <= _LAST_YEAR or int(digits) >= 1 << _NUMBER_BITS:
        raise ValueError("is no CVE name: its year or number is out of range")
    return (year - _FIRST_YEAR) << _NUMBER_BITS | int(digits)


def cve_name(key: int) -> str:
    """Decode the CVE name of a key; the inverse of `cve_key`."""
    return f"CVE-{(key >> _NUMBER_BITS) + _FIRST_YEAR}-{key & ((1 << _NUMBER_BITS) - 1):04d}"


def host_key(host: str) -> str:
    """Normalize a host name for comparison: host names are case-insensitive (RFC 4343)."""
    return host.strip().casefold()


def is_host_key(host: object) -> bool:
    """Whether `host` is a printable name of 1 to 256 bytes in the form of `host_key`."""
    if not isinstance(host, str) or not host.isprintable() or host != host_key(host):
        return False
    return 0 < len(host.encode(errors="replace")) <= _LONGEST_HOST


@dataclass(frozen=True, slots=True, eq=False)
class PostureKnowledge:
    """Public knowledge of m CVEs, one row each.

    Attributes:
        keys: uint32 (m,), strictly rising; `cve_key` of each CVE.
        epss: uint16 (m,), chance of exploitation somewhere within 30 days, in steps of
            1/65,534; 65,535 without EPSS.
        cvss: uint8 (m,), CVSS base score in tenths, 0..100; 255 without a score.
        kev: bool (m,), known to be exploited.
        epss_day: day of the EPSS snapshot; None without EPSS.
        kev_day: day of the KEV catalogue; None without KEV.
        cvss_day: day of the newest CVSS change; None without CVSS.
    """

    keys: NDArray[np.uint32]
    epss: NDArray[np.uint16]
    cvss: NDArray[np.uint8]
    kev: NDArray[np.bool_]
    epss_day: int | None
    kev_day: int | None
    cvss_day: int | None

    def __post_init__(self) -> None:
        shape = (len(self.keys),)
        _check_array("keys", self.keys, np.uint32, shape)
        _check_array("epss", self.epss, np.uint16, shape)
        _check_array("cvss", self.cvss, np.uint8, shape)
        _check_array("kev", self.kev, np.bool_, shape)
        _check(
            bool((self.keys[1:] > self.keys[:-1]).all()),
            "keys",
            "strictly rising CVEs",
            "unsorted or repeated ones",
        )
        _check(
            bool(((self.cvss <= 100) | (self.cvss == NO_CVSS)).all()),  # noqa: PLR2004
            "cvss",
            "0 to 100 or 255",
            "others",
        )
        for name in ("epss_day", "kev_day", "cvss_day"):
            if (day := getattr(self, name)) is not None:
                _check_day(name, day)

    def find(self, keys: NDArray[np.uint32]) -> NDArray[np.intp]:
        """Find the row of each key, int (k,); -1 for an unknown CVE."""
        if not len(self.keys):
            return np.full(len(keys), -1, np.intp)
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        return np.where(self.keys[rows] == keys, rows, -1)

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds equal knowledge.

        Keys are split into their upper and lower 16 bits: 5 bytes a CVE instead of 8.
        """
        blocks, block_sizes = np.unique(self.keys >> 16, return_counts=True)
        arrays = {
            "blocks": blocks.astype(np.uint16),
            "block_sizes": block_sizes.astype(np.uint32),
            "lower": (self.keys & 0xFFFF).astype(np.uint16),
            "epss": self.epss,
            "cvss": self.cvss,
            "kev_rows": np.flatnonzero(self.kev).astype(np.uint32),
        }
        config = {
            "format": KNOWLEDGE_FORMAT,
            "epss_day": self.epss_day,
            "kev_day": self.kev_day,
            "cvss_day": self.cvss_day,
        }
        return Parts(arrays, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the knowledge from a bundle.

        Raises:
            ArtifactIncompatible: another format, an array missing or of another shape or type, CVEs
                out of order, or a score out of its range.
        """
        names = ("blocks", "block_sizes", "lower", "epss", "cvss", "kev_rows")
        blocks, block_sizes, lower, epss, cvss, kev_rows = _arrays(parts, names)
        config = _config(parts, KNOWLEDGE_FORMAT, ("epss_day", "kev_day", "cvss_day"))
        m = lower.size
        _check_array("lower", lower, np.uint16, (m,))
        _check_array("blocks", blocks, np.uint16, (blocks.size,))
        _check_array("block_sizes", block_sizes, np.uint32, (blocks.size,))
        _check_array("kev_rows", kev_rows, np.uint32, (kev_rows.size,))
        # Checked before np.repeat, which would otherwise allocate any amount of memory.
        total = int(block_sizes.sum(dtype=np.uint64))
        _check(total == m, "block_sizes", f"a sum of {m}", str(total))
        _check(bool((kev_rows < m).all()), "kev_rows", f"rows under {m}", "rows beyond")
        keys = np.repeat(blocks.astype(np.uint32), block_sizes) << np.uint32(16) | lower
        kev = np.zeros(m, np.bool_)
        kev[kev_rows] = True
        return cls(keys, epss, cvss, kev, config["epss_day"], config["kev_day"], config["cvss_day"])


@dataclass(frozen=True, slots=True, eq=False)
class PostureInventory:
    """Inventory of h hosts.

    One array has the CVEs of all hosts, those of host i in `cves[starts[i]:starts[i + 1]]`.

    Attributes:
        hosts: h names, each once, in the form of `host_key`.
        starts: uint32 (h + 1,), non-decreasing, from 0 to len(cves).
        cves: uint32, `cve_key` of each finding, strictly rising within a host.
        exposures: uint8 (h,), positions in `EXPOSURES`.
        criticalities: uint8 (h,), positions in `CRITICALITIES`.
        controls: uint8 (h,), bits of `CONTROLS`.
        scan_days: int32 (h,), day of the scan of each host.
        rows: host name -> its position; derived.
    """

    hosts: tuple[str, ...]
    starts: NDArray[np.uint32]
    cves: NDArray[np.uint32]
    exposures: NDArray[np.uint8]
    criticalities: NDArray[np.uint8]
    controls: NDArray[np.uint8]
    scan_days: NDArray[np.int32]
    rows: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        h, shape = len(self.hosts), (len(self.hosts),)
        _check_array("starts", self.starts, np.uint32, (h + 1,))
        _check_array("cves", self.cves, np.uint32, (len(self.cves),))
        _check_array("exposures", self.exposures, np.uint8, shape)
        _check_array("criticalities", self.criticalities, np.uint8, shape)
        _check_array("controls", self.controls, np.uint8, shape)
        _check_array("scan_days", self.scan_days, np.int32, shape)
        runs = bool(
            self.starts[0] == 0
            and self.starts[-1] == len(self.cves)
            and (self.starts[1:] >= self.starts[:-1]).all()
        )
        _check(runs, "starts", "runs from 0 to the last CVE", "others")
        first_of_host = np.zeros(len(self.cves) + 1, np.bool_)
        first_of_host[self.starts] = True
        rises = (self.cves[1:] > self.cves[:-1]) | first_of_host[1 : len(self.cves)]
        _check(
            bool(rises.all()),
            "cves",
            "CVEs strictly rising within a host",
            "unsorted or repeated ones",
        )
        _check(
            bool((self.exposures < len(EXPOSURES)).all()),
            "exposures",
            f"values under {len(EXPOSURES)}",
            "others",
        )
        _check(
            bool((self.criticalities < len(CRITICALITIES)).all()),
            "criticalities",
            f"values under {len(CRITICALITIES)}",
            "others",
        )
        _check(
            bool((self.controls < 1 << len(CONTROLS)).all()),
            "controls",
            f"{len(CONTROLS)} bits",
            "more",
        )
        _check(
            bool(((self.scan_days >= 0) & (self.scan_days <= _LAST_DAY)).all()),
            "scan_days",
            f"days 0 to {_LAST_DAY}",
            "others",
        )
        for host in self.hosts:
            _check(
                is_host_key(host),
                "hosts",
                f"printable lower-case names of 1 to {_LONGEST_HOST} bytes",
                "another",
            )
        object.__setattr__(self, "rows", {host: row for row, host in enumerate(self.hosts)})
        _check(len(self.rows) == h, "hosts", "each host once", "a host twice")

    def __len__(self) -> int:
        return len(self.hosts)

    def to_parts(self) -> Parts:
        """Parts for a bundle; `from_parts` builds an equal inventory.

        They include the vocabularies, so that a reader with other ones rejects the bundle.
        """
        names = ("starts", "cves", "exposures", "criticalities", "controls", "scan_days")
        config = {"format": INVENTORY_FORMAT, "hosts": list(self.hosts), **_vocabularies()}
        return Parts({name: getattr(self, name) for name in names}, config)

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the inventory from a bundle.

        Raises:
            ArtifactIncompatible: another format or vocabulary, an array missing or of another
                shape or type, a value out of its range, or a repeated host.
        """
        arrays = _arrays(
            parts, ("starts", "cves", "exposures", "criticalities", "controls", "scan_days")
        )
        vocabularies = _vocabularies()
        config = _config(parts, INVENTORY_FORMAT, ("hosts", *vocabularies))
        for name, words in vocabularies.items():
            _check(config[name] == words, name, f"{words}", "another vocabulary")
        hosts = config["hosts"]
        _check(
            isinstance(hosts, list) and all(isinstance(host, str) for host in hosts),
            "hosts",
            "a list of names",
            "something else",
        )
        return cls(tuple(hosts), *arrays)


def _vocabularies() -> dict[str, list[str]]:
    return {
        "exposure_words": list(EXPOSURES),
        "criticality_words": list(CRITICALITIES),
        "control_words": list(CONTROLS),
    }


def _check(condition: bool, what: str, expected: str, found: str) -> None:  # noqa: FBT001  # a claim
    if not condition:
        raise ArtifactIncompatible(f"posture {what}", expected, found)


def _check_array(
    name: str, array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    """Reject an array of another type or shape, and make it read-only."""
    found = f"{array.dtype.name} {array.shape}"
    _check(
        array.dtype == np.dtype(dtype) and array.shape == shape,
        name,
        f"{np.dtype(dtype).name} {shape}",
        found,
    )
    array.setflags(write=False)


def _check_day(name: str, day: object) -> None:
    is_int = isinstance(day, int) and not isinstance(day, bool)
    _check(is_int and 0 <= day <= _LAST_DAY, name, f"a day from 0 to {_LAST_DAY}", "another value")  # type: ignore[operator]


def _arrays(parts: Parts, names: Sequence[str]) -> list[NDArray[Any]]:
    for name in names:
        _check(name in parts.arrays, name, "an array", "none")
        _check(parts.arrays[name].ndim == 1, name, "one dimension", f"{parts.arrays[name].ndim}")
    further = sorted(parts.arrays.keys() - set(names))
    _check(not further, "arrays", "no others", ", ".join(ascii(name[:63]) for name in further[:5]))
    return [_own(parts.arrays[name]) for name in names]


def _config(parts: Parts, expected_format: str, names: Sequence[str]) -> Mapping[str, Any]:
    found = parts.config.get("format")
    _check(found == expected_format, "format", expected_format, f"{found!r:.40}")
    for name in names:
        _check(name in parts.config, name, "a value", "none")
    return parts.config


def _own(array: NDArray[Any]) -> NDArray[Any]:
    return np.array(
        array, order="C"
    )  # a copy: a later change of the parts does not change the model
