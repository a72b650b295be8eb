"""Recipe of the resilience layer: public files and inventories, read strictly."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cvss import CVSS2, CVSS3

from ensemble.errors import TrainingError
from ensemble.events import ProcessBatch, ProcessEvent
from ensemble.layers.posture import (
    CONTROLS,
    CRITICALITIES,
    EPSS_STEPS,
    EXPOSURES,
    NO_CVSS,
    PostureInventory,
    PostureKnowledge,
    cve_key,
    cve_name,
)
from ensemble.layers.resilience import ResiliencePosture
from ensemble.model import ModelScores
from ensemble.training.recipes.host_inventory import TrivyHost, read_inventory
from ensemble.training.recipes.vulnerabilities import (
    SourceTable,
    build_knowledge,
    read_cvss,
    read_epss,
    read_kev,
    train_knowledge,
)

ROOT = Path(__file__).parents[4]
DATA = Path(os.environ.get("AXON_DATA", ROOT.parent / "shared" / "data")) / "vuln_posture"
DEMO = ROOT / "configs" / "inventory.demo.csv"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/vuln_posture")

EPSS = "cve,epss,percentile\nCVE-2021-44228,0.99999,1.0\nCVE-1999-0001,0.012,0.7\n"
EPSS_OFFICIAL = "#model_version:v2025.03.14,score_date:2026-08-16T12:55:00Z\n" + EPSS
KEV = (
    "cveID,vendorProject,dateAdded,notes\n"
    'CVE-2021-44228,Apache,2021-12-10,"two\nlines, quoted"\nCVE-2014-0160,OpenSSL,2022-05-04,\n'
)
KEV_JSON = {
    "title": "CISA Catalog of Known Exploited Vulnerabilities",
    "dateReleased": "2026-11-01T17:04:19.9796Z",
    "count": 1,
    "vulnerabilities": [{"cveID": "CVE-2021-44228", "dateAdded": "2021-12-10"}],
}
CVSS = """cve,modified,cvss3_vector,cvss3_score,cvss2_vector,cvss2_score
CVE-2021-44228,2026-01-02,CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H,10.0,AV:N/AC:M/Au:N/C:C/I:C/A:C,9.3
CVE-1999-0001,2025-01-02,,,AV:N/AC:L/Au:N/C:N/I:N/A:P,5.0
CVE-1999-0020,2023-11-07,,,,
"""
HEADER = "host,cves,exposure,criticality,controls,scan_time\n"
INVENTORY = (
    HEADER + "web-1,CVE-2021-44228;CVE-1999-0001,internet,high,waf,2026-11-15\nws-17,,internal,low,"
    "edr mfa,2026-11-15T22:30:00-05:00\n"
)
TRIVY = {
    "SchemaVersion": 2,
    "CreatedAt": "2026-11-14T12:20:30.000000005Z",
    "ArtifactName": "App-1",
    "Results": [
        {
            "Target": "os",
            "Vulnerabilities": [
                {"VulnerabilityID": "CVE-2021-44228"},
                {"VulnerabilityID": "GHSA-jfh8-c2jp-5v3q"},
            ],
        },
        {"Target": "clean", "Vulnerabilities": None},
        {
            "Target": "lib",
            "Vulnerabilities": [{"VulnerabilityID": "CVE-1999-0001", "Status": "not_affected"}],
        },
        {"Target": "secrets"},
    ],
}
DAY = dt.date(2026, 8, 16)

Write = Callable[..., Path]


def day(text: str) -> int:
    return (dt.date.fromisoformat(text) - dt.date(1970, 1, 1)).days


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write text or JSON to a file, and return its path."""

    def write_file(content: Any, name: str = "file") -> Path:
        path = tmp_path / name
        path.write_bytes(
            content
            if isinstance(content, bytes)
            else (content if isinstance(content, str) else json.dumps(content)).encode()
        )
        return path

    return write_file


# --- knowledge


PACKED = [
    pytest.param(str.encode, id="plain"),
    pytest.param(lambda text: gzip.compress(text.encode()), id="gzip"),
    pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="with byte order mark"),
]


