"""Findings: on disk before the event is removed, bounded, and never torn (N-02)."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise, product
from pathlib import Path

import msgspec
import pytest

from ensemble.retro.findings import FINDINGS, Finding, Findings, read_findings
from ensemble.retro.policy import FULL_COVERAGE, is_escalation, millionths
from ensemble.retro.segment import FirstVerdict
from ensemble.verdicts import VerdictLabel

ORDER = [
    VerdictLabel.BENIGN,
    VerdictLabel.INDETERMINATE,
    VerdictLabel.SUSPICIOUS,
    VerdictLabel.MALICIOUS,
]


def finding(number: int, size: int = 10, tenant: str = "acme") -> Finding:
    return Finding(
        id=f"e{number}",
        tenant=tenant,
        kind="flow",
        host="web-1",
        digest=f"{number:064x}",
        at="2026-01-01T00:00:00.000000+00:00",
        found_at="2026-01-01T01:00:00.000000+00:00",
        was=FirstVerdict(0.1, VerdictLabel.INDETERMINATE, 0.4),
        verdict=msgspec.Raw(
            msgspec.json.encode({"score": 0.9, "verdict": "malicious", "pad": "x" * size})
        ),
    )


def append_each(findings: Findings, numbers: Iterable[int]) -> None:
    for number in numbers:
        findings.append([finding(number, size=200)])


def ids(root: Path) -> list[str]:
    return [one.id for one in read_findings(root)[0]]


@pytest.mark.parametrize(("was", "now"), list(product(ORDER, ORDER)))
def test_a_worse_verdict_that_alarms_is_a_finding(was: VerdictLabel, now: VerdictLabel) -> None:
    """`indeterminate` is no alarm, so it is no finding; from indeterminate to suspicious is one."""
    worse = ORDER.index(now) > ORDER.index(was)

    assert is_escalation(was, now) is (
        worse and now in {VerdictLabel.SUSPICIOUS, VerdictLabel.MALICIOUS}
    )


def test_only_complete_evidence_is_full_coverage() -> None:
    assert millionths(1.0) == FULL_COVERAGE
    assert millionths(0.1 + 0.2 + 0.7) == FULL_COVERAGE
    assert all(
        millionths(low) < millionths(high)
        for low, high in pairwise([0.0, 0.4, 0.400001, 0.999999, 1.0])
    )


def test_a_finding_is_a_line_of_json_with_the_original_time(tmp_path: Path) -> None:
    Findings(tmp_path / "retro", limit_bytes=1 << 20).append([finding(1)])

    (written,) = (tmp_path / "retro" / FINDINGS).read_bytes().splitlines()
    assert msgspec.json.decode(written) == {
        "retro": True,
        "id": "e1",
        "tenant": "acme",
        "kind": "flow",
        "host": "web-1",
        "digest": f"{1:064x}",
        "at": "2026-01-01T00:00:00.000000+00:00",
        "found_at": "2026-01-01T01:00:00.000000+00:00",
        "was": {"score": 0.1, "verdict": "indeterminate", "coverage": 0.4},
        "verdict": {"score": 0.9, "verdict": "malicious", "pad": "x" * 10},
    }


def test_findings_are_on_the_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noted)
    Findings(tmp_path, limit_bytes=1 << 20).append([finding(1)])

    assert synced == [(tmp_path / FINDINGS).stat().st_ino, tmp_path.stat().st_ino]


def test_both_files_together_stay_below_the_limit_and_the_newest_stay(tmp_path: Path) -> None:
    findings, limit = Findings(tmp_path, limit_bytes=20_000), 20_000
    for number in range(200):
        findings.append([finding(number, size=300)])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= limit

    left = ids(tmp_path)
    assert left == [f"e{number}" for number in range(200 - len(left), 200)]
    assert len(left) > 10


def test_a_tenant_with_many_findings_pushes_out_its_own_alone(tmp_path: Path) -> None:
    """B12: the findings of one tenant's flood rotated another's out."""
    findings = Findings(tmp_path, limit_bytes=1 << 16)
    for number in range(20):
        findings.append([finding(number, tenant="quiet")])
    for number in range(1000, 2000):
        findings.append([finding(number, size=200, tenant="loud")])

    found, bad = read_findings(tmp_path)
    loud = [one.id for one in found if one.tenant == "loud"]
    assert [one.id for one in found if one.tenant == "quiet"] == [f"e{n}" for n in range(20)]
    assert loud == [f"e{number}" for number in range(2000 - len(loud), 2000)]
    assert (bad, len(loud) > 40) == (0, True)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 1 << 16


def test_tenants_with_many_findings_share_the_room(tmp_path: Path) -> None:
    findings = Findings(tmp_path, limit_bytes=1 << 16)
    for number in range(600):
        findings.append([finding(number, size=200, tenant=f"t{number % 3}")])

    kept = Counter(one.tenant for one in read_findings(tmp_path)[0])
    assert max(kept.values()) - min(kept.values()) <= 2


def test_a_crash_while_the_files_are_joined_loses_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = Findings(tmp_path, limit_bytes=1 << 16)
    replace = os.replace

    def crashes(*names: str, **folders: int) -> None:
        replace(*names, **folders)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crashes)
        with pytest.raises(KeyboardInterrupt):
            append_each(findings, range(1000))
    until = int(ids(tmp_path)[-1][1:])

    findings.append([finding(until + 1, size=200)])
    assert {*ids(tmp_path)} >= {f"e{number}" for number in range(until + 2)}


def test_half_a_line_of_a_dead_writer_tears_no_other(tmp_path: Path) -> None:
    findings = Findings(tmp_path, limit_bytes=1 << 20)
    findings.append([finding(1)])
    with (tmp_path / FINDINGS).open("ab") as file:
        file.write(b'{"retro":true,"id":"e2')

    findings.append([finding(3)])

    assert ids(tmp_path) == ["e1", "e3"]
    assert read_findings(tmp_path)[1] == 1


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = Findings(tmp_path, limit_bytes=1 << 20)
    findings.append([finding(1)])
    before = (tmp_path / FINDINGS).read_bytes()
    write = os.write

    def half(fd: int, data: memoryview) -> int:
        if len(data) > 50:
            return write(fd, data[:50])
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(OSError, match="space"):
            findings.append([finding(2), finding(3)])

    assert (tmp_path / FINDINGS).read_bytes() == before


def test_two_writers_share_one_file(tmp_path: Path) -> None:
    writers = [Findings(tmp_path, limit_bytes=1 << 20) for _ in range(2)]

    for number in range(20):
        writers[number % 2].append([finding(number)])

    assert ids(tmp_path) == [f"e{number}" for number in range(20)]


def test_only_this_user_can_read_findings_and_links_are_not_followed(tmp_path: Path) -> None:
    secret, root = tmp_path / "secret", tmp_path / "retro"
    secret.write_text("theirs")
    findings = Findings(root, limit_bytes=1 << 20)
    findings.append([finding(1)])
    assert stat.S_IMODE((root / FINDINGS).stat().st_mode) == 0o600
    (root / FINDINGS).unlink()
    (root / FINDINGS).symlink_to(secret)

    with pytest.raises(OSError, match="symbolic links"):
        findings.append([finding(2)])

    assert secret.read_text() == "theirs"


def test_without_files_there_are_no_findings(tmp_path: Path) -> None:
    assert read_findings(tmp_path / "nowhere") == ([], 0)
