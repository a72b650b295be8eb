"""Findings: on disk before the event is removed, bounded, and never torn (N-02)."""

from __future__ import annotations

import errno
import os
import stat
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


def finding(number: int, size: int = 10) -> Finding:
    return Finding(
        id=f"e{number}",
        tenant="acme",
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