@pytest.mark.parametrize("pack", PACKED)
def test_epss_is_read_in_the_form_that_first_publishes(
    write: Write, pack: Callable[[str], bytes]
) -> None:
    path = write(pack(EPSS_OFFICIAL))

    table = read_epss(path)

    assert [cve_name(key) for key in table.keys] == ["CVE-1999-0001", "CVE-2021-44228"]
    assert table.values / EPSS_STEPS == pytest.approx([0.012, 0.99999], abs=1e-5)
    assert table.day == day("2026-08-16")
    assert table.counts == {"epss_rows": 2}
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_epss_without_a_date_needs_one(write: Write) -> None:
    """The weight of a source depends on its age, so the date is never guessed."""
    with pytest.raises(TrainingError, match="epss: no date"):
        read_epss(write(EPSS))

    assert read_epss(write(EPSS), date=DAY).day == day("2026-08-16")


def test_a_date_that_contradicts_the_file_is_refused(write: Write) -> None:
    """P16: old data never counts as new, not even by an option."""
    with pytest.raises(TrainingError, match="states another date"):
        read_epss(write(EPSS_OFFICIAL), date=dt.date(2026, 11, 20))


def test_kev_is_read_from_csv_and_from_json(write: Write) -> None:
    from_csv, from_json = read_kev(write(KEV)), read_kev(write(KEV_JSON))

    assert [cve_name(key) for key in from_csv.keys] == ["CVE-2014-0160", "CVE-2021-44228"]
    assert from_csv.day == day("2022-05-04")  # the newest entry: the CSV says no more
    assert from_json.values.tolist() == [True]
    assert from_json.day == day("2026-11-01")


def test_cvss_prefers_version_3_to_version_2_and_counts_rows_with_neither(write: Write) -> None:
    table = read_cvss(write(CVSS))

    assert dict(zip(table.keys.tolist(), table.values.tolist(), strict=True)) == {
        cve_key("CVE-1999-0001"): 50,
        cve_key("CVE-2021-44228"): 100,
    }
    assert table.counts == {
        "cvss_rows": 3,
        "cvss_vectors": 2,
        "cvss_v3": 1,
        "cvss_v2": 1,
        "cvss_without_vector": 1,
    }
    assert table.day == day("2026-01-02")


def test_knowledge_joins_all_sources_and_marks_the_absent_ones(write: Write) -> None:
    known = build_knowledge(read_epss(write(EPSS_OFFICIAL)), read_kev(write(KEV)), None)

    assert [cve_name(key) for key in known.keys] == [
        "CVE-1999-0001",
        "CVE-2014-0160",
        "CVE-2021-44228",
    ]
    assert known.kev.tolist() == [False, True, True]
    assert known.epss[1] == 65_535  # KEV names it, EPSS does not
    assert (known.cvss == NO_CVSS).all()
    assert known.cvss_day is None


BAD_KNOWLEDGE = [
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("0.012", "1.2"),
        "epss: line 4, column epss: '1.2' is not from 0 to 1",
        id="epss over 1",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("0.012", "nan"),
        "epss: line 4, column epss: 'nan'",
        id="epss not a number",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("0.012", "high"),
        "epss: line 4, column epss: 'high' is not a number",
        id="epss a word",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("CVE-1999-0001", "1999-1"),
        "epss: line 4, column cve: '1999-1' is no CVE",
        id="no cve",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL + "CVE-1999-0001,0.5,1\n",
        "epss: line 5, column cve: 'CVE-1999-0001' is repeated",
        id="twice",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL + "CVE-1999-0002,0.5\n",
        "epss: line 5: 2 cells where the header has 3",
        id="a row cut short",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("epss,per", "score,per"),
        "epss: line 2: no column epss",
        id="no column",
    ),
    pytest.param(
        read_epss,
        EPSS_OFFICIAL.replace("2026-08-16", "2026-08-99"),
        "epss: line 1, score_date",
        id="no such day",
    ),
    pytest.param(read_epss, "", "epss: no header line", id="empty"),
    pytest.param(
        read_epss, gzip.compress(EPSS.encode())[:-9], "epss: broken gzip", id="gzip cut short"
    ),
    pytest.param(read_epss, b"cve,epss\n\xff\n", "epss: not UTF-8 at byte 9", id="not text"),
    pytest.param(
        read_kev,
        KEV.replace("2022-05-04", "05/04/22"),
        "kev: line 4, column dateAdded: '05/04/22'",
        id="line after a quoted break",
    ),
    pytest.param(
        read_kev,
        KEV.replace('quoted"', "quoted"),
        "kev: line 2: broken quoting",
        id="quote left open",
    ),
    pytest.param(read_kev, KEV_JSON | {"count": 2}, "kev: field count", id="catalogue cut short"),
    pytest.param(
        read_kev,
        {"vulnerabilities": [{"cveID": "x"}]},
        "kev: field vulnerabilities[0].cveID: 'x' is no CVE",
        id="no cve in json",
    ),
    pytest.param(
        read_kev,
        {"vulnerabilities": [{"cveID": 1}]},
        "kev: field vulnerabilities[0].cveID: is no CVE",
        id="cve a number",
    ),
    pytest.param(read_kev, {"vulnerabilities": {}}, "kev: field vulnerabilities", id="no list"),
    pytest.param(read_kev, "{\n 'a'}", "kev: line 2, column 2: not JSON", id="no json"),
    pytest.param(read_kev, "[" * 200_000, "kev: JSON nested too deeply", id="json bomb"),
    pytest.param(
        read_cvss,
        CVSS.replace(",5.0", ",7.0"),
        "cvss: line 3, column cvss2_score: '7.0' is not what its vector gives: 5.0",
        id="score",
    ),
    pytest.param(
        read_cvss,
        CVSS.replace("S:C/", "S:X/"),
        "cvss: line 2, column cvss3_vector",
        id="no such vector",
    ),
    pytest.param(
        read_cvss, CVSS.replace("2025-01-02", "-"), "cvss: line 3, column modified", id="no date"
    ),
]


@pytest.mark.parametrize(("read", "content", "message"), BAD_KNOWLEDGE)
def test_invalid_knowledge_is_rejected_by_line_and_column(
    write: Write, read: Callable[[Path], SourceTable], content: Any, message: str
) -> None:
    with pytest.raises(TrainingError, match="^" + re.escape(message)):
        read(write(content))


def test_a_missing_file_is_named_by_its_role_and_not_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^epss: cannot be read") as error:
        read_epss(tmp_path / "secret-place.csv")

    assert "secret-place" not in str(error.value)


# --- inventory


def test_an_inventory_is_read_from_csv(write: Write) -> None:
    read = read_inventory(write(INVENTORY))
    hosts = read.inventory

    assert hosts.hosts == ("web-1", "ws-17")
    assert [cve_name(key) for key in hosts.cves] == ["CVE-1999-0001", "CVE-2021-44228"]
    assert hosts.starts.tolist() == [0, 2, 2]
    assert [EXPOSURES[place] for place in hosts.exposures] == ["internet", "internal"]
    assert [CRITICALITIES[place] for place in hosts.criticalities] == ["high", "low"]
    assert [
        [c for bit, c in enumerate(CONTROLS) if bits >> bit & 1] for bits in hosts.controls
    ] == [["waf"], ["edr", "mfa"]]
    assert hosts.scan_days.tolist() == [
        day("2026-11-15"),
        day("2026-11-16"),
    ]  # 22:30 in New York is tomorrow in UTC
    assert read.counts == {
        "inventory_rows": 2,
        "inventory_hosts": 2,
        "inventory_cves": 2,
        "inventory_merged": 0,
    }


def test_an_inventory_is_the_same_from_json(write: Write) -> None:
    rows = [
        {
            "host": "ws-17",
            "cves": [],
            "exposure": "internal",
            "criticality": "low",
            "controls": ["mfa", "edr"],
            "scan_time": "2026-11-16",
        },
        {
            "host": "WEB-1",
            "cves": ["CVE-2021-44228", "CVE-1999-0001"],
            "exposure": "internet",
            "criticality": "high",
            "controls": ["waf"],
            "scan_time": "2026-11-15",
            "comment": "ours",
        },
    ]
    from_json, from_csv = (
        read_inventory(write(content)).inventory.to_parts()
        for content in ({"hosts": rows}, INVENTORY)
    )

    assert from_json.config == from_csv.config
    for name, array in from_json.arrays.items():
        assert array.tolist() == from_csv.arrays[name].tolist()


def test_a_host_that_comes_twice_is_merged_towards_the_worse(write: Write) -> None:
    """One finding a row is a common export; a second row must never make a host look better."""
    rows = (
        "web-1,CVE-2021-44228,internal,high,waf edr,2026-11-15\n"
        "WEB-1,CVE-1999-0001 CVE-2021-44228,internet,low,edr mfa,2026-10-01\n"
    )
    read = read_inventory(write(HEADER + rows))
    merged = read.inventory

    assert merged.hosts == ("web-1",)
    assert len(merged.cves) == 2
    assert EXPOSURES[merged.exposures[0]] == "internet"
    assert CRITICALITIES[merged.criticalities[0]] == "high"
    assert merged.controls[0] == 1 << CONTROLS.index("edr")
    assert merged.scan_days[0] == day("2026-10-01")
    assert read.counts["inventory_merged"] == 1


def test_a_trivy_report_is_one_host(write: Write) -> None:
    read = read_inventory(write(TRIVY), trivy=TrivyHost("internet", "high", ["waf"]))

    assert read.inventory.hosts == ("app-1",)
    assert [cve_name(key) for key in read.inventory.cves] == ["CVE-2021-44228"]
    assert read.inventory.scan_days[0] == day("2026-11-14")
    assert read.counts["trivy_not_cve"] == 1
    assert read.counts["trivy_not_affected"] == 1


GOOD_HOST = {
    "host": "h",
    "cves": [],
    "exposure": "internal",
    "criticality": "low",
    "controls": [],
    "scan_time": "2026-11-15",
}
BAD_INVENTORIES = [
    pytest.param(
        INVENTORY.replace("internet", "dmz"),
        "line 2, column exposure: 'dmz' is not one of isolated, internal, internet",
        id="exposure",
    ),
    pytest.param(
        INVENTORY.replace("low", "Low"),
        "line 3, column criticality: 'Low' is not one of",
        id="criticality",
    ),
    pytest.param(
        INVENTORY.replace("edr mfa", "edr prayer"),
        "line 3, column controls: 'prayer' is not one of",
        id="control",
    ),
    pytest.param(
        INVENTORY.replace("CVE-1999-0001", "CVE-99-1"),
        "line 2, column cves: 'CVE-99-1' is no CVE name",
        id="cve",
    ),
    pytest.param(
        INVENTORY.replace("2026-11-15\n", "yesterday\n"),
        "line 2, column scan_time: 'yesterday' is no ISO 8601",
        id="scan time",
    ),
    pytest.param(
        INVENTORY.replace("2026-11-15\n", "1926-11-15\n"),
        "line 2, column scan_time: '1926-11-15' is not in the years",
        id="before 1970",
    ),
    pytest.param(
        INVENTORY.replace("ws-17", ""),
        "line 3, column host: must be a printable name",
        id="no host",
    ),
    pytest.param(INVENTORY.replace("ws-17", "h" * 257), "line 3, column host", id="host too long"),
    pytest.param(
        INVENTORY.replace("criticality", "importance"),
        "line 1: no column criticality",
        id="column missing",
    ),
    pytest.param(
        INVENTORY.replace("scan_time", "scan_time,owner"),
        "line 1, column 'owner': unknown",
        id="column unknown",
    ),
    pytest.param(
        INVENTORY.replace("scan_time", "scan_time,host"),
        "line 1, column 'host': is repeated",
        id="column twice",
    ),
    pytest.param(
        "# ours\n\n" + INVENTORY.replace("internet", "dmz"),
        "line 4, column exposure",
        id="lines counted past a comment",
    ),
    pytest.param(HEADER, "no hosts in it", id="empty"),
    pytest.param(
        {"hosts": [GOOD_HOST, GOOD_HOST | {"exposure": 3}]},
        "field hosts[1].exposure: 3 is not one of",
        id="json exposure",
    ),
    pytest.param(
        {"hosts": [GOOD_HOST | {"cves": "CVE-2021-44228"}]},
        "field hosts[0].cves: must be a list",
        id="json cves as text",
    ),
    pytest.param(
        {"hosts": [GOOD_HOST | {"controls": [["waf"]]}]},
        "field hosts[0].controls: ['waf'] is not one of",
        id="json control",
    ),
    pytest.param(
        {"hosts": [GOOD_HOST | {"host": None}]}, "field hosts[0].host: must be text", id="json host"
    ),
    pytest.param(
        {"hosts": [{"host": "h"}]}, "field hosts[0].cves: is missing", id="json field missing"
    ),
    pytest.param(
        {"hosts": [GOOD_HOST | {"owner": "me"}]},
        "field hosts[0].'owner': unknown field",
        id="json field unknown",
    ),
    pytest.param({"hosts": [7]}, "field hosts[0]: must be an object", id="json host no object"),
    pytest.param([GOOD_HOST], "field hosts: must be a list in an object", id="json no object"),
    pytest.param(TRIVY, "a Trivy report has no exposure", id="trivy without context"),
]


@pytest.mark.parametrize(("content", "message"), BAD_INVENTORIES)
def test_an_invalid_inventory_is_rejected_by_its_place(
    write: Write, content: Any, message: str
) -> None:
    with pytest.raises(TrainingError, match="^inventory: " + re.escape(message)):
        read_inventory(write(content))


BAD_TRIVY = [
    pytest.param(TRIVY | {"SchemaVersion": 3}, {}, "field SchemaVersion", id="another schema"),
    pytest.param(TRIVY | {"Results": {}}, {}, "field Results", id="no list"),
    pytest.param(
        TRIVY | {"Results": [{"Vulnerabilities": [{}]}]},
        {},
        "field Results[0].Vulnerabilities[0].VulnerabilityID",
        id="no id",
    ),
    pytest.param(
        {"SchemaVersion": 2}, {"host": "h"}, "field of the Trivy host: scan_time", id="no time"
    ),
    pytest.param(TRIVY, {"exposure": "dmz"}, "field of the Trivy host: exposure", id="exposure"),
    pytest.param(INVENTORY, {}, "not a Trivy report", id="no report at all"),
]


@pytest.mark.parametrize(("content", "context", "message"), BAD_TRIVY)
def test_an_invalid_trivy_report_is_rejected_by_its_field(
    write: Write, content: Any, context: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=re.escape(message)):
        read_inventory(
            write(content),
            trivy=TrivyHost(**{"exposure": "internal", "criticality": "low"} | context),
        )


# --- the recipe


def test_knowledge_scores_hosts_alike_after_a_reload(write: Write) -> None:
    paths = {
        name: write(text, name)
        for name, text in (("epss", EPSS_OFFICIAL), ("kev", KEV), ("cvss", CVSS))
    }
    trained, hosts = (
        train_knowledge(**paths),
        read_inventory(write(INVENTORY, "inventory")).inventory,
    )
    batch = ProcessBatch.of(
        [ProcessEvent("any", host=name) for name in (*hosts.hosts, "never-seen", "")]
    )

    def score(knowledge: PostureKnowledge, inventory: PostureInventory) -> ModelScores:
        return ResiliencePosture(
            knowledge, inventory, now=lambda: day("2026-11-20") * 86_400.0
        ).score(batch)

    before = score(trained.knowledge, hosts)
    after = score(
        PostureKnowledge.from_parts(trained.knowledge.to_parts()),
        PostureInventory.from_parts(hosts.to_parts()),
    )
    assert after.scores == pytest.approx(before.scores, abs=1e-12)
    assert "kev expired" in before.notes[0]
    assert [before.notes[len(hosts)], before.notes[len(hosts) + 1]] == [
        "host_unknown",
        "host_not_given",
    ]
    assert trained.metrics["knowledge_cves"] == 3
    assert set(trained.training_data) == {"epss", "kev", "cvss"}


def test_without_epss_and_kev_there_is_no_knowledge(write: Write) -> None:
    with pytest.raises(TrainingError, match="neither EPSS nor KEV"):
        train_knowledge(cvss=write(CVSS, "cvss"))


def test_the_demonstration_inventory_is_valid_and_marked_as_such() -> None:
    hosts = read_inventory(DEMO).inventory

    assert {"web-1", "10.0.0.7", "ws-17", "db-1"} <= set(hosts.hosts)
    assert (hosts.scan_days == day("2026-11-15")).all()
    assert "demonstration" in DEMO.read_text().splitlines()[0]


# --- on the real files


@needs_data
def test_the_shipped_knowledge_is_complete_small_and_reports_its_age() -> None:
    """The real files of 2024 to 2026, on 2026-11-20: usable, and stale."""
    trained = train_knowledge(
        epss=DATA / "epss.csv.gz",
        kev=DATA / "kev_to_2024.csv.gz",
        cvss=DATA / "nvd_cvss.csv.gz",
        epss_date=DAY,
    )
    hosts = read_inventory(DEMO).inventory
    posture = ResiliencePosture(trained.knowledge, hosts, now=lambda: day("2026-11-20") * 86_400.0)
    scored = posture.score(
        ProcessBatch.of([ProcessEvent("any", host=name) for name in hosts.hosts])
    )
    score = dict(zip(hosts.hosts, scored.scores.tolist(), strict=True))

    assert trained.metrics["epss_rows"] == trained.metrics["knowledge_cves"] == 360_142
    assert trained.metrics["kev_rows"] == 1_239
    assert trained.metrics["cvss_v3"] == 7_133
    assert trained.metrics["cvss_rows"] == 84_348
    assert sum(array.nbytes for array in trained.knowledge.to_parts().arrays.values()) < 2_500_000
    assert scored.notes[0] == "epss stale: 96 days; kev stale: 690 days; cvss stale: 633 days"
    assert (
        score["ws-17"]
        < 0.2
        < score["vpn-1"]
        < 0.5
        < score["db-1"]
        < score["10.0.0.7"]
        < score["web-1"]
    )


@needs_data
def test_the_kev_sample_of_cisa_is_read() -> None:
    table = read_kev(DATA / "kev_sample_200.json.gz")

    assert len(table.keys) == 200
    assert table.day == day("2025-08-25")


@needs_data
def test_the_trivy_sample_is_read() -> None:
    read = read_inventory(
        DATA / "trivy_alpine310_sample.json",
        trivy=TrivyHost("internal", "medium", host="alpine-310"),
    )

    assert read.inventory.hosts == ("alpine-310",)
    assert "CVE-2019-1549" in [cve_name(key) for key in read.inventory.cves]
    assert read.inventory.scan_days[0] == day("2021-08-25")


@needs_data
def test_the_cvss_library_agrees_with_the_vectors_of_red_hat() -> None:
    """A sample of published vectors verifies the library."""
    with gzip.open(DATA / "cvss_vectors.csv.gz", "rt") as stream:
        lines = [
            row["line"]
            for row in csv.DictReader(stream)
            if re.search(r"_(simple|calculator)(2|3|31)$", row["file"])
        ]
    checked = 0
    for line in lines[::10]:
        vector, _, scores = line.partition(" - ")
        found = (CVSS3 if vector.startswith("CVSS:3") else CVSS2)(vector).scores()[0]
        assert abs(float(found)) == pytest.approx(abs(float(scores.strip("()").split(",")[0]))), (
            line
        )
        checked += 1

    assert checked > 200
